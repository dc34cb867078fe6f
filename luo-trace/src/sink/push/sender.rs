//! Sends what waits, one batch after the other, and again where it has to: when, is a matter of the time that it is told.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::client::{Answer, Wire};
use super::spool::{Batch, Spool};
use super::{Fate, Signal, Watch};

/// The pause after a first failure, which doubles with each that follows ...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A collector that asks for more is asked again after this.
const LONGEST_WISH: Duration = Duration::from_secs(3600);

/// See the beginning of this file. Times are what has passed since some moment that stays the same.
pub(super) struct Sender<W> {
    spool: Spool,
    wire: W,
    watch: Arc<dyn Watch>,
    /// Tries that failed, one after the other.
    failures: u32,
    /// When to try next, where that is not at once.
    not_before: Duration,
    random: Random,
}

impl<W: Wire> Sender<W> {
    /// Sends what waits in the spool over this wire; `seed` decides the pauses.
    pub(super) fn new(spool: Spool, wire: W, watch: Arc<dyn Watch>, seed: u64) -> Self {
        let sender = Self {
            spool,
            wire,
            watch,
            failures: 0,
            not_before: Duration::ZERO,
            random: Random(seed),
        };
        sender.watch.spooled(sender.spool.bytes());
        sender
    }

    /// Has an export request sent, in its turn.
    pub(super) fn put(&mut self, signal: Signal, request: &[u8]) -> io::Result<()> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(request)?;
        let body = packed.finish()?;
        let (gone, written) = self.spool.put(Batch { signal, body });
        gone.into_iter()
            .for_each(|signal| self.watch.batch(signal, Fate::Dropped));
        self.watch.spooled(self.spool.bytes());
        written
    }

    /// How long it is until something can be sent; `None`: nothing waits.
    pub(super) fn wait(&self, now: Duration) -> Option<Duration> {
        (self.spool.len() > 0).then(|| self.not_before.saturating_sub(now))
    }

    /// Sends the oldest batch, whose turn it is now; gives whether the collector answered as it should.
    pub(super) fn step(&mut self, now: Duration) -> bool {
        let batch = match self.spool.first() {
            None => return true,
            Some(Ok(batch)) => batch,
            Some(Err(signal)) => {
                self.watch.batch(signal, Fate::Dropped);
                self.watch.spooled(self.spool.bytes());
                return true;
            }
        };
        let answer = self.wire.post(&batch);
        let (fate, trouble) = match answer {
            Answer::Taken => (Fate::Sent, None),
            Answer::Refused(why) => {
                let what = batch.signal.name();
                (
                    Fate::Refused,
                    Some(format!("the collector refuses {what}, which are dropped: {why}")),
                )
            }
            Answer::Later(why, after) => {
                self.pause(now, after);
                let (waiting, bytes) = (self.spool.len(), self.spool.bytes());
                let trouble =
                    format!("what is pushed to the collector waits ({waiting} batches, {bytes} bytes): {why}");
                (Fate::Failed, Some(trouble))
            }
        };
        if fate != Fate::Failed {
            self.failures = 0;
            self.spool.done();
        }
        self.watch.batch(batch.signal, fate);
        self.watch.spooled(self.spool.bytes());
        self.watch.trouble(trouble);
        fate == Fate::Sent
    }

    /// The wire that it is all sent over.
    pub(super) fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    fn pause(&mut self, now: Duration, after: Option<Duration>) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        // Many hosts that failed at once do not come back at once.
        let pause = pause.mul_f64(0.5 + 0.5 * self.random.fraction());
        let wish = after.unwrap_or_default().min(LONGEST_WISH);
        self.not_before = now + pause.max(wish);
    }
}

/// SplitMix64: pauses that differ from host to host, and nothing more.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
