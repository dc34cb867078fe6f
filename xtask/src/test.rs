//! `cargo xtask test`: everything that must hold, in one run with one last line.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::bench;
use crate::check;
use crate::dashboards;
use crate::kernel::{self, Flavour, Kernel, Request, Source};
use crate::met;
use crate::plan::{Extent, Run, Shard, builds, plan};
use crate::preflight;
use crate::setup::{self, Need};
use crate::tally::Tally;
use crate::vm::stages::Stages;
use crate::vm::{self, Agent, Guest, Options, guest};

/// The options of `cargo xtask test`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Run every scenario on every kernel: 7.3 and 7.2, each optimised for speed and for size
    #[arg(long, conflicts_with = "fast")]
    all: bool,
    /// Take one kernel only: 7.3, optimised for speed
    #[arg(long)]
    fast: bool,
    /// Run only the scenarios whose name contains this, and nothing else
    #[arg(long, value_name = "TEXT")]
    scenario: Option<String>,
    /// Run one part of so many, such as 2/4, so that machines can share the work; the first part has what needs no virtual machine
    #[arg(long, value_name = "I/N", conflicts_with = "scenario")]
    shard: Option<Shard>,
    /// Run so many virtual machines at a time [default: as many as there are processors, at most 4]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Write where the time went to this file, as JSON
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
}

/// The kernels that are kept working, the default ones first.
const KERNELS: [(&str, Flavour); 4] = [
    ("linux-source-7.3", Flavour::O2),
    ("linux-source-7.2", Flavour::O2),
    ("linux-source-7.3", Flavour::Os),
    ("linux-source-7.2", Flavour::Os),
];

/// How many virtual machines run at a time where nothing else is asked for: each has a gibibyte or two.
const MACHINES: usize = 4;

/// After so many guests that were not done in time no more are started: the machine is at fault, or all of them are.
const MOST_LATE: usize = 3;

/// The scenario whose metrics the dashboards are held against.
const MEASURED: &str = "metrics";

impl Args {
    fn extent(&self) -> Extent {
        match &self.scenario {
            Some(text) => Extent::Named(text.clone()),
            None if self.all => Extent::All,
            None => Extent::Plain,
        }
    }

    fn kernels(&self) -> &'static [(&'static str, Flavour)] {
        &KERNELS[..if self.all {
            4
        } else if self.fast {
            1
        } else {
            2
        }]
    }

    /// Whether everything that belongs to no single scenario is done in this run.
    fn is_first(&self) -> bool {
        self.scenario.is_none() && self.shard.is_none_or(Shard::is_first)
    }
}

