//! Live updates on one axis of time: what happened when, how long it took, and how long guests had no service.
//!
//! [`Timeline::of`] lays the boots of a chain side by side. Pure: times arrive in events and in the clock readings of the
//! journals.

mod axis;
mod phases;

pub use axis::{Axis, Basis, Link};
pub use phases::{PHASES, Phase};

use crate::chain::{Boot, Chain, SessionLine, Sessions, Span, Update};

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
        let to = side(update.to).map(|(place, boot)| Handover::of(place, boot));
        let from = side(update.from).map(|(place, boot)| Departure::of(place, boot, update.attempt));
        let frozen = from
            .as_ref()
            .and_then(|from| Some(axis.at(from.place, from.freeze?.start)));
        let retrieved = to.as_ref().and_then(|to| Some(axis.at(to.place, to.retrieved?)));
        Self {
            link: update.from.zip(update.to).map(|(from, to)| axis.link(from, to)),
            phases: phases::between(&moments(axis, from.as_ref(), to.as_ref())),
            blackout: frozen
                .zip(retrieved)
                .and_then(|(from, to)| u64::try_from(to - from).ok()),
            last_heard: from.and_then(|from| Some(axis.at(from.place, from.last_heard?))),
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

/// How long one session had no service: from the freeze of its files to the last of them brought back, in nanoseconds. Each
/// side is the boot's place in the chain, and what it knows of the session. `None` where either moment is not known.
pub fn blackout(axis: &Axis, left: (usize, &SessionLine), came: (usize, &SessionLine)) -> Option<u64> {
    let frozen = left.1.frozen.filter(|freeze| freeze.ok)?;
    let last = came
        .1
        .files
        .values()
        .filter_map(|file| Some(file.retrieve?.end))
        .max()?;
    u64::try_from(axis.at(came.0, last) - axis.at(left.0, frozen.start)).ok()
}

/// What one kernel's record tells of its leaving, on its own clock.
struct Departure {
    place: usize,
    created: Option<u64>,
    preserved: Option<u64>,
    loaded: Option<u64>,
    freeze: Option<Span>,
    /// The last sign of life after LUO had frozen everything.
    last_heard: Option<u64>,
}

impl Departure {
    fn of(place: usize, boot: &Boot, attempt: Option<usize>) -> Self {
        let freeze = attempt.and_then(|attempt| boot.attempts.get(attempt)?.reboot);
        // Later attempts have stamps of their own.
        let before = |time: Option<u64>| time.filter(|&time| freeze.is_none_or(|freeze| time <= freeze.start));
        // Sessions that were closed without a live update are no part of it.
        let sessions = || others(&boot.outgoing);
        let files = sessions().flat_map(|session| session.files.values());
        let preserved = before(files.filter_map(|file| Some(file.preserve?.end)).max());
        let departed = freeze.filter(|freeze| freeze.ok);
        let heard = boot.late_clock.map_or(0, |clock| clock.monotonic_ns).max(boot.latest);
        Self {
            place,
            created: before(sessions().filter_map(|session| session.created).min()),
            preserved,
            // What is preserved after the image was loaded puts off the end of the loading, as it were.
            loaded: before(boot.armed.max(preserved)).filter(|_| boot.armed.is_some()),
            freeze,
            last_heard: departed.and_then(|freeze| Some(heard).filter(|&heard| heard > freeze.end)),
        }
    }
}

/// What the next kernel's record tells of its coming, on its own clock.
struct Handover<'a> {
    place: usize,
    boot: &'a Boot,
    /// When the last file was brought back.
    retrieved: Option<u64>,
    /// When the last session was finished.
    finished: Option<u64>,
}

impl<'a> Handover<'a> {
    fn of(place: usize, boot: &'a Boot) -> Self {
        let files = others(&boot.incoming).flat_map(|session| session.files.values());
        Self {
            place,
            boot,
            retrieved: files.filter_map(|file| Some(file.retrieve?.end)).max(),
            finished: others(&boot.incoming).filter_map(|session| session.finished).max(),
        }
    }
}

/// The sessions that a host's guests live in: all but the recorder's own.
fn others(sessions: &Sessions) -> impl Iterator<Item = &SessionLine> {
    sessions.iter().filter(|session| !session.is_own())
}

/// When each of [`PHASES`] began, and when the last of them ended, as far as that is known.
fn moments(axis: &Axis, from: Option<&Departure>, to: Option<&Handover>) -> [Option<i128>; PHASES.len() + 1] {
    let before = |pick: fn(&Departure) -> Option<u64>| from.and_then(|from| Some(axis.at(from.place, pick(from)?)));
    let after = |pick: fn(&Handover) -> Option<u64>| to.and_then(|to| Some(axis.at(to.place, pick(to)?)));
    [
        before(|from| from.created),
        before(|from| from.preserved),
        before(|from| from.loaded),
        before(|from| Some(from.freeze?.start)),
        before(|from| Some(from.freeze?.end)),
        match to {
            Some(_) => after(|_| Some(0)),
            None => before(|from| from.last_heard),
        },
        after(|to| to.boot.userspace),
        after(|to| known(to.boot.started)),
        after(|to| known(to.boot.attached)),
        after(|to| Some(to.boot.deserialize?.start)),
        after(|to| Some(to.boot.deserialize?.end)),
        after(|to| to.retrieved),
        after(|to| to.finished),
    ]
}

/// A time of the header; 0: not known.
fn known(time: u64) -> Option<u64> {
    Some(time).filter(|&time| time > 0)
}

#[cfg(test)]
mod tests;
