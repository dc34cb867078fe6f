//! Recordings: the ones that are built in, and any other, played again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use luo_trace::testing::Story;

use crate::support::{arrives, leaves, luo_trace, recorded, says};

#[test]
fn the_demo_tells_the_story_of_an_update_and_how_to_go_on() {
    let said = says(Path::new("."), "demo").ends(0);
    for words in ["Timeline", "Blackout", "vm-web", "came over and finished"] {
        assert!(said.stdout.contains(words), "no {words:?} in {}", said.stdout);
    }
    assert!(said.stderr.contains("--fault lost-session|"), "{}", said.stderr);
}

#[test]
fn a_fault_is_shown_with_its_finding_and_the_recording_is_one_to_check() {
    let place = tempfile::tempdir().unwrap();
    let said = says(place.path(), "demo --fault lost-session").ends(0);
    assert!(said.stdout.contains("kexec-sessions-conserved"), "{}", said.stdout);
    let said = says(place.path(), "demo --fault lost-session --html a.html --save a.log").ends(0);
    assert_eq!(said.stdout, "");
    let page = fs::read_to_string(place.path().join("a.html")).unwrap();
    assert!(page.contains("<html") && page.contains("kexec-sessions-conserved"));
    let said = says(place.path(), "check a.log").ends(1);
    assert!(said.stdout.contains("kexec-carrier"), "{}", said.stdout);
    says(place.path(), "demo --fault none")
        .ends(2)
        .refuses(&["lost-session", "leaked-memory"]);
}

#[test]
fn a_replay_shows_every_event_in_its_order() {
    let place = recorded(&[&leaves, &arrives]);
    // The older boot comes first, whatever the order in which they are named.
    let said = says(place.path(), "replay 2.luoj 1.luoj --speed 1000000000").ends(0);
    let at = |word: &str| {
        said.stdout
            .find(word)
            .unwrap_or_else(|| panic!("no {word} in {}", said.stdout))
    };
    assert!(at("session-create") < at("liveupdate-reboot"));
    assert!(at("liveupdate-reboot") < at("session-retrieve"));
}

