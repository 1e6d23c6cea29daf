//! `allocation completions` and `allocation man`: what a shell and a manual reader need of the command line.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use super::{exit::ExitStatus, output};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  allocation completions bash > /etc/bash_completion.d/allocation\n  allocation completions zsh > ~/.zfunc/_allocation"
)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn execute(&self, mut command: Command) -> anyhow::Result<ExitStatus> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "allocation", &mut script);
        output::script(&script)?;
        Ok(ExitStatus::Success)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  allocation man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The folder, which must exist.
    folder: PathBuf,
}

impl Man {
    pub(super) fn execute(&self, command: Command) -> anyhow::Result<ExitStatus> {
        let folder = self.folder.display();
        clap_mangen::generate_to(command, &self.folder)
            .with_context(|| format!("cannot write the pages to {folder}"))?;
        Ok(ExitStatus::Success)
    }
}
