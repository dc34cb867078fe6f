//! The ring buffer's reading end.

use std::io;
use std::sync::atomic::Ordering;

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use luo_trace_common::events::{HUSHED, URGENT};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::shared::Shared;
use super::sight::Sight;
use crate::event::source::{Losses, Source};
use crate::host;

/// Records as the programs send them, in the order they were reserved.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Shared,
    denied: Shared,
    hush: Shared,
    sight: Sight,
    /// Of a record that has ended, what was lost until then.
    ended: Option<Losses>,
}

impl Ring {
    pub(super) fn new(
        ring: RingBuf<MapData>,
        lost: Shared,
        denied: Shared,
        hush: Shared,
        sight: Sight,
    ) -> Result<Self> {
        // SAFETY: the map owns its descriptor, gives the same one each time, and closes it only when it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| anyhow::anyhow!("the ring buffer cannot be waited for: {error}"))?;
        Ok(Self {
            ring,
            lost,
            denied,
            hush,
            sight,
            ended: None,
        })
    }

    /// Waits until there is something to read.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The record ends here: what is sent from now on is left in the ring, and what is lost from now on is not counted.
    pub fn end(&mut self) {
        self.ended = Some(self.losses());
    }

    /// Whether events leave [`Ring::readable`] alone: for a caller that looks by itself in a moment. Those that must not wait
    /// do not, and this gives whether one was sent since it was called before. A program that has just sent an event may not know yet
    /// of a hush that is over, so look once more after a while.
    pub fn hush(&mut self, hush: bool) -> bool {
        let hush = if hush { HUSHED } else { 0 };
        self.hush.words()[0].swap(hush, Ordering::SeqCst) == URGENT
    }
}

impl Source for Ring {
    fn take(&mut self, limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
        if self.ended.is_some() {
            return 0;
        }
        let ring = self.ring.get_mut();
        let mut count = 0;
        while count < limit
            && let Some(record) = ring.next()
        {
            consume(&record);
            count += 1;
        }
        count
    }

    fn losses(&mut self) -> Losses {
        if let Some(losses) = self.ended {
            return losses;
        }
        let dropped = self.lost.words()[0].load(Ordering::Acquire);
        let seen = self.sight.look();
        Losses {
            dropped,
            missed: seen.missed,
            denied: self.denied.words()[0].load(Ordering::Acquire),
            blind: seen.blind,
            at: host::monotonic_ns(),
        }
    }
}
