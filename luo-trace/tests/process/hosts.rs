//! The journals of a fleet, in a directory with one for each host.

use std::collections::BTreeSet;

use luo_trace::testing::Story;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{leaves, record_of, says, takes_a_token_twice};

/// A fleet of two: one whose kernel departed, and one whose kernel broke a promise.
fn fleet() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for (boot, name, tell) in [
        ("a", "anna", leaves as fn(&mut Story)),
        ("b", "bert", takes_a_token_twice),
    ] {
        let mut story = Story::new();
        tell(&mut story);
        record_of(
            &place.path().join("fleet").join(name),
            boot,
            (name, name),
            &story.events,
        );
    }
    place
}

#[test]
fn a_directory_of_hosts_is_judged_as_all_their_journals_are() {
    let place = fleet();
    let by_name = says(place.path(), "check fleet/anna fleet/bert --format json").ends(1);
    let at_once = says(place.path(), "check fleet --format json").ends(1);
    assert_eq!(at_once.stdout, by_name.stdout);
    // An empty directory is no fleet.
    std::fs::create_dir(place.path().join("empty")).unwrap();
    says(place.path(), "check empty").ends(2).refuses(&["empty"]);
}

#[test]
fn a_report_on_several_hosts_begins_with_them() {
    let place = fleet();
    let text = says(place.path(), "report fleet").ends(0).stdout;
    let (_, hosts) = text.split_once("\nHosts\n").expect("a list of the hosts");
    let line = |name: &str| {
        let mut lines = hosts.lines().take_while(|line| !line.is_empty());
        lines
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    assert!(line("anna").ends_with("departed"), "{text}");
    let words: Vec<_> = line("bert").split_whitespace().take(4).collect();
    assert_eq!(words, ["bert", "1", "0", "1"], "kernels, updates and findings: {text}");
    let page = says(place.path(), "report fleet --format html").ends(0).stdout;
    assert!(
        page.find("<h2>Hosts</h2>") < page.find("<h2>Findings</h2>"),
        "hosts come first"
    );
    assert!(page.contains("<td>anna</td>") && page.contains("<td>bert</td>"));
    // One host needs no list of hosts.
    let one = says(place.path(), "report fleet/anna").ends(0).stdout;
    assert!(!one.contains("Hosts"), "{one}");
}

#[test]
fn each_update_and_each_kernel_says_whose_it_is() {
    let place = fleet();
    let rows: Value = serde_json::from_str(&says(place.path(), "updates fleet --format json").ends(0).stdout).unwrap();
    assert_eq!(rows[0]["host"], "anna");
    let report: Value = serde_json::from_str(&says(place.path(), "report fleet --format json").ends(0).stdout).unwrap();
    let kernels = report["kernels"].as_array().unwrap().iter();
    let told: BTreeSet<_> = kernels
        .map(|kernel| (kernel["host"].as_str(), kernel["host_id"].as_str()))
        .collect();
    assert_eq!(
        told,
        [(Some("anna"), Some("anna")), (Some("bert"), Some("bert"))].into()
    );
}
