//! The kernel's memory, read where the agent says by the program `sight`: an agent has no other way to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::RawTracePoint;
use luo_trace_common::sight::{PLACES, Place, TEXT, Told};
use zerocopy::FromBytes;

use super::bpf;
use super::shared::Shared;
use super::verifier::explain;

/// Words of 8 bytes of a [`Place`], and of what is told besides.
const WORDS: usize = size_of::<Place>() / size_of::<u64>();
const TOLD: usize = size_of::<Told>() / size_of::<u64>();

/// The array of counters, of which the agent sets how many there can be.
pub(super) const COUNTERS: &str = "COUNTERS";

/// What is read by the program, with each call.
pub(super) struct Memory {
    program: OwnedFd,
    places: Shared,
    counters: Shared,
    told: Shared,
}

impl Memory {
    /// Loads the program; it reads nothing yet. Up to so many counters can be added up.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub(super) fn load(ebpf: &mut Ebpf, counters: usize) -> Result<Self> {
        let program: &mut RawTracePoint = ebpf
            .program_mut("sight")
            .context("the binary lacks the program")?
            .try_into()?;
        program.load().map_err(explain)?;
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        let mut shared = |name, bytes| Shared::take(ebpf, name, bytes);
        Ok(Self {
            program,
            places: shared("PLACES_TO_READ", PLACES * size_of::<Place>())?,
            counters: shared(COUNTERS, counters * size_of::<u64>())?,
            told: shared("TOLD", size_of::<Told>())?,
        })
    }

    /// Has these places read from now on, as many as there is room for.
    pub(super) fn set_places(&self, addresses: impl IntoIterator<Item = u64>) {
        let slots = self.places.words().iter().step_by(WORDS);
        for (slot, address) in slots.zip(addresses.into_iter().chain([0])) {
            slot.store(address, Ordering::Relaxed);
        }
    }

    /// Has these counters added up from now on; whether there is room for them.
    pub(super) fn set_counters(&self, addresses: &[u64]) -> bool {
        let slots = self.counters.words();
        for (slot, &address) in slots.iter().zip(addresses.iter().chain([&0])) {
            slot.store(address, Ordering::Relaxed);
        }
        addresses.len() <= slots.len()
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// Where the kernel does not run the program.
    pub(super) fn read(&self) -> io::Result<()> {
        bpf::run(self.program.as_fd())
    }

    /// What was read at a place, where it could be.
    pub(super) fn place(&self, i: usize) -> Option<[u8; TEXT]> {
        let words = &self.places.words()[i * WORDS..(i + 1) * WORDS];
        let mut bytes = [0; size_of::<Place>()];
        for (bytes, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
        }
        let place = Place::read_from_bytes(&bytes).ok()?;
        (place.read == 1).then_some(place.text)
    }

    /// What was told besides.
    pub(super) fn told(&self) -> Told {
        let words = &self.told.words()[..TOLD];
        let [task, sum, counters] = std::array::from_fn(|i| words[i].load(Ordering::Acquire));
        Told { task, sum, counters }
    }

    /// Reads a number of 8 bytes at each of these addresses, once: `None` unless all could be read.
    pub(super) fn words(&self, addresses: &[u64]) -> Option<Vec<u64>> {
        let mut words = Vec::with_capacity(addresses.len());
        for some in addresses.chunks(PLACES) {
            if some.contains(&0) {
                return None;
            }
            self.set_places(some.iter().copied());
            self.read().ok()?;
            for i in 0..some.len() {
                let (word, _) = u64::read_from_prefix(&self.place(i)?).ok()?;
                words.push(word);
            }
        }
        self.set_places([]);
        Some(words)
    }
}
