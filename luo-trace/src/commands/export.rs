//! `luo-trace export`: what journals of any number of hosts tell, as tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

use super::Deadline;
use crate::chain::Hosts;
use crate::chain::case::Case;
use crate::exit::Exit;
use crate::journal::{Host, each};
use crate::report::rows::{EventRow, FileRow, FindingRow, Origin, Rows, SessionRow, UpdateRow};
use crate::report::{Report, updates};
use crate::sink::log::tell;
use crate::sink::tables::{Form, Tables};

/// Options of `luo-trace export`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Journals of any hosts, in any order: files, directories of them, also directories of hosts, or logs of a serial line
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: Form,
    /// Into this directory, which is made or empty: a file for each table
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// A directory for each table, in it one for each host (host=NAME) and in that one for each day (day=2026-11-30)
    #[arg(long)]
    partition: bool,
    #[command(flatten)]
    deadline: Deadline,
}

/// Reads the journals host by host, and writes the tables.
///
/// # Errors
/// Where the directory has something in it, none of the journals can be read, or a table cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    if fs::read_dir(&args.output).is_ok_and(|mut inside| inside.next().is_some()) {
        bail!(
            "{} is not empty: rows are never added to tables of before; name another directory",
            args.output.display()
        );
    }
    let mut tables = Tables::new(&args.output, args.format, args.partition);
    tables.exists::<EventRow>()?;
    tables.exists::<FindingRow>()?;
    tables.exists::<UpdateRow>()?;
    tables.exists::<SessionRow>()?;
    tables.exists::<FileRow>()?;
    for (origin, journals) in by_host(&args.journals)? {
        for journal in &journals {
            events(&mut tables, &origin, journal)?;
        }
        let case = Case::of(&journals, Hosts::One)?;
        let report = Report::of(&case);
        let rows = updates(&report, args.deadline.arrival_deadline, 0);
        let rows = Rows::of(&report, rows, &origin);
        rows.findings.iter().try_for_each(|row| tables.row(row))?;
        rows.updates.iter().try_for_each(|row| tables.row(row))?;
        rows.sessions.iter().try_for_each(|row| tables.row(row))?;
        rows.files.iter().try_for_each(|row| tables.row(row))?;
        if args.partition {
            tables.close()?;
        }
    }
    tables.close()?;
    Ok(Exit::Held)
}

/// The journals of each host. Those that do not say of which host they are count as one host's where they lie together.
fn by_host(paths: &[PathBuf]) -> Result<Vec<(Origin, Vec<PathBuf>)>> {
    let mut hosts: BTreeMap<(String, String), (Origin, Vec<PathBuf>)> = BTreeMap::new();
    for path in paths {
        let unreadable = each(path, |source| {
            // A log has several recordings: each is named by the log and its place in it.
            let file = match source.name.exists() {
                true => source.name.clone(),
                false => path.clone(),
            };
            let origin = origin(&source.events.header().host);
            let id = origin
                .host_id
                .clone()
                .unwrap_or_else(|| file.parent().unwrap_or(&file).display().to_string());
            let (_, journals) = hosts.entry((origin.host.clone(), id)).or_insert((origin, Vec::new()));
            if !journals.contains(&file) {
                journals.push(file);
            }
        })?;
        for unreadable in unreadable {
            tell(format_args!("{unreadable}; going on without it"));
        }
    }
    Ok(hosts.into_values().collect())
}

fn origin(host: &Host) -> Origin {
    Origin {
        host: host.name.clone(),
        host_id: host.first_id().map(str::to_owned),
        boot_id: String::new(),
    }
}

fn events(tables: &mut Tables, of_host: &Origin, path: &Path) -> Result<()> {
    let mut done = Ok(());
    each(path, |source| {
        let mut events = source.events;
        let mut origin = of_host.clone();
        while let Some(event) = events.next() {
            let header = events.header();
            if origin.boot_id != header.boot_id {
                origin.boot_id.clone_from(&header.boot_id);
            }
            let time = u64::try_from(header.clock.zero_unix_ns() + i128::from(event.header.ktime)).unwrap_or(0);
            if done.is_ok() {
                done = tables.row(&EventRow::of(&origin, &event, time));
            }
        }
    })?;
    done
}
