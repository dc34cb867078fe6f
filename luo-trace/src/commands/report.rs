//! `luo-trace report`: the story of an update, over both kernels.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use crate::exit::Exit;
use crate::journal;
use crate::judge::judge;
use crate::report::{Check, Report, Style, render};
use crate::timeline::{Boot, Timeline};

/// Columns, where the terminal does not tell.
const WIDTH: usize = 100;

/// Options of `luo-trace report`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The journals of one update, in any order
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
}

/// Reads the journals, judges them, and draws the report.
///
/// # Errors
/// Where a journal cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let mut read = args
        .journals
        .iter()
        .map(|path| self::read(path))
        .collect::<Result<Vec<_>>>()?;
    read.sort_by(|(a, _), (b, _)| Boot::order(a, b));
    let (boots, checks) = read.into_iter().unzip();
    let report = Report {
        timeline: Timeline::join(boots),
        checks,
    };
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

/// One journal's part of the story, and what checking it gave.
fn read(path: &Path) -> Result<(Boot, Check)> {
    let events = journal::events(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut boot = Boot::new(events.header());
    let judgement = judge(events, |event| boot.apply(event));
    Ok((
        boot,
        Check {
            journal: path.to_owned(),
            judgement,
        },
    ))
}
