//! Stories: for every invariant one that breaks it, and ones that look like it and do not.

use luo_trace_common::hooks::Family;

use super::{Coverage, Finding, Invariant, Model, Status, Verdict};
use crate::event::Event;
use crate::testing::Story;

mod blind;
mod file;
mod finish;
mod flb;
mod flb_users;
mod freeze;
mod handover;
mod kexec;
mod kho;
mod listing;
mod loss;
mod policy;
mod reboot;
mod schedules;
mod seeds;
mod session;
mod snapshot;

/// What a record proves in the end.
pub(super) struct Judged {
    pub(super) findings: Vec<Finding>,
    pub(super) verdicts: Vec<Verdict>,
}

pub(super) fn judge(events: &[Event]) -> Judged {
    judge_with(&Coverage::all(), events)
}

pub(super) fn judge_with(coverage: &Coverage, events: &[Event]) -> Judged {
    let mut model = Model::new(coverage);
    let mut findings = Vec::new();
    for event in events {
        findings.extend_from_slice(model.apply(event));
    }
    findings.extend_from_slice(model.finish());
    let verdicts = model.verdicts();
    Judged { findings, verdicts }
}

impl Judged {
    pub(super) fn verdict(&self, invariant: Invariant) -> &Verdict {
        self.verdicts.iter().find(|v| v.invariant == invariant).unwrap()
    }

    pub(super) fn status(&self, invariant: Invariant) -> Status {
        self.verdict(invariant).status
    }
}

/// Tells a story and judges it.
pub(super) fn story(tell: impl FnOnce(&mut Story)) -> Judged {
    let mut story = Story::new();
    tell(&mut story);
    judge(&story.events)
}

/// Asserts that a story breaks this invariant, once and nothing else, and gives the finding.
#[track_caller]
pub(super) fn violates(invariant: Invariant, tell: impl FnOnce(&mut Story)) -> Finding {
    let judged = story(tell);
    let broken: Vec<_> = judged.findings.iter().map(|f| (f.invariant, f.to_string())).collect();
    assert_eq!(broken.len(), 1, "{broken:#?}");
    assert_eq!(broken[0].0, invariant, "{broken:#?}");
    assert_eq!(judged.status(invariant), Status::Violated);
    judged.findings.into_iter().next().unwrap()
}

/// Asserts that a story on an orderly machine breaks nothing and leaves no doubt, and gives the verdicts.
#[track_caller]
pub(super) fn holds(tell: impl FnOnce(&mut Story)) -> Judged {
    let judged = story(|s| tell(s.orderly()));
    let broken: Vec<_> = judged.findings.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    for verdict in &judged.verdicts {
        assert_eq!(verdict.status, Status::Ok, "{verdict:?}");
    }
    judged
}

/// Asserts that a story breaks these invariants, each once, and nothing else.
#[track_caller]
pub(super) fn breaks(invariants: &[Invariant], tell: impl FnOnce(&mut Story)) -> Vec<Finding> {
    let findings = story(tell).findings;
    let broken: Vec<_> = findings.iter().map(|f| f.invariant).collect();
    assert_eq!(broken, invariants, "{findings:#?}");
    findings
}

/// Asserts that a story breaks nothing and leaves this invariant in doubt.
#[track_caller]
pub(super) fn doubts(invariant: Invariant, tell: impl FnOnce(&mut Story)) {
    let judged = story(tell);
    let broken: Vec<_> = judged.findings.iter().map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(
        judged.status(invariant),
        Status::Unknown,
        "{:?}",
        judged.verdict(invariant)
    );
}

/// Longer than a suspicion waits, in nanoseconds.
pub(super) const LONG: u64 = 2_000_000_000;

#[test]
fn the_catalogue_is_complete_and_its_ids_are_distinct() {
    let mut ids: Vec<_> = Invariant::ALL.iter().map(|i| i.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), Invariant::ALL.len());
    for invariant in Invariant::ALL {
        assert!(
            prefixes(invariant.family())
                .iter()
                .any(|prefix| invariant.id().starts_with(prefix)),
            "{}",
            invariant.id()
        );
        assert!(!invariant.needs().is_empty());
        for text in [
            invariant.statement(),
            invariant.why(),
            invariant.advice(),
            invariant.witness(),
        ] {
            assert!(text.ends_with('.') && !text.contains("  "), "{text}");
        }
    }
}

fn prefixes(family: Family) -> &'static [&'static str] {
    match family {
        Family::Session => &["session-", "device-"],
        Family::File => &["file-"],
        Family::Flb => &["flb-"],
        Family::Kho => &["kho-"],
        Family::Reboot => &["freeze-", "frozen-", "reboot-", "kexec-", "incoming-", "target-"],
    }
}

#[test]
fn what_needs_a_missing_hook_is_unknown_from_the_start() {
    use luo_trace_common::hooks::Hook;
    let judged = judge_with(&Coverage::all().without(Hook::FlbCallback), &[]);
    assert_eq!(judged.status(Invariant::FlbCreateOnFirst), Status::Unknown);
    assert_eq!(
        judged.verdict(Invariant::FlbCreateOnFirst).missing_hooks,
        ["flb-callback"]
    );
    assert!(!judged.verdict(Invariant::FlbCreateOnFirst).is_unwatched());
    assert_eq!(judged.status(Invariant::SessionBalance), Status::Ok);
}

#[test]
fn what_needs_a_hook_that_is_switched_off_is_unknown_and_nobody_expected_more() {
    use luo_trace_common::hooks::Hook;
    let off = Coverage::all().switched_off([Hook::FlbCallback]);
    let judged = judge_with(&off, &[]);
    let verdict = judged.verdict(Invariant::FlbCreateOnFirst);
    assert_eq!(verdict.status, Status::Unknown);
    assert_eq!(verdict.switched_off_hooks, ["flb-callback"]);
    assert!(verdict.missing_hooks.is_empty() && verdict.is_unwatched());
    // A hook that is missing besides is another matter.
    let judged = judge_with(&off.without(Hook::FlbPreserve), &[]);
    let verdict = judged.verdict(Invariant::FlbCreateOnFirst);
    assert_eq!(verdict.missing_hooks, ["flb-file-preserve"]);
    assert!(!verdict.is_unwatched());
}

#[test]
fn a_finding_has_a_stable_json_form_and_a_paragraph_for_people() {
    // Given a session of an ugly name that is retrieved twice,
    let a = crate::testing::session(1, "a\x1b[31m");
    let finding = violates(Invariant::SessionRetrieveOnce, |s| {
        s.arrive(a, 0).retrieve_session(a).retrieve_session(a);
    });
    // then its JSON has every key, with the name escaped,
    let json = serde_json::to_value(&finding).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "invariant": "session-retrieve-once",
            "severity": "error",
            "object": "incoming session \"a\\u{1b}[31m\"",
            "expected": "the second retrieve fails with EINVAL",
            "id": finding.id.to_string(),
            "seen": "it succeeded",
            "advice": Invariant::SessionRetrieveOnce.advice(),
            "evidence": ["0:2", "0:3"],
            "time_ns": 1_009_000,
        })
    );
    // and so has the paragraph.
    let text = finding.to_string();
    assert!(
        text.starts_with("session-retrieve-once (error): incoming session \"a\\u{1b}[31m\". Expected: "),
        "{text}"
    );
    assert!(text.contains("Evidence: events 0:2, 0:3. Id: "), "{text}");
}
