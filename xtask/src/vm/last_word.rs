//! Holds what a running agent knew of live updates at its end against what `luo-trace updates` says of the same journals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use luo_trace::chain::case::Case;
use serde_json::Value;
use testbed_guest::scenario::Scenario;

use crate::run;

/// The agent's option, and that of `luo-trace updates`.
const DEADLINE: &str = "--arrival-deadline";

/// In how many kernels the agent had a last word, and where it was not what the journals say.
///
/// # Errors
/// `luo-trace updates` cannot be run, or does not take the journals.
pub(super) fn compare(scenario: &Scenario, agent: &Path, case: &Case, output: &Path) -> Result<(usize, Vec<String>)> {
    let (mut compared, mut failures) = (0, Vec::new());
    for boot in 1..=scenario.boots() {
        let Ok(text) = fs::read_to_string(output.join(format!("status-{boot}.json"))) else {
            // It was killed, or left by the jump.
            continue;
        };
        let status: Value = serde_json::from_str(&text).context("the agent's status is no JSON")?;
        let own = case
            .chain
            .boots
            .iter()
            .position(|boot| status["boot_id"] == boot.boot_id);
        let Some(own) = own else { continue };
        compared += 1;
        let journals = case.records.iter().skip(own.saturating_sub(1)).take(own.min(1) + 1);
        let journals: Vec<_> = journals.map(|record| record.journal.clone()).collect();
        let rows = told(scenario, agent, &journals)?;
        let metrics = fs::read_to_string(output.join(format!("last-metrics-{boot}.prom"))).ok();
        let violations = own.checked_sub(1).and_then(|before| case.records.get(before));
        let violations = violations.map_or(0, |record| record.judgement.findings.len());
        if boot == scenario.boots() && !scenario.expect.outcomes.is_empty() {
            let known: Vec<_> = status["updates"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|row| row["outcome"].as_str().unwrap_or("-"))
                .collect();
            if known != scenario.expect.outcomes {
                failures.push(format!(
                    "the updates came to {known:?}, and should to {:?}",
                    scenario.expect.outcomes
                ));
            }
        }
        let wrong = wrong(&status["updates"], &rows, metrics.as_deref(), violations);
        failures.extend(wrong.into_iter().map(|wrong| format!("kernel {boot}: {wrong}")));
    }
    Ok((compared, failures))
}

/// What `luo-trace updates` says of these journals: a row for each update, the newest last.
fn told(scenario: &Scenario, agent: &Path, journals: &[PathBuf]) -> Result<Vec<Value>> {
    let given = scenario.agent_args.iter().position(|arg| arg == DEADLINE);
    let deadline = given.map_or(&[][..], |place| &scenario.agent_args[place..place + 2]);
    let text = run::output(
        Command::new(agent)
            .args(["updates", "--format", "json"])
            .args(deadline)
            .args(journals),
    )?;
    serde_json::from_str(&text).context("`luo-trace updates` gives no JSON")
}

/// An update without what may still change between the word and the end of the journal. Without a next kernel its phases are those of the
/// sessions that are left, up to the last sign of life; and the snapshot that an agent takes when it ends may show that what seemed to wait is gone.
fn decided(update: &Value) -> Value {
    let mut update = update.clone();
    let Some(row) = update.as_object_mut() else {
        return update;
    };
    if row.get("to").is_none_or(Value::is_null) {
        row.remove("phases");
        row.remove("time_unix_ns");
    }
    if row.get("outcome").is_some_and(|outcome| outcome == "lost") {
        row.remove("pending_sessions");
        row.remove("pending_files");
    }
    update
}

/// What the agent knew otherwise: of these updates, the newest first, in this page of metrics, with so many violations in the kernel
/// before.
fn wrong(known: &Value, rows: &[Value], metrics: Option<&str>, violations: usize) -> Vec<String> {
    // Of the update that brought the kernel before, that one's agent had the last word.
    let last = rows
        .last()
        .filter(|row| known[0] != Value::Null || row["fate"] != "arrived");
    let last = last.unwrap_or(&Value::Null);
    let mut wrong = Vec::new();
    if decided(&known[0]) != decided(last) {
        wrong.push(format!(
            "the agent's last word is\n    {}\n  and its journals say\n    {last}",
            known[0]
        ));
    }
    let Some(metrics) = metrics else { return wrong };
    let outcome = last["outcome"].as_str().unwrap_or("none");
    let line = format!("luo_update_outcome{{outcome=\"{outcome}\"}} 1");
    if !metrics.lines().any(|known| known == line) {
        wrong.push(format!("its metrics do not say {line}"));
    }
    let before = metrics
        .lines()
        .filter(|line| line.starts_with("luo_previous_kernel_violations{"));
    let told: usize = before
        .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    if told < violations {
        wrong.push(format!(
            "of {violations} violations in the kernel before, its metrics tell {told}"
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_word_than_that_of_the_journals_is_told() {
        let row = json!({"outcome": "lost", "fate": "completed", "lost_sessions": 1});
        let page = "luo_update_outcome{outcome=\"lost\"} 1\nluo_previous_kernel_violations{invariant=\"a\"} 2";
        let wrong = |known: Value, rows: &[&Value], violations| {
            let rows: Vec<_> = rows.iter().map(|&row| row.clone()).collect();
            wrong(&known, &rows, Some(page), violations).len()
        };
        assert_eq!(wrong(json!([row]), &[&json!({}), &row], 2), 0);
        assert_eq!(wrong(json!([row]), &[&row], 3), 1, "a violation is missing");
        assert_eq!(wrong(json!([]), &[&row], 0), 1, "the agent knows of no update");
        let other = json!({"outcome": "completed", "fate": "completed"});
        assert_eq!(
            wrong(json!([row]), &[&other], 0),
            2,
            "another outcome, in status and metrics"
        );
        let at = |ns: u64, pending: u64| json!({"outcome": "lost", "to": null, "phases": [ns], "pending_files": pending, "lost_sessions": 1});
        let still = super::wrong(&json!([at(1, 2)]), &[at(3, 0)], None, 0);
        assert_eq!(still, Vec::<String>::new(), "what the end of the journal may change");
        // The update before the last is for the agent before.
        let before = json!({"outcome": "arrived", "fate": "arrived"});
        let none = super::wrong(&json!([]), &[before], Some("luo_update_outcome{outcome=\"none\"} 1"), 0);
        assert_eq!(none, Vec::<String>::new());
    }
}
