//! The dashboard, the rules and the table of metrics name the same metrics, and every alert leads to a runbook.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use luo_trace::sink::metrics::METRICS;
use serde_json::Value;

fn dashboards() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

/// The dashboards: of a host, and of a fleet.
const HOST: &str = "luo-trace.json";
const FLEET: &str = "luo-trace-fleet.json";

fn dashboard(name: &str) -> Value {
    let text = fs::read_to_string(dashboards().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(name: &str) -> Vec<Value> {
    let panels = dashboard(name)["panels"].as_array().unwrap().clone();
    panels.into_iter().filter(|panel| panel["type"] != "row").collect()
}

fn queries(name: &str) -> Vec<String> {
    let query = |target: &Value| target["expr"].as_str().unwrap().to_owned();
    let queries = |panel: Value| {
        panel["targets"]
            .as_array()
            .unwrap()
            .iter()
            .map(query)
            .collect::<Vec<_>>()
    };
    panels(name).into_iter().flat_map(queries).collect()
}

fn all_queries() -> Vec<String> {
    [queries(HOST), queries(FLEET)].concat()
}

fn rules() -> String {
    fs::read_to_string(dashboards().join("rules.yml")).unwrap()
}

/// The names of our metrics in a query; a histogram's parts count as the histogram.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let histogram = |name: &&str| METRICS.iter().any(|m| m.name == *name && m.kind == "histogram");
    let whole = |word: &str| {
        let mut parts = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|part| word.strip_suffix(part));
        parts.find(histogram).unwrap_or(word).to_owned()
    };
    words.filter(|word| word.starts_with("luo_")).map(whole).collect()
}

fn in_table() -> BTreeSet<String> {
    METRICS.iter().map(|metric| metric.name.to_owned()).collect()
}

#[test]
fn every_metric_that_a_panel_or_a_rule_names_exists() {
    for query in all_queries().iter().chain([&rules()]) {
        let unknown: Vec<_> = names(query).difference(&in_table()).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in\n{query}");
    }
}

#[test]
fn every_metric_is_on_the_dashboard_of_a_host() {
    let shown = queries(HOST).iter().flat_map(|query| names(query)).collect();
    let hidden: Vec<_> = in_table().difference(&shown).cloned().collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:?}");
}

/// What the recording rules record, each with the labels that it has.
fn recorded() -> Vec<(String, BTreeSet<String>)> {
    let rules = rules();
    let record = |rule: &str| {
        let name = rule.lines().next().unwrap().trim().to_owned();
        // What follows in another group is another rule's.
        let rule = rule.split("- alert:").next().unwrap();
        let lists = rule.split("by (").chain(rule.split("group_left (")).skip(1);
        let labels = lists.flat_map(|list| list.split(')').next().unwrap().split(", "));
        let own = rule.contains("quantile: ").then_some("quantile");
        (name, labels.chain(own).map(str::to_owned).collect())
    };
    rules.split("- record:").skip(1).map(record).collect()
}

/// The names of recorded series in a query.
fn recorded_names(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("luo:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_label_that_a_panel_sums_by_is_one_of_its_metrics() {
    let recorded = recorded();
    for query in all_queries() {
        let (named, read) = (names(&query), recorded_names(&query));
        let metrics = METRICS.iter().filter(|metric| named.contains(metric.name));
        let own = metrics.flat_map(|metric| metric.labels).copied();
        let from_rules = recorded.iter().filter(|(name, _)| read.contains(name));
        // Prometheus itself adds these.
        let known: BTreeSet<_> = own
            .chain(from_rules.flat_map(|(_, labels)| labels).map(String::as_str))
            .chain(["job", "cluster", "instance", "le"])
            .collect();
        let lists = query.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap());
        for label in lists.flat_map(|list| list.split(", ")) {
            assert!(known.contains(&label), "{label} in {query}");
        }
    }
}

