//! Holds the journals and the agent's words of a scenario against what the scenario expects of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use luo_trace::chain::Hosts;
use luo_trace::chain::case::Case;
use luo_trace::journal;
use luo_trace::model::Status;
use serde_json::Value;
use testbed_guest::scenario::{AgentIn, EventPattern, Expect, Scenario, Size, Verdict};

use super::blackout::{self, Blackout};
use super::{check, last_word, policy, pushed};
use crate::demo::journals;

/// How many events of the right name a failure shows.
const SHOWN: usize = 8;

/// What came of comparing.
#[derive(Default)]
pub(super) struct Compared {
    /// What the output directory lacks, or has too much of; nothing when all is as expected.
    pub(super) failures: Vec<String>,
    /// What else is worth telling.
    pub(super) notes: Vec<String>,
}

/// Compares what a scenario left in its output directory with what it expects.
///
/// # Errors
/// A journal cannot be read at all, or the agent not be started to check them.
pub(super) fn compare(scenario: &Scenario, agent: Option<&Path>, output: &Path) -> Result<Compared> {
    if !scenario.agent {
        return Ok(Compared::default());
    }
    let logs = Logs::read(output, scenario.boots());
    let case = Case::of(&journals(&output.join("journal"))?, Hosts::Told)?;
    let mut failures = wrong_logs(scenario, &logs);
    failures.extend(wrong_records(scenario, &logs, &case));
    failures.extend(policy::mixtures(scenario, &case)?);
    failures.extend(Seen::of(&case)?.compare(&scenario.expect));
    failures.extend(too_large(scenario.expect.journals_at_most, &output.join("journal"))?);
    let mut notes = Vec::new();
    if let Some(limit) = scenario.expect.blackout_within_ms {
        let blackouts = blackout::all(&case, output)?;
        failures.extend(wrong_blackouts(scenario, limit, &blackouts));
        notes.extend(blackouts.iter().map(Blackout::to_string));
    }
    if let Some(agent) = agent {
        let (compared, wrong) = last_word::compare(scenario, agent, &case, output)?;
        failures.extend(wrong);
        notes.push(format!(
            "the agent's last word on updates is that of its journals in {compared} kernels"
        ));
        if scenario.expect.pushed {
            failures.extend(pushed::compare(agent, &case, output)?);
        }
        failures.extend(check::all(&scenario.expect.check, agent, &case, output)?);
        failures.extend(policy::tests(&scenario.expect.policy_test, agent, &case, output)?);
    }
    Ok(Compared { failures, notes })
}

/// What is wrong with the agent's words.
fn wrong_logs(scenario: &Scenario, logs: &Logs) -> Vec<String> {
    let mut failures = not_said_once(&scenario.expect.agent_says, &logs.said());
    let boots = (1..=scenario.boots()).zip(&logs.0);
    // An agent that refused to work has recorded nothing, and said why in one line.
    let refused = boots.filter(|(boot, _)| matches!(scenario.agent_in(*boot), AgentIn::Refuses(_)));
    for (_, log) in refused.filter(|(_, log)| log.lines().count() != 1) {
        failures.push(format!("the agent did not refuse in one line, but said {log:?}"));
    }
    failures
}

/// What is wrong with the records: one of each kernel, in which the same is found that the agents told live.
fn wrong_records(scenario: &Scenario, logs: &Logs, case: &Case) -> Vec<String> {
    let mut failures = Vec::new();
    let ran = (1..=scenario.boots()).filter(|boot| scenario.agent_in(*boot) == AgentIn::Runs);
    let (kernels, journals) = (ran.count(), case.records.len());
    if journals != kernels {
        failures.push(format!(
            "the agent ran in {kernels} kernels, but it left {journals} journals"
        ));
    }
    let live = logs.findings();
    // What it takes several boots to see, no live agent could report.
    let boots = case.records.iter().flat_map(|record| &record.judgement.findings);
    let judged: Vec<_> = boots.map(|finding| finding.invariant.id()).collect();
    if live != judged {
        failures.push(format!(
            "the agents reported findings of {live:?}, but their journals prove {judged:?}"
        ));
    }
    failures
}

