//! Whether the kernel to jump into can carry what is preserved: `kernel/liveupdate/kexec_handover.c` (7.3).

use luo_trace_common::events::{self as abi, Image};

use super::super::court::Court;
use super::super::finding::Subject;
use super::super::images::Carries;
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::{Body, EventId};

const CARRIER: Invariant = Invariant::KexecCarrier;

/// Judged when an image is loaded while sessions exist, and when everything is serialized: no session can come or go then.
/// A reboot without an image fails, and nothing is lost.
pub(super) fn carrier(state: &State, scene: &Scene, court: &mut Court) {
    let sessions = || state.outgoing().count();
    match &scene.event.body {
        Body::ImageLoad(p) if p.outcome.is_ok() && p.image.mode != abi::IMAGE_NONE => {
            if let Carries::No(why, events) = state.images.carries(&p.image)
                && sessions() > 0
            {
                violate(scene, court, sessions(), &why, &events);
            }
        }
        _ if !scene.serialized() => {}
        _ if sessions() == 0 => court.hold(CARRIER),
        _ => match state.images.entering() {
            Some((image, entered)) => entering(state, scene, court, sessions(), &image, entered),
            None => court.undecidable(CARRIER),
        },
    }
}

fn entering(state: &State, scene: &Scene, court: &mut Court, sessions: usize, image: &Image, entered: EventId) {
    match state.images.carries(image) {
        Carries::No(..) if state.images.was_told(image) => {}
        Carries::No(why, mut events) => {
            events.push(entered);
            violate(scene, court, sessions, &why, &events);
        }
        Carries::Unknown => court.undecidable(CARRIER),
        Carries::Yes => court.hold(CARRIER),
    }
}

fn violate(scene: &Scene, court: &mut Court, sessions: usize, why: &str, events: &[EventId]) {
    court.violate(scene.finding(
        CARRIER,
        Subject::Update,
        "the image to jump into takes what is preserved",
        format!("{why}, and {sessions} sessions exist"),
        events,
    ));
}
