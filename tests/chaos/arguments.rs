//! What is to be played: from the arguments, and from the environment as `make` passes it.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// The size of the soak that CI plays.
const CI: Size =
    Size { commands: 5000, kills: 100, database_crashes: 10, broker_crashes: 3, duration: None, seed: 1 };

/// How much the random soak does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) commands: usize,
    /// SIGKILLs of workers and relays with work in flight.
    pub(crate) kills: usize,
    pub(crate) database_crashes: usize,
    pub(crate) broker_crashes: usize,
    /// The whole is played again until so much time has passed.
    pub(crate) duration: Option<Duration>,
    pub(crate) seed: u64,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) list: bool,
    /// Names of scenarios; none means all of them, and the soak.
    pub(crate) names: Vec<String>,
    pub(crate) size: Size,
    /// How often a scenario is played again that broke off.
    pub(crate) retries: u32,
}

impl Arguments {
    /// Reads `[--list] [NAME…] [KEY=VALUE…]`; the same keys in the environment are defaults.
    pub(crate) fn read(
        mut words: impl Iterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut read = Self { list: false, names: Vec::new(), size: CI, retries: 0 };
        for key in KEYS {
            if let Some(value) = environment(key).filter(|value| !value.is_empty()) {
                read.set(key, &value)?;
            }
        }
        while let Some(word) = words.next() {
            match word.split_once('=') {
                None if word == "--list" => read.list = true,
                _ if word.starts_with("--") => pass_over(&word, &mut words)?,
                Some((key, value)) => read.set(key, value)?,
                None => read.names.push(word),
            }
        }
        Ok(read)
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let number = || value.parse::<usize>().with_context(|| format!("{key}={value} is no number"));
        match key {
            "COMMANDS" => self.size.commands = number()?,
            "KILLS" => self.size = self.size.with_kills(number()?),
            "SEED" => self.size.seed = value.parse()?,
            "DURATION" => self.size.duration = Some(humantime::parse_duration(value)?),
            "RETRIES" => self.retries = value.parse()?,
            _ => bail!("{key}: the keys are {}", KEYS.join(", ")),
        }
        Ok(())
    }
}

/// What test runners say to every test program means nothing here.
fn pass_over(option: &str, rest: &mut impl Iterator<Item = String>) -> anyhow::Result<()> {
    match option.split_once('=').map_or(option, |(name, _)| name) {
        "--nocapture" | "--exact" | "--quiet" => {}
        "--test-threads" | "--format" => {
            if !option.contains('=') {
                let _value = rest.next();
            }
        }
        _ => bail!("{option}: the only option is --list"),
    }
    Ok(())
}

const KEYS: [&str; 5] = ["COMMANDS", "KILLS", "SEED", "DURATION", "RETRIES"];

impl Size {
    /// With more kills there are more crashes of the servers, too: as many to each as in CI.
    fn with_kills(self, kills: usize) -> Self {
        let (database_crashes, broker_crashes) = (
            (kills * CI.database_crashes).div_ceil(CI.kills),
            (kills * CI.broker_crashes).div_ceil(CI.kills),
        );
        Self { kills, database_crashes, broker_crashes, ..self }
    }
}
