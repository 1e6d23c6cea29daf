//! The arguments: what to measure. `make` passes some of them in the environment.

use anyhow::{Context as _, bail, ensure};

/// The names of the parts.
const PARTS: &str = "abcdefghm";
const KEYS: [&str; 2] = ["ROUNDS", "COMMANDS"];

/// The parsed arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Empty for all parts.
    parts: Vec<char>,
    /// Repetitions of every measurement.
    pub(crate) rounds: u32,
    /// Commands of one measurement of part `a`; the other parts derive their numbers from it.
    pub(crate) commands: u32,
}

impl Arguments {
    /// Reads `[PART…] [KEY=VALUE…]`. The same keys in the environment are the defaults.
    pub(crate) fn read(
        words: impl Iterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut read = Self { parts: Vec::new(), rounds: 3, commands: 50_000 };
        for key in KEYS {
            if let Some(value) = environment(key).filter(|value| !value.is_empty()) {
                read.set(key, &value)?;
            }
        }
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => read.set(key, value)?,
                // Cargo passes options to every benchmark.
                None if word.starts_with("--") => {}
                None => read.parts.push(part(&word)?),
            }
        }
        Ok(read)
    }

    /// Whether a part is to be measured.
    pub(crate) fn wants(&self, part: char) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let number: u32 = value.parse().with_context(|| format!("{key}={value} is not a whole number"))?;
        match key {
            "ROUNDS" => {
                ensure!(number > 0, "ROUNDS: must be at least 1");
                self.rounds = number;
            }
            "COMMANDS" => {
                // Some parts use a tenth of it, and a rate needs enough commands.
                ensure!(number >= 1000, "COMMANDS: must be at least 1000");
                self.commands = number;
            }
            _ => bail!("unknown key {key}; the keys are {}", KEYS.join(", ")),
        }
        Ok(())
    }
}

fn part(word: &str) -> anyhow::Result<char> {
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if PARTS.contains(letter) => Ok(letter),
        _ => bail!("unknown part {word}; the parts are a to h"),
    }
}
