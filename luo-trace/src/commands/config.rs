//! `luo-trace config`: the agent's settings.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, CommandFactory, Subcommand};

use super::Cli;
use super::settings::{self, AGENT, Origin, Settings};
use crate::exit::Exit;

/// What `luo-trace config` is to do.
#[derive(Debug, Subcommand)]
pub enum Args {
    /// Say what is wrong with a file of settings
    Check(File),
    /// Each setting, its value for an agent that is started now, and where that is from
    Show(File),
}

/// Which file it is about.
#[derive(Debug, ClapArgs)]
pub struct File {
    /// The file [default: the one that LUO_TRACE_CONFIG names, or /etc/luo-trace/agent.toml]
    #[arg(value_name = "FILE", env = "LUO_TRACE_CONFIG")]
    file: Option<PathBuf>,
}

/// Checks or shows.
///
/// # Errors
/// Where there is no file to check, it cannot be read, or it has mistakes: all of them, each with line and column.
pub fn run(args: &Args) -> Result<Exit> {
    let mut out = super::stdout();
    match args {
        Args::Check(File { file }) => {
            let path = settings::file(file.as_deref())?;
            Settings::read(&Cli::command(), &path)?;
            writeln!(out, "{}: no mistakes", path.display()).context("stdout cannot be written")?;
        }
        Args::Show(File { file }) => {
            let named = file
                .iter()
                .flat_map(|file| ["--config".into(), file.clone().into_os_string()]);
            let words: Vec<OsString> = ["luo-trace".into(), AGENT.into()].into_iter().chain(named).collect();
            for (key, values, origin) in settings::resolve(Cli::command(), words)?.options() {
                let value = match origin {
                    Origin::None => "-".to_owned(),
                    _ => values.join(", "),
                };
                writeln!(out, "{key:18} {value:32} {}", origin.name()).context("stdout cannot be written")?;
            }
        }
    }
    Ok(Exit::Held)
}
