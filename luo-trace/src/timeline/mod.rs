//! One update over two kernels: what happened when, on one axis of time.
//!
//! [`Timeline::of`] lays the boots of a chain side by side. Pure: times arrive in events and in the clock correlations of
//! the journals' headers.

mod axis;

pub use axis::{Axis, Basis};

use crate::chain::{Boot, Chain};

/// A stretch of the update, from one known moment to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What goes on in it.
    pub name: &'static str,
    /// Nanoseconds on the common axis.
    pub start: i128,
    /// Nanoseconds on the common axis.
    pub end: i128,
}

impl Phase {
    /// How long it took, in nanoseconds.
    pub fn duration(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(0)
    }
}

/// The first update of a chain: the kernel that left, and, where there is a record of it, the kernel that arrived.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The common axis, one place for each boot.
    pub axis: Axis,
    /// Adjacent phases. One whose beginning or end is not known is missing.
    pub phases: Vec<Phase>,
    /// How long guests had no service: from the beginning of the freeze to the last file brought back, in nanoseconds.
    /// `None` where either moment is not known.
    pub blackout: Option<u64>,
}

impl Timeline {
    /// Lays the boots of a chain side by side.
    pub fn of(chain: &Chain) -> Self {
        let boots = &chain.boots;
        let axis = Axis::of(&boots.iter().map(|boot| boot.clock).collect::<Vec<_>>());
        let phases = phases(boots, &axis);
        let blackout = blackout(boots, &axis, &phases);
        Self { axis, phases, blackout }
    }
}

fn blackout(boots: &[Boot], axis: &Axis, phases: &[Phase]) -> Option<u64> {
    let freeze = phases.iter().find(|phase| phase.name == FREEZE)?;
    let retrieved = boots.get(1)?.last_retrieve?;
    u64::try_from(axis.at(1, retrieved) - freeze.start).ok()
}

const FREEZE: &str = "freeze";

/// The phases between the moments of an update. A moment that is not known leaves out the phases on both its sides.
fn phases(boots: &[Boot], axis: &Axis) -> Vec<Phase> {
    let Some(before) = boots.first() else { return Vec::new() };
    let at = |boot: usize, time: Option<u64>| time.map(|time| axis.at(boot, time));
    let mut moments = vec![
        ("preserve", at(0, before.first_create)),
        ("arm", at(0, before.last_preserve)),
        (FREEZE, at(0, before.freeze.map(|freeze| freeze.start))),
        ("jump", at(0, before.freeze.map(|freeze| freeze.end))),
    ];
    if let Some(after) = boots.get(1).filter(|_| before.freeze.is_some_and(|freeze| freeze.ok)) {
        moments.extend([
            ("boot", at(1, Some(0))),
            ("attach", at(1, Some(after.started))),
            ("wait", at(1, Some(after.attached))),
            ("deserialize", at(1, after.deserialize.map(|span| span.start))),
            ("retrieve", at(1, after.deserialize.map(|span| span.end))),
            ("finish", at(1, after.last_retrieve)),
            ("after", at(1, after.last_finish)),
        ]);
    }
    let phase = |pair: &[(&'static str, Option<i128>)]| {
        Some(Phase {
            name: pair[0].0,
            start: pair[0].1?,
            end: pair[1].1?,
        })
        .filter(|phase| phase.end >= phase.start)
    };
    moments.windows(2).filter_map(phase).collect()
}

#[cfg(test)]
mod tests;