/// What is wrong with the blackouts of a scenario that wants them within so many milliseconds of the host's. On a busy host a guest may
/// find its counter unstable: luo-trace then says that it is less sure, and is held to that.
fn wrong_blackouts(scenario: &Scenario, limit: u32, blackouts: &[Blackout]) -> Vec<String> {
    let limit = i128::from(limit) * 1_000_000;
    let far = |blackout: &&Blackout| blackout.error() > limit.max(blackout.uncertainty).unsigned_abs();
    let mut wrong: Vec<_> = blackouts.iter().filter(far).map(Blackout::to_string).collect();
    if blackouts.len() != scenario.updates as usize {
        let (updates, told) = (scenario.updates, blackouts.len());
        wrong.push(format!("of {updates} updates, {told} have a blackout on both clocks"));
    }
    wrong
}

/// What is wrong with the size of the journals, of which a boot's may be several files.
fn too_large(at_most: Option<Size>, directory: &Path) -> Result<Option<String>> {
    let Some(at_most) = at_most else { return Ok(None) };
    let context = || format!("cannot look at the files in {}", directory.display());
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(context)? {
        bytes += entry.and_then(|entry| entry.metadata()).with_context(context)?.len();
    }
    Ok((bytes > at_most.bytes()).then(|| {
        format!(
            "the journals have {bytes} bytes, and may have {} at most",
            String::from(at_most)
        )
    }))
}

/// What the agent wrote in each kernel.
struct Logs(Vec<String>);

impl Logs {
    /// The logs of this many kernels; that of a kernel without an agent is empty.
    fn read(output: &Path, boots: u32) -> Logs {
        let log = |boot| fs::read(output.join(format!("agent-{boot}.log"))).unwrap_or_default();
        Logs(
            (1..=boots)
                .map(|boot| String::from_utf8_lossy(&log(boot)).into_owned())
                .collect(),
        )
    }

    /// Everything that the agents wrote.
    fn said(&self) -> String {
        self.0.concat()
    }

    /// The invariants that the agents reported while they ran, in the order of their logs.
    fn findings(&self) -> Vec<String> {
        let lines = self.0.iter().flat_map(|log| log.lines());
        lines
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|line| line["invariant"].as_str().map(str::to_owned))
            .collect()
    }
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
    /// Each event as JSON, with the kernel it happened in, in the order of the journals.
    events: Vec<(u32, Value)>,
    /// The invariants that have findings.
    findings: Vec<String>,
    verdicts: BTreeMap<String, Verdict>,
}

impl Seen {
    /// What a case shows, whose records number the kernels.
    fn of(case: &Case) -> Result<Seen> {
        let mut seen = Seen {
            findings: case
                .findings()
                .map(|finding| finding.invariant.id().to_owned())
                .collect(),
            ..Seen::default()
        };
        for (boot, record) in (1..).zip(&case.records) {
            let path = &record.journal;
            let events = journal::events(path).with_context(|| format!("cannot read {}", path.display()))?;
            for event in events {
                seen.events.push((boot, serde_json::to_value(event)?));
            }
        }
        let boots = case.records.iter().flat_map(|record| &record.judgement.verdicts);
        boots
            .chain(&case.chain.verdicts)
            .for_each(|verdict| seen.verdict(verdict));
        Ok(seen)
    }

    /// Counts one kernel's verdict: of several kernels', the worst one stands.
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
    fn journals_that_are_larger_than_they_may_be_are_told_with_all_their_files() {
        let output = std::env::temp_dir().join(format!("xtask-large-{}", std::process::id()));
        fs::create_dir_all(&output).unwrap();
        for part in ["boot.luoj", "boot.luoj.3"] {
            fs::write(output.join(part), [0; 600]).unwrap();
        }
        let told = |bytes: u64| too_large(Some(bytes.into()), &output).unwrap();
        let (fits, is_too_large) = (told(1200), told(1199));
        fs::remove_dir_all(&output).unwrap();
        assert_eq!(fits, None);
        assert!(is_too_large.unwrap().contains("1200 bytes"));
    }

    #[test]
    fn words_that_are_in_no_log_and_words_that_are_repeated_are_told() {
        let output = std::env::temp_dir().join(format!("xtask-says-{}", std::process::id()));
        fs::create_dir_all(&output).unwrap();
        fs::write(output.join("agent-1.log"), "the port is taken\n").unwrap();
        fs::write(output.join("agent-2.log"), "no LUO, no LUO here\nthe port is taken\n").unwrap();
        let said = Logs::read(&output, 2).said();
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
