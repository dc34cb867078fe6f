//! Invariants of the freeze: `luo_session_serialize` in `kernel/liveupdate/luo_session.c`, `luo_file_freeze` in
//! `kernel/liveupdate/luo_file.c` (7.3).
//!
//! One task does it all, with a lock held that keeps every other task out.

use luo_trace_common::events::FileCall;

use super::super::counts::Direction;
use super::super::court::Court;
use super::super::finding::{Finding, Subject};
use super::super::objects::{Freezing, Session};
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::Body;

const ROLLBACK: Invariant = Invariant::FreezeRollback;

pub(super) fn rollback(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::FileCallback(FileCall::Unfreeze, p) => {
            let Some(session) = scene.known_session() else { return };
            let Some(file) = session
                .find((p.file, p.data))
                .and_then(|place| session.files.get(place))
            else {
                return;
            };
            // A handler may have an unfreeze and no freeze.
            let freezes = state.freezers[0].contains(&file.handler);
            if scene.knows(file.epoch)
                && let Some(finding) = unfrozen(scene, session, Some(file.token), file.freezing, freezes)
            {
                court.violate(finding);
            }
        }
        Body::FilesUnfreeze(p) if p.files > 0 && scene.moment.whole => {
            if let Some(session) = scene.known_session()
                && let Some(finding) = unfrozen(scene, session, None, session.freezing, true)
            {
                court.violate(finding);
            }
        }
        Body::SessionSerialize(p) if !p.outcome.is_ok() => undone(state, scene, court),
        _ => {}
    }
}

/// What is wrong with unfreezing what stands like this.
fn unfrozen(scene: &Scene, session: &Session, token: Option<u64>, now: Freezing, freezes: bool) -> Option<Finding> {
    let (seen, evidence) = match now {
        Freezing::Frozen(_) | Freezing::Unknown => return None,
        Freezing::Untouched if !freezes => return None,
        Freezing::Untouched => ("it was unfrozen and had not been frozen", None),
        Freezing::Failed(id) => ("it was unfrozen though its freeze had failed", Some(id)),
        Freezing::Undone(id) => ("it was unfrozen twice", Some(id)),
    };
    let object = match token {
        Some(_) => session.file_subject(token),
        None => session.subject(),
    };
    let expected = "what was frozen is unfrozen once, and nothing else is";
    Some(scene.finding(ROLLBACK, object, expected, seen, evidence.as_slice()))
}

/// The freeze failed: what it froze must be unfrozen by now. A handler need not have an unfreeze.
fn undone(state: &State, scene: &Scene, court: &mut Court) {
    if !scene.moment.whole {
        return court.undecidable(ROLLBACK);
    }
    let mut found = Vec::new();
    let mut stays = |object, id| {
        let expected = "a freeze that fails unfreezes what it froze";
        found.push(scene.finding(ROLLBACK, object, expected, "it was frozen and stays so", &[id]));
    };
    for session in state.sessions() {
        if session.direction != Direction::Outgoing || !scene.knows(session.epoch) {
            continue;
        }
        if let Freezing::Frozen(id) = session.freezing
            && !session.files.is_empty()
        {
            stays(session.subject(), id);
            continue;
        }
        for file in session
            .held()
            .filter(|f| scene.knows(f.epoch) && state.freezers[1].contains(&f.handler))
        {
            if let Freezing::Frozen(id) = file.freezing {
                stays(session.file_subject(Some(file.token)), id);
            }
        }
    }
    if found.is_empty() {
        court.hold(ROLLBACK);
    }
    found.sort_by_key(|finding| finding.object);
    found.into_iter().for_each(|finding| court.violate(finding));
}

pub(super) fn immutable(state: &State, scene: &Scene, court: &mut Court) {
    let Some(serialized) = state.serialized else {
        if scene.serialized() {
            court.open(Invariant::FrozenImmutable);
        }
        return;
    };
    if !serialized.is_broken_by(scene.event) {
        return;
    }
    court.unopen(Invariant::FrozenImmutable);
    court.violate(scene.finding(
        Invariant::FrozenImmutable,
        Subject::Update,
        "nothing changes after everything was serialized",
        format!("{} succeeded after it", scene.event.name()),
        &[serialized.id],
    ));
}
