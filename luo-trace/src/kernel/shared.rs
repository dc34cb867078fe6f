//! Arrays of the programs in this process's memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};

/// An array that is shared with the programs, as words of 8 bytes that both sides write at once.
pub(super) struct Shared {
    address: NonNull<AtomicU64>,
    len: usize,
    /// Programs that are loaded later still ask for it by its descriptor.
    array: MapData,
}

// SAFETY: the mapping belongs to no thread, and all access to it is atomic.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps an array of the loaded programs, which nothing else has taken, as [`Shared::map`] does.
    pub(super) fn take(ebpf: &mut Ebpf, name: &str, bytes: usize) -> Result<Self> {
        match ebpf.take_map(name) {
            Some(Map::Array(array)) => Self::map(array, bytes).with_context(|| format!("map {name} cannot be shared")),
            _ => bail!("map {name} was taken before"),
        }
    }

    /// Maps this many bytes, a multiple of 8, of an array that was made with `BPF_F_MMAPABLE`.
    pub(super) fn map(array: MapData, bytes: usize) -> io::Result<Self> {
        let fd = array.fd().as_fd().as_raw_fd();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        let len = bytes / size_of::<u64>();
        Ok(Self { address, len, array })
    }

    /// The array itself.
    pub(super) fn array(&self) -> &MapData {
        &self.array
    }

    /// The words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many are mapped from construction to drop, at a page's beginning.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and no reference into it is left.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len * size_of::<u64>()) };
    }
}
