//! Which tests run: from the arguments, and from the environment variables that `make` sets.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// The size of the soak in CI.
const CI_SIZE: Size =
    Size { commands: 5000, kills: 100, database_crashes: 10, broker_crashes: 3, duration: None, seed: 1 };

/// How much a soak does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) commands: usize,
    /// SIGKILLs of workers and relays with work in flight.
    pub(crate) kills: usize,
    pub(crate) database_crashes: usize,
    pub(crate) broker_crashes: usize,
    /// The plan is repeated until this time has passed.
    pub(crate) duration: Option<Duration>,
    pub(crate) seed: u64,
}

/// The parsed arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) list: bool,
    /// Names of scenarios; empty: all scenarios and the soaks.
    pub(crate) names: Vec<String>,
    pub(crate) size: Size,
    /// How often an aborted scenario is repeated.
    pub(crate) retries: u32,
}

impl Arguments {
    /// Parses `[--list] [NAME…] [KEY=VALUE…]`; environment variables of the same names are the defaults.
    pub(crate) fn parse(
        mut words: impl Iterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut arguments = Self { list: false, names: Vec::new(), size: CI_SIZE, retries: 0 };
        for key in KEYS {
            if let Some(value) = environment(key).filter(|value| !value.is_empty()) {
                arguments.set(key, &value)?;
            }
        }
        while let Some(argument) = words.next() {
            match argument.split_once('=') {
                None if argument == "--list" => arguments.list = true,
                _ if argument.starts_with("--") => ignore_runner_option(&argument, &mut words)?,
                Some((key, value)) => arguments.set(key, value)?,
                None => arguments.names.push(argument),
            }
        }
        Ok(arguments)
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let number = || value.parse::<usize>().with_context(|| format!("{key}={value} is not a number"));
        match key {
            "COMMANDS" => self.size.commands = number()?,
            "KILLS" => self.size = self.size.with_kills(number()?),
            "SEED" => self.size.seed = value.parse()?,
            "DURATION" => self.size.duration = Some(humantime::parse_duration(value)?),
            "RETRIES" => self.retries = value.parse()?,
            _ => bail!("{key}: unknown key, expected one of {}", KEYS.join(", ")),
        }
        Ok(())
    }
}

/// Options that test runners pass to every test program are ignored.
fn ignore_runner_option(option: &str, words: &mut impl Iterator<Item = String>) -> anyhow::Result<()> {
    match option.split_once('=').map_or(option, |(name, _)| name) {
        "--nocapture" | "--exact" | "--quiet" => {}
        "--test-threads" | "--format" => {
            if !option.contains('=') {
                let _value = words.next();
            }
        }
        _ => bail!("{option}: unknown option, expected --list"),
    }
    Ok(())
}

const KEYS: [&str; 5] = ["COMMANDS", "KILLS", "SEED", "DURATION", "RETRIES"];

impl Size {
    /// Server crashes grow with the kills, in the same ratio as in CI.
    fn with_kills(self, kills: usize) -> Self {
        let (database_crashes, broker_crashes) = (
            (kills * CI_SIZE.database_crashes).div_ceil(CI_SIZE.kills),
            (kills * CI_SIZE.broker_crashes).div_ceil(CI_SIZE.kills),
        );
        Self { kills, database_crashes, broker_crashes, ..self }
    }
}
