//! Whether the kernel to jump into can carry what is preserved: `kernel/liveupdate/kexec_handover.c` (7.3).

use luo_trace_common::events::{self as abi, Image, VERDICT_CARRIES};

use super::super::court::Court;
use super::super::finding::{Finding, Subject};
use super::super::images::{Carries, Looked};
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::{Body, EventId};

const CARRIER: Invariant = Invariant::KexecCarrier;
const TARGET: Invariant = Invariant::TargetCompatible;

/// Judged when an image is loaded, or was looked into, while sessions exist, and when everything is serialized: no session
/// can come or go then. A reboot without an image fails, and nothing is lost.
pub(super) fn carrier(state: &State, scene: &Scene, court: &mut Court) {
    let sessions = || state.outgoing().count();
    match &scene.event.body {
        Body::ImageLoad(p) if p.outcome.is_ok() && p.image.mode != abi::IMAGE_NONE => {
            // One that is still there was told of: only a crash image was loaded.
            if let Carries::No(why, events) = state.images.carries(&p.image)
                && sessions() > 0
                && !state.images.was_told(&p.image)
            {
                violate(scene, court, sessions(), &why, &events);
            }
        }
        Body::ImageVerdict(p) => {
            if let Some((why, image, load)) = state.images.line_fails(p)
                && sessions() > 0
                && !state.images.was_told(image)
            {
                court.violate(breach(scene, CARRIER, sessions(), &why, load));
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
    court.violate(finding(scene, CARRIER, sessions, why, events));
}

fn finding(scene: &Scene, invariant: Invariant, sessions: usize, why: &str, events: &[EventId]) -> Finding {
    scene.finding(
        invariant,
        Subject::Update,
        "the image to jump into takes what is preserved",
        format!("{why}, and {sessions} sessions exist"),
        events,
    )
}

/// The same where the agent's own record tells, which is no event that one could look for: the load stands for it.
fn breach(scene: &Scene, invariant: Invariant, sessions: usize, why: &str, load: EventId) -> Finding {
    Finding {
        evidence: vec![load.into()],
        ..finding(scene, invariant, sessions, why, &[])
    }
}

/// Judged when the agent has looked into an image that is loaded while sessions exist, and when everything is serialized.
/// Where no agent looked in time, the next kernel will tell.
pub(super) fn target(state: &State, scene: &Scene, court: &mut Court) {
    let sessions = || state.outgoing().count();
    match &scene.event.body {
        Body::ImageVerdict(p) => {
            if let Some(looked) = state.images.look(p)
                && looked.fails()
                && sessions() > 0
                && !state.images.is_found_incompatible()
            {
                court.violate(breach(scene, TARGET, sessions(), &looked.why(), looked.load));
            }
        }
        _ if !scene.serialized() => {}
        _ => {
            if let Some((image, entered)) = state.images.entering()
                && let Some(looked) = state.images.looked(&image)
            {
                jumping(state, scene, court, looked, entered);
            }
        }
    }
}

fn jumping(state: &State, scene: &Scene, court: &mut Court, looked: &Looked, entered: EventId) {
    let sessions = state.outgoing().count();
    match looked.outcome {
        _ if sessions == 0 => court.hold(TARGET),
        VERDICT_CARRIES if looked.tells_of(state.counts().handlers_in_use()) => court.hold(TARGET),
        // Another handler came into use so late that no agent looked for it: the next kernel will tell.
        VERDICT_CARRIES => {}
        _ if !looked.fails() => court.undecidable(TARGET),
        _ if state.images.is_found_incompatible() => {}
        _ => court.violate(finding(scene, TARGET, sessions, &looked.why(), &[looked.load, entered])),
    }
}
