//! Invariants of who uses global state, and of bringing it back: `kernel/liveupdate/luo_flb.c` (7.3).

use luo_trace_common::events::{FlbCall, FlbRecord, FlbUse, INCOMING, OUTGOING};

use super::super::counts::Direction;
use super::super::court::{Court, SETTLE_NS};
use super::super::finding::Subject;
use super::super::flbs::{Flb, Relation, Restored};
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::Body;

fn incoming(flb: &Flb) -> Subject {
    let (direction, name) = (Direction::Incoming, flb.name);
    Subject::Flb { direction, name }
}

fn outgoing(flb: &Flb) -> Subject {
    let (direction, name) = (Direction::Outgoing, flb.name);
    Subject::Flb { direction, name }
}

pub(super) fn restore_once(state: &State, scene: &Scene, court: &mut Court) {
    const ONCE: Invariant = Invariant::FlbRestoreOnce;
    let (flb, again) = match &scene.event.body {
        Body::FlbCallback(FlbCall::Retrieve, p) => (p.flb, "its driver was asked again"),
        Body::FlbGet(p) if p.outcome.is_ok() && p.direction == INCOMING => (p.flb, "a later one succeeded"),
        _ => return,
    };
    let callback = matches!(scene.event.body, Body::FlbCallback(..));
    let Some((_, flb)) = state.flbs.get(flb) else {
        if callback {
            court.hold(ONCE);
        }
        return;
    };
    let (expected, evidence) = match flb.restored(scene.moment.epoch) {
        Restored::Done(id) if callback => ("it is brought back once", id),
        Restored::Failed(_, id) if callback => ("a failure to bring it back stays a failure", id),
        Restored::Failed(at, id) if scene.moment.start.is_some_and(|start| start > at) => {
            ("a failure to bring it back stays a failure", id)
        }
        Restored::No(_) if callback => return court.hold(ONCE),
        Restored::Unknown if callback && scene.moment.clear => return court.hold(ONCE),
        Restored::Unknown if callback => return court.undecidable(ONCE),
        _ => return,
    };
    court.violate(scene.finding(ONCE, incoming(flb), expected, again, &[evidence]));
}

/// A file that leaves brings the state back itself where no caller has, and then finishes it. From 7.0 to 7.3 it does not: its
/// count of users is only read in with the state, so that the file's leaving breaks the count.
pub(super) fn finish_after_restore(state: &State, scene: &Scene, court: &mut Court) {
    const FINISH: Invariant = Invariant::FlbFinishAfterRestore;
    match &scene.event.body {
        Body::FlbCallback(FlbCall::Finish, p) => {
            let Some((_, flb)) = state.flbs.get(p.flb) else {
                return court.undecidable(FINISH);
            };
            let (seen, evidence) = match flb.restored(scene.moment.epoch) {
                Restored::Done(_) => return court.hold(FINISH),
                Restored::Unknown => return court.undecidable(FINISH),
                Restored::No(id) => ("it was finished, and no process had brought it back", id),
                Restored::Failed(_, id) => ("it was finished, and bringing it back had failed", id),
            };
            court.violate(scene.finding(FINISH, incoming(flb), "it is brought back first", seen, &[evidence]));
        }
        Body::FlbFinish(_) if scene.moment.whole => {
            for (_, flb) in state.flbs.iter() {
                if flb.relation(scene.handler) != Relation::Uses || flb.left_unrestored {
                    continue;
                }
                let (seen, evidence) = match flb.restored(scene.moment.epoch) {
                    Restored::No(id) => ("a file left it for which no process had brought it back", id),
                    Restored::Failed(_, id) => ("a file left it, and bringing it back had failed", id),
                    _ => continue,
                };
                let expected = "it is brought back, and finished with its last file";
                court.violate(scene.finding(FINISH, incoming(flb), expected, seen, &[evidence]));
            }
        }
        _ => {}
    }
}

/// What the next kernel is told proves that references count, and are still held.
pub(super) fn get_put(state: &State, scene: &Scene, court: &mut Court) {
    const GET_PUT: Invariant = Invariant::FlbGetPut;
    let expected = "every reference is given back before the jump";
    let epoch = scene.moment.epoch;
    match &scene.event.body {
        Body::FlbGet(p) if p.outcome.is_ok() => court.open(GET_PUT),
        Body::FlbPut(p) if held(state, scene, p) > 0 => court.close(GET_PUT),
        Body::FlbRecord(p) => {
            let Some(flb) = state.flbs.named(&p.name) else { return };
            let references = flb.references(Direction::Outgoing);
            let held = references.held(epoch);
            if let (Some(files), Some((_, newest))) = (flb.at_freeze(epoch), references.newest())
                && held > 0
                && p.users == files + held
            {
                let seen = format!("{held} references go into the next kernel as users");
                court.violate(scene.finding(GET_PUT, outgoing(flb), expected, seen, &[newest]));
            }
        }
        Body::LiveupdateReboot(p) if p.outcome.is_ok() => {
            for (_, flb) in state.flbs.iter() {
                let references = flb.references(Direction::Incoming);
                let held = references.held(epoch);
                if held > 0
                    && references.given_back
                    && let Some((at, newest)) = references.newest()
                    && scene.moment.at > at.saturating_add(SETTLE_NS)
                {
                    let seen = format!("{held} references were not given back");
                    court.violate(scene.finding(GET_PUT, incoming(flb), expected, seen, &[newest]));
                }
            }
        }
        _ => {}
    }
}

fn held(state: &State, scene: &Scene, p: &FlbUse) -> u64 {
    let direction = match p.direction {
        OUTGOING => Direction::Outgoing,
        _ => Direction::Incoming,
    };
    let flb = state.flbs.get(p.flb);
    flb.map_or(0, |(_, flb)| flb.references(direction).held(scene.moment.epoch))
}

/// Of what the next kernel is told. A reference that is taken or given back at this moment is not told yet, so with
/// references about only the files are certain.
pub(super) fn count(state: &State, scene: &Scene, court: &mut Court) {
    const COUNT: Invariant = Invariant::FlbCount;
    if let Some(snapshot) = state.snapshot.as_deref() {
        return super::snapshot::flb_count(state, scene, court, snapshot);
    }
    let Body::FlbRecord(p) = &scene.event.body else { return };
    let Some(flb) = state.flbs.named(&p.name) else { return };
    let Some(files) = flb.at_freeze(scene.moment.epoch) else {
        return court.undecidable(COUNT);
    };
    let references = flb.references(Direction::Outgoing);
    let held = references.held(scene.moment.epoch);
    if p.users < files || (p.users > files + held && references.newest().is_none()) {
        court.violate(scene.finding(COUNT, outgoing(flb), expected(files, held), recorded(p), &[]));
    } else {
        court.hold(COUNT);
    }
}

pub(super) fn expected(files: u64, references: u64) -> String {
    match references {
        0 => format!("it has the {files} users that its files are"),
        _ => format!("it has the {files} users that its files are, and {references} references"),
    }
}

fn recorded(p: &FlbRecord) -> String {
    format!("the next kernel is told of {}", p.users)
}
