//! Holds the decisions in a scenario's journals against the policies that its agents had.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};
use luo_trace::chain::case::Case;
use luo_trace::event::Body;
use luo_trace::journal;
use luo_trace::policy::Policy;
use luo_trace_common::events::{POLICY_LOADED, PolicyDecision};
use luo_trace_common::policy::{Decision, Mode, Operation, RULE_AGENT_LOSS, RULE_HOLD, RULE_NONE, RULES};
use serde_json::Value;
use testbed_guest::scenario::{PolicyFile, PolicyTest, Scenario};

use super::scenario;

/// A decision, with what it is about and what came of it.
type Ruled = (Operation, Decision, Box<PolicyDecision>);

/// The decisions that no policy of the scenario could have made, or not all of them: each generation is one policy.
///
/// # Errors
/// A policy or a journal cannot be read.
pub(super) fn mixtures(scenario: &Scenario, case: &Case) -> Result<Vec<String>> {
    let policies = scenario.policies();
    let policies: Vec<_> = policies.iter().map(read).collect::<Result<_>>()?;
    let mut wrong = Vec::new();
    for (boot, record) in (1..).zip(&case.records) {
        let path = &record.journal;
        let events = journal::events(path).with_context(|| format!("cannot read {}", path.display()))?;
        for ruled in generations(events.map(|event| event.body)) {
            if !policies
                .iter()
                .any(|policy| ruled.iter().all(|ruled| is_of(policy, ruled)))
            {
                let shown: Vec<_> = ruled.iter().take(4).map(|(.., decision)| decision).collect();
                wrong.push(format!(
                    "kernel {boot}: no policy of the scenario decides all of these {}: {shown:?}",
                    ruled.len()
                ));
            }
        }
    }
    Ok(wrong)
}

/// What `luo-trace policy test` says otherwise than it was decided. Its words are left in `policy-test-1-1.json` and so on: the
/// number of the test, and that of the kernel.
///
/// # Errors
/// The agent cannot be started, its output not be understood, or a journal not be read.
pub(super) fn tests(tests: &[PolicyTest], agent: &Path, case: &Case, output: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (number, test) in (1..).zip(tests) {
        let file = output.join(format!("policy-test-{number}.toml"));
        fs::write(&file, text(&test.policy)?).with_context(|| format!("cannot write {}", file.display()))?;
        let mode = read(&test.policy)?.mode;
        for (boot, record) in (1..).zip(&case.records) {
            let path = &record.journal;
            let said = Command::new(agent)
                .args(["policy", "test", "--format", "json"])
                .arg(&file)
                .arg(path)
                .output();
            let said = said
                .with_context(|| format!("cannot start {}", agent.display()))?
                .stdout;
            let log = format!("policy-test-{number}-{boot}.json");
            fs::write(output.join(&log), &said).with_context(|| format!("cannot write {log}"))?;
            let told = told(&said).with_context(|| format!("luo-trace policy test has failed: see {log}"))?;
            let recorded = vec![recorded(path, mode)?; test.times].concat();
            wrong.extend(difference(&recorded, &told).map(|difference| {
                format!("kernel {boot}: luo-trace policy test differs from what was decided, {difference}: see {log}")
            }));
        }
    }
    Ok(wrong)
}

/// Operation, decision, rule and session of a call, as `luo-trace policy test` names them.
type Call = [String; 4];

/// The calls that it tells of.
fn told(said: &[u8]) -> Result<Vec<Call>> {
    let said: Value = serde_json::from_slice(said)?;
    let decisions = said["journals"][0]["decisions"]
        .as_array()
        .context("it names no decisions")?;
    let text = |call: &Value, key: &str| call[key].as_str().unwrap_or("-").to_owned();
    let keys = ["operation", "decision", "rule", "session"];
    Ok(decisions.iter().map(|call| keys.map(|key| text(call, key))).collect())
}

