//! Invariants of sessions: `kernel/liveupdate/luo_session.c` (7.3).

use luo_trace_common::events::{INCOMING, SessionRelease};
use luo_trace_common::text::SessionName;

use super::super::counts::Direction;
use super::super::court::{Court, Waits};
use super::super::finding::Subject;
use super::super::scene::{Scene, direction};
use super::super::state::State;
use super::{EBUSY, EEXIST, EINVAL, Invariant};
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

/// The session is looked up by its id alone, since the operation is one that only sessions of its direction allow.
pub(super) fn direction_kept(state: &State, scene: &Scene, court: &mut Court) {
    let (expected, p, what) = match &scene.event.body {
        Body::FilePreserve(p) if p.outcome.is_ok() => (Direction::Outgoing, &p.session, "a file was preserved into it"),
        Body::FileRetrieve(p) if p.outcome.is_ok() => (Direction::Incoming, &p.session, "a file was retrieved from it"),
        Body::FilesFinish(p) if p.outcome.is_ok() => (Direction::Incoming, &p.session, "it was finished"),
        _ => return,
    };
    match state.session(p.id).filter(|s| scene.knows(s.epoch)) {
        Some(session) if session.direction == expected => court.hold(Invariant::SessionDirection),
        Some(session) => court.violate(scene.finding(
            Invariant::SessionDirection,
            session.subject(),
            format!("only {expected} sessions allow that"),
            what,
            &[session.origin],
        )),
        None => court.undecidable(Invariant::SessionDirection),
    }
}

/// A release holds the last reference to the session, so nothing else is done to it meanwhile.
pub(super) fn release_finishes(_state: &State, scene: &Scene, court: &mut Court) {
    let Body::SessionRelease(p) = &scene.event.body else {
        return;
    };
    if p.direction != INCOMING {
        return;
    }
    let finished = scene.session.and_then(|s| s.finished);
    let finished = finished.is_some_and(|at| scene.moment.start.is_some_and(|start| at >= start));
    if p.outcome.is_ok() && (finished || p.files == 0) {
        return court.hold(Invariant::SessionReleaseFinishes);
    }
    if p.outcome.is_ok() && !(scene.moment.whole && scene.known_session().is_some()) {
        return court.undecidable(Invariant::SessionReleaseFinishes);
    }
    let held = held(scene, p);
    let seen = if p.outcome.is_ok() {
        format!("it was closed without being finished, and held {held}")
    } else {
        let errno = crate::text::errno::result(p.outcome.result);
        format!("closing it failed with {errno}: it is stranded with {held}")
    };
    let (direction, name) = (Direction::Incoming, p.session.name);
    let evidence = scene.session.and_then(|s| s.refused);
    court.violate(scene.finding(
        Invariant::SessionReleaseFinishes,
        Subject::Session { direction, name },
        "its files are finished when it is closed",
        seen,
        evidence.as_slice(),
    ));
}

/// The files that a session held, the first few by name.
fn held(scene: &Scene, p: &SessionRelease) -> String {
    const SHOWN: usize = 4;
    let tokens = scene.session.into_iter().flat_map(|s| s.held()).map(|f| f.token);
    let mut named: Vec<_> = tokens.take(SHOWN).map(|token| format!("{token:#x}")).collect();
    if named.is_empty() {
        return format!("{} files", p.files);
    }
    if p.files > named.len() as u64 {
        named.push("...".into());
    }
    format!("{} files ({})", p.files, named.join(", "))
}

/// `systemd-shutdown` is process 1 when it creates its session (systemd 262).
pub(super) fn systemds_own(state: &State, scene: &Scene, court: &mut Court) {
    const OWN: Invariant = Invariant::SessionOfSystemd;
    let Body::SessionCreate(p) = &scene.event.body else {
        return;
    };
    if scene.event.header.tgid != 1 || p.session.name != SessionName::new("systemd") {
        return;
    }
    match p.outcome.result {
        EEXIST => {
            let name = p.session.name;
            let direction = Direction::Outgoing;
            let before = state.named(direction, name).map(|session| session.origin);
            court.violate(scene.finding(
                OWN,
                Subject::Session { direction, name },
                "systemd creates it, and hands the stored descriptors over in it",
                "another process had created a session of that name before",
                before.as_slice(),
            ));
        }
        _ if p.outcome.is_ok() => court.hold(OWN),
        // What else keeps it from it is told by the operation's result.
        _ => {}
    }
}

pub(super) fn device_exclusive(state: &State, scene: &Scene, court: &mut Court) {
    const DEVICE: Invariant = Invariant::DeviceExclusive;
    let Body::DeviceOpen(p) = &scene.event.body else {
        return;
    };
    if p.outcome.result == EBUSY {
        return court.hold(DEVICE);
    }
    if !p.outcome.is_ok() {
        return;
    }
    let failed = state.tasks.parts(scene.event).and_then(|parts| parts.arrival_failed);
    if let Some((at, id)) = failed
        && scene.moment.start.is_some_and(|start| at >= start)
    {
        return court.violate(scene.finding(
            DEVICE,
            Subject::Device,
            "opening it fails with EIO when the previous kernel's sessions cannot be read in",
            "it succeeded",
            &[id],
        ));
    }
    match state.device.open(scene.moment.epoch) {
        None if scene.moment.clear => court.hold(DEVICE),
        None => court.undecidable(DEVICE),
        Some(first) => {
            let expected = "a second open fails with EBUSY while the first lasts";
            let finding = scene.finding(DEVICE, Subject::Device, expected, "it succeeded", &[first]);
            // This one may close it as well.
            court.suspect(Waits::Close(1), scene.moment.at, finding);
        }
    }
}
