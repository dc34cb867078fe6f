//! Preserves that fail: `luo_preserve_file` in `kernel/liveupdate/luo_file.c` (7.3).

use luo_trace_common::hooks::Hook;

use super::super::court::Court;
use super::super::finding::Subject;
use super::super::pages::Pages;
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::{Body, EventId};

/// The file's task joins and leaves the global states itself, so that is told before the preserve's own end. What the
/// operation did to memory decides only where no other file had a part in it.
pub(super) fn error_atomic(state: &State, scene: &Scene, court: &mut Court) {
    let Body::FilePreserve(p) = &scene.event.body else {
        return;
    };
    if p.outcome.is_ok() {
        return;
    }
    let (Some(start), true) = (scene.moment.start, scene.moment.whole) else {
        return court.undecidable(Invariant::FileErrorAtomic);
    };
    let mut violate = |seen: String, evidence: EventId| {
        let (session, token) = (p.session.name, Some(p.token));
        let object = Subject::File { session, token };
        let expected = "a preserve that fails leaves nothing behind";
        court.violate(scene.finding(Invariant::FileErrorAtomic, object, expected, seen, &[evidence]));
    };
    let parts = state.tasks.parts(scene.event);
    if let Some((_, joined)) = parts.and_then(|parts| parts.joined.filter(|j| j.0 >= start)) {
        return violate(
            "it joined its handler's global state and did not leave it".into(),
            joined,
        );
    }
    let balance = parts
        .filter(|parts| !parts.is_mixed(start))
        .and_then(|parts| parts.balance_of(Hook::FilePreserve, Some(start)));
    if let Some((balance, id)) = balance {
        let pages = Pages::of(balance);
        if !pages.balance() {
            return violate(pages.difference(), id);
        }
    }
    court.hold(Invariant::FileErrorAtomic);
}