/// The calls that were decided in a journal. A policy of this mode would have refused what another one only told of, and the
/// other way round.
fn recorded(journal: &Path, mode: Mode) -> Result<Vec<Call>> {
    let events = journal::events(journal).with_context(|| format!("cannot read {}", journal.display()))?;
    let named = |name: String| if name.is_empty() { "-".into() } else { name };
    let call = |body| match body {
        Body::PolicyDecision(operation, decision, told) => {
            let decision = match decision {
                Decision::Deny | Decision::WouldDeny if mode == Mode::Enforce => Decision::Deny,
                Decision::Deny | Decision::WouldDeny => Decision::WouldDeny,
                decision => decision,
            };
            let (rule, session) = (told.rule_name.to_string(), told.session.name.to_string());
            Some([
                operation.name().into(),
                decision.name().into(),
                named(rule),
                named(session),
            ])
        }
        _ => None,
    };
    Ok(events.filter_map(|event| call(event.body)).collect())
}

/// The first call that is not the same.
fn difference(recorded: &[Call], told: &[Call]) -> Option<String> {
    let differs = |&at: &usize| recorded.get(at) != told.get(at);
    let at = (0..recorded.len().max(told.len())).find(differs)?;
    let shown = |calls: &[Call]| calls.get(at).map_or("none".into(), |call| call.join(" "));
    let (was, is) = (shown(recorded), shown(told));
    Some(format!("of call {} it says {is:?} instead of {was:?}", at + 1))
}

/// The policy that a scenario means.
///
/// # Errors
/// There is no such file, or it is none.
fn read(policy: &PolicyFile) -> Result<Policy> {
    Policy::read(&text(policy)?).map_err(|problems| anyhow!("{policy:?} is no policy:\n{problems}"))
}

