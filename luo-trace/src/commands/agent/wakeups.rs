//! When the ring is emptied.

use std::time::{Duration, Instant};

use crate::agent::pipeline::Pipeline;
use crate::kernel::Ring;

/// How long the ring is watched without rest once the machine is about to jump: the jump comes within this time, or not
/// at all.
const WATCH: Duration = Duration::from_secs(5);
/// How long the ring is left alone after it was emptied: a wake-up for each event costs more than anything else here.
const REST: Duration = Duration::from_millis(5);

/// The machine is about to jump: every microsecond counts until it does, and nothing else here matters any more.
pub(super) fn watch(ring: &mut Ring, pipeline: &mut Pipeline) {
    let deadline = Instant::now() + WATCH;
    while pipeline.jump_is_near() && Instant::now() < deadline {
        pipeline.drain(ring);
        std::thread::yield_now();
    }
}

/// When the ring is looked at without being called: some milliseconds after something was in it, for as long as there is.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: Option<Instant>,
    hushed: bool,
}

impl Rest {
    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    pub(super) async fn over(&self) {
        if let Some(until) = self.until {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Empties the ring, and rests.
    pub(super) fn attend(&mut self, ring: &mut Ring, pipeline: &mut Pipeline) {
        // First the hush ends: what comes while the ring is emptied is seen or calls.
        ring.hush(false);
        let busy = pipeline.drain(ring);
        if pipeline.jump_is_near() {
            watch(ring, pipeline);
        }
        self.begin(busy, Instant::now());
        ring.hush(self.hushed);
    }

    /// Rests in a hush where something was in the ring. Where nothing was, one more look follows, for an event that was sent
    /// in a hush which was over.
    pub(super) fn begin(&mut self, busy: bool, now: Instant) {
        self.until = (busy || self.hushed).then(|| now + REST);
        self.hushed = busy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_looked_at_until_it_was_empty_twice() {
        // Given a ring at which no task looks before it calls,
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(!rest.is_on());
        // when something is in it, then events need not call while it rests,
        for _ in 0..2 {
            rest.begin(true, now);
            assert_eq!((rest.until, rest.hushed), (Some(now + REST), true));
        }
        // and when nothing is, then they must, and one more look follows.
        rest.begin(false, now);
        assert_eq!((rest.until, rest.hushed), (Some(now + REST), false));
        rest.begin(false, now);
        assert_eq!((rest.until, rest.hushed), (None, false));
    }
}
