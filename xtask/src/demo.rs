//! `cargo xtask demo`: one real live update, traced in both kernels, and the report of it.

use std::fs;
use std::io::Write as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use luo_trace::journal::{Reader, serial::Serial};

use crate::kernel::{self, Flavour, Kernel, Request, Source};
use crate::setup::{self, Need};
use crate::vm::{self, Agent, Guest, Options, guest};

/// The scenario that is shown.
const SCENARIO: &str = "demo";

/// The recordings that are built into the agent, for `luo-trace demo`: each one's name, and the scenario that it shows.
const RECORDINGS: [(&str, &str); 5] = [
    ("clean", SCENARIO),
    ("lost-session", "next-legacy"),
    ("failed-freeze", "freeze-fails"),
    ("left-behind", "left-behind"),
    ("leaked-memory", "fault-kho-leak"),
];

/// The options of `cargo xtask demo`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Make the recordings anew that are built into the agent, for `luo-trace demo`
    #[arg(long)]
    record: bool,
}

/// From whatever machine this is to the report, or to the recordings.
///
/// # Errors
/// Something that is needed cannot be got, or the update does not come through.
pub(crate) fn command(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Bpf, Need::Qemu, Need::KernelBuild])?;
    // Each has times in which it keeps one processor busy and no more.
    let (kernel, guest) = thread::scope(|scope| {
        let kernel = scope.spawn(|| {
            kernel::ensure(&Request {
                source: Source::Newest,
                flavour: Flavour::O2,
            })
        });
        let guest = guest::build(&Agent::Built);
        (kernel.join(), guest)
    });
    let (kernel, guest) = (kernel.unwrap_or_else(|panic| resume_unwind(panic))?, guest?);
    match args.record {
        true => RECORDINGS
            .iter()
            .try_for_each(|(name, scenario)| record(name, scenario, &kernel, &guest)),
        false => show(&kernel, guest),
    }
}

/// Runs a scenario, and keeps its journals in the form in which they go through a serial line: it is text, packed, and holds all of
/// them in one file.
fn record(name: &str, scenario: &str, kernel: &Kernel, guest: &Guest) -> Result<()> {
    let path = guest::workspace().join(format!("luo-trace/recordings/{name}.log"));
    let cannot = || format!("cannot write {}", path.display());
    let (output, _lock) = vm::fresh(scenario, kernel)?;
    let outcome = vm::run(
        &vm::scenario::find(scenario)?,
        kernel,
        &Options::new(guest.clone(), output.clone()),
    )?;
    if !outcome.failures.is_empty() {
        bail!("{scenario} did not go as it should:\n{}", outcome.failures.join("\n"));
    }
    let mut journals = journals(&output.join("journal"))?;
    // By the boots that they name they would come in any order.
    let begun = |path: &PathBuf| Reader::open(path).map(|reader| reader.header().clock.realtime_ns);
    journals.sort_by_key(|path| begun(path).unwrap_or_default());
    let mut log = Vec::new();
    for journal in journals {
        let bytes = fs::read(&journal).with_context(|| format!("cannot read {}", journal.display()))?;
        Serial::new(&mut log).write_all(&bytes).with_context(cannot)?;
    }
    fs::write(&path, &log).with_context(cannot)?;
    println!("{}: {} bytes", path.display(), log.len());
    Ok(())
}

fn show(kernel: &Kernel, guest: Guest) -> Result<()> {
    let agent = guest.agent.clone().context("no agent was built")?;
    let scenario = vm::scenario::find(SCENARIO)?;
    let (output, _lock) = vm::fresh(SCENARIO, kernel)?;
    eprintln!("booting Linux {kernel} in QEMU: {}", scenario.summary);
    let options = Options {
        talk: true,
        ..Options::new(guest, output.clone())
    };
    let outcome = vm::run(&scenario, kernel, &options)?;
    eprintln!();
    let journals = journals(&output.join("journal"))?;
    let report = Command::new(&agent)
        .arg("report")
        .args(&journals)
        .status()
        .context("cannot start the agent")?;
    if !outcome.failures.is_empty() {
        bail!(
            "the update did not go as it should:\n{}\nsee {}",
            outcome.failures.join("\n"),
            output.display()
        );
    }
    if !report.success() {
        bail!("the report failed ({report})");
    }
    let expectations = vm::scenario::expectations("demo.toml");
    let check = Command::new(&agent)
        .arg("check")
        .args(&journals)
        .arg("--expect")
        .arg(&expectations)
        .output()
        .context("cannot start the agent")?;
    let said = String::from_utf8_lossy(&check.stdout);
    let sum = said.lines().last().unwrap_or_default().trim();
    eprintln!("\nHeld against {}: {sum}", expectations.display());
    eprintln!("Console, journals and logs: {}", output.display());
    if !check.status.success() {
        bail!("the update is not as expected ({}):\n{said}", check.status);
    }
    Ok(())
}

/// The journals in a directory.
pub(crate) fn journals(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        // An agent keeps its ledger of updates there, too, and in a directory what it pushes.
        if path.is_file() && path.file_name().is_some_and(|name| name != "updates.jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
