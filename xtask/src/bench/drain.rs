//! What an event costs the agent: instructions in its pipeline, and in `luo-trace check`, counted by callgrind over a made-up journal.
//!
//! No virtual machine takes part, and the counts repeat to two percent, so that they are kept in a file and compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::check::write as write_journal;
use crate::setup::{self, Need};
use crate::vm::guest::{self, Agent};

/// How many events the journal has; another one has twice as many.
const EVENTS: u64 = 50_000;
/// By how many percent a figure may differ from what is kept.
const SLACK: u64 = 5;
/// What writes the kept figures anew.
const ANEW: &str = "cargo xtask bench drain --write";

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Keep the figures in xtask/figures.toml, where `cargo xtask test` compares with them
    #[arg(long)]
    write: bool,
}

/// Instructions an event takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    /// In the agent's pipeline: decoded, judged and counted, with no output.
    drain: u64,
    /// In `luo-trace check`, with reading the journal.
    check: u64,
}

impl Figures {
    fn kept() -> Result<Self> {
        let path = path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}: {ANEW} makes it", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is damaged: {ANEW} makes it anew", path.display()))
    }

    fn keep(&self) -> Result<()> {
        let head = format!("# Instructions an event takes in the agent, as `{ANEW}` counted them.\n");
        let text = head + &toml::to_string(self)?;
        fs::write(path(), text).with_context(|| format!("cannot write {}", path().display()))
    }

    /// Counts them.
    fn count(agent: &Path) -> Result<Self> {
        let valgrind = setup::ensure(&[Need::Valgrind])?.program("valgrind")?;
        let directory = guest::workspace().join("target/bench/drain");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let count = |arguments: &[&str], journal: &Path| {
            let out = directory.join("callgrind.out");
            let mut command = Command::new(&valgrind);
            command.args(["--quiet", "--tool=callgrind"]);
            command.arg(format!("--callgrind-out-file={}", out.display()));
            command.arg(agent).args(arguments).arg(journal).stdout(Stdio::null());
            let status = command
                .status()
                .with_context(|| format!("cannot run {}", valgrind.display()))?;
            // Where the flood is cut off, something of it may stay undecided.
            if !matches!(status.code(), Some(0 | 3)) {
                bail!("luo-trace {} fails under callgrind ({status})", arguments.join(" "));
            }
            let text = fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
            total(&text).with_context(|| format!("{} tells no total", out.display()))
        };
        let (short, long) = (directory.join("short.luoj"), directory.join("long.luoj"));
        write_journal(&short, EVENTS)?;
        write_journal(&long, 2 * EVENTS)?;
        // What an event adds, without what comes once.
        let added = |once: u64, twice: u64| twice.saturating_sub(once) / EVENTS;
        let drain = added(
            count(&["drain", "--times=1"], &short)?,
            count(&["drain", "--times=2"], &short)?,
        );
        let check = added(count(&["check"], &short)?, count(&["check"], &long)?);
        for journal in [short, long] {
            // What was to be counted is known; a file that stays is no harm.
            _ = fs::remove_file(journal);
        }
        Ok(Self { drain, check })
    }

    /// Holds new figures against these.
    fn compare(&self, now: &Self) -> Result<()> {
        near("the agent's pipeline", self.drain, now.drain)?;
        near("luo-trace check", self.check, now.check)
    }
}

/// Where the figures are kept.
fn path() -> PathBuf {
    guest::workspace().join("xtask/figures.toml")
}

/// The total in callgrind's output.
fn total(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("totals: "))?
        .trim()
        .parse()
        .ok()
}

/// Whether a figure is what it was.
fn near(what: &str, kept: u64, now: u64) -> Result<()> {
    let differs = |than: u64| now.abs_diff(than) * 100 > than * SLACK;
    match now > kept {
        _ if !differs(kept) => Ok(()),
        true => bail!(
            "an event takes {now} instructions in {what}, where it took {kept}. Make it cheaper; where that cannot be, keep the new \
             figure and say why: {ANEW}"
        ),
        false => bail!("an event takes only {now} instructions in {what}, where it took {kept}. Keep that: {ANEW}"),
    }
}

/// Counts, prints, and keeps where that is asked for; else compares.
///
/// # Errors
/// The agent does not build, callgrind cannot be had, or a figure is another one than is kept.
pub(super) fn command(args: &Args) -> Result<()> {
    let agent = guest::build(&Agent::Built)?.agent.context("no agent was built")?;
    let now = Figures::count(&agent)?;
    println!("instructions an event takes");
    println!("the agent's pipeline  {:>5}", now.drain);
    println!("luo-trace check       {:>5}", now.check);
    if args.write {
        now.keep()
    } else {
        Figures::kept()?.compare(&now)
    }
}

/// Counts with this agent, and compares with what is kept.
///
/// # Errors
/// A figure is another one, or cannot be had.
pub(crate) fn compare(agent: &Path) -> Result<()> {
    Figures::kept()?.compare(&Figures::count(agent)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_five_percent_off_is_told_either_way() {
        let kept = Figures {
            drain: 1000,
            check: 500,
        };
        assert!(
            kept.compare(&Figures {
                drain: 1050,
                check: 475
            })
            .is_ok()
        );
        let worse = kept
            .compare(&Figures {
                drain: 1051,
                check: 500,
            })
            .unwrap_err()
            .to_string();
        assert!(
            worse.contains("takes 1051 instructions in the agent's pipeline, where it took 1000"),
            "{worse}"
        );
        let better = kept
            .compare(&Figures {
                drain: 1000,
                check: 474,
            })
            .unwrap_err()
            .to_string();
        assert!(better.contains("only 474 instructions in luo-trace check"), "{better}");
        assert!(worse.contains(ANEW) && better.contains(ANEW));
    }

    #[test]
    fn the_total_is_found_in_what_callgrind_writes() {
        assert_eq!(
            total("version: 1\nevents: Ir\nfn=(1) main\n1 2\n\ntotals: 423\n"),
            Some(423)
        );
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn the_kept_figures_are_there() {
        Figures::kept().unwrap();
    }
}