fn text(policy: &PolicyFile) -> Result<String> {
    match policy.shipped() {
        Some(name) => {
            let path = scenario::shipped_policy(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        }
        None => Ok(policy.text().unwrap_or_default().to_owned()),
    }
}

/// The decisions of each generation. Every agent counts them anew, so what comes after a policy is told is by itself.
fn generations(events: impl Iterator<Item = Body>) -> Vec<Vec<Ruled>> {
    let mut open: BTreeMap<u64, Vec<Ruled>> = BTreeMap::new();
    let mut done = Vec::new();
    for body in events {
        match body {
            Body::PolicyDecision(operation, decision, told) => {
                let generation = open.entry(told.generation).or_default();
                generation.push((operation, decision, told));
            }
            Body::PolicyChange(change) if change.what == POLICY_LOADED => done.extend(open.remove(&change.generation)),
            _ => {}
        }
    }
    done.extend(open.into_values());
    done
}

/// Whether this policy can have made a decision: mode, rule, its name and its action are its own.
fn is_of(policy: &Policy, (operation, decision, told): &Ruled) -> bool {
    let own = |name: &str| told.rule_name.to_string() == name;
    let (named, denies) = match told.rule {
        RULE_NONE => (told.rule_name.is_empty(), false),
        RULE_HOLD => (own("hold"), true),
        RULE_AGENT_LOSS => (own("agent-loss"), true),
        rule if rule as usize >= RULES => return false,
        rule => match policy.rules().get(rule as usize) {
            Some(rule) => (rule.name == told.rule_name && rule.on.contains(operation), rule.deny),
            None => return false,
        },
    };
    told.mode == policy.mode as u32 && named && denies == decision.is_no()
}

#[cfg(test)]
mod tests {
    use super::*;
    use luo_trace_common::events::PolicyChange;
    use luo_trace_common::policy::{CgroupPath, NOT_COUNTED, RuleName};
    use luo_trace_common::text::Name;

    const TWO_RULES: &str = r#"
mode = "enforce"
[[rule]]
name = "first"
on = "kexec-load"
action = "audit"
[[rule]]
name = "second"
on = ["file-preserve", "kexec-load"]
action = "deny"
"#;

    const ONE_RULE: &str = r#"
mode = "enforce"
[[rule]]
name = "only"
on = "file-preserve"
action = "audit"
"#;

    fn decided(generation: u64, rule: u32, name: &str, decision: Decision) -> Body {
        let told = PolicyDecision {
            operation: Operation::FilePreserve as u32,
            decision: decision as u32,
            rule,
            mode: Mode::Enforce as u32,
            generation,
            rule_name: RuleName::new(name),
            session: Default::default(),
            uid: 0,
            unselected: 0,
            yes: 0,
            unknown: 0,
            sessions: NOT_COUNTED,
            files: NOT_COUNTED,
            loads: 0,
            image: Default::default(),
            cgroup: CgroupPath::EMPTY,
        };
        Body::PolicyDecision(Operation::FilePreserve, decision, Box::new(told))
    }

    fn loaded(generation: u64) -> Body {
        Body::PolicyChange(Box::new(PolicyChange {
            what: POLICY_LOADED,
            mode: Mode::Enforce as u32,
            generation,
            until: 0,
            uid: 0,
            operations: 0,
            text: Name::EMPTY,
        }))
    }

    /// Whether each generation is one of the two policies.
    fn are_whole(events: Vec<Body>) -> bool {
        let policies = [TWO_RULES, ONE_RULE].map(|text| Policy::read(text).unwrap());
        let all_of = |ruled: &[Ruled], policy| ruled.iter().all(|ruled| is_of(policy, ruled));
        generations(events.into_iter())
            .iter()
            .all(|ruled| policies.iter().any(|policy| all_of(ruled, policy)))
    }

    #[test]
    fn every_scenario_has_policies_that_are_some() {
        for (name, scenario) in scenario::all().unwrap() {
            for policy in scenario.policies() {
                assert_eq!(read(&policy).err().map(|why| why.to_string()), None, "{name}");
            }
        }
    }

    #[test]
    fn a_generation_is_one_policy() {
        let (first, second) = (
            decided(1, 1, "second", Decision::Deny),
            decided(2, 0, "only", Decision::Audit),
        );
        assert!(are_whole(vec![first.clone(), second.clone(), first.clone()]));
        assert!(are_whole(vec![
            first.clone(),
            decided(1, RULE_NONE, "", Decision::Pass)
        ]));
        assert!(are_whole(vec![decided(1, RULE_HOLD, "hold", Decision::Allowed)]));
        let mixed = vec![first.clone(), decided(1, 0, "only", Decision::Audit)];
        assert!(!are_whole(mixed), "both by one generation");
        // The next agent counts from 1 again.
        assert!(are_whole(vec![
            first,
            loaded(1),
            decided(1, 0, "only", Decision::Audit)
        ]));
    }

    #[test]
    fn the_first_call_that_differs_is_told() {
        let said = br#"{"journals": [{"decisions": [
            {"operation": "session-create", "decision": "would-deny", "rule": "r", "session": "vm"},
            {"operation": "kexec-load", "decision": null, "rule": null, "session": null}
        ]}]}"#;
        let told = told(said).unwrap();
        let mut recorded = vec![["session-create", "would-deny", "r", "vm"].map(String::from)];
        let difference = |recorded: &[Call]| difference(recorded, &told);
        assert!(
            difference(&recorded)
                .unwrap()
                .contains("of call 2 it says \"kexec-load - - -\" instead of \"none\"")
        );
        recorded.push(["kexec-load", "-", "-", "-"].map(String::from));
        assert_eq!(difference(&recorded), None);
        recorded.push(recorded[0].clone());
        assert!(difference(&recorded).unwrap().contains("of call 3 it says \"none\""));
        recorded.swap(0, 1);
        assert!(difference(&recorded).unwrap().contains("of call 1"));
    }

    #[test]
    fn a_number_a_name_or_an_action_of_another_rule_is_of_no_policy() {
        for wrong in [
            decided(1, 0, "second", Decision::Deny),
            decided(1, 1, "only", Decision::Deny),
            decided(1, 1, "second", Decision::Audit),
            decided(1, 0, "first", Decision::Audit),
            decided(1, RULE_NONE, "only", Decision::Pass),
            decided(1, RULE_HOLD, "hold", Decision::Pass),
            decided(1, RULES as u32, "second", Decision::Deny),
        ] {
            assert!(!are_whole(vec![wrong.clone()]), "{wrong:?}");
        }
    }
}