#[test]
fn a_replay_serves_metrics_and_a_page_of_the_recorded_host() {
    let place = recorded(&[&leaves, &arrives]);
    let mut child = luo_trace(["replay", ".", "--listen", "127.0.0.1:0", "--speed", "1000000000"])
        .current_dir(place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let address = said.find_map(|line| Some(line.split_once("http://")?.1.trim_end_matches('/').to_owned()));
    // It has ended when it says so, and what it shows stays.
    let ended = said.find(|line| line.contains("the recording has ended"));
    let get = |path: &str| {
        let address = address.clone().unwrap();
        let mut peer = TcpStream::connect(&address).unwrap();
        write!(
            peer,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        answer
    };
    let (metrics, page) = (get("/metrics"), get("/"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ended.is_some());
    for metric in [
        "luo_update_outcome{outcome=\"completed\"} 1",
        "luo_trace_events_total{kind=\"session-retrieve\"} 1",
    ] {
        assert!(metrics.contains(metric), "no {metric} in {metrics}");
    }
    assert!(page.contains("200 OK") && page.contains("completed"), "{page}");
}

#[test]
fn journals_of_two_hosts_are_not_played_as_one() {
    let place = tempfile::tempdir().unwrap();
    for (name, host) in [("a", "host-a"), ("b", "host-b")] {
        let mut story = Story::new();
        leaves(&mut story);
        crate::support::record_of(place.path(), name, ("host", host), &story.events);
    }
    says(place.path(), "replay .").ends(2).refuses(&["different hosts"]);
}

#[test]
fn a_backfill_has_every_sample_with_its_time_in_the_order_that_the_format_wants() {
    let place = recorded(&[&leaves, &arrives]);
    says(place.path(), "replay 1.luoj 2.luoj --openmetrics m.txt --step 1ms").ends(0);
    let text = fs::read_to_string(place.path().join("m.txt")).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let series = |line: &str| line.rsplitn(3, ' ').last().unwrap_or_default().to_owned();
    let time = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(samples.len() > 100);
    for pair in samples.windows(2) {
        assert!(
            series(pair[0]) != series(pair[1]) || time(pair[0]) < time(pair[1]),
            "{pair:?}"
        );
    }
    // Every series has the labels that were asked for.
    says(
        place.path(),
        "replay 1.luoj 2.luoj --openmetrics m.txt --label instance=host-1 --label job=luo-trace",
    )
    .ends(0);
    let text = fs::read_to_string(place.path().join("m.txt")).unwrap();
    let labelled = "{instance=\"host-1\",job=\"luo-trace\"";
    assert!(
        text.lines()
            .all(|line| line.starts_with('#') || line.contains(labelled)),
        "{text}"
    );
    says(place.path(), "replay 1.luoj --openmetrics m.txt --label 1=2")
        .ends(2)
        .refuses(&["1=2"]);
    says(place.path(), "replay 1.luoj --openmetrics m.txt --step 0s")
        .ends(2)
        .refuses(&["1ms"]);
}

fn series_with(text: &str, beginning: &str) -> usize {
    text.lines().filter(|line| line.starts_with(beginning)).count()
}

#[test]
fn a_backfill_has_samples_close_together_only_where_something_happened() {
    // Given a boot in which a session is made, and one more a day later,
    let day = 24 * 3600 * 1_000_000_000;
    let place = recorded(&[&|story| {
        let [a, b] = [1, 2].map(|number| luo_trace::testing::session(number, "s"));
        story.orderly().create(a).close(a, &[]).wait(day).create(b);
    }]);
    says(
        place.path(),
        "replay 1.luoj --openmetrics m.txt --step 1h --busy-step 1m",
    )
    .ends(0);
    // then there are half an hour of minutes, and hours until the other one.
    let text = fs::read_to_string(place.path().join("m.txt")).unwrap();
    let samples = series_with(&text, "luo_trace_lost_events_total ");
    assert!((50..65).contains(&samples), "{samples}");
}

#[test]
fn a_backfill_tells_what_became_of_an_update_while_its_boot_goes_on() {
    let hour = 3600 * 1_000_000_000;
    let goes_on = |story: &mut Story| {
        arrives(story);
        story.wait(hour).snapshot(|_| ());
    };
    let place = recorded(&[&leaves, &goes_on]);
    says(place.path(), "replay 1.luoj 2.luoj --openmetrics m.txt --step 10m").ends(0);
    let text = fs::read_to_string(place.path().join("m.txt")).unwrap();
    let completed = series_with(&text, "luo_update_outcome{outcome=\"completed\"} 1 ");
    assert!(completed >= 5, "{text}");
}

#[test]
fn a_backfill_has_an_operators_hold_and_names_the_rules_that_refuse() {
    use luo_trace_common::policy::{Mode, Operation};
    let hour = 3600 * 1_000_000_000;
    let place = recorded(&[&|story| {
        story
            .policy(Mode::Enforce)
            .snapshot(|_| ())
            .wait(hour)
            .hold("a disk is being replaced")
            .wait(hour);
        story.refused(Operation::KexecLoad, "hold").wait(hour).snapshot(|_| ());
    }]);
    says(place.path(), "replay 1.luoj --openmetrics m.txt --step 10m").ends(0);
    let text = fs::read_to_string(place.path().join("m.txt")).unwrap();
    for (line, least) in [
        ("luo_policy_held 0 ", 5),
        ("luo_policy_held 1 ", 10),
        ("luo_policy_mode{mode=\"enforce\"} 1 ", 15),
        (
            "luo_policy_decisions_total{decision=\"deny\",op=\"kexec-load\",rule=\"hold\"} 1 ",
            5,
        ),
    ] {
        assert!(series_with(&text, line) >= least, "{line} in {text}");
    }
}

#[test]
fn a_host_that_holds_nothing_has_at_most_300_series() {
    // Given the last boot of a real host, in which all that arrived was finished,
    let place = tempfile::tempdir().unwrap();
    says(place.path(), "demo --save a.log").ends(0);
    says(place.path(), "replay a.log --openmetrics m.txt --step 1h").ends(0);
    let text = fs::read_to_string(place.path().join("m.txt")).unwrap();
    let samples = || text.lines().filter(|line| !line.starts_with('#'));
    let time = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    let last = samples().map(time).fold(0.0, f64::max);
    // when its agent is scraped, then it has no more.
    let series = samples().filter(|line| time(line) == last).count();
    assert!((100..=300).contains(&series), "{series}");
}
