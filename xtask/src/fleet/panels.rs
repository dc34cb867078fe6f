//! Every query of the dashboards, asked as Grafana would for the whole time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::engines::{Engine, Span};
use crate::dashboards::{directory, names};

/// The dashboards, of a host and of a fleet.
pub(crate) const DASHBOARDS: [&str; 2] = ["luo-trace.json", "luo-trace-fleet.json"];
/// How many points a panel is drawn with.
const POINTS: u64 = 1000;
/// How long a query may take.
const MOST: Duration = Duration::from_secs(2);

/// One query of a panel.
struct Query {
    /// The panel's id, and its title.
    id: u64,
    panel: String,
    query: String,
    instant: bool,
}

/// What came of all queries.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) queries: usize,
    /// The one that took the longest.
    pub(crate) slowest: (Duration, String),
    /// Panels whose metric no made-up host has.
    pub(crate) without_metric: BTreeSet<String>,
    /// What is wrong, a sentence each.
    pub(crate) wrong: Vec<String>,
    /// Each dashboard, and what its panels' queries gave: by the panel's id, a list for each of them.
    pub(crate) shown: Vec<(Value, BTreeMap<u64, Vec<Value>>)>,
}

/// Asks them all, those of a host's dashboard for this host. `step` is how far apart its samples are, in seconds.
pub(crate) fn ask(engine: &Engine, host: &str, span: Span, step: u64) -> Result<Asked> {
    let known = engine.get(&format!(
        "/api/v1/label/__name__/values?start={}&end={}",
        span.from, span.to
    ))?;
    let known: BTreeSet<_> = known
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let window = format!("{}s", 4 * step);
    let mut asked = Asked::default();
    for dashboard in DASHBOARDS {
        let definition = read(dashboard)?;
        let mut answers: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for query in queries(&definition) {
            let Query {
                id,
                panel,
                query,
                instant,
            } = query;
            let query = query
                .replace("$__rate_interval", &window)
                .replace("$instance", host)
                .replace("$job", ".*")
                .replace("$cluster", ".*");
            let begun = Instant::now();
            let rows = match instant {
                true => engine.query(&query, span.to),
                false => engine.range(&query, span, (span.to - span.from) / POINTS),
            };
            let took = begun.elapsed();
            let place = format!("{}: {panel:?} of {dashboard}", engine.name);
            asked.queries += 1;
            let told = rows.as_ref().map(|rows| Value::from(rows.clone())).unwrap_or_default();
            answers.entry(id).or_default().push(told);
            match rows {
                Err(why) => asked.wrong.push(format!("{place}: {query} fails: {why:#}")),
                Ok(rows) if !rows.is_empty() => {}
                Ok(_) if names(&query).any(|name| !known.contains(name)) => {
                    _ = asked.without_metric.insert(panel.clone())
                }
                Ok(_) => asked.wrong.push(format!("{place} has no data: {query}")),
            }
            if took > MOST {
                asked
                    .wrong
                    .push(format!("{place} takes {:.1} s: {query}", took.as_secs_f64()));
            }
            if took > asked.slowest.0 {
                asked.slowest = (took, place);
            }
        }
        asked.shown.push((definition, answers));
    }
    Ok(asked)
}

fn read(dashboard: &str) -> Result<Value> {
    let text = fs::read_to_string(directory().join(dashboard)).with_context(|| format!("cannot read {dashboard}"))?;
    serde_json::from_str(&text).with_context(|| format!("{dashboard} is not JSON"))
}

fn queries(dashboard: &Value) -> Vec<Query> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| Query {
            id: panel["id"].as_u64().unwrap_or_default(),
            panel: panel["title"].as_str().unwrap_or_default().into(),
            query: target["expr"].as_str().unwrap_or_default().into(),
            instant: target["instant"] == true,
        })
    });
    targets.collect()
}
