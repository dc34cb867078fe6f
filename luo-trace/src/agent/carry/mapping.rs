//! A memfd that is written through a mapping: what is stored in it is there for each holder of the memfd, at once and without
//! a system call.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::journal::carry::Memory;

/// The mapping of a whole memfd.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: nothing but this value knows of the mapping, and it can be used and unmapped from any thread.
unsafe impl Send for Mapping {}

/// Makes a memfd of `size` bytes, all of them there and zero, and maps it.
///
/// # Errors
/// Where there is no memory for it.
pub(super) fn make(name: &str, size: usize) -> io::Result<(OwnedFd, Mapping)> {
    let memfd = memfd_create(name, MemfdFlags::CLOEXEC)?;
    ftruncate(&memfd, size as u64)?;
    let mapping = map(&memfd, size)?;
    Ok((memfd, mapping))
}

fn map(memfd: impl AsFd, size: usize) -> io::Result<Mapping> {
    // Every page is there from the beginning: no store can fail for want of memory, nor wait for it.
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    // SAFETY: with no wish for an address, a new mapping is in the way of nothing.
    let start = unsafe {
        mmap(
            ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
            memfd,
            0,
        )
    }?;
    let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("the mapping lies at address 0"))?;
    Ok(Mapping { start, size })
}

impl Memory for Mapping {
    fn size(&self) -> usize {
        self.size
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at <= self.size && bytes.len() <= self.size - at, "outside the mapping");
        // SAFETY: the place lies within the mapping, as was checked, which nothing else in this process knows of.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr().add(at), bytes.len()) };
    }

    fn publish(&mut self, at: usize, value: u64) {
        assert!(
            at.is_multiple_of(8) && at < self.size && self.size - at >= 8,
            "outside the mapping"
        );
        // SAFETY: the place lies within the mapping, which begins at a page; it is a multiple of 8, as was checked.
        let number = unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast()) };
        // Its reader does so when this CPU has stopped, wherever that was: only the order of the stores counts.
        fence(Ordering::SeqCst);
        number.store(value.to_le(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference into it is left. Where it fails, memory is lost.
        _ = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::journal::carry::{Recorder, recover};
    use crate::journal::{Frame, Header, Reader};

    #[test]
    fn what_is_recorded_is_in_the_memfd_at_once() {
        let (memfd, mapping) = make("a test", 64 << 10).unwrap();
        let header = Header {
            boot_id: "b".into(),
            ..Header::default()
        };
        let mut recorder = Recorder::begin(mapping, &header).unwrap();
        recorder.record(b"one");
        let mut bytes = vec![0; 64 << 10];
        File::from(memfd).read_exact_at(&mut bytes, 0).unwrap();
        let recovered = recover(&bytes).unwrap();
        let mut reader = Reader::new(&recovered.journal[..]).unwrap();
        assert_eq!(reader.next(), Some(Frame::Event(b"one")));
    }

    #[test]
    #[should_panic(expected = "outside the mapping")]
    fn nothing_is_written_outside() {
        let (_memfd, mut mapping) = make("a test", 4096).unwrap();
        mapping.write(4090, b"too long");
    }
}
