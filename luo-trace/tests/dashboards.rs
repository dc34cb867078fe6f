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

fn panels() -> Vec<Value> {
    let text = fs::read_to_string(dashboards().join("luo-trace.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

fn panel_queries() -> Vec<String> {
    let query = |target: &Value| target["expr"].as_str().unwrap().to_owned();
    let queries = |panel: Value| {
        panel["targets"]
            .as_array()
            .unwrap()
            .iter()
            .map(query)
            .collect::<Vec<_>>()
    };
    panels().into_iter().flat_map(queries).collect()
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
    for query in panel_queries().iter().chain([&rules()]) {
        let unknown: Vec<_> = names(query).difference(&in_table()).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in\n{query}");
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let shown = panel_queries().iter().flat_map(|query| names(query)).collect();
    let hidden: Vec<_> = in_table().difference(&shown).cloned().collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:?}");
}

#[test]
fn every_label_that_a_panel_sums_by_is_one_of_its_metrics() {
    for query in panel_queries() {
        let named = names(&query);
        let metrics = METRICS.iter().filter(|metric| named.contains(metric.name));
        // Prometheus itself adds `instance` and `le`.
        let known: BTreeSet<_> = metrics
            .flat_map(|metric| metric.labels)
            .chain(&["instance", "le"])
            .collect();
        let lists = query.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap());
        for label in lists.flat_map(|list| list.split(", ")) {
            assert!(known.contains(&label), "{label} in {query}");
        }
    }
}

#[test]
fn the_dashboard_takes_any_data_source_and_explains_every_panel() {
    for panel in panels() {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(
            panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
            "{title}"
        );
    }
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
