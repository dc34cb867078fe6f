//! The ring buffer's reading end.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::misses::Misses;
use crate::host;
use crate::pipeline::{Losses, Source};

/// Records as the programs send them, in the order they were reserved.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Shared,
    hush: Shared,
    misses: Misses,
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>, lost: Shared, hush: Shared, misses: Misses) -> Result<Self> {
        // SAFETY: the map owns its descriptor, gives the same one each time, and closes it only when it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| anyhow::anyhow!("the ring buffer cannot be waited for: {error}"))?;
        Ok(Self {
            ring,
            lost,
            hush,
            misses,
        })
    }

    /// Waits until there is something to read.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Whether events leave [`Ring::readable`] alone: for a caller that looks by itself in a moment. Those that must not wait
    /// do not. A program that has just sent an event may not know yet of a hush that is over, so look once more after a
    /// while.
    pub fn hush(&mut self, hush: bool) {
        self.hush.number().store(hush.into(), Ordering::SeqCst);
    }
}

impl Source for Ring {
    fn take(&mut self, limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
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
        let (dropped, missed) = (self.lost.number().load(Ordering::Acquire), self.misses.count());
        let at = host::clock().monotonic_ns;
        Losses { dropped, missed, at }
    }
}

/// A number that is shared with the programs: the first element of an array, in this process's memory.
pub(super) struct Shared(NonNull<AtomicU64>);

/// As much as is mapped; less than any page.
const LENGTH: usize = size_of::<u64>();

impl Shared {
    /// Maps an array that was made with `BPF_F_MMAPABLE`, whose elements are of 8 bytes.
    pub(super) fn map(array: &MapData) -> io::Result<Self> {
        let fd = array.fd().as_fd().as_raw_fd();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(ptr::null_mut(), LENGTH, access, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at address 0"))
    }

    fn number(&self) -> &AtomicU64 {
        // SAFETY: mapped from construction to drop, at a page's beginning; both sides write it at once.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nobody has a reference into it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}
