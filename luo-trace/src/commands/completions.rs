//! `luo-trace completions`: what a shell needs to complete the command line.

use std::io::Write;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::exit::Exit;

/// Options of `luo-trace completions`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Prints a script for the shell to read.
///
/// # Errors
/// Where stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "luo-trace", &mut script);
    super::stdout().write_all(&script).context("stdout cannot be written")?;
    Ok(Exit::Held)
}
