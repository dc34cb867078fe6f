//! `luo-trace updates`: every recorded update of a host, a line each.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};

use super::{Deadline, case};
use crate::agent::ledger;
use crate::exit::Exit;
use crate::journal::directories;
use crate::report::{Report, Row, table, updates};
use crate::sink::log::tell;

/// Where the service keeps its journals.
pub(super) const JOURNALS: &str = "/var/lib/luo-trace";

/// Options of `luo-trace updates`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Journals, in any order: files, directories of them, or logs of a serial line that carried some
    #[arg(value_name = "JOURNAL", default_value = JOURNALS)]
    journals: Vec<PathBuf>,
    /// All of them are of one machine, whatever they say of it
    #[arg(long)]
    one_host: bool,
    #[command(flatten)]
    deadline: Deadline,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for a person
    #[default]
    Table,
    /// A JSON array with an object for each
    Json,
}

/// Reads the journals, joins them, and prints the updates in their order. Before them come those that only the ledger of a directory
/// knows any more.
///
/// # Errors
/// Where a journal cannot be read.
pub fn run(args: &Args) -> Result<Exit> {
    let recorded = updates(
        &Report::of(&case(&args.journals, args.one_host)?),
        args.deadline.arrival_deadline,
        0,
    );
    let mut noted = Vec::new();
    let dirs = args.journals.iter().filter(|path| path.is_dir());
    // A fleet's directory has one for each host.
    let dirs = dirs.flat_map(|dir| [vec![dir.clone()], directories(dir).unwrap_or_default()].concat());
    for dir in dirs {
        let read = ledger::read(&dir).with_context(|| format!("the ledger in {} cannot be read", dir.display()))?;
        for line in read.damaged {
            tell(format_args!(
                "line {line} of the ledger in {} is damaged; going on without it",
                dir.display()
            ));
        }
        noted.extend(read.rows);
    }
    let rows = Row::with_ledger(recorded, noted);
    let text = match args.format {
        Format::Table => table(&rows),
        Format::Json => serde_json::to_string_pretty(&rows)? + "\n",
    };
    super::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    Ok(Exit::Held)
}
