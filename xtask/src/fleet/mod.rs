//! `cargo xtask fleet`: made-up hosts with known faults, their metrics in a real Prometheus and a real VictoriaMetrics, and whether the
//! alerts and the dashboards tell of the faults, and of nothing else.

mod alerts;
mod engines;
mod hosts;
mod panels;
mod pictures;
pub(crate) mod sql;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use self::engines::{Engine, Place, Span};
use self::hosts::Host;
use self::pictures::Painter;
use crate::check::{cargo, run as done};
use crate::dashboards;
use crate::run;
use crate::setup::{self, Need, Tools};
use crate::vm::guest::workspace;

/// How many hosts' metrics are in one file: the tool that makes blocks of them holds what it reads in memory.
const TOGETHER: usize = 25;
/// How far apart samples are for half an hour after something happened, in seconds.
const BUSY: u64 = 60;

/// The options of `cargo xtask fleet`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many hosts
    #[arg(long, value_name = "N", default_value_t = hosts::LEAST)]
    hosts: usize,
    /// Over how many days
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u64).range(5..=31))]
    days: u64,
    /// How far apart samples are where nothing happens, in minutes; for half an hour after an event there is one a minute
    #[arg(long, value_name = "MINUTES", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=60))]
    step: u64,
    /// What random numbers begin with: the same hosts come of the same
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// Draw both dashboards by Grafana's own components, a PNG file each in this directory, and see that each panel is drawn
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Keep journals, metrics and what was put in here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Makes the fleet, has both engines take it, and compares.
///
/// # Errors
/// An engine says other things than what was put in, a query has no data or takes too long, or something cannot be run.
pub(crate) fn command(args: &Args) -> Result<()> {
    ensure!(
        args.hosts >= hosts::LEAST,
        "at least {} hosts are needed: so many kinds of faults are put in",
        hosts::LEAST
    );
    let begun = Instant::now();
    let mut needs = vec![Need::Bpf, Need::Prometheus, Need::VictoriaMetrics];
    needs.extend(args.pictures.as_ref().map(|_| Need::Pictures));
    let tools = setup::ensure(&needs)?;
    done(cargo(&["build", "--quiet", "--release", "--bin", "luo-trace"]))?;
    let own = tempfile::tempdir().context("no directory for the fleet")?;
    let dir = args.out.as_deref().unwrap_or(own.path());
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let place = Place {
        dir,
        tools: &tools,
        lookback: args.step * 60 + BUSY,
    };
    let (figures, wrong) = Fleet::make(args)?.judge(args, &place)?;
    for sentence in &wrong {
        println!("{sentence}");
    }
    println!("{figures}, {:.0} s", begun.elapsed().as_secs_f64());
    match wrong.len() {
        0 => Ok(()),
        wrong => bail!("{wrong} differ from what was put in, or are too slow"),
    }
}

/// The hosts, and over which time.
struct Fleet {
    hosts: Vec<Host>,
    span: Span,
}

impl Fleet {
    fn make(args: &Args) -> Result<Self> {
        let mut random = fastrand::Rng::with_seed(args.seed);
        Ok(Self {
            hosts: (0..args.hosts)
                .map(|number| Host::new(number, args.days, &mut random))
                .collect(),
            span: Span {
                from: hosts::BEGINS,
                to: hosts::BEGINS + args.days * 86400,
            },
        })
    }

