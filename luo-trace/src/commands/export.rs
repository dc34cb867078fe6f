//! `luo-trace export`: what journals of any number of hosts tell, as tables.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::Deadline;
use crate::chain::Hosts;
use crate::chain::case::Case;
use crate::exit::Exit;
use crate::journal::{Clock, Host, each};
use crate::report::rows::{EventRow, Origin, Rows};
use crate::report::{Report, updates, when};
use crate::sink::log::tell;

/// Options of `luo-trace export`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Journals of any hosts, in any order: files, directories of them, also directories of hosts, or logs of a serial line
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Into this directory, which is made or empty: a file for each table
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// A directory for each table, in it one for each host (host=NAME) and in that one for each day (day=2026-11-30)
    #[arg(long)]
    partition: bool,
    #[command(flatten)]
    deadline: Deadline,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line
    #[default]
    Jsonl,
}

/// The tables.
const TABLES: [&str; 5] = ["events", "findings", "updates", "sessions", "files"];

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
    let Format::Jsonl = args.format;
    let mut tables = Tables {
        dir: &args.output,
        partition: args.partition,
        open: BTreeMap::new(),
    };
    if !args.partition {
        for table in TABLES {
            tables.file(table, "", None)?;
        }
    }
    for (origin, journals) in by_host(&args.journals)? {
        for journal in &journals {
            events(&mut tables, &origin, journal)?;
        }
        let case = Case::of(&journals, Hosts::One)?;
        let report = Report::of(&case);
        let rows = updates(&report, args.deadline.arrival_deadline, 0);
        let Rows {
            findings,
            updates,
            sessions,
            files,
        } = Rows::of(&report, rows, &origin);
        let host = &origin.host;
        for row in &findings {
            tables.row("findings", host, row.time_unix_ns, row)?;
        }
        for row in &updates {
            tables.row("updates", host, row.row.time_unix_ns, row)?;
        }
        for row in &sessions {
            tables.row("sessions", host, row.time_unix_ns, row)?;
        }
        for row in &files {
            tables.row("files", host, row.time_unix_ns, row)?;
        }
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
    for path in paths
        .iter()
        .map(|path| directories(path))
        .collect::<Result<Vec<_>>>()?
        .concat()
    {
        let unreadable = each(&path, |source| {
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

/// The directory itself, or those in it where it has no journals of its own: one for each host.
fn directories(path: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", path.display());
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).with_context(cannot)? {
        let entry = entry.with_context(cannot)?.path();
        if entry.extension().is_some_and(|extension| extension == "luoj") {
            return Ok(vec![path.to_owned()]);
        }
        if entry.is_dir() {
            inside.push(entry);
        }
    }
    inside.sort();
    match inside.is_empty() {
        true => Ok(vec![path.to_owned()]),
        false => Ok(inside),
    }
}

fn origin(host: &Host) -> Origin {
    Origin {
        host: host.name.clone(),
        host_id: host.ids().next().map(|(_, id)| id.to_owned()),
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
            let time = unix(&header.clock, event.header.ktime);
            if done.is_ok() {
                done = tables.row("events", &origin.host, Some(time), &EventRow::of(&origin, &event, time));
            }
        }
    })?;
    done
}

/// When it was this time of a boot's `CLOCK_MONOTONIC`, in nanoseconds since 1970.
fn unix(clock: &Clock, monotonic: u64) -> u64 {
    (clock.realtime_ns.saturating_add(monotonic)).saturating_sub(clock.monotonic_ns)
}

/// The files that rows go to.
struct Tables<'a> {
    dir: &'a Path,
    partition: bool,
    open: BTreeMap<PathBuf, BufWriter<File>>,
}

impl Tables<'_> {
    /// Adds a row to the table; `time` is the one that tells its day.
    fn row(&mut self, table: &str, host: &str, time: Option<u64>, row: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(row).context("a row has no JSON form")? + "\n";
        let cannot = format!("cannot write the table {table} in {}", self.dir.display());
        self.file(table, host, time)?.write_all(line.as_bytes()).context(cannot)
    }

    fn file(&mut self, table: &str, host: &str, time: Option<u64>) -> Result<&mut BufWriter<File>> {
        let path = match self.partition {
            false => self.dir.join(format!("{table}.jsonl")),
            true => {
                let day = time.map_or_else(|| "unknown".into(), |time| when(time)[..10].to_owned());
                let part = format!("host={}/day={day}/part.jsonl", plain(host));
                self.dir.join(table).join(part)
            }
        };
        let cannot = || format!("cannot write {}", path.display());
        if !self.open.contains_key(&path) {
            fs::create_dir_all(path.parent().unwrap_or(self.dir)).with_context(cannot)?;
            let file = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(cannot)?;
            self.open.insert(path.clone(), BufWriter::new(file));
        }
        self.open.get_mut(&path).with_context(cannot)
    }

    /// Brings everything into the files.
    fn close(&mut self) -> Result<()> {
        for (path, mut file) in std::mem::take(&mut self.open) {
            file.flush()
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// A host's name as one of a directory.
fn plain(name: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    match name.trim_matches('.') {
        "" => "unknown".into(),
        name => name.chars().map(plain).collect(),
    }
}
