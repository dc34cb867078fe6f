//! Holds the decisions in a scenario's journals against the policies that its agents had.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use luo_trace::event::Body;
use luo_trace::journal;
use luo_trace::judge::Case;
use luo_trace::policy::Policy;
use luo_trace_common::policy::{Decision, Operation, POLICY_LOADED, PolicyDecision, RULE_AGENT_LOSS, RULE_HOLD};
use luo_trace_common::policy::{RULE_NONE, RULES};
use testbed_guest::scenario::{PolicyFile, Scenario};

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

/// The policy that a scenario means.
///
/// # Errors
/// There is no such file, or it is none.
pub(super) fn read(policy: &PolicyFile) -> Result<Policy> {
    let text = match policy.shipped() {
        Some(name) => {
            let path = scenario::shipped_policy(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => policy.text().unwrap_or_default().to_owned(),
    };
    Policy::read(&text).map_err(|problems| anyhow::anyhow!("{policy:?} is no policy:\n{problems}"))
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
    use luo_trace_common::policy::{CgroupPath, Mode, NOT_COUNTED, PolicyChange, RuleName};
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
