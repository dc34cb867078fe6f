//! What journals tell, as tables.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use luo_trace::testing::Story;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use serde_json::Value;

use crate::support::{arrives, leaves, record_of, recorded, says};

fn table(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_update_is_a_row_with_its_session_its_file_and_its_events() {
    let place = recorded(&[&leaves, &arrives]);
    says(place.path(), "export . --output out").ends(0);
    let rows = |name: &str| table(&place.path().join("out").join(name));
    let [update] = &rows("updates.jsonl")[..] else {
        panic!("{:#?}", rows("updates.jsonl"))
    };
    assert_eq!(
        (
            &update["host"],
            &update["boot_id"],
            &update["outcome"],
            &update["sessions"]
        ),
        (&"host".into(), &"boot-1".into(), &"completed".into(), &1.into())
    );
    let [session] = &rows("sessions.jsonl")[..] else {
        panic!("{:#?}", rows("sessions.jsonl"))
    };
    assert_eq!(
        (&session["session"], &session["fate"]),
        (&"vm".into(), &"finished".into())
    );
    assert_eq!(session["time_unix_ns"], update["time_unix_ns"]);
    let [file] = &rows("files.jsonl")[..] else {
        panic!("{:#?}", rows("files.jsonl"))
    };
    assert_eq!((&file["token"], &file["handler"]), (&"0x1".into(), &"memfd-v2".into()));
    assert_eq!(rows("findings.jsonl"), [] as [Value; 0]);
    // Every event has a row, with columns of one kind.
    let events = rows("events.jsonl");
    let boots: BTreeSet<_> = events.iter().map(|row| row["boot_id"].as_str().unwrap()).collect();
    assert_eq!(boots, ["boot-0", "boot-1"].into());
    let columns = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(events.iter().all(|row| columns(row) == columns(&events[0])));
    assert!(
        events
            .iter()
            .all(|row| row["time_unix_ns"].is_u64() && row["details"].is_string())
    );
    assert!(
        events
            .iter()
            .any(|row| row["event"] == "file-preserve" && row["result"] == "ok")
    );
    // What was written is not added to.
    says(place.path(), "export . --output out")
        .ends(2)
        .refuses(&["not empty"]);
}

#[test]
fn hosts_stay_apart_and_a_violation_says_whose_it_is() {
    let place = tempfile::tempdir().unwrap();
    for (boot, host, tell) in [
        ("a", "host-a", crate::support::takes_a_token_twice as fn(&mut Story)),
        ("b", "host-b", leaves),
    ] {
        let mut story = Story::new();
        tell(&mut story);
        record_of(
            &place.path().join("fleet").join(host),
            boot,
            ("host", host),
            &story.events,
        );
    }
    says(place.path(), "export fleet --output out --partition").ends(0);
    let days: Vec<_> = fs::read_dir(place.path().join("out/findings/host=host"))
        .unwrap()
        .collect();
    assert_eq!(days.len(), 1);
    let rows = table(&days[0].as_ref().unwrap().path().join("part.jsonl"));
    let hosts: BTreeSet<_> = rows.iter().map(|row| row["host_id"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["host-a"].into());
    assert!(place.path().join("out/updates/host=host").is_dir());
}

/// The rows of a table in Apache Parquet, as JSON has them.
fn parquet(path: &Path) -> Vec<Value> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = SerializedFileReader::new(file).unwrap();
    let rows = rows.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().to_json_value()).collect()
}

#[test]
fn parquet_has_the_rows_that_json_has() {
    // Given an update that lost a session, one that went well, and a host whose kernel broke a promise.
    let place = recorded(&[&leaves, &arrives]);
    let mut story = Story::new();
    crate::support::takes_a_token_twice(&mut story);
    record_of(place.path(), "boot-2", ("other", "other"), &story.events);
    let lost = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/lost-session.log");
    for form in ["jsonl", "parquet"] {
        says(
            place.path(),
            &format!("export . {lost} --format {form} --output {form}"),
        )
        .ends(0);
    }
    for name in ["events", "findings", "updates", "sessions", "files"] {
        let lines = table(&place.path().join(format!("jsonl/{name}.jsonl")));
        assert!(!lines.is_empty(), "{name}");
        assert_eq!(
            parquet(&place.path().join(format!("parquet/{name}.parquet"))),
            lines,
            "{name}"
        );
    }
}

#[test]
fn two_hosts_of_one_name_have_files_of_their_own() {
    let place = tempfile::tempdir().unwrap();
    for (boot, host) in [("a", "host-a"), ("b", "host-b")] {
        let mut story = Story::new();
        leaves(&mut story);
        record_of(
            &place.path().join("fleet").join(host),
            boot,
            ("host", host),
            &story.events,
        );
    }
    says(place.path(), "export fleet --format parquet --output out --partition").ends(0);
    let events = place.path().join("out/events/host=host");
    let day = fs::read_dir(events).unwrap().next().unwrap().unwrap().path();
    let mut hosts = BTreeSet::new();
    for part in ["part.parquet", "part-2.parquet"] {
        let rows = parquet(&day.join(part));
        hosts.extend(rows.iter().map(|row| row["host_id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(hosts, ["host-a".to_owned(), "host-b".to_owned()].into());
}
