//! The agent's settings as a user meets them: file, environment, and what is said of both.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{luo_trace, run, says};

/// A file of settings in a directory.
fn settings(text: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("agent.toml"), text).unwrap();
    place
}

/// What `config show` says in this environment: of each setting its value and where that is from.
fn shown(place: &Path, environment: &[(String, String)]) -> BTreeMap<String, (String, String)> {
    let mut command = luo_trace(["config", "show", "agent.toml"]);
    command.current_dir(place).envs(environment.iter().cloned());
    let said = run(&mut command).ends(0);
    let row = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let key = words.next().unwrap();
        let mut rest: Vec<_> = words.collect();
        let origin = match rest.len() {
            1 => String::new(),
            _ => rest.pop().unwrap(),
        };
        (key, (rest.join(" "), origin))
    };
    said.stdout.lines().map(row).collect()
}

#[test]
fn the_environment_comes_before_the_file_for_every_setting() {
    // Given a file with some settings,
    let place = settings("kho = 'off'\nlisten = '127.0.0.1:1'\nweb-host = ['a', 'b']\n");
    let of = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    let plain = shown(place.path(), &[]);
    assert_eq!(plain["kho"], of("off", "file"));
    assert_eq!(plain["web-host"], of("a, b", "file"));
    assert_eq!(plain["ring-kib"], of("8192", "default"));
    assert_eq!(plain["policy"], of("-", ""));
    assert!(
        !plain.contains_key("config") && !plain.contains_key("help"),
        "{plain:?}"
    );
    // when each has a variable, then that counts.
    let numbers = ["ring-kib", "carry-kib"].map(|key| (key, "4096"));
    let others = [
        ("journal-max-size", "2GiB"),
        ("journal-keep", "90d"),
        ("arrival-deadline", "90s"),
        ("listen", "127.0.0.1:2"),
        ("format", "json"),
        ("kho", "keys"),
        ("carry", "luo"),
        ("log-format", "json"),
        ("otlp-interval", "30s"),
        ("labels", "rack=7"),
    ];
    let values: BTreeMap<_, _> = numbers.into_iter().chain(others).collect();
    let value = |key: &str| values.get(key).copied().unwrap_or("/x").to_owned();
    let variable = |key: &String| {
        (
            format!("LUO_TRACE_{}", key.replace('-', "_").to_uppercase()),
            value(key),
        )
    };
    let environment: Vec<_> = plain.keys().map(variable).collect();
    for (key, shown) in shown(place.path(), &environment) {
        assert_eq!(shown, of(&value(&key), "environment"), "{key}");
    }
}

#[test]
fn a_file_with_mistakes_starts_no_agent_and_tells_all_of_them() {
    let place = settings("jurnal = '/j'\nkho = 'much'\n");
    let words = [
        "agent.toml:1:1",
        "is journal meant?",
        "agent.toml:2:7",
        "invalid value 'much'",
    ];
    says(place.path(), "config check agent.toml").ends(2).refuses(&words);
    says(place.path(), "agent --config agent.toml").ends(2).refuses(&words);
    says(place.path(), "config show agent.toml").ends(2).refuses(&words);
    let mut by_variable = luo_trace(["agent"]);
    by_variable
        .current_dir(place.path())
        .env("LUO_TRACE_CONFIG", "agent.toml");
    run(&mut by_variable).ends(2).refuses(&words);
    says(place.path(), "agent --config none.toml")
        .ends(2)
        .refuses(&["none.toml", "No such file"]);
}

#[test]
fn a_file_without_mistakes_is_said_to_have_none() {
    let place = settings("# nothing\nformat = 'none'\n");
    let said = says(place.path(), "config check agent.toml").ends(0);
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str()),
        ("agent.toml: no mistakes\n", "")
    );
}

#[test]
fn what_is_of_a_port_needs_one_wherever_it_is_said() {
    let place = settings("web-host = ['a']\n");
    says(place.path(), "agent --config agent.toml")
        .ends(2)
        .refuses(&["--listen"]);
}
