//! Invariants of files: `kernel/liveupdate/luo_file.c` (7.3).
//!
//! The kernel works on a session's files with the session's mutex held, so events about one session's files come in the
//! order in which things happened.

use luo_trace_common::events::{FileCall, FileCallback, FileOp, FilesOp, TOKEN_KNOWN};

use super::super::counts::Direction;
use super::super::court::{Court, Waits};
use super::super::objects::{File, Retrieve, Session};
use super::super::scene::Scene;
use super::super::state::State;
use super::{EBUSY, EEXIST, Invariant};
use crate::event::{Body, EventId};

pub(super) fn token_unique(state: &State, scene: &Scene, court: &mut Court) {
    let Body::FilePreserve(p) = &scene.event.body else {
        return;
    };
    if p.outcome.result == EEXIST {
        return court.hold(Invariant::FileTokenUnique);
    }
    if !p.outcome.is_ok() {
        return;
    }
    let first = scene.session.and_then(|s| Some((s, state.file(s, p.token)?)));
    match first {
        Some((session, first)) if scene.knows(first.epoch) => court.violate(scene.finding(
            Invariant::FileTokenUnique,
            session.file_subject(Some(p.token)),
            "the second preserve under this token fails with EEXIST",
            "it succeeded",
            &[first.origin],
        )),
        None if scene.known_session().is_some() && scene.moment.clear => court.hold(Invariant::FileTokenUnique),
        _ => court.undecidable(Invariant::FileTokenUnique),
    }
}

/// A session gives its objects up inside its release, which ends later: another may take one before that end is seen. Where
/// the handler's callbacks are seen, they tell the moment.
pub(super) fn object_unique(state: &State, scene: &Scene, court: &mut Court) {
    let Body::FilePreserve(p) = &scene.event.body else {
        return;
    };
    if p.outcome.result == EBUSY {
        return court.hold(Invariant::FileObjectUnique);
    }
    if !p.outcome.is_ok() {
        return;
    }
    if p.object.identity == 0 || !scene.moment.clear {
        return court.undecidable(Invariant::FileObjectUnique);
    }
    let Some((session, file)) = state.holder(p.object.identity) else {
        return court.hold(Invariant::FileObjectUnique);
    };
    if !scene.knows(file.epoch) {
        return court.undecidable(Invariant::FileObjectUnique);
    }
    let finding = scene.finding(
        Invariant::FileObjectUnique,
        session.file_subject(Some(file.token)),
        "a second preserve of the same object fails with EBUSY",
        format!(
            "it succeeded, for file {:#x} of session \"{}\"",
            p.token, p.session.name
        ),
        &[file.origin],
    );
    if file.called_back || session.id == p.session.id {
        court.violate(finding);
    } else {
        court.suspect(Waits::GivingBack(session.serial), scene.moment.at, finding);
    }
}

pub(super) fn balance(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::FilePreserve(p) => preserved(scene, court, p),
        Body::FileCallback(FileCall::Unpreserve, p) => unpreserved(scene, court, p),
        Body::FilesUnpreserve(p) => given_back(scene, court, p),
        Body::SessionRelease(p) if p.outcome.is_ok() => {
            let released = scene.known_session().filter(|_| scene.moment.start.is_some());
            for file in scene.session.into_iter().flat_map(Session::held) {
                match released {
                    _ if !opened(scene, file) => {}
                    Some(session) => lost(scene, court, session, file, &[file.origin]),
                    None => forget(court),
                }
            }
        }
        // What had this id before is gone, and its files with it.
        Body::SessionCreate(p) if p.outcome.is_ok() => {
            let before = state.session(p.session.id).into_iter().flat_map(Session::held);
            before.filter(|f| opened(scene, f)).for_each(|_| forget(court));
        }
        _ if scene.serialized() => {
            let files = state.sessions().flat_map(Session::held);
            files
                .filter(|f| opened(scene, f))
                .for_each(|_| court.close(Invariant::FileBalance));
        }
        _ => {}
    }
}

/// Whether the file counts as open: it is outgoing and known from its preserve on, or from a walk.
fn opened(scene: &Scene, file: &File) -> bool {
    let outgoing = file.state.is_some_and(|state| state.direction() == Direction::Outgoing);
    scene.knows(file.epoch) && outgoing
}

fn forget(court: &mut Court) {
    court.unopen(Invariant::FileBalance);
    court.undecidable(Invariant::FileBalance);
}

fn lost(scene: &Scene, court: &mut Court, session: &Session, file: &File, evidence: &[EventId]) {
    court.unopen(Invariant::FileBalance);
    court.violate(scene.finding(
        Invariant::FileBalance,
        session.file_subject(Some(file.token)),
        "its handler unpreserves it when its session is given back",
        "the session is gone and the file was not unpreserved",
        evidence,
    ));
}

