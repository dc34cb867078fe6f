//! Invariants of global state: `kernel/liveupdate/luo_flb.c` (7.3).
//!
//! The kernel calls an FLB's callbacks with the FLB's lock held, so events about one direction of one FLB come in the order
//! in which things happened. A file counts as a user from the end of `luo_flb_file_preserve` on, when it certainly is one,
//! to the end of `luo_flb_file_unpreserve`, when it certainly is none any more.

use luo_trace_common::events::{FlbCall, FlbCallback, OUTGOING};
use luo_trace_common::hooks::Hook;

use super::super::counts::Direction;
use super::super::court::{Court, Waits};
use super::super::finding::Subject;
use super::super::flbs::{self, Flb, Life, Relation};
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::{Body, EventId};

fn life(state: &State, scene: &Scene, p: &FlbCallback, direction: Direction) -> Life {
    let side = state.flbs.get(p.flb).map(|(_, flb)| flb.side(direction));
    side.map_or(Life::Unknown, |side| side.life(scene.moment.epoch))
}

fn subject(direction: Direction, flb: &Flb) -> Subject {
    let name = flb.name;
    Subject::Flb { direction, name }
}

/// Whether the kernel's count of users is one that a callback must not find; -1 is not known.
fn in_use(users: i64) -> bool {
    !(-1..=0).contains(&users)
}

pub(super) fn create_on_first(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::FlbCallback(FlbCall::Preserve, p) => {
            let mut violate = |expected, seen: String, evidence: &[EventId]| {
                let (direction, name) = (Direction::Outgoing, p.name);
                let object = Subject::Flb { direction, name };
                court.violate(scene.finding(Invariant::FlbCreateOnFirst, object, expected, seen, evidence));
            };
            match life(state, scene, p, Direction::Outgoing) {
                Life::Alive(_, made) => violate(
                    "it is created when it does not exist",
                    "it was created a second time".into(),
                    &[made],
                ),
                _ if in_use(p.users) => violate(
                    "it is created for its first user",
                    format!("it was created when the kernel counted {} users", p.users),
                    &[],
                ),
                Life::Unknown if p.users != 0 => court.undecidable(Invariant::FlbCreateOnFirst),
                _ => court.hold(Invariant::FlbCreateOnFirst),
            }
        }
        Body::FlbPreserve(p) if p.outcome.is_ok() => {
            for (_, flb) in state.flbs.iter() {
                if flb.relation(scene.handler) == Relation::Uses
                    && let Life::Dead(_, gone) = flb.outgoing.life(scene.moment.epoch)
                {
                    court.violate(scene.finding(
                        Invariant::FlbCreateOnFirst,
                        subject(Direction::Outgoing, flb),
                        "it exists when a file that uses it is preserved",
                        format!("a file of handler \"{}\" was preserved without it", p.handler),
                        &[gone],
                    ));
                }
            }
        }
        _ => {}
    }
}

pub(super) fn destroy_on_last(state: &State, scene: &Scene, court: &mut Court) {
    match &scene.event.body {
        Body::FlbCallback(FlbCall::Preserve, p) if p.outcome.is_ok() => {
            let exists = matches!(life(state, scene, p, Direction::Outgoing), Life::Alive(..));
            if !exists && scene.moment.clear {
                court.open(Invariant::FlbDestroyOnLast);
            } else if !exists {
                court.undecidable(Invariant::FlbDestroyOnLast);
            }
        }
        Body::FlbCallback(call @ (FlbCall::Unpreserve | FlbCall::Finish), p) => {
            destroyed(state, scene, court, *call, p)
        }
        Body::FlbPreserve(p) => {
            for (i, flb) in state.flbs.iter() {
                if flb.relation(scene.handler) == Relation::UsesNot {
                    continue;
                }
                if p.outcome.is_ok() {
                    court.clear(Waits::User(i));
                } else if !left_over(state, scene).any(|flb| flb == i) {
                    unused(scene, court, i, flb, 0, 0);
                }
            }
        }
        Body::FlbGet(p) if p.outcome.is_ok() && p.direction == OUTGOING => {
            if let Some((i, _)) = state.flbs.get(p.flb) {
                court.clear(Waits::User(i));
            }
        }
        Body::FlbPut(p) if p.direction == OUTGOING => {
            if let Some((i, flb)) = state.flbs.get(p.flb) {
                unused(scene, court, i, flb, 0, 1);
            }
        }
        Body::FlbUnpreserve(_) => state.flbs.iter().for_each(|(i, flb)| user_left(scene, court, i, flb)),
        Body::FlbFinish(_) => {
            for (_, flb) in state.flbs.iter() {
                used_after(scene, court, flb, Direction::Incoming);
            }
        }
        _ if scene.serialized() => state.flbs.iter().for_each(|(i, flb)| serialized(scene, court, i, flb)),
        _ => {}
    }
}

