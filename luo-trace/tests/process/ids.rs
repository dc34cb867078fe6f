//! Each finding has one id, whichever command tells of it, and no two share one.

use std::collections::BTreeSet;
use std::path::Path;

use luo_trace::testing::{Story, memfd, session};
use serde_json::Value;

use crate::support::{arrives_empty, leaves, recorded, says};

/// A kernel that takes two tokens twice, and leaves with a session.
fn errs_and_leaves(story: &mut Story) {
    let other = session(9, "db");
    story.create(other);
    for token in [1, 1, 2, 2] {
        story.preserve(other, token, memfd(token));
    }
    leaves(story);
}

/// All ids below a value.
fn ids(json: &Value) -> Vec<String> {
    match json {
        Value::Object(map) if map.contains_key("invariant") && map.contains_key("evidence") => {
            vec![map["id"].as_str().unwrap().to_owned()]
        }
        Value::Object(map) => map.values().flat_map(ids).collect(),
        Value::Array(all) => all.iter().flat_map(ids).collect(),
        _ => Vec::new(),
    }
}

fn json(place: &Path, line: &str, status: i32) -> Value {
    serde_json::from_str(&says(place, line).ends(status).stdout).unwrap()
}

#[test]
fn a_finding_has_the_same_id_in_the_agents_lines_in_check_in_sarif_and_in_the_report() {
    let place = recorded(&[&errs_and_leaves, &arrives_empty]);
    let check = json(place.path(), "check . --format json", 1);
    let all = ids(&check);
    let set = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<_>>();
    let known = set(&all);
    // Two of a kind in one kernel, and what was lost over the update.
    assert_eq!(known.len(), all.len(), "two findings share an id: {check}");
    assert!(known.len() >= 3, "{check}");
    assert!(
        known.iter().all(|id| id.len() == 16 && *id != "0000000000000000"),
        "{known:?}"
    );

    assert_eq!(set(&ids(&json(place.path(), "report . --format json", 0))), known);

    let sarif = json(place.path(), "check . --format sarif", 1);
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let fingerprint = |result: &Value| Some(result["partialFingerprints"]["luoTraceFinding/v1"].as_str()?.to_owned());
    let prints: Vec<_> = results.iter().filter_map(fingerprint).collect();
    assert_eq!(prints.len(), known.len(), "each has one result");
    assert_eq!(set(&prints), known);

    let checks = check["checks"].as_array().unwrap().iter();
    let listed: Vec<_> = checks
        .flat_map(|check| check["findings"].as_array().unwrap())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(set(&listed), known);

    // What the agent shows of each kernel alone. Played a second time it says the same.
    let lines = || {
        let said = says(place.path(), "replay . --speed 1000000000").ends(0).stdout;
        let id = |line: &str| Some(line.rsplit_once(" Id: ")?.1.trim_end_matches('.').to_owned());
        said.lines().filter_map(id).collect::<Vec<_>>()
    };
    let shown = lines();
    let of_boots: Vec<_> = check["journals"].as_array().unwrap().iter().flat_map(ids).collect();
    assert_eq!(shown, of_boots);
    assert_eq!(shown, lines());
}