fn preserved(scene: &Scene, court: &mut Court, p: &FileOp) {
    if p.outcome.is_ok() {
        return if scene.moment.clear && p.session.id != 0 {
            court.open(Invariant::FileBalance);
        } else {
            court.undecidable(Invariant::FileBalance);
        };
    }
    let Some(session) = scene.session else { return };
    if let Some(saved) = session.preserving.filter(|s| scene.knows(s.epoch)) {
        court.violate(scene.finding(
            Invariant::FileBalance,
            session.file_subject(Some(p.token)),
            "a preserve that fails leaves nothing saved",
            "the handler had saved the file and was not told to give it back",
            &[saved.id],
        ));
    }
}

fn unpreserved(scene: &Scene, court: &mut Court, p: &FileCallback) {
    let Some(session) = scene.session else {
        return court.undecidable(Invariant::FileBalance);
    };
    if session.preserving.is_some_and(|s| s.file == p.file) {
        return;
    }
    if p.file == 0 {
        // It was one of these.
        session.held().filter(|f| opened(scene, f)).for_each(|_| forget(court));
        return;
    }
    let Some(place) = session.position(p.file) else {
        if !scene.knows(session.epoch) || !scene.moment.clear {
            return court.undecidable(Invariant::FileBalance);
        }
        return court.violate(scene.finding(
            Invariant::FileBalance,
            session.file_subject(None),
            "the handler unpreserves what is preserved, once",
            format!(
                "handler \"{}\" unpreserved a file that this session does not hold",
                p.handler
            ),
            &[session.origin],
        ));
    };
    let (file, later) = (&session.files[place], &session.files[place + 1..]);
    if !opened(scene, file) {
        return;
    }
    court.unopen(Invariant::FileBalance);
    // (One that a walk found may have been on its way out then.)
    let still_there = |f: &&File| f.state.is_some() && f.called_back && scene.knows(f.epoch);
    match later.iter().rfind(still_there) {
        None => court.hold(Invariant::FileBalance),
        Some(later) => court.violate(scene.finding(
            Invariant::FileBalance,
            session.file_subject(Some(file.token)),
            "files are unpreserved in the reverse order of their preserve",
            format!(
                "it was unpreserved before file {:#x}, which was preserved after it",
                later.token
            ),
            &[file.origin, later.origin],
        )),
    }
}

/// Of files whose handler's callbacks are not seen, the number that the kernel gave back decides.
fn given_back(scene: &Scene, court: &mut Court, p: &FilesOp) {
    let Some(session) = scene.session else { return };
    let expected = session.unpreserved + session.held().count() as u64;
    let countable = scene.moment.start.is_some() && scene.knows(session.epoch);
    for file in session.held().filter(|f| opened(scene, f)) {
        if file.called_back && scene.moment.start.is_some() || countable && p.files < expected {
            lost(scene, court, session, file, &[file.origin]);
        } else if !file.called_back && countable {
            court.close(Invariant::FileBalance);
        } else {
            forget(court);
        }
    }
}

pub(super) fn retrieve_once(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::FileCallback(FileCall::Retrieve, p) if p.flags & TOKEN_KNOWN != 0 => {
            let file = scene.session.and_then(|s| Some((s, state.file(s, p.token)?)));
            match file {
                None => asked_first(scene, court),
                Some((_, file)) if file.retrieve == Retrieve::NotAsked => asked_first(scene, court),
                Some((session, file)) if scene.knows(file.asked) => court.violate(scene.finding(
                    Invariant::FileRetrieveOnce,
                    session.file_subject(Some(p.token)),
                    "the handler retrieves it once, whatever came of it",
                    "the handler was called again",
                    file.retrieve.event().as_slice(),
                )),
                Some(_) => {}
            }
        }
        Body::FileRetrieve(p) if p.outcome.is_ok() => {
            let Some((session, file)) = scene.session.and_then(|s| Some((s, state.file(s, p.token)?))) else {
                return asked_first(scene, court);
            };
            let (expected, seen) = match file.retrieve {
                _ if !scene.knows(file.asked) => return,
                Retrieve::NotAsked => return asked_first(scene, court),
                Retrieve::Failed(..) => ("a retrieve that failed fails again", "it succeeded"),
                Retrieve::Gave(given, _) if given != 0 && p.object.file != 0 && given != p.object.file => {
                    ("every retrieve gives the same file", "it gave another one")
                }
                _ => return,
            };
            court.violate(scene.finding(
                Invariant::FileRetrieveOnce,
                session.file_subject(Some(p.token)),
                expected,
                seen,
                file.retrieve.event().as_slice(),
            ));
        }
        Body::FilesFinish(p) if p.outcome.is_ok() => finished(scene, court),
        Body::SessionRelease(p) if p.outcome.is_ok() => finished(scene, court),
        _ => {}
    }
}

fn asked_first(scene: &Scene, court: &mut Court) {
    if scene.known_session().is_some() && scene.moment.clear {
        court.open(Invariant::FileRetrieveOnce);
    } else {
        court.undecidable(Invariant::FileRetrieveOnce);
    }
}

fn finished(scene: &Scene, court: &mut Court) {
    let asked = |f: &&File| scene.knows(f.epoch) && f.retrieve != Retrieve::NotAsked;
    let files = scene.session.into_iter().flat_map(Session::held);
    files
        .filter(asked)
        .for_each(|_| court.close(Invariant::FileRetrieveOnce));
}
