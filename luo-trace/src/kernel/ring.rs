//! The ring buffer's reading end.

use std::io;

use anyhow::Result;
use aya::maps::{Array, MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::misses::Misses;

/// Where the programs count the events that they lost.
const DROPPED: u32 = 0;
/// Where the agent tells them what was lost besides.
const MISSED: u32 = 1;

/// Records as the programs send them, in the order they were reserved.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Array<MapData, u64>,
    misses: Misses,
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>, lost: Array<MapData, u64>, misses: Misses) -> Result<Self> {
        // SAFETY: the map owns its descriptor, gives the same one each time, and closes it only when it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| anyhow::anyhow!("the ring buffer cannot be waited for: {error}"))?;
        Ok(Self { ring, lost, misses })
    }

    /// Waits until there is something to read.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Gives every record there is now to `consume`, at most `limit`; returns how many there were.
    pub fn drain(&mut self, limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
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

    /// How many events were lost so far: for want of room, or since a program was skipped. The programs learn the latter from
    /// here, so that the next event tells it.
    pub fn lost(&mut self) -> u64 {
        let missed = self.misses.count();
        // Where this fails the loss is told all the same, by the number that is returned.
        _ = self.lost.set(MISSED, missed, 0);
        self.lost.get(&DROPPED, 0).unwrap_or(0) + missed
    }
}
