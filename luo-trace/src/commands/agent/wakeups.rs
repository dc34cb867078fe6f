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

/// How long the ring is left alone after it called: an operation sends several events, and looking at them costs as much as looking at
/// one.
const HOLD: Duration = Duration::from_millis(1);
/// How many records are more than what one operation sends.
const MANY: usize = 32;

/// When the ring is looked at without being called: a moment after it called, and some milliseconds after much was in it, for as long
/// as there is.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: Option<Instant>,
    hushed: bool,
    /// An event that must not wait may be on its way until then.
    alert: Option<Instant>,
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

    /// The ring called: something is in it.
    pub(super) fn called(&mut self, ring: &mut Ring, pipeline: &mut Pipeline) {
        let urgent = ring.hush(true);
        if self.holds(urgent, Instant::now()) {
            return;
        }
        self.attend(ring, pipeline);
    }

    /// Empties the ring, and rests.
    pub(super) fn attend(&mut self, ring: &mut Ring, pipeline: &mut Pipeline) {
        // First the hush ends: what comes while the ring is emptied is seen or calls.
        let urgent = ring.hush(false);
        let records = pipeline.drain(ring);
        if pipeline.jump_is_near() {
            watch(ring, pipeline);
        }
        let now = Instant::now();
        if urgent {
            self.alert = Some(now + REST);
        }
        self.begin(records, ring.is_empty(), now);
        if self.hushed && ring.hush(true) {
            self.alert = Some(now + REST);
        }
    }

    /// Whether a call can wait for more. In a hush only what cannot wait calls.
    fn holds(&mut self, urgent: bool, now: Instant) -> bool {
        if urgent {
            self.alert = Some(now + REST);
        }
        let holds = !self.hushed && self.alert.is_none_or(|until| now >= until);
        if holds {
            self.until = Some(now + HOLD);
            self.hushed = true;
        }
        holds
    }

    /// Rests in a hush where much was in the ring. Where something still is, such as an event that was begun in a hush and does not know
    /// that it is over, one more look follows.
    fn begin(&mut self, records: usize, empty: bool, now: Instant) {
        self.hushed = records >= MANY;
        self.until = (self.hushed || !empty).then(|| now + REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_alone_is_looked_at_once() {
        // Given a ring at which no task looks before it calls,
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(!rest.is_on());
        // when it calls, then it is left alone for a moment, in which the operation's other events need not call.
        assert!(rest.holds(false, now));
        assert_eq!((rest.until, rest.hushed), (Some(now + HOLD), true));
        // When it was emptied, then events call again.
        rest.begin(12, true, now);
        assert_eq!((rest.until, rest.hushed), (None, false));
    }

    #[test]
    fn an_event_that_was_begun_in_a_hush_is_looked_for_once_more() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        rest.holds(false, now);
        rest.begin(12, false, now);
        assert_eq!((rest.until, rest.hushed), (Some(now + REST), false));
        rest.begin(1, true, now);
        assert_eq!((rest.until, rest.hushed), (None, false));
    }

    #[test]
    fn the_ring_is_looked_at_in_a_hush_as_long_as_much_is_in_it() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        rest.holds(false, now);
        for _ in 0..2 {
            rest.begin(MANY, true, now);
            assert_eq!((rest.until, rest.hushed), (Some(now + REST), true));
        }
        rest.begin(1, true, now);
        assert_eq!((rest.until, rest.hushed), (None, false));
    }

    #[test]
    fn what_cannot_wait_is_not_held() {
        // Given a ring that calls for an event that cannot wait, then it is looked at.
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(!rest.holds(true, now));
        // Where that event was not in it yet, and calls again, then so, too.
        rest.begin(1, true, now);
        assert!(!rest.holds(false, now + HOLD));
        assert!(rest.holds(false, now + REST));
        // In a hush only such an event calls.
        assert!(!rest.holds(false, now + REST));
    }
}
