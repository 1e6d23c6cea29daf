//! What is to be measured: from the arguments, and from the environment as `make` passes it.

use anyhow::{Context as _, bail, ensure};

/// The names of the parts.
const PARTS: &str = "abcdefgh";
const KEYS: [&str; 2] = ["ROUNDS", "COMMANDS"];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// None means all of them.
    parts: Vec<char>,
    /// How often everything is measured.
    pub(crate) rounds: u32,
    /// Commands of one measurement of `a`; those of the others follow from it.
    pub(crate) commands: u32,
}

impl Arguments {
    /// Reads `[PART…] [KEY=VALUE…]`; the same keys in the environment are defaults.
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
                // What cargo says to every benchmark.
                None if word.starts_with("--") => {}
                None => read.parts.push(part(&word)?),
            }
        }
        Ok(read)
    }

    /// Whether a part was asked for.
    pub(crate) fn wants(&self, part: char) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let number: u32 = value.parse().with_context(|| format!("{key}={value} is not a whole number"))?;
        match key {
            "ROUNDS" => {
                ensure!(number > 0, "ROUNDS: at least one");
                self.rounds = number;
            }
            "COMMANDS" => {
                // The smallest part of it is a tenth, and a rate needs some commands.
                ensure!(number >= 1000, "COMMANDS: at least 1000");
                self.commands = number;
            }
            _ => bail!("{key}: the keys are {}", KEYS.join(", ")),
        }
        Ok(())
    }
}

fn part(word: &str) -> anyhow::Result<char> {
    let mut letters = word.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if PARTS.contains(letter) => Ok(letter),
        _ => bail!("there is no part {word}; the parts are a to h"),
    }
}
