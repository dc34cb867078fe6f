//! Whether an agent that runs for a month stays within its bounds: many updates' worth of events through one model, and through the
//! journals of as many boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use luo_trace::event::decode::encode;
use luo_trace::journal::{self, Header, Keep, Limits, Writer, prune};
use luo_trace::model::{Coverage, Model};
use luo_trace::testing::Flood;

use crate::vm::guest;

/// How many events an update has, its preparation included: some 20 sessions of four files that are made and given up.
const EVENTS: usize = 500;
/// How many records are written at a time.
const BATCH: usize = 64;
/// In how many updates one has a boot that tells too much for its journal, and how many times as much.
const LONG: (u64, usize) = (50, 100);
/// The bounds: so that each of them is met within a few hundred updates.
const LIMITS: Limits = Limits {
    size: 16 << 20,
    keep: Keep::Boots(50),
};
/// How much the memory of the second half may lie above that of the first, in KiB: an allocator rounds.
const SLACK_KIB: u64 = 4096;

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// How many updates
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    updates: u64,
}

/// An agent through many boots.
struct Month {
    directory: PathBuf,
    flood: Flood,
    model: Model,
    boots: u64,
    seen: Seen,
}

/// The most that there ever was.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    events: u64,
    findings: u64,
    /// Sessions that the model knew.
    sessions: usize,
    /// Files in the directory, and bytes in them.
    files: usize,
    bytes: u64,
    /// Records that were removed from the middle of journals, and boots whose journals were removed.
    removed: u64,
    boots_removed: u64,
}

impl Month {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            flood: Flood::new(),
            model: Model::new(&Coverage::all()),
            boots: 0,
            seen: Seen::default(),
        }
    }

    /// One boot, up to its update.
    fn update(&mut self) -> Result<()> {
        let context = || format!("cannot write a journal in {}", self.directory.display());
        let header = Header {
            boot_id: format!("boot-{}", self.boots),
            ..Flood::header()
        };
        self.boots += 1;
        let (mut writer, _) = Writer::open_within(&self.directory, &header, LIMITS.of_boot()).with_context(context)?;
        let pruned = prune(&self.directory, &header.boot_id, &LIMITS, SystemTime::now()).with_context(context)?;
        self.seen.boots_removed += pruned.removed.len() as u64;
        let mut left = if self.boots.is_multiple_of(LONG.0) {
            EVENTS * LONG.1
        } else {
            EVENTS
        };
        while left > 0 {
            let events: Vec<_> = self.flood.by_ref().take(BATCH.min(left)).collect();
            left -= events.len();
            self.seen.events += events.len() as u64;
            for event in &events {
                self.seen.findings += self.model.apply(event).len() as u64;
            }
            let records: Vec<_> = events.iter().map(encode).collect();
            writer.append(records.iter().map(Vec::as_slice)).with_context(context)?;
        }
        writer.end(&journal::End::default()).with_context(context)?;
        self.seen.removed += writer.removed();
        self.seen.sessions = self.seen.sessions.max(self.model.sessions().count());
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(&self.directory).with_context(context)? {
            files += 1;
            bytes += entry.and_then(|entry| entry.metadata()).with_context(context)?.len();
        }
        self.seen.files = self.seen.files.max(files);
        self.seen.bytes = self.seen.bytes.max(bytes);
        Ok(())
    }
}

/// Lets the month pass, and prints what it took.
///
/// # Errors
/// A journal cannot be written, or a bound does not hold.
pub(super) fn command(args: Args) -> Result<()> {
    let directory = guest::workspace().join("target/bench/month");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    let mut month = Month::new(&directory);
    println!(
        "{:>8} {:>10} {:>10} {:>6} {:>10} {:>14} {:>10}",
        "updates", "events", "sessions", "files", "directory", "boots removed", "memory"
    );
    let mut memory = Vec::new();
    for tenth in 1..=10 {
        while month.boots < args.updates * tenth / 10 {
            month.update()?;
        }
        memory.push(resident_kib()?);
        let Seen {
            events,
            sessions,
            files,
            bytes,
            boots_removed,
            ..
        } = month.seen;
        println!(
            "{:>8} {events:>10} {sessions:>10} {files:>6} {:>6.1} MiB {boots_removed:>14} {:>6.1} MiB",
            month.boots,
            bytes as f64 / f64::from(1 << 20),
            memory.last().copied().unwrap_or_default() as f64 / 1024.0,
        );
    }
    within(&month.seen)?;
    let most = |half: &[u64]| half.iter().copied().max().unwrap_or_default();
    let (first, second) = memory.split_at(memory.len() / 2);
    if most(second) > most(first) + SLACK_KIB {
        bail!(
            "the memory grows: {} KiB in the first half, {} KiB in the second",
            most(first),
            most(second)
        );
    }
    println!(
        "{} records were removed from the middle of journals",
        month.seen.removed
    );
    Ok(())
}

/// Whether the directory, and what the model knows, stayed within their bounds, and nothing was found where all was legal.
fn within(seen: &Seen) -> Result<()> {
    let Seen {
        bytes, findings, files, ..
    } = *seen;
    let part = LIMITS.of_boot() / 8;
    if bytes > LIMITS.size + part {
        bail!("the directory had {bytes} bytes, of which {} may be", LIMITS.size);
    }
    if files > 50 + 4 * 50 {
        bail!("the directory had {files} files");
    }
    if findings > 0 {
        bail!("{findings} findings in what is legal");
    }
    Ok(())
}

/// How much memory this process has now, in KiB.
fn resident_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.context("/proc/self/status tells no VmRSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_updates_stay_within_their_bounds() {
        let directory = std::env::temp_dir().join(format!("luo-trace-month-{}", std::process::id()));
        let mut month = Month::new(&directory);
        let mut sessions = Vec::new();
        for _ in 0..200 {
            month.update().unwrap();
            sessions.push(month.seen.sessions);
        }
        within(&month.seen).unwrap();
        // What the model knows does not grow, and each of the bounds was met.
        assert_eq!(sessions[20], sessions[199]);
        assert!(
            month.seen.removed > 0 && month.seen.boots_removed >= 150,
            "{:?}",
            month.seen
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
