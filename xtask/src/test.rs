//! `cargo xtask test`: everything that must hold, in one run with one last line.

use std::fmt::Display;
use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use testbed_guest::scenario::{Build, Root, Scenario};

use crate::dashboards;
use crate::fuzz;
use crate::kernel::{self, Flavour, Kernel, Request, Source};
use crate::preflight;
use crate::setup::{self, Need};
use crate::vm::{self, Agent, Guest, Options, guest};

/// The options of `cargo xtask test`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Take every kernel: 7.3 and 7.2, each optimised for speed and for size
    #[arg(long, conflicts_with = "fast")]
    all: bool,
    /// Take one kernel only: 7.3, optimised for speed
    #[arg(long)]
    fast: bool,
    /// Run only the scenarios whose name contains this, and nothing else
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
}

/// The kernels that are kept working, the default ones first.
const KERNELS: [(&str, Flavour); 4] = [
    ("linux-source-7.3", Flavour::O2),
    ("linux-source-7.2", Flavour::O2),
    ("linux-source-7.3", Flavour::Os),
    ("linux-source-7.2", Flavour::Os),
];

/// How many inputs each fuzz target gets, and how long it may take at most. So far as that can be they are the same in every run: a
/// failure is to be owed to the change at hand.
const FUZZ_INPUTS: u32 = 20_000;
const FUZZ_SECONDS: u32 = 60;

/// How many virtual machines run at a time at most: each has a gibibyte or two.
const MACHINES: usize = 4;

/// After so many guests that were not done in time no more are started: the machine is at fault, or all of them are.
const MOST_LATE: usize = 3;

/// The scenario whose metrics the dashboards are held against.
const MEASURED: &str = "metrics";

/// What has been counted so far.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: Vec<String>,
}

impl Tally {
    /// Counts one check, and says how it went.
    fn count(&mut self, what: impl Display, start: Instant, result: Result<()>) {
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {what} ({seconds:.1} s)");
            }
            Err(why) => {
                println!("FAILED  {what} ({seconds:.1} s)\n{why:#}");
                self.failed.push(what.to_string());
            }
        }
    }

    /// Runs one check and counts it.
    fn check(&mut self, what: &str, check: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        self.count(what, start, check());
    }
}

/// Runs everything, and ends in a line `N passed, N failed`.
///
/// # Errors
/// Something failed, or could not be run at all.
pub(crate) fn command(args: &Args) -> Result<()> {
    let mut tally = Tally::default();
    setup::ensure(&[Need::Bpf, Need::Qemu, Need::KernelBuild, Need::Prometheus, Need::Fuzzer])?;
    if args.scenario.is_none() {
        source(&mut tally)?;
    }
    machines(args, &mut tally)?;

    println!();
    for failed in &tally.failed {
        println!("failed: {failed}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    if tally.failed.is_empty() {
        Ok(())
    } else {
        bail!("not everything holds")
    }
}

/// What needs no virtual machine.
fn source(tally: &mut Tally) -> Result<()> {
    tally.check("format", || cargo(&["fmt", "--all", "--check"]));
    tally.check("clippy", || {
        cargo(&["clippy", "--quiet", "--all-targets", "--", "--deny", "warnings"])
    });
    tally.check("clippy on the eBPF programs", programs);
    tests(tally)?;
    fuzzing(tally);
    Ok(())
}

/// A look at what a fuzzer's first inputs do; `cargo xtask fuzz` looks further, and elsewhere each time.
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
        tally.check(&format!("fuzz {target}"), || {
            fuzz::run_first(programs, target, FUZZ_INPUTS, FUZZ_SECONDS)
        });
    }
}

/// Clippy on the crate that is built for another target.
fn programs() -> Result<()> {
    let mut command = command_in_workspace(&["clippy", "--quiet", "--package", "luo-trace-ebpf", "--features", "log"]);
    command.args([
        "-Z",
        "build-std=core",
        "--target",
        "bpfel-unknown-none",
        "--target-dir",
        "target/bpf",
    ]);
    command.args(["--", "--deny", "warnings"]);
    let flags = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let status = command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .status();
    let status = status.context("cannot start cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("it has complaints ({status})")
    }
}

fn cargo(args: &[&str]) -> Result<()> {
    let status = command_in_workspace(args).status().context("cannot start cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("cargo {} failed ({status})", args.join(" "))
    }
}

fn command_in_workspace(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(guest::workspace()).args(args);
    command
}

