//! Holds the journals and the agent's words of a scenario against what the scenario expects of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use luo_trace::journal;
use luo_trace::judge::judge;
use luo_trace::model::Status;
use serde_json::Value;
use testbed_guest::scenario::{EventPattern, Expect, Scenario, Verdict};

/// How many events of the right name a failure shows.
const SHOWN: usize = 8;

/// What the output directory of a scenario lacks, or has too much of; nothing when all is as expected.
///
/// # Errors
/// A journal cannot be read at all.
pub(super) fn check(scenario: &Scenario, output: &Path) -> Result<Vec<String>> {
    if !scenario.agent {
        return Ok(Vec::new());
    }
    let said = said(output);
    let mut failures = not_said_once(&scenario.expect.agent_says, &said);
    // An agent that refused to work has recorded nothing, and said why in one line.
    if scenario.agent_refuses.is_some() {
        if said.lines().count() != 1 {
            failures.push(format!("the agent did not refuse in one line, but said {said:?}"));
        }
    } else {
        let seen = Seen::read(&output.join("journal"))?;
        if seen.journals != scenario.boots() {
            let (boots, journals) = (scenario.boots(), seen.journals);
            failures.push(format!(
                "{boots} kernels booted, but the agent left {journals} journals"
            ));
        }
        let live = reported(output);
        if live != seen.findings {
            let judged = &seen.findings;
            failures.push(format!(
                "the agents reported findings of {live:?}, but their journals prove {judged:?}"
            ));
        }
        failures.extend(seen.compare(&scenario.expect));
    }
    Ok(failures)
}

/// Everything that the agents wrote, in all kernels.
fn said(output: &Path) -> String {
    let logs = (1..=2).map(|boot| fs::read(output.join(format!("agent-{boot}.log"))).unwrap_or_default());
    logs.map(|log| String::from_utf8_lossy(&log).into_owned()).collect()
}

/// The texts that are not in exactly one line of what was said.
fn not_said_once(texts: &[String], said: &str) -> Vec<String> {
    let mut failures = Vec::new();
    for text in texts {
        match said.lines().filter(|line| line.contains(text)).count() {
            0 => failures.push(format!("the agent did not say {text:?}")),
            1 => {}
            times => failures.push(format!("the agent said {text:?} {times} times instead of once")),
        }
    }
    failures
}

/// What the journals show.
#[derive(Default)]
struct Seen {
    journals: u32,
    /// Each event as JSON, with the kernel it happened in, in the order of the journals.
    events: Vec<(u32, Value)>,
    /// The invariants that have findings.
    findings: Vec<String>,
    verdicts: BTreeMap<String, Verdict>,
}