/// Runs everything, and ends in a line `N passed, N failed`.
///
/// # Errors
/// Something failed, or could not be run at all.
pub(crate) fn command(args: &Args) -> Result<()> {
    setup::ensure(&[&check::NEEDS[..], &[Need::Qemu, Need::KernelBuild, Need::Valgrind]].concat())?;
    let mut tally = Tally::begin();
    let scenarios = vm::scenario::all()?;
    let runs = plan(&scenarios, &args.extent(), args.kernels().len(), args.shard);
    let (guest, kernels) = thread::scope(|scope| {
        // Where kernels are still to be built, that goes on beside the checks of the source.
        let building = scope.spawn(|| everything(args, &runs));
        if args.is_first() {
            check::all(&mut tally)?;
        }
        building.join().unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    machines(args, &runs, &guest, &kernels, &mut tally)?;
    tally.end(args.timings.as_deref())
}

/// Builds all that the runs need, or takes it from the cache: the guest's programs, and the kernels.
fn everything(args: &Args, runs: &[Run<'_>]) -> Result<(Guest, Vec<Kernel>)> {
    let guest = guest::build(&Agent::Built)?;
    let mut kernels = Vec::new();
    for (index, (package, flavour)) in args.kernels().iter().enumerate() {
        let kernel = kernel::ensure(&Request {
            source: Source::Package((*package).into()),
            flavour: *flavour,
        })?;
        let here = runs.iter().filter(|run| run.kernel == index);
        let wanted: BTreeSet<_> = here.flat_map(|run| builds(run.scenario)).collect();
        for build in wanted {
            kernel.built(build)?;
        }
        kernels.push(kernel);
    }
    Ok((guest, kernels))
}

/// Every run, kernel by kernel.
fn machines(args: &Args, runs: &[Run<'_>], guest: &Guest, kernels: &[Kernel], tally: &mut Tally) -> Result<()> {
    let late = AtomicUsize::new(0);
    if let (true, Some(kernel)) = (args.is_first(), kernels.first()) {
        images(tally, kernel, guest);
    }
    if let (true, Some(agent)) = (args.is_first(), &guest.agent) {
        tally.check("instructions an event takes in the agent", || {
            bench::drain::compare(agent)
        });
    }
    side_by_side(args, runs, kernels, guest, &late, tally);
    if args.scenario.is_none() && args.shard.is_none() {
        for (index, kernel) in kernels.iter().enumerate() {
            let here: Vec<_> = runs
                .iter()
                .filter(|run| run.kernel == index)
                .map(|run| run.name)
                .collect();
            tally.check(format_args!("each hook is met on Linux {kernel}"), || {
                met::all(kernel, &here)
            });
        }
    }
    if late.into_inner() >= MOST_LATE {
        tally.fail(format!(
            "the scenarios after {MOST_LATE} that were not done in time: they were not run"
        ));
    }
    Ok(())
}

/// Carries out runs, so many at a time: a guest waits for some of its time. `late` counts those that were not done in time; after
/// [`MOST_LATE`] no other is started.
fn side_by_side(
    args: &Args,
    runs: &[Run<'_>],
    kernels: &[Kernel],
    guest: &Guest,
    late: &AtomicUsize,
    tally: &mut Tally,
) {
    let waiting = Mutex::new(runs.iter().take_while(|_| late.load(Ordering::Relaxed) < MOST_LATE));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = args.jobs.map_or(jobs.min(MACHINES), NonZero::get);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some(run) = next() {
                    let start = Instant::now();
                    let mut stages = None;
                    let options = |output| Options {
                        cpus: cpus(args, run),
                        ..Options::new(guest.clone(), output)
                    };
                    let result = scenario_on(run, &kernels[run.kernel], options, late, &mut stages);
                    // The receiver lives as long as any of these threads.
                    _ = done.send((run, start.elapsed(), stages, result));
                }
            });
        }
        drop(done);
        for (run, took, stages, result) in results {
            let kernel = &kernels[run.kernel];
            tally.count(format_args!("{} on Linux {kernel}", run.name), took, stages, result);
        }
    });
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
        tally.check(format_args!("preflight of {}", case.name), || {
            preflight::check(agent, case).map(|_| ())
        });
    }
}

/// How many CPUs a guest has. What a fault of the kernel shows does not depend on them, and one costs the host a good deal less than
/// two; `--all` gives every scenario two.
fn cpus(args: &Args, run: &Run<'_>) -> u32 {
    if !args.all && run.name.starts_with("fault-") {
        1
    } else {
        2
    }
}

fn scenario_on(
    run: &Run<'_>,
    kernel: &Kernel,
    options: impl FnOnce(PathBuf) -> Options,
    late: &AtomicUsize,
    stages: &mut Option<Stages>,
) -> Result<()> {
    let (output, _lock) = vm::fresh(run.name, kernel)?;
    let outcome = vm::run(run.scenario, kernel, &options(output.clone()))?;
    *stages = Some(outcome.stages);
    if outcome.starts > 1 {
        println!(
            "        {}: {} starts, since the first kernel hung before its init ran",
            run.name, outcome.starts
        );
    }
    late.fetch_add(usize::from(outcome.late), Ordering::Relaxed);
    if !outcome.failures.is_empty() {
        bail!("{}\nsee {}", outcome.failures.join("\n"), output.display());
    }
    if run.name == MEASURED {
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
