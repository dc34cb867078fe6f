//! Invariants of sessions: `kernel/liveupdate/luo_session.c` (7.3).

use super::super::counts::Direction;
use super::super::court::{Court, Waits};
use super::super::finding::Subject;
use super::super::scene::{Scene, direction};
use super::super::state::State;
use super::{EEXIST, EINVAL, Invariant};
use crate::event::Body;

/// Two creates of one name may end in the other order than they took effect around the release between them, so a second
/// live session is suspected until the first one's release ends, or is used again.
pub(super) fn name_unique(state: &State, scene: &Scene, court: &mut Court) {
    let (direction, session) = match &scene.event.body {
        Body::SessionCreate(p) if p.outcome.is_ok() => (Direction::Outgoing, p.session),
        Body::SessionCreate(p) if p.outcome.result == EEXIST => return court.hold(Invariant::SessionNameUnique),
        Body::FilesDeserialize(p) => (Direction::Incoming, p.session),
        _ => return,
    };
    if session.id == 0 || !scene.moment.clear {
        return court.undecidable(Invariant::SessionNameUnique);
    }
    match state.named(direction, session.name) {
        Some(first) if first.id == session.id => court.hold(Invariant::SessionNameUnique),
        Some(first) if !scene.knows(first.epoch) => court.undecidable(Invariant::SessionNameUnique),
        Some(first) => {
            let name = session.name;
            let finding = scene.finding(
                Invariant::SessionNameUnique,
                Subject::Session { direction, name },
                "one live session of this name",
                "a second one came while the first was still there",
                &[first.origin],
            );
            court.suspect(Waits::Release(first.serial), scene.moment.at, finding);
        }
        None => court.hold(Invariant::SessionNameUnique),
    }
}

pub(super) fn balance(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::SessionCreate(p) if p.outcome.is_ok() => create(state, scene, court, p.session.id),
        Body::SessionRelease(p) if p.outcome.is_ok() => release(scene, court, p.files),
        _ if scene.serialized() => {
            for session in state.sessions() {
                if session.direction == Direction::Outgoing && scene.knows(session.epoch) {
                    court.close(Invariant::SessionBalance);
                }
            }
        }
        Body::SessionCreate(_) | Body::FileCallback(..) => {}
        body if direction(body) == Some(Direction::Outgoing) && scene.is_stranger() => {
            court.undecidable(Invariant::SessionBalance);
        }
        _ => {}
    }
}

fn create(state: &State, scene: &Scene, court: &mut Court, id: u64) {
    if scene.moment.clear && id != 0 {
        court.open(Invariant::SessionBalance);
    } else {
        court.undecidable(Invariant::SessionBalance);
    }
    let before = state.session(id).filter(|s| scene.knows(s.epoch));
    if let Some(before) = before.filter(|s| s.direction == Direction::Outgoing) {
        court.unopen(Invariant::SessionBalance);
        let finding = scene.finding(
            Invariant::SessionBalance,
            before.subject(),
            "a session ends by its release or goes into the next kernel",
            "its memory went to another session, and no release of it was seen",
            &[before.origin],
        );
        court.suspect(Waits::Release(before.serial), scene.moment.at, finding);
    }
}

fn release(scene: &Scene, court: &mut Court, files: u64) {
    let Some(session) = scene.session else {
        if direction(&scene.event.body) != Some(Direction::Incoming) {
            court.undecidable(Invariant::SessionBalance);
        }
        return;
    };
    if session.direction == Direction::Incoming || !scene.knows(session.epoch) {
        return;
    }
    // A session that another one followed is accounted for by the suspicion about it.
    let open = !session.is_departing();
    if open {
        court.unopen(Invariant::SessionBalance);
    }
    if scene.moment.start.is_none() {
        return court.undecidable(Invariant::SessionBalance);
    }
    let held = session.held().count() as u64;
    let (expected, seen, evidence) = match session.given_back {
        None if held.max(files) > 0 => (held.max(files), 0, session.origin),
        Some(given) if given.files != given.expected => (given.expected, given.files, given.id),
        _ if open => return court.hold(Invariant::SessionBalance),
        _ => return,
    };
    court.violate(scene.finding(
        Invariant::SessionBalance,
        session.subject(),
        format!("the release gives back the {expected} files that it held"),
        format!("{seen} were given back"),
        &[evidence],
    ));
}

pub(super) fn retrieve_once(_state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::SessionRetrieve(p) if p.outcome.result == EINVAL => court.hold(Invariant::SessionRetrieveOnce),
        Body::SessionRetrieve(p) if p.outcome.is_ok() => {
            let before = scene.session.and_then(|s| s.retrieved);
            match (scene.session, before) {
                (Some(session), Some((first, epoch))) if scene.knows(epoch) => court.violate(scene.finding(
                    Invariant::SessionRetrieveOnce,
                    session.subject(),
                    "the second retrieve fails with EINVAL",
                    "it succeeded",
                    &[first],
                )),
                (Some(session), None) if scene.knows(session.epoch) => court.open(Invariant::SessionRetrieveOnce),
                _ => court.undecidable(Invariant::SessionRetrieveOnce),
            }
        }
        Body::SessionRelease(p) if p.outcome.is_ok() => {
            if let Some(session) = scene.known_session()
                && session.direction == Direction::Incoming
                && session.retrieved.is_some()
            {
                court.close(Invariant::SessionRetrieveOnce);
            }
        }
        Body::FileRetrieve(_) | Body::FilesFinish(_) if scene.is_stranger() => {
            court.undecidable(Invariant::SessionRetrieveOnce);
        }
        _ => {}
    }
}
