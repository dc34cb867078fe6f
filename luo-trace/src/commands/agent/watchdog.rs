//! When the service manager is told that the agent lives.

use std::time::{Duration, Instant};

/// Whether every thread that matters goes on. The one that asks empties the ring, judges and keeps the policy's programs told, so
/// that it is alive; what is left is the thread of the journal.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// How long there may be between two beats: half of what the service manager waits for one.
    every: Duration,
    last: Option<Instant>,
    /// How much the journal's thread was done with when it was last looked at.
    done: Option<u64>,
}

impl Watchdog {
    /// One for a service manager that waits so long for a beat.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            every: patience / 2,
            last: None,
            done: None,
        }
    }

    /// Whether it is time for a beat, and may be beaten: the journal's thread, where there is one, has done something since this was
    /// last asked. What it did before that, though after the last beat, says nothing of it now: a beat for that would come
    /// up to half of the manager's patience after the thread was stuck, and the manager would wait as much longer.
    pub(super) fn may_beat(&mut self, done: Option<u64>, now: Instant) -> bool {
        let is_early = self.last.is_some_and(|last| now < last + self.every);
        let is_stuck = done.is_some() && done == self.done;
        self.done = done;
        if is_early || is_stuck {
            return false;
        }
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_journal_that_goes_on_is_beaten_twice_in_the_time_that_the_manager_waits() {
        let (mut watchdog, start) = (Watchdog::new(10 * SECOND), Instant::now());
        let beats = (0..=20).filter(|&second| watchdog.may_beat(Some(second), start + second as u32 * SECOND));
        assert_eq!(beats.collect::<Vec<_>>(), [0, 5, 10, 15, 20]);
    }

    #[test]
    fn a_journal_that_is_stuck_ends_the_beat_until_it_goes_on() {
        let (mut watchdog, start) = (Watchdog::new(10 * SECOND), Instant::now());
        assert!(watchdog.may_beat(Some(7), start));
        for second in 5..=60 {
            assert!(!watchdog.may_beat(Some(7), start + second * SECOND), "{second}");
        }
        assert!(watchdog.may_beat(Some(8), start + 61 * SECOND));
    }

    #[test]
    fn a_journal_that_is_stuck_after_a_beat_has_no_other_for_what_it_did_in_between() {
        let (mut watchdog, start) = (Watchdog::new(60 * SECOND), Instant::now());
        // It goes on for ten seconds after the beat, and is then stuck for good.
        let beats = (0..=120).filter(|&second| watchdog.may_beat(Some(second.min(10)), start + second as u32 * SECOND));
        assert_eq!(beats.collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn without_a_journal_there_is_no_thread_to_wait_for() {
        let (mut watchdog, start) = (Watchdog::new(4 * SECOND), Instant::now());
        assert!(watchdog.may_beat(None, start));
        assert!(watchdog.may_beat(None, start + 2 * SECOND));
    }
}
