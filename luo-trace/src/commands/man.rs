//! `luo-trace man`: the manual pages, from the same definition as `--help`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, CommandFactory};

use super::Cli;
use crate::exit::Exit;

/// Options of `luo-trace man`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Where to write them; made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes a page for the command and for each of its subcommands.
///
/// # Errors
/// Where the directory cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let cannot = || format!("cannot write the manual pages into {}", args.directory.display());
    fs::create_dir_all(&args.directory).with_context(cannot)?;
    clap_mangen::generate_to(Cli::command(), &args.directory).with_context(cannot)?;
    Ok(Exit::Held)
}
