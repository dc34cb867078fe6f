//! Which alerts fire over the time, in an engine and by what was put in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::Value;

use super::engines::{EVERY, Engine, Group, Rule, Span};
use super::hosts::Host;

/// How much is asked for at a time, in seconds.
const PIECE: u64 = 86400;
/// How much of the piece before is asked for once more, in seconds: VictoriaMetrics leaves out the first points of some series, whose last
/// sample before them is older than most are apart.
const OVERLAP: u64 = 3600;
/// How many hosts of a cluster may lose something between two kernels, of the last 20: `luo:rollout_limit`.
const ROLLOUT_LIMIT: usize = 3;

/// An alert, and the host or the step between two kernels that it is about.
pub(crate) type Firing = BTreeSet<(String, String)>;

/// The alerts that what was put in has to raise, and no other.
pub(crate) fn expected(hosts: &[Host]) -> Firing {
    let mut firing = Firing::new();
    let mut wrong = BTreeMap::<_, usize>::new();
    for host in hosts {
        let alerts = host.fault.map_or(&[][..], |fault| fault.alerts());
        firing.extend(alerts.iter().map(|alert| ((*alert).to_owned(), host.name.clone())));
        if let Some((from, to)) = host.wrong_step() {
            *wrong.entry(step(host.cluster, from, to)).or_default() += 1;
        }
    }
    let steps = wrong.into_iter().filter(|(_, hosts)| *hosts >= ROLLOUT_LIMIT);
    firing.extend(steps.map(|(step, _)| ("LuoRolloutShouldStop".to_owned(), step)));
    firing
}

fn step(cluster: &str, from: &str, to: &str) -> String {
    format!("{cluster}: {from} to {to}")
}

/// The host or the step that a series is about.
fn subject(labels: &Value) -> String {
    let label = |name: &str| labels[name].as_str().unwrap_or_default();
    match label("instance") {
        "" => step(label("cluster"), label("from"), label("to")),
        instance => instance.to_owned(),
    }
}

/// The alerts that fire at some time, by asking each rule's expression over all of it.
pub(crate) fn asked(engine: &Engine, groups: &[Group], span: Span) -> Result<Firing> {
    let mut firing = Firing::new();
    for rule in groups.iter().flat_map(|group| &group.rules) {
        if let Some(time) = rule.alert {
            firing.extend(fires(engine, rule, time, span)?);
        }
    }
    Ok(firing)
}

/// What this one is about, where it is so for so many seconds.
fn fires(engine: &Engine, rule: &Rule, time: u64, span: Span) -> Result<Firing> {
    // Each series' begin and end of the time for which it is there without a break.
    let mut pending = BTreeMap::<String, (u64, u64)>::new();
    let mut firing = Firing::new();
    let mut from = span.from;
    while from <= span.to {
        let to = (from + PIECE - EVERY).min(span.to);
        let early = from.saturating_sub(OVERLAP).max(span.from);
        for row in engine.range(&rule.query, Span { from: early, to }, EVERY)? {
            let times = row["values"].as_array().into_iter().flatten();
            let times = times.filter_map(|sample| Some(sample[0].as_f64()? as u64));
            let about = pending.entry(row["metric"].to_string()).or_insert((0, 0));
            for at in times {
                *about = match *about {
                    (begin, end) if end > 0 && at <= end + EVERY => (begin, end.max(at)),
                    _ => (at, at),
                };
                if about.1 - about.0 >= time {
                    firing.insert((rule.name.clone(), subject(&row["metric"])));
                }
            }
        }
        from = to + EVERY;
    }
    Ok(firing)
}

/// A line for each alert: on how many hosts, as put in and as each engine says, and which.
pub(crate) fn table(expected: &Firing, engines: &[(&str, &Firing)]) -> String {
    let alerts: BTreeSet<_> = engines
        .iter()
        .flat_map(|(_, firing)| firing.iter())
        .chain(expected)
        .map(|(alert, _)| alert)
        .collect();
    let of = |firing: &Firing, alert: &str| -> Vec<String> {
        let about = firing.iter().filter(|(name, _)| name == alert);
        about.map(|(_, about)| about.clone()).collect()
    };
    let mut lines = vec![format!("{:<26}  put in", "alert")];
    for (name, _) in engines {
        lines[0] += &format!("  {name}");
    }
    lines[0] += "  about";
    for alert in alerts {
        let put_in = of(expected, alert);
        let mut line = format!("{alert:<26}  {:>6}", put_in.len());
        for (name, firing) in engines {
            line += &format!("  {:>width$}", of(firing, alert).len(), width = name.len());
        }
        let shown = put_in.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let more = put_in.len().saturating_sub(4);
        lines.push(match more {
            0 => format!("{line}  {shown}"),
            more => format!("{line}  {shown} and {more} more"),
        });
    }
    lines.join("\n")
}

/// What an engine says too much and too little, a sentence each.
pub(crate) fn differences(name: &str, expected: &Firing, firing: &Firing) -> Vec<String> {
    let missing = expected.difference(firing);
    let missing = missing.map(|(alert, about)| format!("{name}: {alert} does not fire for {about}"));
    let wrong = firing.difference(expected);
    let wrong = wrong.map(|(alert, about)| format!("{name}: {alert} fires for {about}, and nothing of it was put in"));
    missing.chain(wrong).collect()
}