    /// Has both engines judge it; gives the figures, and what is wrong in a sentence each.
    fn judge(&self, args: &Args, place: &Place) -> Result<(String, Vec<String>)> {
        self.put_in(place.dir)?;
        let victoria = place.victoria_metrics()?;
        let bytes = self.fill(args, place, &victoria)?;
        eprintln!("metrics: both engines have them; now the rules");
        let rules = dashboards::directory().join("rules.yml");
        let mut prometheus = place.prometheus(&rules)?;
        let groups = engines::groups(&prometheus, &rules)?;
        for group in &groups {
            place.record(&prometheus, group, self.span)?;
            // It looks for new blocks when it starts.
            drop(prometheus);
            prometheus = place.prometheus(&rules)?;
        }
        place.replay(&victoria, &rules, self.span)?;
        let expected = alerts::expected(&self.hosts);
        let asked = alerts::asked(&prometheus, &groups, self.span)?;
        let of_victoria = alerts::asked(&victoria, &groups, self.span)?;
        println!(
            "{}",
            alerts::table(&expected, &[(prometheus.name, &asked), (victoria.name, &of_victoria)])
        );
        let mut wrong = alerts::differences(prometheus.name, &expected, &asked);
        wrong.extend(alerts::differences(victoria.name, &expected, &of_victoria));
        let mut slowest = Vec::new();
        let mut queries = 0;
        for engine in [&prometheus, &victoria] {
            let answers = panels::ask(engine, self.shown(), self.span, args.step * 60)?;
            for panel in &answers.without_metric {
                println!("{}: no made-up host has the metric of {panel:?}", engine.name);
            }
            queries += answers.queries;
            if let Some(dir) = args.pictures.as_ref().filter(|_| engine.name == prometheus.name) {
                wrong.extend(self.draw(&answers.shown, place.tools, dir)?);
            }
            wrong.extend(answers.wrong);
            slowest.push(format!(
                "{} ({:.2} s)",
                answers.slowest.1,
                answers.slowest.0.as_secs_f64()
            ));
        }
        let figures = format!(
            "{} hosts, {}, {:.1} MB of journals, {queries} queries, slowest {}",
            self.hosts.len(),
            self.series(&prometheus)?,
            bytes as f64 / 1e6,
            slowest.join(" and "),
        );
        Ok((figures, wrong))
    }

    /// Draws the dashboards; gives what is wrong with them.
    fn draw(&self, shown: &[(Value, BTreeMap<u64, Vec<Value>>)], tools: &Tools, dir: &Path) -> Result<Vec<String>> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot find {}", dir.display()))?;
        let painter = Painter::new(tools)?;
        let mut wrong = Vec::new();
        for (name, (dashboard, answers)) in panels::DASHBOARDS.iter().zip(shown) {
            let picture = dir.join(name).with_extension("png");
            let troubles = painter.draw(dashboard, &json!(answers), self.span, &picture)?;
            eprintln!("picture: {}", picture.display());
            wrong.extend(troubles.map(|troubles| format!("the picture of {name} has {troubles}")));
        }
        Ok(wrong)
    }

    /// The host whose dashboard is looked at: one that was updated twice, and refused something.
    fn shown(&self) -> &str {
        let shown = self.hosts.iter().find(|host| host.fault == Some(hosts::Fault::Refused));
        shown.map_or("", |host| &host.name)
    }

    /// How many series a host has at the end, those of rules left out.
    fn series(&self, engine: &Engine) -> Result<String> {
        let count = |how: &str| -> Result<String> {
            let query = format!("{how}(count by (instance) ({{__name__=~\"luo_.+\", instance!=\"\"}}))");
            let rows = engine.query(&query, self.span.to)?;
            Ok(rows
                .first()
                .and_then(|row| row["value"][1].as_str())
                .unwrap_or("?")
                .to_owned())
        };
        Ok(format!("{} to {} series a host", count("min")?, count("max")?))
    }

    /// Writes down what was put in.
    fn put_in(&self, dir: &Path) -> Result<()> {
        let faults = self.hosts.iter().filter_map(|host| {
            let fault = host.fault?;
            Some(json!({"host": host.name, "cluster": host.cluster, "fault": fault, "alerts": fault.alerts()}))
        });
        let text = serde_json::to_string_pretty(&faults.collect::<Vec<_>>())?;
        fs::write(dir.join("faults.json"), text).context("cannot write faults.json")
    }

    /// Writes the hosts' journals, has the agent make metrics of them, and both engines take these; gives the journals' bytes.
    fn fill(&self, args: &Args, place: &Place, victoria: &Engine) -> Result<u64> {
        let parts: Vec<_> = self.hosts.chunks(TOGETHER).enumerate().collect();
        let (next, bytes) = (AtomicUsize::new(0), Mutex::new(Ok(0)));
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((number, hosts)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let file = place.dir.join(format!("metrics-{number:02}.txt"));
                        let filled = part(hosts, args, place, &file, self.span).and_then(|bytes| {
                            place.take(&file)?;
                            engines::import(victoria, &file)?;
                            if args.out.is_none() {
                                fs::remove_file(&file).context("cannot remove metrics that were taken")?;
                            }
                            Ok(bytes)
                        });
                        let mut sum = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                        *sum = match (std::mem::replace(&mut *sum, Ok(0)), filled) {
                            (Ok(sum), Ok(bytes)) => Ok(sum + bytes),
                            (Err(why), _) | (_, Err(why)) => Err(why),
                        };
                        eprintln!("hosts: another {} are there", hosts.len());
                    }
                });
            }
        });
        bytes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the journals of some hosts, and a file with the metrics of all of them; gives the journals' bytes.