fn destroyed(state: &State, scene: &Scene, court: &mut Court, call: FlbCall, p: &FlbCallback) {
    let direction = flbs::direction(call);
    if let (Direction::Outgoing, Some((i, _))) = (direction, state.flbs.get(p.flb)) {
        court.clear(Waits::User(i));
    }
    let mut violate = |expected, seen: String, evidence: &[EventId]| {
        let object = Subject::Flb {
            direction,
            name: p.name,
        };
        court.violate(scene.finding(Invariant::FlbDestroyOnLast, object, expected, seen, evidence));
    };
    let life = life(state, scene, p, direction);
    match life {
        Life::Dead(_, gone) => violate("it is destroyed once", "it was destroyed again".into(), &[gone]),
        _ if in_use(p.users) => violate(
            "it is destroyed after its last user",
            format!("it was destroyed when the kernel counted {} users", p.users),
            &[],
        ),
        Life::Unknown if p.users != 0 => court.undecidable(Invariant::FlbDestroyOnLast),
        _ => court.hold(Invariant::FlbDestroyOnLast),
    }
    if direction == Direction::Outgoing && matches!(life, Life::Alive(..)) {
        court.unopen(Invariant::FlbDestroyOnLast);
    }
}

/// A file that began to leave after the global state was destroyed had still been using it.
fn used_after(scene: &Scene, court: &mut Court, flb: &Flb, direction: Direction) {
    if flb.relation(scene.handler) == Relation::Uses
        && let Life::Dead(at, gone) = flb.side(direction).life(scene.moment.epoch)
        && scene.moment.start.is_some_and(|start| start > at)
    {
        court.violate(scene.finding(
            Invariant::FlbDestroyOnLast,
            subject(direction, flb),
            "it is destroyed after its last user",
            "a file left it after it was destroyed",
            &[gone],
        ));
    }
}

/// With its last user the state must go; where it does not, a preserve under way may be the reason.
fn user_left(scene: &Scene, court: &mut Court, i: usize, flb: &Flb) {
    used_after(scene, court, flb, Direction::Outgoing);
    let Life::Alive(since, _) = flb.outgoing.life(scene.moment.epoch) else {
        return;
    };
    if flb.relation(scene.handler) == Relation::UsesNot {
        return;
    }
    match scene.moment.start {
        None => {
            court.clear(Waits::User(i));
            court.unopen(Invariant::FlbDestroyOnLast);
            court.undecidable(Invariant::FlbDestroyOnLast);
        }
        Some(start) if start >= since => unused(scene, court, i, flb, flb.users(scene.handler).min(1), 0),
        Some(_) => {}
    }
}

/// Suspects global state that is there although no file uses it when so many files leave and so many references are given back.
fn unused(scene: &Scene, court: &mut Court, i: usize, flb: &Flb, leaving: u64, putting: u64) {
    let Life::Alive(_, made) = flb.outgoing.life(scene.moment.epoch) else {
        return;
    };
    let referenced = flb.references(Direction::Outgoing).held(scene.moment.epoch) > putting;
    if flb.possible_users() > leaving || referenced || !court.sees(Hook::FlbGetOutgoing) {
        return;
    }
    if court.suspects(Waits::User(i)) {
        return;
    }
    court.unopen(Invariant::FlbDestroyOnLast);
    let finding = scene.finding(
        Invariant::FlbDestroyOnLast,
        subject(Direction::Outgoing, flb),
        "it is destroyed with its last user",
        "its last user left, and it is still there",
        &[made],
    );
    court.suspect(Waits::User(i), scene.moment.at, finding);
}

