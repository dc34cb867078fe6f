//! How fast a long journal is judged, and in how much memory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use luo_trace::event::decode::encode;
use luo_trace::journal::{End, Store, Writer};
use luo_trace::testing::Flood;
use wait4::{ResourceUsage, Wait4 as _};

use crate::vm::guest::{self, Agent};

/// How many records are written at a time.
const BATCH: usize = 1024;
/// The short journal's part of the long one.
const SHORT: u64 = 10;

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// How many events the long journal has; the short one has a tenth
    #[arg(long, value_name = "NUMBER", default_value = "10M", value_parser = number)]
    events: u64,
    /// Where the journals are written, and removed afterwards; the long one takes some 210 bytes for each event
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Leave the journals there
    #[arg(long)]
    keep: bool,
}

/// A number, in thousands with `k` or in millions with `M`.
fn number(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1_000),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let number = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    number
        .filter(|&number| number >= SHORT)
        .ok_or_else(|| format!("{text} is no number of events such as 500k or 10M"))
}

/// Writes two journals, has each judged, and prints a table.
///
/// # Errors
/// The agent does not build, there is no room for the journals, or a journal that is legal is not found to be.
pub(super) fn command(args: Args) -> Result<()> {
    let agent = guest::build(&Agent::Built)?.agent.context("no agent was built")?;
    let directory = args
        .directory
        .unwrap_or_else(|| guest::workspace().join("target/bench"));
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    println!(
        "{:>12} {:>10} {:>9} {:>14} {:>12}",
        "events", "journal", "CPU time", "events/s", "memory"
    );
    let mut peaks = Vec::new();
    for events in [args.events / SHORT, args.events] {
        let path = directory.join(format!("{events}.luoj"));
        let result = write(&path, events).and_then(|bytes| {
            let used = judged(&agent, &path, events)?;
            let seconds = (used.utime + used.stime).as_secs_f64();
            println!(
                "{events:>12} {:>6} MiB {seconds:>7.2} s {:>14.0} {:>8.1} MiB",
                bytes >> 20,
                events as f64 / seconds,
                used.maxrss as f64 / f64::from(1 << 20),
            );
            Ok(used.maxrss as f64)
        });
        if !args.keep {
            // What was to be measured is known; a file that stays is no harm.
            _ = fs::remove_file(&path);
        }
        peaks.push(result?);
    }
    if let [short, long] = peaks[..] {
        println!("{SHORT} times as many events take {:.2} times the memory", long / short);
    }
    Ok(())
}

/// A file; nothing is done for the case that the machine fails.
struct Plain(BufWriter<File>);

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Store for Plain {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a journal of so many legal events; gives its size in bytes.
pub(super) fn write(path: &Path, events: u64) -> Result<u64> {
    let cannot = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(cannot)?;
    let mut writer =
        Writer::begin(Plain(BufWriter::with_capacity(1 << 20, file)), &Flood::header()).with_context(cannot)?;
    let mut flood = Flood::new().map(|event| encode(&event));
    let mut left = usize::try_from(events)?;
    while left > 0 {
        let batch: Vec<_> = flood.by_ref().take(BATCH.min(left)).collect();
        left -= batch.len();
        writer.append(batch.iter().map(Vec::as_slice)).with_context(cannot)?;
    }
    writer
        .end(&End {
            reason: "enough".into(),
            kernel_lost: 0,
        })
        .with_context(cannot)?;
    drop(writer);
    Ok(fs::metadata(path).with_context(cannot)?.len())
}

/// Has the journal judged; gives what that took.
fn judged(agent: &Path, journal: &Path, events: u64) -> Result<ResourceUsage> {
    let cannot = || format!("cannot run {}", agent.display());
    let mut check = Command::new(agent);
    check
        .args(["check", "--format", "json"])
        .arg(journal)
        .stdout(Stdio::piped());
    let mut child = check.spawn().with_context(cannot)?;
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        io::Read::read_to_string(&mut out, &mut text).with_context(cannot)?;
    }
    let used = child.wait4().with_context(cannot)?;
    if !used.status.success() || !text.contains(&events.to_string()) {
        bail!(
            "luo-trace check does not find {} to hold ({}):\n{text}",
            journal.display(),
            used.status
        );
    }
    Ok(used.rusage)
}
