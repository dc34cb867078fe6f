//! Live updates on one axis of time: what happened when, how long it took, and how long guests had no service.
//!
//! [`Timeline::of`] lays the boots of a chain side by side. Pure: times arrive in events and in the clock readings of the
//! journals.

mod axis;
mod phases;

pub use axis::{Axis, Basis, Link};
pub use phases::{PHASES, Phase};

use crate::chain::{Boot, Chain, Update};

/// The live updates of a chain on one axis of time.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// The common axis, one place for each boot.
    pub axis: Axis,
    /// The course of each of [`Chain::updates`].
    pub updates: Vec<Course>,
}

/// The course of one live update.
#[derive(Clone, Debug)]
pub struct Course {
    /// How the times of both kernels are compared; `None` where there is a record of one only.
    pub link: Option<Link>,
    /// Adjacent phases: each begins where the one before it ends, and together they are the whole.
    pub phases: Vec<Phase>,
    /// How long guests had no service: from the beginning of the freeze to the last file brought back, in nanoseconds.
    /// `None` where either moment is not known.
    pub blackout: Option<u64>,
    /// When the kernel that left was last heard of after its freeze, in nanoseconds on the axis: the jump came later.
    /// `None` where nothing was heard.
    pub last_heard: Option<i128>,
}

impl Timeline {
    /// Lays the boots of a chain side by side.
    pub fn of(chain: &Chain) -> Self {
        let axis = Axis::of(&chain.boots);
        let updates = chain.updates.iter();
        let updates = updates.map(|update| Course::of(chain, update, &axis)).collect();
        Self { axis, updates }
    }
}

impl Course {
    fn of(chain: &Chain, update: &Update, axis: &Axis) -> Self {
        let side = |place: Option<usize>| Some((place?, chain.boots.get(place?)?));
        let (from, to) = (side(update.from), side(update.to));
        let frozen = from.and_then(|(place, boot)| Some(axis.at(place, boot.freeze?.start)));
        let retrieved = to.and_then(|(place, boot)| Some(axis.at(place, boot.last_retrieve?)));
        Self {
            link: from.zip(to).map(|((from, _), (to, _))| axis.link(from, to)),
            phases: phases::between(&moments(axis, from, to)),
            blackout: frozen
                .zip(retrieved)
                .and_then(|(from, to)| u64::try_from(to - from).ok()),
            last_heard: from.and_then(|(place, boot)| last_heard(axis, place, boot)),
        }
    }

    /// How long the phase of this name took, in nanoseconds; `None` where its beginning or its end is not known.
    pub fn phase(&self, name: &str) -> Option<u64> {
        let mut phases = self.phases.iter();
        phases.find(|phase| phase.is(name)).map(Phase::duration)
    }

    /// From the first known moment to the last one, in nanoseconds.
    pub fn whole(&self) -> Option<u64> {
        let (first, last) = (self.phases.first()?, self.phases.last()?);
        u64::try_from(last.end - first.start).ok()
    }
}

/// The last sign of life of a kernel after it froze everything for the jump.
fn last_heard(axis: &Axis, place: usize, boot: &Boot) -> Option<i128> {
    let freeze = boot.freeze.filter(|freeze| freeze.ok)?;
    let heard = boot.late_clock.map(|clock| clock.monotonic_ns);
    let heard = heard.filter(|&time| time > freeze.end)?;
    Some(axis.at(place, heard))
}

/// When each of [`PHASES`] began, and when the last of them ended, as far as that is known.
fn moments(axis: &Axis, from: Option<(usize, &Boot)>, to: Option<(usize, &Boot)>) -> [Option<i128>; PHASES.len() + 1] {
    let before = |pick: fn(&Boot) -> Option<u64>| from.and_then(|(place, boot)| Some(axis.at(place, pick(boot)?)));
    let after = |pick: fn(&Boot) -> Option<u64>| to.and_then(|(place, boot)| Some(axis.at(place, pick(boot)?)));
    let jump = match (from, to) {
        (_, Some(_)) => after(|_| Some(0)),
        (Some((place, boot)), None) => last_heard(axis, place, boot),
        (None, None) => None,
    };
    let attached = |boot: &Boot| Some(boot.attached).filter(|&time| time > 0);
    [
        before(|boot| boot.first_create),
        before(|boot| boot.last_preserve),
        before(|boot| boot.last_preserve),
        before(|boot| Some(boot.freeze?.start)),
        before(|boot| Some(boot.freeze?.end)),
        jump,
        after(|boot| boot.userspace),
        after(|boot| Some(boot.started).filter(|&time| time > 0)),
        after(attached),
        after(|boot| Some(boot.deserialize?.start)),
        after(|boot| Some(boot.deserialize?.end)),
        after(|boot| boot.last_retrieve),
        after(|boot| boot.last_finish),
    ]
}

#[cfg(test)]
mod tests;