/// Unit, property and house tests: each counts as one.
fn tests(tally: &mut Tally) -> Result<()> {
    let start = Instant::now();
    let mut command = command_in_workspace(&["test", "--no-fail-fast"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let before = tally.failed.len();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo test writes")?;
        match line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            Some((_, "ok")) => tally.passed += 1,
            Some((name, "FAILED")) => tally.failed.push(format!("test {name}")),
            // What a failed test printed, and the compiler's word, are for the reader.
            _ if line.is_empty() || line.starts_with("running ") || line.starts_with("test ") => {}
            _ => println!("{line}"),
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() && tally.failed.len() == before {
        tally.count(
            "cargo test",
            start,
            Err(anyhow::anyhow!("cargo test failed ({status})")),
        );
    }
    Ok(())
}

/// Every scenario on every kernel asked for.
fn machines(args: &Args, tally: &mut Tally) -> Result<()> {
    let wanted = if args.all {
        4
    } else if args.fast {
        1
    } else {
        2
    };
    let guest = guest::build(&Agent::Built)?;
    let scenarios = vm::scenario::all()?;
    let late = AtomicUsize::new(0);
    for (index, (package, flavour)) in KERNELS[..wanted].iter().enumerate() {
        let kernel = kernel::ensure(&Request {
            source: Source::Package((*package).into()),
            flavour: *flavour,
        })?;
        if index == 0 && args.scenario.is_none() {
            images(tally, &kernel, &guest);
        }
        let asked = |name: &str| args.scenario.as_ref().is_none_or(|text| name.contains(text));
        let run = scenarios
            .iter()
            .filter(|(name, scenario)| asked(name) && (index == 0 || !is_costly(scenario)));
        side_by_side(run, &kernel, &guest, &late, tally);
    }
    if late.into_inner() >= MOST_LATE {
        tally.failed.push(format!(
            "the scenarios after {MOST_LATE} that were not done in time: they were not run"
        ));
    }
    Ok(())
}

/// Runs scenarios on a kernel, as many at a time as there are processors: a guest waits for most of its time. `late` counts those
/// that were not done in time; after [`MOST_LATE`] no other is started.
fn side_by_side<'a>(
    scenarios: impl Iterator<Item = &'a (String, Scenario)> + Send,
    kernel: &Kernel,
    guest: &Guest,
    late: &AtomicUsize,
    tally: &mut Tally,
) {
    let waiting = Mutex::new(scenarios.take_while(|_| late.load(Ordering::Relaxed) < MOST_LATE));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let at_a_time = thread::available_parallelism().map_or(1, NonZero::get).min(MACHINES);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some((name, scenario)) = next() {
                    let start = Instant::now();
                    let result = scenario_on(name, scenario, kernel, guest, late);
                    // Whoever counts lives as long as anybody runs.
                    _ = done.send((name, start, result));
                }
            });
        }
        drop(done);
        for (name, start, result) in results {
            tally.count(format_args!("{name} on Linux {kernel}"), start, result);
        }
    });
}

/// Whether it takes another build of a kernel, or a whole system: that costs minutes, and shows nothing that differs between
/// versions.
fn is_costly(scenario: &Scenario) -> bool {
    let costly = |build: &Build| !matches!(build, Build::Testbed | Build::WithoutLuo);
    scenario.root != Root::Init
        || scenario.kernel != Build::Testbed
        || costly(&scenario.next.kernel)
        || scenario.images.iter().any(costly)
}

/// What `luo-trace preflight` says of kernels.
fn images(tally: &mut Tally, kernel: &Kernel, guest: &Guest) {
    let mut cases = Vec::new();
    tally.check("images to judge", || {
        cases = preflight::cases(kernel)?;
        Ok(())
    });
    for (agent, case) in guest
        .agent
        .iter()
        .flat_map(|agent| cases.iter().map(move |case| (agent, case)))
    {
        tally.check(&format!("preflight of {}", case.name), || {
            preflight::check(agent, case).map(|_| ())
        });
    }
}

fn scenario_on(name: &str, scenario: &Scenario, kernel: &Kernel, guest: &Guest, late: &AtomicUsize) -> Result<()> {
    let (output, _lock) = vm::fresh(name, kernel)?;
    let options = Options::new(guest.clone(), output.clone());
    let outcome = vm::run(scenario, kernel, &options)?;
    late.fetch_add(usize::from(outcome.late), Ordering::Relaxed);
    if !outcome.failures.is_empty() {
        bail!("{}\nsee {}", outcome.failures.join("\n"), output.display());
    }
    if name == MEASURED {
        dashboards(&output)?;
    }
    Ok(())
}

/// Holds dashboards and rules against what this run's agent measured.
fn dashboards(output: &Path) -> Result<()> {
    let report = dashboards::check(&output.join("metrics-2.prom"))?;
    println!(
        "        {} panel queries with data, {} rules evaluated by Prometheus",
        report.queries, report.rules
    );
    for panel in &report.without_metric {
        println!("        not shown by this run: {panel}");
    }
    Ok(())
}
