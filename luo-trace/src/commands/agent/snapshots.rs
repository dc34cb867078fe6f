//! When snapshots of LUO's lists are taken.

use crate::agent::pipeline::Pipeline;
use crate::kernel::{Ring, Tracer};
use crate::sink::log::tell;

/// How many ticks to wait at most, after walks over LUO's lists that were disturbed, before the next try.
const LONGEST_WAIT: u32 = 64;

/// Reads what the previous kernel left, before anybody reads it in.
pub(super) fn handover(tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) {
    let result = tracer.handover(|| {
        pipeline.drain(ring);
        !pipeline.jump_is_near()
    });
    if let Err(error) = result {
        tell(format_args!(
            "what the previous kernel left is not known before it is read in: {error:#}"
        ));
    }
}

/// When snapshots of LUO's lists are taken: at first, at last, on SIGUSR1, and whenever the model may have lost sight of them.
pub(super) struct Snapshots {
    possible: bool,
    /// How many ticks there are to the next try, and how many there were.
    left: u32,
    wait: u32,
}

impl Snapshots {
    /// Takes the first one.
    pub(super) fn begin(tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) -> Self {
        let mut snapshots = Self {
            possible: true,
            left: 0,
            wait: 1,
        };
        snapshots.take(tracer, ring, pipeline);
        snapshots
    }

    /// Takes one now. Where it cannot be done that is told once, and nothing else suffers.
    pub(super) fn take(&mut self, tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) {
        if !self.possible || pipeline.jump_is_near() {
            return;
        }
        let result = tracer.snapshot(|| {
            pipeline.drain(ring);
            !pipeline.jump_is_near()
        });
        if let Err(error) = result {
            self.possible = false;
            tell(format_args!(
                "what began before the agent is not known, since LUO's lists cannot be walked: {error:#}"
            ));
        }
        self.wait = match pipeline.picture_is_whole() {
            true => 1,
            false => (self.wait * 2).min(LONGEST_WAIT),
        };
        self.left = self.wait;
    }

    /// Time passes: takes another where that is due.
    pub(super) fn tick(&mut self, tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 && !pipeline.picture_is_whole() {
            self.take(tracer, ring, pipeline);
        }
    }
}
