//! Has `luo-trace check` judge what a scenario left, and holds its exit status and its words against the scenario.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use luo_trace::chain::case::Case;
use testbed_guest::scenario::Check;

use super::{SERIAL, scenario};

/// What each check did not do or say as it should. Its words are left in `check-1.txt` and so on.
///
/// # Errors
/// The agent cannot be started, or its output not be written.
pub(super) fn all(checks: &[Check], agent: &Path, case: &Case, output: &Path) -> Result<Vec<String>> {
    let serial = output.join(SERIAL);
    // Where they came through a serial line, its log is what a user would give.
    let journals: Vec<_> = match serial.exists() {
        true => vec![serial.as_path()],
        false => case.records.iter().map(|record| record.journal.as_path()).collect(),
    };
    let mut failures = Vec::new();
    for (number, check) in (1..).zip(checks) {
        let log = format!("check-{number}.txt");
        let done = command(check, agent, &journals)
            .output()
            .with_context(|| format!("cannot start {}", agent.display()))?;
        let said = [done.stdout, done.stderr].concat();
        fs::write(output.join(&log), &said).with_context(|| format!("cannot write {log}"))?;
        let wrong = wrong(check, done.status.code(), &String::from_utf8_lossy(&said));
        failures.extend(wrong.map(|wrong| format!("luo-trace check {wrong}: see {log}")));
    }
    Ok(failures)
}

fn command(check: &Check, agent: &Path, journals: &[&Path]) -> Command {
    let mut command = Command::new(agent);
    command.arg("check");
    let wanted = |number: &u32| check.journals.is_empty() || check.journals.contains(number);
    command.args(
        (1..)
            .zip(journals)
            .filter(|(number, _)| wanted(number))
            .map(|(_, path)| path),
    );
    if let Some(file) = &check.expect {
        command.arg("--expect").arg(scenario::expectations(file));
    }
    command
}

/// The first thing that is not as the scenario wants it.
fn wrong(check: &Check, status: Option<i32>, said: &str) -> Option<String> {
    if status != Some(check.exits) {
        let status = status.map_or("by a signal".into(), |status| format!("with exit status {status}"));
        return Some(format!("ended {status} instead of {}", check.exits));
    }
    let missing = check.says.iter().find(|text| !said.contains(text.as_str()))?;
    Some(format!("did not say {missing:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Check {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn another_exit_status_and_words_that_are_missing_are_told() {
        let wanted = check("exits = 1\nsays = ['session vm', 'lost']");
        assert_eq!(wrong(&wanted, Some(1), "session vm is lost"), None);
        assert!(
            wrong(&wanted, Some(0), "session vm is lost")
                .unwrap()
                .contains("0 instead of 1")
        );
        assert!(wrong(&wanted, None, "").unwrap().contains("by a signal"));
        assert!(wrong(&wanted, Some(1), "session vm").unwrap().contains("\"lost\""));
    }

    #[test]
    fn a_check_gets_the_journals_it_names_and_its_expectations() {
        let journals = ["a", "b", "c"].map(Path::new);
        let arguments = |text: &str| {
            let command = command(&check(text), Path::new("luo-trace"), &journals);
            let arguments = command
                .get_args()
                .map(|argument| argument.to_string_lossy().into_owned());
            arguments.collect::<Vec<_>>()
        };
        assert_eq!(arguments("exits = 0"), ["check", "a", "b", "c"]);
        let some = arguments("exits = 0\njournals = [1, 3]\nexpect = 'demo.toml'");
        assert_eq!(some[..4], ["check", "a", "c", "--expect"]);
        assert!(some[4].ends_with("testbed/scenarios/expect/demo.toml"), "{some:?}");
    }
}
