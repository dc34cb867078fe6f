//! Plays a plan.

use super::super::plan::Plan;
use super::{Kernel, Left, Lists};
use crate::event::Event;

impl Plan {
    /// The record of this plan.
    pub fn run(&self) -> Vec<Event> {
        Kernel::new(self).run().0
    }

    /// The record of this plan, and what left for the next kernel, where it reboots.
    pub fn run_and_leave(&self) -> (Vec<Event>, Option<Left>) {
        let (events, kernel) = Kernel::new(self).run();
        (events, kernel.left)
    }

    /// The record of this plan, with a walk over the lists at its end, when all is quiet; where in the record that begins,
    /// and what is there.
    pub fn run_with_snapshot(&self) -> (Vec<Event>, usize, Lists) {
        let (mut events, kernel) = Kernel::new(self).run();
        let walk = events.len();
        let lists = kernel.snapshot_at_end(&mut events);
        (events, walk, lists)
    }
}
