//! Invariants of the reboot: `kernel/liveupdate/luo_core.c` and `kernel/kexec_core.c` (7.3).

use super::super::counts::Direction;
use super::super::court::Court;
use super::super::finding::Subject;
use super::super::objects::Session;
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::Body;

pub(super) fn no_return(state: &State, scene: &Scene, court: &mut Court) {
    let Some(frozen) = state.frozen else {
        if matches!(&scene.event.body, Body::LiveupdateReboot(p) if p.outcome.is_ok()) {
            court.open(Invariant::FreezeNoReturn);
        }
        return;
    };
    if !frozen.is_broken_by(scene.event) {
        return;
    }
    if state.is_undone_by(scene.event) {
        court.close(Invariant::FrozenImmutable);
        return court.close(Invariant::FreezeNoReturn);
    }
    court.unopen(Invariant::FreezeNoReturn);
    let seen = match scene.event.body {
        Body::KexecReturn(_) => "kernel_kexec returned to its caller".into(),
        _ => format!(
            "{} began after it, by \"{}\"",
            scene.event.name(),
            scene.event.header.comm
        ),
    };
    court.violate(scene.finding(
        Invariant::FreezeNoReturn,
        Subject::Update,
        "only the jump follows a successful liveupdate_reboot",
        seen,
        &[frozen.id],
    ));
}

/// Judged when everything is serialized: finishing needs a lock that is held then.
pub(super) fn incoming_finished_first(state: &State, scene: &Scene, court: &mut Court) {
    const FIRST: Invariant = Invariant::IncomingFinishedFirst;
    if !scene.serialized() {
        return;
    }
    let expected = "every incoming session is finished before the next update";
    if let Some((walk, epoch)) = state.unread
        && scene.knows(epoch)
    {
        let seen = "no process has even read in the previous kernel's sessions";
        return court.violate(scene.finding(FIRST, Subject::Update, expected, seen, &[walk]));
    }
    let unfinished =
        |s: &&Session| s.direction == Direction::Incoming && scene.knows(s.epoch) && s.is_unfinished() && !s.broken;
    let mut left: Vec<_> = state.sessions().filter(unfinished).collect();
    left.sort_by_key(|s| (s.name, s.serial));
    match left.first() {
        Some(first) => {
            let seen = format!("{} are unfinished, among them \"{}\"", left.len(), first.name);
            court.violate(scene.finding(FIRST, Subject::Update, expected, seen, &[first.origin]));
        }
        None if state.is_listed() => court.hold(FIRST),
        None => court.undecidable(FIRST),
    }
}
