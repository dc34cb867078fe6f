//! `cargo xtask check`: everything that must hold and needs no virtual machine.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::dashboards;
use crate::fuzz;
use crate::setup::{self, Need};
use crate::tally::Tally;
use crate::vm::guest::workspace;

/// How many inputs each fuzz target gets, and how long it may take at most. As far as possible they are the same in every run: a
/// failure is then caused by the change at hand.
const FUZZ_INPUTS: u32 = 20_000;
const FUZZ_SECONDS: u32 = 60;

/// What it needs of the machine.
pub(crate) const NEEDS: [Need; 4] = [Need::Bpf, Need::Prometheus, Need::Fuzzer, Need::Deny];

/// The options of `cargo xtask check`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Write where the time went to this file, as JSON
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
}

/// Runs it, and ends in a line `N passed, N failed`.
///
/// # Errors
/// Something failed, or could not be run at all.
pub(crate) fn command(args: &Args) -> Result<()> {
    setup::ensure(&NEEDS)?;
    let mut tally = Tally::begin();
    all(&mut tally)?;
    tally.end(args.timings.as_deref())
}

/// Checks the source, one thing after the other.
///
/// # Errors
/// Something could not be run at all.
pub(crate) fn all(tally: &mut Tally) -> Result<()> {
    tally.check("format", || run(cargo(&["fmt", "--all", "--check"])));
    tally.check("clippy", || {
        run(cargo(&[
            "clippy",
            "--quiet",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    });
    tally.check("clippy on the eBPF programs", programs);
    tally.check("documentation", documentation);
    crates(tally)?;
    tests(tally)?;
    // This and Prometheus's name no package, as the tests do not: cargo would build the library anew for the features of one.
    schedules(tally);
    tally.check("rules of the dashboards", dashboards::rules);
    tally.check("Prometheus takes a backfill", dashboards::backfill);
    tally.check("Prometheus scrapes by TLS", || {
        let scrapes = "dashboards::tests::prometheus";
        run(cargo(&["test", "--quiet", "--bins", "--", "--ignored", scrapes]))
    });
    fuzzing(tally);
    Ok(())
}

/// Runs the model's random schedules once more, from a seed that no run had before: it is in the name, so that a failure can be repeated.
fn schedules(tally: &mut Tally) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = now.as_nanos() % 1_000_000_007;
    tally.check(format_args!("schedules, PROPTEST_RNG_SEED={seed}"), || {
        let mut command = cargo(&["test", "--quiet", "--lib", "model::tests::schedules"]);
        run(command.env("PROPTEST_RNG_SEED", seed.to_string()))
    });
}

/// Looks at what a fuzzer's first inputs do; `cargo xtask fuzz` looks further, and elsewhere each time.
fn fuzzing(tally: &mut Tally) {
    let mut programs = None;
    tally.check("fuzz targets build", || {
        programs = Some(fuzz::build()?);
        Ok(())
    });
    for (programs, target) in programs
        .iter()
        .flat_map(|programs| fuzz::TARGETS.map(|target| (programs, target)))
    {
        tally.check(format_args!("fuzz {target}"), || {
            fuzz::run_first(programs, target, FUZZ_INPUTS, FUZZ_SECONDS)
        });
    }
}

/// Runs clippy on the crate that is built for another target.
fn programs() -> Result<()> {
    let mut command = cargo(&["clippy", "--quiet", "--package", "luo-trace-ebpf", "--features", "log"]);
    command.args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
    command.args(["--target-dir", "target/bpf", "--", "--deny", "warnings"]);
    let flags = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    run(command)
}

/// Makes the documentation, in which no link is broken.
fn documentation() -> Result<()> {
    let mut command = cargo(&["doc", "--quiet", "--no-deps", "--document-private-items"]);
    run(command.env("RUSTDOCFLAGS", "--deny warnings"))
}

/// Runs cargo, whose complaints are for the reader.
///
/// # Errors
/// It cannot be started, or has complaints.
pub(crate) fn run(mut command: impl std::borrow::BorrowMut<Command>) -> Result<()> {
    let status = command.borrow_mut().status().context("cannot start cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("it has complaints, which are above ({status})")
    }
}

/// Cargo in this workspace, not started yet.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(args);
    command
}

/// Looks at the licences, origins and versions of all crates, and for known faults in them where their list is at hand: getting it
/// takes a network, and a test must not fail for want of that.
fn crates(tally: &mut Tally) -> Result<()> {
    let deny = setup::ensure(&[Need::Deny])?.program("cargo-deny")?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&deny);
        command
            .current_dir(workspace())
            .args(["--log-level", "error", "--offline", "check"]);
        run(command.arg("--hide-inclusion-graph").args(what))
    };
    tally.check("licences and origins of crates", || {
        // Those of other systems as well, which no build here has fetched.
        run(&mut cargo(&["fetch", "--locked", "--quiet"]))?;
        check(&["licenses", "bans", "sources"])
    });
    let own = || Some(std::env::home_dir()?.join(".cargo"));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(own);
    if home.is_some_and(|home| home.join("advisory-dbs").is_dir()) {
        tally.check("known faults of crates", || check(&["advisories"]));
    } else {
        eprintln!("no list of known faults of crates is here (`cargo deny fetch` gets it): they are not looked for");
    }
    Ok(())
}

/// Runs unit, property, process and house tests: each counts as one.
fn tests(tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let mut child = cargo(&["test", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let (mut passed, mut failed) = (0, Vec::new());
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo test writes")?;
        match line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            Some((_, "ok")) => passed += 1,
            Some((name, "FAILED")) => failed.push(format!("test {name}")),
            // What a failed test printed, and the compiler's word, are for the reader.
            _ if line.is_empty() || line.starts_with("running ") || line.starts_with("test ") => {}
            _ => println!("{line}"),
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() && failed.is_empty() {
        failed.push(format!("cargo test ({status})"));
    }
    tally.count_all("cargo test", start.elapsed(), passed, failed);
    Ok(())
}
