//! `cargo xtask explore`: random live updates on a real kernel, from a seed.
//!
//! A seed makes a [`story`], whose deeds a small model of LUO ([`rules`]) tells as a scenario that knows how each of them must come
//! out. The ordinary runner runs it, and holds the answers, every byte, the kernel's console and luo-trace's findings against it. In
//! half of the stories a [`tamper`]ing of the testbed has the kernel break a promise, which then must be found, and nothing else.

mod author;
mod deed;
mod rules;
mod shrink;
mod steps;
mod story;
mod tamper;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use testbed_guest::scenario::Scenario;

use crate::kernel::{self, Kernel};
use crate::setup::{self, Need};
use crate::vm::{self, Agent, Guest, Options, guest};

use shrink::Way;
use story::Story;
use tamper::Tampering;

/// The options of `cargo xtask explore`.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "explore")]
pub(crate) struct Args {
    /// The first seed; the ones that follow it come after it [default: one by the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// For how many minutes new stories are begun; one is told at least
    #[arg(long, value_name = "M", default_value_t = 10)]
    minutes: u64,
    /// For how many minutes a story that fails is made smaller [default: for what is left of the others]
    #[arg(long, value_name = "M")]
    shrink: Option<u64>,
    /// Write the first story down as a scenario's file, and run nothing
    #[arg(long)]
    tell: bool,
    #[command(flatten)]
    kernel: kernel::Args,
}

/// What came of all stories.
#[derive(Debug, Default, Serialize)]
struct Figures {
    seeds: u64,
    operations: usize,
    updates: usize,
    tamperings: usize,
    tamperings_found: usize,
    failed: Vec<u64>,
    seconds: f64,
}

/// Where stories are run.
struct Stage<'a> {
    kernel: &'a Kernel,
    guest: &'a Guest,
    tamperings: &'a [Tampering],
    /// The options that name the kernel, for the line that tells how to run a scenario again.
    again: String,
}

/// Explores, and ends in a line of figures.
///
/// # Errors
/// A story failed, or none could be run.
pub(crate) fn command(args: Args) -> Result<()> {
    let again = args.kernel.words();
    let tamperings = tamper::all(vm::scenario::all()?);
    let by_the_clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let first = args.seed.unwrap_or_else(by_the_clock);
    if args.tell {
        let told = Story::of(first, &tamperings).tell(&tamperings);
        return keep(&first.to_string(), &told.scenario, &again);
    }
    setup::ensure(&[Need::Qemu])?;
    let kernel = kernel::ensure(&args.kernel.into())?;
    let guest = guest::build(&Agent::Built)?;
    let stage = Stage {
        kernel: &kernel,
        guest: &guest,
        tamperings: &tamperings,
        again,
    };
    let begun = Instant::now();
    let until = begun + Duration::from_secs(60 * args.minutes);
    let mut figures = Figures::default();
    for seed in first.. {
        let shrinks_until = args.shrink.map(|minutes| Duration::from_secs(60 * minutes));
        stage.explore(seed, |now| shrinks_until.map_or(until, |time| now + time), &mut figures)?;
        if Instant::now() >= until {
            break;
        }
    }
    figures.seconds = begun.elapsed().as_secs_f64().round();
    println!("{}", serde_json::to_string(&figures)?);
    if figures.failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} stories failed on Linux {kernel}",
        figures.failed.len(),
        figures.seeds
    )
}

impl Stage<'_> {
    /// Tells one story, and makes it smaller where it fails.
    fn explore(&self, seed: u64, until: impl Fn(Instant) -> Instant, figures: &mut Figures) -> Result<()> {
        let story = Story::of(seed, self.tamperings);
        let told = story.tell(self.tamperings);
        let begun = Instant::now();
        let failures = self.run(&format!("explore-{seed}"), &told.scenario)?;
        let updates = told.scenario.boots() as usize - 1;
        figures.seeds += 1;
        figures.operations += told.operations;
        figures.updates += updates;
        figures.tamperings += usize::from(told.tampering.is_some());
        let what = format!(
            "seed {seed} on Linux {}: {} operations, {updates} updates, {}",
            self.kernel,
            told.operations,
            told.tampering.as_deref().unwrap_or("no tampering")
        );
        let seconds = begun.elapsed().as_secs();
        if failures.is_empty() {
            figures.tamperings_found += usize::from(told.tampering.is_some());
            println!("ok      {what} ({seconds} s)");
            return Ok(());
        }
        figures.failed.push(seed);
        // What the agents said last is among what stays in `target/vm`.
        let shown = failures
            .iter()
            .filter_map(|failure| failure.split("\nthe end of agent-").next());
        println!("FAILED  {what} ({seconds} s)\n{}", shown.collect::<Vec<_>>().join("\n"));
        keep(&seed.to_string(), &told.scenario, &self.again)?;
        let way = Way::of(&failures);
        let mut smallest = told.scenario.kernels;
        let small = shrink::shrink(story, until(Instant::now()), |story| {
            let scenario = story.tell(self.tamperings).scenario;
            if scenario.kernels == smallest {
                // What was left out did nothing.
                return Ok(true);
            }
            let failures = self.run(&format!("explore-{seed}-small"), &scenario)?;
            let same = !failures.is_empty() && Way::of(&failures) == way;
            let shown = if same { "still fails" } else { "does not" };
            println!("        {shown}: {}", scenario.summary);
            if same {
                keep(&format!("{seed}-small"), &scenario, &self.again)?;
                smallest = scenario.kernels;
            }
            Ok(same)
        })?;
        println!(
            "        the smallest that fails so: {}",
            small.tell(self.tamperings).scenario.summary
        );
        Ok(())
    }

    /// What is wrong with a scenario. Where something is, everything that it left stays.
    fn run(&self, name: &str, scenario: &Scenario) -> Result<Vec<String>> {
        let (output, _lock) = vm::fresh(name, self.kernel)?;
        let outcome = vm::run(scenario, self.kernel, &Options::new(self.guest.clone(), output.clone()))?;
        if outcome.failures.is_empty() {
            fs::remove_dir_all(&output).with_context(|| format!("cannot remove {}", output.display()))?;
        }
        Ok(outcome.failures)
    }
}

/// Writes a scenario, and says how it is run again.
fn keep(name: &str, scenario: &Scenario, again: &str) -> Result<()> {
    let directory = PathBuf::from("target/explore");
    let path = directory.join(format!("explore-{name}.toml"));
    let context = || format!("cannot write {}", path.display());
    fs::create_dir_all(guest::workspace().join(&directory)).with_context(context)?;
    fs::write(guest::workspace().join(&path), vm::scenario::write(scenario)?).with_context(context)?;
    println!("        again: cargo xtask vm {}{again}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests;