#[test]
fn whatever_is_read_of_the_rules_is_recorded_by_one() {
    let known: BTreeSet<_> = recorded().into_iter().map(|(name, _)| name).collect();
    assert!(known.len() > 10, "{known:?}");
    for text in all_queries().iter().chain([&rules()]) {
        let code: Vec<_> = text
            .lines()
            .filter(|line| !line.trim().starts_with(['#', 'd']))
            .collect();
        let unknown: Vec<_> = recorded_names(&code.join("\n")).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in\n{text}");
    }
}

#[test]
fn every_panel_takes_any_data_source_and_says_what_it_shows_in_which_unit_and_what_is_too_much() {
    for panel in [panels(HOST), panels(FLEET)].concat() {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(
            panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
            "{title}"
        );
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(defaults["unit"].is_string(), "{title}");
        assert!(defaults["thresholds"]["steps"].is_array(), "{title}");
    }
}

#[test]
fn no_two_panels_of_a_dashboard_have_one_id_or_lie_on_each_other() {
    for name in [HOST, FLEET] {
        let panels = panels(name);
        let place = |panel: &Value| ["x", "w", "y", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        let overlap =
            |(at, long): (u64, u64), (other, other_long): (u64, u64)| at < other + other_long && other < at + long;
        for (i, panel) in panels.iter().enumerate() {
            let [x, w, y, h] = place(panel);
            for other in &panels[i + 1..] {
                let [ox, ow, oy, oh] = place(other);
                let both = format!("{name}: {} and {}", panel["title"], other["title"]);
                assert_ne!(panel["id"], other["id"], "{both}");
                assert!(!(overlap((x, w), (ox, ow)) && overlap((y, h), (oy, oh))), "{both}");
            }
        }
    }
}

#[test]
fn a_dashboard_shows_the_jobs_and_clusters_that_are_chosen_and_one_host_or_all() {
    for (name, words) in [
        (
            HOST,
            &["job=~\"$job\"", "cluster=~\"$cluster\"", "instance=~\"$instance\""][..],
        ),
        (FLEET, &["job=~\"$job\"", "cluster=~\"$cluster\""]),
    ] {
        for query in queries(name) {
            for selector in query.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()) {
                assert!(words.iter().all(|word| selector.contains(word)), "{name}: {query}");
            }
        }
        let variables = dashboard(name)["templating"]["list"].as_array().unwrap().clone();
        let is_of_hosts = |variable: &&Value| variable["name"] == "instance";
        let hosts = variables.iter().find(is_of_hosts);
        assert_eq!(
            hosts.map(|hosts| hosts["multi"] == true),
            (name == HOST).then_some(false)
        );
    }
}

#[test]
fn no_panel_of_a_fleet_reads_a_histogram_of_every_host() {
    for query in queries(FLEET) {
        let histograms = METRICS.iter().filter(|metric| metric.kind == "histogram");
        for histogram in histograms {
            assert!(!query.contains(histogram.name), "{query}");
        }
    }
}

#[test]
fn a_table_of_hosts_leads_to_the_dashboard_of_each() {
    let uid = &dashboard(HOST)["uid"];
    let link = format!("/d/{}?", uid.as_str().unwrap());
    let mut tables = 0;
    for panel in panels(FLEET)
        .iter()
        .filter(|panel| panel["targets"][0]["expr"].as_str().unwrap().contains("topk(10"))
    {
        let overrides = panel["fieldConfig"]["overrides"].to_string();
        assert!(
            overrides.contains(&link) && overrides.contains("__data.fields.instance"),
            "{}",
            panel["title"]
        );
        tables += 1;
    }
    assert!(tables >= 4);
}

#[test]
fn every_alert_leads_to_a_runbook_that_names_it() {
    let rules = rules();
    let values = |key: &str| -> Vec<String> {
        let lines = rules.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.map(|value| value.trim().to_owned()).collect()
    };
    let (alerts, runbooks) = (values("- alert:"), values("runbook:"));
    assert!(!alerts.is_empty());
    assert_eq!(alerts.len(), runbooks.len());
    for (alert, runbook) in alerts.iter().zip(&runbooks) {
        let text = fs::read_to_string(dashboards().join(runbook)).unwrap();
        assert!(text.contains(&format!("`{alert}`")), "{runbook} does not name {alert}");
    }
}
