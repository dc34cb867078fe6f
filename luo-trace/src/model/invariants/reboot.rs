//! Invariants of the freeze and the jump: `kernel/liveupdate/luo_core.c` and `kernel/kexec_core.c` (7.3).

use super::super::court::Court;
use super::super::finding::Subject;
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
