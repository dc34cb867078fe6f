//! Invariants of preserved memory: `kernel/liveupdate/kexec_handover.c` (7.3).

use luo_trace_common::events::{INCOMING, KhoAnomaly, KhoCall, PRESERVED_IN_SCRATCH, RESTORE_OF_UNPRESERVED};
use luo_trace_common::hooks::Hook;

use super::super::counts::Direction;
use super::super::court::{Court, Waits};
use super::super::finding::Subject;
use super::super::pages::Pages;
use super::super::scene::Scene;
use super::super::state::State;
use super::{EEXIST, Invariant};
use crate::event::{Body, EventId};

const BALANCE: Invariant = Invariant::KhoBalance;

/// A session's own operations balance when it is given back. Where global state came or went with its files, others have a
/// part in that, and the balance of all files decides when nothing outgoing is left.
///
/// Global state of a module that was loaded after the callbacks were looked for is not seen to come and go.
pub(super) fn balance(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::FilesUnpreserve(_) => given_back(state, scene, court),
        Body::SessionRelease(p) if p.outcome.is_ok() && p.direction != INCOMING => {
            let last = state.counts().outgoing_sessions == 1 && scene.known_session().is_some();
            let all = state.kho.all(scene.moment.epoch).filter(|_| last && scene.moment.whole);
            if let Some(all) = all.filter(|_| state.flbs.none_outgoing()) {
                judge(scene, court, Subject::Memory, all, &[]);
            }
        }
        _ => {}
    }
}

fn given_back(state: &State, scene: &Scene, court: &mut Court) {
    let Some(session) = scene.known_session().filter(|_| scene.moment.whole) else {
        return court.undecidable(BALANCE);
    };
    if session.direction != Direction::Outgoing {
        return;
    }
    let parts = state.tasks.parts(scene.event);
    let since = scene.moment.start.unwrap_or(0);
    if session.mixed || parts.is_some_and(|parts| parts.stepped(since) > 0) {
        return;
    }
    let now = parts.and_then(|parts| parts.balance_of(Hook::FilesUnpreserve, scene.moment.start));
    let now = now.map(|(balance, _)| Pages::of(balance)).unwrap_or_default();
    judge(
        scene,
        court,
        session.subject(),
        session.pages.and(now),
        &[session.origin],
    );
}

fn judge(scene: &Scene, court: &mut Court, object: Subject, pages: Pages, evidence: &[EventId]) {
    if pages.balance() {
        return court.hold(BALANCE);
    }
    let expected = "the pages that are given back are those that were preserved";
    court.violate(scene.finding(BALANCE, object, expected, pages.difference(), evidence));
}

fn anomaly<'a>(scene: &Scene<'a>, what: u32) -> Option<&'a KhoAnomaly> {
    match &scene.event.body {
        Body::KhoAnomaly(p) if p.what == what => Some(p),
        _ => None,
    }
}

fn range(p: &KhoAnomaly) -> String {
    match p.pages {
        0 => format!("memory at {:#x}", p.address),
        pages => format!("{pages} pages at {:#x}", p.address),
    }
}

/// The kernel refuses the second time, which saves the memory and not its owner: one of the two has nothing.
pub(super) fn restore_once(_state: &State, scene: &Scene, court: &mut Court) {
    if let Some(p) = anomaly(scene, RESTORE_OF_UNPRESERVED) {
        court.violate(scene.finding(
            Invariant::KhoRestoreOnce,
            Subject::Memory,
            "a range is asked back once, by the one who preserved it",
            format!("{} was asked back and is not, or not any more, preserved", range(p)),
            &[],
        ));
    }
}

pub(super) fn no_scratch(_state: &State, scene: &Scene, court: &mut Court) {
    match anomaly(scene, PRESERVED_IN_SCRATCH) {
        Some(p) if p.outcome.is_ok() => court.violate(scene.finding(
            Invariant::KhoNoScratch,
            Subject::Memory,
            "memory in scratch is refused",
            format!("{} lies in scratch and was preserved", range(p)),
            &[],
        )),
        Some(_) => court.hold(Invariant::KhoNoScratch),
        None => {}
    }
}

pub(super) fn error_agree(state: &State, scene: &Scene, court: &mut Court) {
    let (failures, what) = match &scene.event.body {
        Body::KhoOp(call, p) if p.outcome.is_ok() => (u64::from(p.inner_failures), call.name()),
        Body::KhoBalance(p) if p.outcome.is_ok() => {
            // A call inside of it may have been told.
            let told = state.tasks.parts(scene.event).map_or(0, |parts| parts.hidden_failure);
            let hook = Hook::ALL.get(p.operation as usize);
            match hook {
                Some(hook) if told == 0 || scene.moment.start.is_some_and(|start| told < start) => {
                    (p.failures, hook.id())
                }
                _ => return,
            }
        }
        _ => return,
    };
    if failures == 0 {
        return court.hold(Invariant::KhoErrorAgree);
    }
    court.violate(scene.finding(
        Invariant::KhoErrorAgree,
        Subject::Memory,
        "the whole fails where a part fails",
        format!("{what} succeeded, and {failures} ranges in it could not be preserved"),
        &[],
    ));
}

pub(super) fn subtree(state: &State, scene: &Scene, court: &mut Court) {
    let Body::KhoOp(KhoCall::AddSubtree, p) = &scene.event.body else {
        return;
    };
    if p.outcome.result == EEXIST {
        return court.hold(Invariant::KhoSubtree);
    }
    if !p.outcome.is_ok() || p.name.is_empty() {
        return;
    }
    match state.kho.subtree(&p.name) {
        Some(first) if scene.knows(first.epoch) => {
            let finding = scene.finding(
                Invariant::KhoSubtree,
                Subject::Subtree { name: p.name },
                "a second subtree of this name is refused",
                "it was added while the first was there",
                &[first.id],
            );
            court.suspect(Waits::Removal, scene.moment.at, finding);
        }
        Some(_) => court.undecidable(Invariant::KhoSubtree),
        None => court.hold(Invariant::KhoSubtree),
    }
}
