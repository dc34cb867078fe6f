//! Invariants that a walk over the kernel's lists decides: its counts against what the lists hold, and what they hold
//! against what the record says.
//!
//! A walk takes no lock, so that an operation under way may be half of its findings: each is suspected until no operation
//! that began before the walk ended can still end.

use luo_trace_common::events::FilesOp;

use super::super::counts::Direction;
use super::super::court::{Court, Waits};
use super::super::finding::Subject;
use super::super::objects::Session;
use super::super::scene::Scene;
use super::super::snapshot::{ListedSession, Snapshot};
use super::super::state::State;
use super::Invariant;
use crate::event::{Body, EventId};

fn snapshot(state: &State) -> Option<&Snapshot> {
    state.snapshot.as_deref().filter(|snapshot| snapshot.certain)
}

/// Whether a reboot failed, and this is the first snapshot since.
fn after_abort(state: &State, scene: &Scene) -> Option<EventId> {
    state.aborted.filter(|&(_, epoch)| scene.knows(epoch)).map(|(id, _)| id)
}

pub(super) fn session_count(state: &State, scene: &Scene, court: &mut Court) {
    const COUNT: Invariant = Invariant::SessionCount;
    let Some(snapshot) = snapshot(state) else { return };
    for (direction, counted) in [
        (Direction::Outgoing, snapshot.end.outgoing_sessions),
        (Direction::Incoming, snapshot.end.incoming_sessions),
    ] {
        let listed = snapshot.walk.count(direction) as i64;
        if counted < 0 || !snapshot.tells(direction) {
            continue;
        }
        if counted == listed {
            court.hold(COUNT);
            continue;
        }
        let finding = scene.finding(
            COUNT,
            Subject::Update,
            format!("the kernel counts the {listed} {direction} sessions that it lists"),
            format!("it counts {counted}"),
            &[],
        );
        court.suspect(Waits::Sessions, snapshot.at, finding);
    }
    if after_abort(state, scene).is_none() {
        missing_sessions(state, scene, court, snapshot, COUNT);
    }
}

/// Suspects that sessions vanished which nothing is known to have released.
fn missing_sessions(state: &State, scene: &Scene, court: &mut Court, snapshot: &Snapshot, invariant: Invariant) {
    let missing = |s: &&Session| {
        let listed = snapshot.walk.session(s.id);
        let there = listed.is_some_and(|w| w.direction == s.direction && w.record.session.name == s.name);
        scene.knows(s.epoch) && snapshot.tells(s.direction) && !there && s.missed.is_none()
    };
    let mut missing: Vec<_> = state.sessions().filter(missing).collect();
    missing.sort_by_key(|s| s.serial);
    for session in missing {
        let finding = scene.finding(
            invariant,
            session.subject(),
            "it is in the kernel's list until it is released",
            "it is not there any more",
            &[session.origin],
        );
        court.suspect(Waits::Release(session.serial), snapshot.at, finding);
    }
}

/// Of a session with its mutex held, and of every session at a walk.
pub(super) fn file_count(state: &State, scene: &Scene, court: &mut Court) {
    const COUNT: Invariant = Invariant::FileCount;
    if let Body::FilesFreeze(p) | Body::FilesFinish(p) = &scene.event.body {
        return counted(scene, court, p);
    }
    let Some(snapshot) = snapshot(state) else { return };
    for session in &snapshot.walk.sessions {
        let listed = session.files.len() as u64;
        if session.record.files == listed {
            court.hold(COUNT);
            continue;
        }
        let object = subject(session);
        let expected = format!("the kernel counts the {listed} files that it lists");
        let finding = scene.finding(
            COUNT,
            object,
            expected,
            format!("it counts {}", session.record.files),
            &[session.id],
        );
        court.suspect(Waits::Files(session.record.session.id), snapshot.at, finding);
    }
    if after_abort(state, scene).is_none() {
        changed_files(state, scene, court, snapshot, COUNT);
    }
}

fn subject(listed: &ListedSession) -> Subject {
    let (direction, name) = (listed.direction, listed.record.session.name);
    Subject::Session { direction, name }
}

fn counted(scene: &Scene, court: &mut Court, p: &FilesOp) {
    let Some(session) = scene.known_session().filter(|s| scene.moment.whole && !s.broken) else {
        return court.undecidable(Invariant::FileCount);
    };
    let files = session.pending + session.held().count() as u64;
    if files == p.files {
        return court.hold(Invariant::FileCount);
    }
    court.violate(scene.finding(
        Invariant::FileCount,
        session.subject(),
        format!("the session has the {files} files that came into it"),
        format!("the kernel counts {}", p.files),
        &[session.origin],
    ));
}

/// Suspects that files came or went which nothing is known to have preserved or given back.
fn changed_files(state: &State, scene: &Scene, court: &mut Court, snapshot: &Snapshot, invariant: Invariant) {
    for entry in &snapshot.walk.sessions {
        let Some(session) = state.known(entry) else { continue };
        let known = entry.files.iter().filter(|f| state.has(session, f)).count() as u64;
        let (listed, held) = (entry.files.len() as u64, session.held().count() as u64);
        // Files that no process has asked for are known by their number only.
        if known == held && listed == held + session.pending {
            continue;
        }
        let finding = scene.finding(
            invariant,
            session.subject(),
            format!("it has the {} files that came into it", held + session.pending),
            format!("the kernel lists {listed}, {known} of them known"),
            &[session.origin, entry.id],
        );
        court.suspect(Waits::Files(session.id), snapshot.at, finding);
    }
}

/// A reboot that failed is judged by the first walk after it.
pub(super) fn abort_restores(state: &State, scene: &Scene, court: &mut Court) {
    const ABORT: Invariant = Invariant::RebootAbortRestores;
    if matches!(&scene.event.body, Body::LiveupdateReboot(p) if !p.outcome.is_ok()) {
        return court.open(ABORT);
    }
    let (Some(snapshot), Some(_)) = (snapshot(state), after_abort(state, scene)) else {
        return;
    };
    court.close(ABORT);
    missing_sessions(state, scene, court, snapshot, ABORT);
    changed_files(state, scene, court, snapshot, ABORT);
}

/// The kernel's counts of users against the files and references that the record says there are.
pub(super) fn flb_count(state: &State, scene: &Scene, court: &mut Court, snapshot: &Snapshot) {
    if !snapshot.whole {
        return;
    }
    for (p, id) in snapshot.walk.flbs.iter().filter(|(p, _)| p.outgoing_users >= 0) {
        let Some((i, flb)) = state.flbs.get(p.flb) else {
            continue;
        };
        let Some(files) = flb.exact_users(scene.moment.epoch) else {
            continue;
        };
        let references = flb.references(Direction::Outgoing);
        let held = references.held(scene.moment.epoch);
        let users = p.outgoing_users.unsigned_abs();
        if users >= files && (users <= files + held || references.newest().is_some()) {
            court.hold(Invariant::FlbCount);
            continue;
        }
        let (direction, name) = (Direction::Outgoing, flb.name);
        let finding = scene.finding(
            Invariant::FlbCount,
            Subject::Flb { direction, name },
            super::flb_users::expected(files, held),
            format!("the kernel counts {users}"),
            &[*id],
        );
        court.suspect(Waits::Users(i), snapshot.at, finding);
    }
}
