//! The ring buffer's reading end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
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
    positions: Positions,
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
        let positions = Positions::map(ring.as_fd()).context("the ring buffer's positions cannot be read")?;
        // SAFETY: the map owns its descriptor, gives the same one each time, and closes it only when it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| anyhow::anyhow!("the ring buffer cannot be waited for: {error}"))?;
        Ok(Self {
            ring,
            lost,
            denied,
            hush,
            positions,
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
    /// do not, and this gives whether one was sent since it was called before. A program that is just sending an event may not know yet
    /// of a hush that is over: where [`Ring::is_empty`] says that there is one, look once more after a while.
    pub fn hush(&mut self, hush: bool) -> bool {
        let hush = if hush { HUSHED } else { 0 };
        self.hush.words()[0].swap(hush, Ordering::SeqCst) == URGENT
    }

    /// Whether nothing is in it, not even an event that is still being written. A program takes its place before it looks whether there
    /// is a hush.
    pub fn is_empty(&self) -> bool {
        let [consumer, producer] = self.positions.now();
        consumer == producer
    }
}

/// Up to where the ring was read, and up to where it was written: the beginnings of the first two pages that the kernel lets a process
/// map of it, `struct bpf_ringbuf` in `kernel/bpf/ringbuf.c` (7.3).
struct Positions {
    pages: NonNull<u8>,
    page: usize,
}

// SAFETY: the mapping belongs to no thread, and all access to it is atomic.
unsafe impl Send for Positions {}

impl Positions {
    fn map(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let page = host::page_size() as usize;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = NonNull::new(pages.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { pages, page })
    }

    fn now(&self) -> [u64; 2] {
        [0, self.page].map(|at| {
            // SAFETY: a number at the beginning of a page that is mapped until this is dropped.
            unsafe { self.pages.add(at).cast::<AtomicU64>().as_ref() }.load(Ordering::SeqCst)
        })
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and no reference into it is left.
        unsafe { libc::munmap(self.pages.as_ptr().cast(), 2 * self.page) };
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