/// The invariants that the agents reported while they ran, in the order of their logs.
fn reported(output: &Path) -> Vec<String> {
    let logs = (1..=2).map(|boot| fs::read_to_string(output.join(format!("agent-{boot}.log"))).unwrap_or_default());
    let ids = |log: String| {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter_map(|line| line["invariant"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    logs.flat_map(ids).collect()
}

impl Seen {
    /// Reads every journal in a directory; the order in which they were begun numbers the kernels.
    fn read(directory: &Path) -> Result<Seen> {
        let mut journals = Vec::new();
        for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let path = entry?.path();
            let events = journal::events(&path).with_context(|| format!("cannot read {}", path.display()))?;
            journals.push((events.header().clock.realtime_ns, events));
        }
        journals.sort_by_key(|(begun, _)| *begun);
        let mut seen = Seen::default();
        for (_, journal) in journals {
            seen.journals += 1;
            let mut events = Vec::new();
            let judgement = judge(journal, |event| events.push(serde_json::to_value(event)));
            for event in events {
                seen.events.push((seen.journals, event?));
            }
            seen.findings.extend(
                judgement
                    .findings
                    .iter()
                    .map(|finding| finding.invariant.id().to_owned()),
            );
            for verdict in &judgement.verdicts {
                seen.verdict(verdict);
            }
        }
        Ok(seen)
    }

    /// Counts one kernel's verdict: of two kernels', the worse one stands.
    fn verdict(&mut self, verdict: &luo_trace::model::Verdict) {
        let new = match verdict.status {
            Status::Ok => Verdict::Ok,
            Status::Unknown => Verdict::Unknown,
            Status::Violated => Verdict::Violated,
        };
        let rank = |verdict: Verdict| {
            [Verdict::Ok, Verdict::Unknown, Verdict::Violated]
                .iter()
                .position(|v| *v == verdict)
        };
        let old = self.verdicts.entry(verdict.invariant.id().to_owned()).or_insert(new);
        if rank(new) > rank(*old) {
            *old = new;
        }
    }

    /// Every way in which this is not what was expected.
    fn compare(&self, expect: &Expect) -> Vec<String> {
        let mut failures = Vec::new();
        for pattern in &expect.events {
            let found = self.matching(pattern).count() as u64;
            let (right, wanted) = match (pattern.count, pattern.at_least.unwrap_or(1)) {
                (Some(exactly), _) => (found == exactly, format!("{exactly}")),
                (None, least) => (found >= least, format!("at least {least}")),
            };
            if !right {
                let alike = self.alike(pattern);
                failures.push(format!(
                    "expected {wanted} of {}, found {found}{alike}",
                    describe(pattern)
                ));
            }
        }
        for pattern in &expect.absent {
            let found = self.matching(pattern).count();
            if found > 0 {
                failures.push(format!("expected none of {}, found {found}", describe(pattern)));
            }
        }
        failures.extend(
            expect
                .sequences
                .iter()
                .filter_map(|patterns| self.broken_sequence(patterns)),
        );
        failures.extend(self.compare_findings(expect));
        failures
    }

    fn broken_sequence(&self, patterns: &[EventPattern]) -> Option<String> {
        let mut events = self.events.iter();
        let missing = patterns
            .iter()
            .position(|pattern| !events.any(|event| matches(pattern, event)))?;
        let pattern = &patterns[missing];
        let after = match missing.checked_sub(1) {
            Some(before) => format!(", after {}", describe(&patterns[before])),
            None => String::new(),
        };
        Some(format!(
            "expected {}{after}, and it did not come{}",
            describe(pattern),
            self.alike(pattern)
        ))
    }

    fn compare_findings(&self, expect: &Expect) -> Vec<String> {
        let missing = expect.findings.iter().filter(|id| !self.findings.contains(id));
        let mut failures: Vec<_> = missing
            .map(|id| format!("expected a finding of {id}, and there is none"))
            .collect();
        let unexpected = self.findings.iter().filter(|id| !expect.findings.contains(id));
        failures.extend(unexpected.map(|id| format!("there is a finding of {id}, which was not expected")));
        for (id, wanted) in &expect.verdicts {
            let seen = self.verdicts.get(id);
            if seen != Some(wanted) {
                let seen = seen.map_or("no verdict".into(), |verdict| format!("the verdict {verdict:?}"));
                failures.push(format!(
                    "expected {id} to have the verdict {wanted:?}, but it has {seen}"
                ));
            }
        }
        failures
    }

    fn matching<'a>(&'a self, pattern: &'a EventPattern) -> impl Iterator<Item = &'a (u32, Value)> {
        self.events.iter().filter(|event| matches(pattern, event))
    }

    /// Events of the pattern's name, for a person to see what is different.
    fn alike(&self, pattern: &EventPattern) -> String {
        let named = self.events.iter().filter(|(_, event)| event["event"] == pattern.event);
        named
            .take(SHOWN)
            .map(|(boot, event)| format!("\n    kernel {boot}: {event}"))
            .collect()
    }
}

fn matches(pattern: &EventPattern, (boot, event): &(u32, Value)) -> bool {
    pattern.boot.is_none_or(|wanted| wanted == *boot)
        && event["event"] == pattern.event
        && pattern
            .fields
            .iter()
            .all(|(name, value)| event.get(name) == Some(value))
}

fn describe(pattern: &EventPattern) -> String {
    let place = pattern.boot.map_or(String::new(), |boot| format!(" in kernel {boot}"));
    let fields: String = pattern
        .fields
        .iter()
        .map(|(name, value)| format!(" {name}={value}"))
        .collect();
    format!("{}{fields}{place}", pattern.event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen() -> Seen {
        let events = [
            (1, json!({"event": "file-preserve", "token": "0x1", "result": "ok"})),
            (1, json!({"event": "file-preserve", "token": "0x2", "result": "EBUSY"})),
            (2, json!({"event": "file-retrieve", "token": "0x1", "result": "ok"})),
        ];
        Seen {
            journals: 2,
            events: events.into(),
            ..Seen::default()
        }
    }

    fn expect(text: &str) -> Expect {
        toml::from_str(text).unwrap()
    }

    fn failure(seen: &Seen, text: &str) -> String {
        let failures = seen.compare(&expect(text));
        assert_eq!(failures.len(), 1, "{failures:?}");
        failures.concat()
    }

    #[test]
    fn what_is_there_as_expected_is_no_failure() {
        let failures = seen().compare(&expect(
            r#"
            events = [
                { event = "file-preserve", count = 2 },
                { event = "file-preserve", fields = { token = "0x2", result = "EBUSY" }, boot = 1 },
                { event = "file-retrieve", at_least = 1, boot = 2 },
            ]
            absent = [{ event = "file-retrieve", boot = 1 }, { event = "gap" }]
            sequences = [[{ event = "file-preserve" }, { event = "file-preserve" }, { event = "file-retrieve" }]]
            "#,
        ));
        assert_eq!(failures, Vec::<String>::new());
    }

    #[test]
    fn a_missing_a_surplus_and_a_forbidden_event_are_told() {
        let told = failure(
            &seen(),
            r#"events = [{ event = "file-retrieve", fields = { token = "0x2" } }]"#,
        );
        assert!(
            told.contains("at least 1 of file-retrieve token=\"0x2\", found 0"),
            "{told}"
        );
        assert!(told.contains("kernel 2: {"), "what there is instead: {told}");
        let told = failure(&seen(), r#"events = [{ event = "file-preserve", count = 1 }]"#);
        assert!(told.contains("expected 1 of file-preserve, found 2"), "{told}");
        let told = failure(&seen(), r#"absent = [{ event = "file-preserve", boot = 1 }]"#);
        assert!(
            told.contains("expected none of file-preserve in kernel 1, found 2"),
            "{told}"
        );
    }

    #[test]
    fn events_in_another_order_are_told() {
        let token = |token| format!(r#"{{ event = "file-preserve", fields = {{ token = "{token}" }} }}"#);
        let told = failure(&seen(), &format!("sequences = [[{}, {}]]", token("0x2"), token("0x1")));
        assert!(
            told.contains("token=\"0x1\", after file-preserve token=\"0x2\", and it did not come"),
            "{told}"
        );
    }

    #[test]
    fn a_finding_or_a_verdict_that_is_not_as_expected_is_told() {
        let mut seen = seen();
        assert!(failure(&seen, r#"findings = ["file-balance"]"#).contains("there is none"));
        assert!(failure(&seen, r#"verdicts = { file-balance = "ok" }"#).contains("no verdict"));
        seen.findings.push("file-balance".into());
        seen.verdicts.insert("file-balance".into(), Verdict::Violated);
        assert!(failure(&seen, "").contains("not expected"));
        assert!(failure(&seen, "findings = ['file-balance']\nverdicts = { file-balance = 'ok' }").contains("Violated"),);
    }

    #[test]
    fn words_that_are_in_no_log_and_words_that_are_repeated_are_told() {
        let output = std::env::temp_dir().join(format!("xtask-says-{}", std::process::id()));
        fs::create_dir_all(&output).unwrap();
        fs::write(output.join("agent-1.log"), "the port is taken\n").unwrap();
        fs::write(output.join("agent-2.log"), "no LUO, no LUO here\nthe port is taken\n").unwrap();
        let said = said(&output);
        fs::remove_dir_all(output).unwrap();
        let told = not_said_once(&["no LUO".into(), "liveupdate=on".into(), "port".into()], &said);
        assert_eq!(
            told,
            [
                "the agent did not say \"liveupdate=on\"",
                "the agent said \"port\" 2 times instead of once"
            ]
        );
    }
}
