//! What a run of checks has counted, how long each took, and the last line of it all.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::vm::stages::Stages;

/// How many checks the table of the dearest has.
const DEAREST: usize = 15;

/// What has been counted so far.
pub(crate) struct Tally {
    begun: Instant,
    passed: u64,
    failed: Vec<String>,
    spent: Vec<Spent>,
}

/// How long one check took.
#[derive(Debug, Clone, Serialize)]
struct Spent {
    /// What was checked.
    name: String,
    /// Seconds of the host's clock. Checks may run side by side.
    seconds: f64,
    /// Where they went, for what ran in a virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<Stages>,
}

/// Everything that was measured, as it is written.
#[derive(Serialize)]
struct Timings<'a> {
    /// Seconds of the host's clock from the first check to the last.
    wall_seconds: f64,
    /// Seconds of processors that this run and everything that it started used.
    cpu_seconds: f64,
    passed: u64,
    failed: &'a [String],
    /// In the order in which they ended.
    checks: &'a [Spent],
}

impl Tally {
    /// Nothing is counted yet; the time counts from now.
    pub(crate) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            passed: 0,
            failed: Vec::new(),
            spent: Vec::new(),
        }
    }

    /// Counts one check, and says how it went.
    pub(crate) fn count(&mut self, what: impl Display, took: Duration, stages: Option<Stages>, result: Result<()>) {
        let (name, seconds) = (what.to_string(), took.as_secs_f64());
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {name} ({seconds:.1} s)");
            }
            Err(why) => {
                println!("FAILED  {name} ({seconds:.1} s)\n{why:#}");
                self.failed.push(name.clone());
            }
        }
        self.spent.push(Spent { name, seconds, stages });
    }

    /// Runs one check and counts it.
    pub(crate) fn check(&mut self, what: impl Display, check: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let result = check();
        self.count(what, start.elapsed(), None, result);
    }

    /// Counts what another program has run, and how long that program took.
    pub(crate) fn count_all(&mut self, what: impl Display, took: Duration, passed: u64, failed: Vec<String>) {
        let seconds = took.as_secs_f64();
        println!(
            "        {what}: {passed} passed, {} failed ({seconds:.1} s)",
            failed.len()
        );
        self.passed += passed;
        self.failed.extend(failed);
        self.spent.push(Spent {
            name: what.to_string(),
            seconds,
            stages: None,
        });
    }

    /// Counts a failure of something that took no time.
    pub(crate) fn fail(&mut self, what: String) {
        self.failed.push(what);
    }

    /// Shows where the time went, writes it to `timings` where that is asked for, and ends in a line `N passed, N failed`.
    ///
    /// # Errors
    /// Something failed, or the file cannot be written.
    pub(crate) fn end(mut self, timings: Option<&Path>) -> Result<()> {
        let all = Timings {
            wall_seconds: self.begun.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds().unwrap_or_default(),
            passed: self.passed,
            failed: &self.failed,
            checks: &self.spent,
        };
        if let Some(path) = timings {
            let json = serde_json::to_string_pretty(&all)?;
            fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
        let (wall, cpu) = (all.wall_seconds, all.cpu_seconds);
        print!("\n{}", dearest(&mut self.spent));
        println!("in all {wall:.0} s, in which the processors worked for {cpu:.0} s\n");
        for failed in &self.failed {
            println!("failed: {failed}");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        if self.failed.is_empty() {
            Ok(())
        } else {
            bail!("not everything holds")
        }
    }
}

/// The checks that took longest, a line each, and the sum of each stage over all.
fn dearest(spent: &mut [Spent]) -> String {
    spent.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let stages = |spent: &Spent| spent.stages.map(|stages| stages.all());
    let Some(names) = spent.iter().find_map(stages) else {
        return String::new();
    };
    let mut table = format!("{:<52} {:>8}", "the dearest, in seconds", "in all");
    names.iter().for_each(|(name, _)| table += &format!(" {name:>8}"));
    table.push('\n');
    for one in spent.iter().take(DEAREST) {
        table += &format!("{:<52} {:>8.1}", one.name, one.seconds);
        for (_, seconds) in stages(one).iter().flatten() {
            table += &format!(" {seconds:>8.1}");
        }
        table.push('\n');
    }
    let machines: Vec<_> = spent.iter().filter_map(stages).collect();
    table += &format!("{:<52} {:>8}", format!("all {} virtual machines", machines.len()), "");
    for stage in 0..names.len() {
        let sum: f64 = machines.iter().map(|stages| stages[stage].1).sum();
        table += &format!(" {sum:>8.1}");
    }
    table + "\n"
}

/// What this process and all that it has waited for have used of processors, in user and kernel, from `/proc/self/stat`.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // A program's name may have spaces and brackets; what follows it has none.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok());
    // USER_HZ, which Linux tells every program as 100.
    Some(ticks.sum::<Option<f64>>()? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::stages::Stage;

    #[test]
    fn the_dearest_come_first_with_their_stages_and_all_stages_are_added_up() {
        let machine = |name: &str, seconds, attach| {
            let mut stages = Stages::default();
            stages.add(Stage::Attach, Duration::from_secs(attach));
            Spent {
                name: name.into(),
                seconds,
                stages: Some(stages),
            }
        };
        let plain = Spent {
            name: "clippy".into(),
            seconds: 7.0,
            stages: None,
        };
        let table = dearest(&mut [machine("simple", 5.0, 2), plain, machine("demo", 9.0, 4)]);
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].contains("attach") && lines[1].starts_with("demo") && lines[2].starts_with("clippy"));
        assert!(
            lines[4].starts_with("all 2 virtual machines") && lines[4].contains("6.0"),
            "{table}"
        );
    }

    #[test]
    fn a_run_that_failed_ends_in_an_error_and_its_timings_are_written() {
        let path = std::env::temp_dir().join(format!("xtask-timings-{}.json", std::process::id()));
        let mut tally = Tally::begin();
        tally.check("good", || Ok(()));
        tally.check("bad", || bail!("it is broken"));
        assert!(tally.end(Some(&path)).is_err());
        let written: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!((&written["passed"], &written["failed"][0]), (&1.into(), &"bad".into()));
        assert_eq!(written["checks"][1]["name"], "bad");
        assert!(written["cpu_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    }
}