fn part(hosts: &[Host], args: &Args, place: &Place, file: &Path, span: Span) -> Result<u64> {
    let cannot = || format!("cannot write {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(cannot)?);
    let own = file.with_extension("host");
    let mut bytes = 0;
    for host in hosts {
        let journals = place.dir.join("journals").join(&host.name);
        bytes += host.write(&journals)?;
        run::output(
            Command::new(workspace().join("target/release/luo-trace"))
                .arg("replay")
                .arg(&journals)
                .arg("--openmetrics")
                .arg(&own)
                .args(["--step", &format!("{}m", args.step), "--busy-step", &format!("{BUSY}s")])
                .args([
                    "--label",
                    "job=luo-trace",
                    "--label",
                    &format!("cluster={}", host.cluster),
                ])
                .args(["--label", &format!("instance={}", host.name)]),
        )?;
        let made = BufReader::new(File::open(&own).context("the agent made no metrics")?);
        for line in made.lines() {
            let line = line.context("cannot read what the agent made")?;
            if line != "# EOF" {
                writeln!(out, "{line}").with_context(cannot)?;
            }
        }
        up(host, args, span, &mut out).with_context(cannot)?;
    }
    writeln!(out, "# EOF").and_then(|()| out.flush()).with_context(cannot)?;
    fs::remove_file(own).context("cannot remove the metrics of a host")?;
    Ok(bytes)
}

/// Writes what a scraper says of a host: whether its agent answers.
fn up(host: &Host, args: &Args, span: Span, out: &mut impl Write) -> std::io::Result<()> {
    let labels = format!(
        "job=\"luo-trace\",cluster=\"{}\",instance=\"{}\"",
        host.cluster, host.name
    );
    writeln!(out, "# TYPE up gauge\n# HELP up Whether the agent answers.")?;
    let runs: Vec<_> = host
        .runs()
        .map(|(from, to)| (from / 1_000_000_000, to / 1_000_000_000))
        .collect();
    // Before its agent has answered once, it is no target.
    let mut at = runs.first().map_or(span.to, |&(from, _)| from.next_multiple_of(BUSY));
    let mut changed = at;
    let mut was = None;
    while at <= span.to {
        let is = runs.iter().any(|&(from, to)| (from..=to).contains(&at));
        if was != Some(is) {
            changed = at;
        }
        // Where it changes there is a sample of every moment at which it is looked at.
        if was != Some(is) || at - changed <= 30 * 60 || (at - span.from).is_multiple_of(args.step * 60) {
            writeln!(out, "up{{{labels}}} {} {at}.000", u8::from(is))?;
        }
        was = Some(is);
        at += BUSY;
    }
    Ok(())
}
