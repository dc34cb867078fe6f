//! `luo-trace report`: the story of an update, over both kernels.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::exit::Exit;
use crate::judge::Case;
use crate::report::{Report, Style, render};

/// Columns, where the terminal does not tell.
const WIDTH: usize = 100;

/// Options of `luo-trace report`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The journals of one update or of several, in any order
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
}

/// Reads the journals, judges them, and draws the report.
///
/// # Errors
/// Where a journal cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let report = Report::of(Case::of(&args.journals)?);
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let width = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok())
        .unwrap_or(WIDTH);
    stdout
        .lock()
        .write_all(render(&report, Style { colour, width }).as_bytes())?;
    Ok(Exit::Held)
}
