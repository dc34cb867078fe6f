//! Absence is never evidence: what a hook would have told is missing where the hook is, or where it sees nothing for a while.

use luo_trace_common::events::{FlbCall, HooksBlind};
use luo_trace_common::hooks::{Hook, Need};
use proptest::prelude::*;

use super::schedules::plan;
use super::{Coverage, Judged, judge, judge_with, story};
use crate::event::Body;
use crate::model::{Invariant, Status};
use crate::testing::{MEMFD, Story, cases, hook_of, session, with_blindness};

fn see(hooks: &[Hook]) -> Body {
    Body::HooksBlind(HooksBlind {
        hooks: HooksBlind::bits(hooks.iter().copied()),
        ..HooksBlind::default()
    })
}

/// A file that uses global state comes and goes, and the state with it; of its going no event tells.
fn unseen_end(s: &mut Story) {
    s.flb_preserve(MEMFD, |s| {
        s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0);
    });
    s.push(see(&[Hook::FlbCallback])).wait(super::LONG);
    s.flb_unpreserve(MEMFD, |_| ())
        .wait(super::LONG)
        .create(session(3, "x"));
}

fn status_of(judged: &Judged, invariant: Invariant) -> (Status, &[&str]) {
    let verdict = judged.verdict(invariant);
    (verdict.status, &verdict.missing_hooks)
}

#[test]
fn what_a_blind_hook_does_not_tell_is_no_finding_and_the_verdict_names_it() {
    let judged = story(unseen_end);
    assert_eq!(judged.findings, []);
    assert_eq!(
        status_of(&judged, Invariant::FlbDestroyOnLast),
        (Status::Unknown, &["flb-callback"][..])
    );
}

#[test]
fn what_happens_after_it_sees_again_is_judged_again() {
    let judged = story(|s| {
        unseen_end(s);
        s.push(see(&[])).wait(super::LONG);
        for _ in 0..2 {
            s.flb_preserve(MEMFD, |s| {
                s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0);
            });
        }
    });
    let found: Vec<_> = judged.findings.iter().map(|finding| finding.invariant).collect();
    assert_eq!(found, [Invariant::FlbCreateOnFirst]);
    // What was missed stays missed, though no hook is missing any more.
    assert_eq!(
        status_of(&judged, Invariant::FlbDestroyOnLast),
        (Status::Unknown, &[][..])
    );
}

fn hooks(of: fn(Hook) -> bool) -> impl Strategy<Value = Vec<Hook>> {
    let all: Vec<Hook> = Hook::ALL.iter().copied().filter(|&hook| of(hook)).collect();
    prop::sample::subsequence(all, 1..4)
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn hooks_that_are_blind_for_a_while_never_make_a_legal_schedule_look_broken(
        plan in plan(),
        hooks in hooks(|_| true),
        sizes in prop::collection::vec(1usize..20, 1..10),
        from in 0usize..20,
        batches in 1usize..20,
    ) {
        let left = with_blindness(&plan.run(), &hooks, &sizes, from..from + batches);
        prop_assert_eq!(judge(&left).findings, []);
    }

    #[test]
    fn hooks_that_are_missing_never_make_a_legal_schedule_look_broken(
        plan in plan(),
        hooks in hooks(|hook| hook.need() != Need::Required),
    ) {
        let is_missing = |hook: &Hook| hooks.contains(hook) || hook.relies_on().iter().any(|other| hooks.contains(other));
        let coverage = Hook::ALL.iter().copied().filter(|hook| !is_missing(hook)).collect::<Coverage>();
        let events: Vec<_> = plan.run();
        let seen = events.into_iter().filter(|event| hook_of(&event.body).is_none_or(|hook| !is_missing(&hook)));
        prop_assert_eq!(judge_with(&coverage, &seen.collect::<Vec<_>>()).findings, []);
    }
}