/// No file comes or goes while the kernel serializes: what exists is used, and what is used exists.
fn serialized(scene: &Scene, court: &mut Court, i: usize, flb: &Flb) {
    let (seen, evidence) = match flb.outgoing.life(scene.moment.epoch) {
        Life::Alive(_, made) => {
            court.clear(Waits::User(i));
            court.unopen(Invariant::FlbDestroyOnLast);
            let references = flb.references(Direction::Outgoing).held(scene.moment.epoch);
            if flb.possible_users() > 0 || references > 0 || !court.sees(Hook::FlbGetOutgoing) {
                return court.hold(Invariant::FlbDestroyOnLast);
            }
            ("it went into the next kernel without a user".into(), made)
        }
        Life::Dead(_, gone) if flb.certain_users() > 0 && flb.is_counted(scene.moment.epoch) => (
            format!("it was destroyed, and {} files still used it", flb.certain_users()),
            gone,
        ),
        _ => return,
    };
    court.violate(scene.finding(
        Invariant::FlbDestroyOnLast,
        subject(Direction::Outgoing, flb),
        "it is destroyed with its last user",
        seen,
        &[evidence],
    ));
}

/// States that this task made, in the joining that ends now, and that are still there.
fn left_over<'a>(state: &'a State, scene: &Scene) -> impl Iterator<Item = usize> + 'a {
    let since = scene.moment.start.unwrap_or(u64::MAX);
    let parts = state.tasks.parts(scene.event);
    parts
        .into_iter()
        .flat_map(move |parts| parts.left_over(since))
        .map(|step| step.flb)
}

/// A joining that failed must undo the states that it made. Where one is still there, another file may have joined it.
pub(super) fn rollback(state: &State, scene: &Scene, court: &mut Court) {
    const ROLLBACK: Invariant = Invariant::FlbRollback;
    match &scene.event.body {
        Body::FlbPreserve(p) if p.outcome.is_ok() => {
            for (i, flb) in state.flbs.iter() {
                if flb.relation(scene.handler) != Relation::UsesNot {
                    court.clear(Waits::Joiner(i));
                }
            }
        }
        // A driver's reference may be what keeps it.
        Body::FlbPreserve(_) if !court.sees(Hook::FlbGetOutgoing) => court.undecidable(ROLLBACK),
        Body::FlbPreserve(_) => {
            let mut well = true;
            for i in left_over(state, scene) {
                let Some((i, flb)) = state.flbs.iter().nth(i) else {
                    continue;
                };
                let Life::Alive(_, made) = flb.outgoing.life(scene.moment.epoch) else {
                    continue;
                };
                if flb.possible_users() > 0 || flb.references(Direction::Outgoing).held(scene.moment.epoch) > 0 {
                    continue;
                }
                well = false;
                let finding = scene.finding(
                    ROLLBACK,
                    subject(Direction::Outgoing, flb),
                    "it is taken down when another one of the handler's cannot be made",
                    "it is still there, and no file uses it",
                    &[made],
                );
                court.suspect(Waits::Joiner(i), scene.moment.at, finding);
            }
            match scene.moment.whole {
                _ if !well => {}
                true => court.hold(ROLLBACK),
                false => court.undecidable(ROLLBACK),
            }
        }
        Body::FlbCallback(FlbCall::Unpreserve, p) => {
            if let Some((i, _)) = state.flbs.get(p.flb) {
                court.clear(Waits::Joiner(i));
            }
        }
        Body::FlbGet(p) if p.outcome.is_ok() && p.direction == OUTGOING => {
            if let Some((i, _)) = state.flbs.get(p.flb) {
                court.clear(Waits::Joiner(i));
            }
        }
        _ => {}
    }
}
