//! Writing: at every moment what was written so far can be read.

use std::collections::VecDeque;
use std::io;

use serde::Serialize;

use super::{BEGINNING, FIXED, HEAD_AT, MAGIC, NUMBER, NUMBER_CRC, TAIL_AT, VERSION, ring_after, sealed};
use crate::journal::frame::{self, kind};
use crate::journal::{Clock, End, Header};

/// A ring smaller than this, in bytes, has no room for more than a few events.
const LEAST_RING: usize = 4 << 10;

/// A piece of memory, zero at first, for a reader who knows nothing of when its writer was stopped.
pub trait Memory {
    /// Its length in bytes.
    fn size(&self) -> usize;

    /// Copies bytes to a place within it.
    fn write(&mut self, at: usize, bytes: &[u8]);

    /// Stores a number at a place within it, a multiple of 8, in little-endian order and in one piece: when it is there, so is everything
    /// that was written before, and nothing of what is written after is there before it.
    fn publish(&mut self, at: usize, value: u64);
}

/// Keeps the tail of a journal in a [`Memory`].
#[derive(Debug)]
pub struct Recorder<M> {
    memory: M,
    /// Where the ring begins, and its length.
    start: usize,
    ring: usize,
    tail: u64,
    head: u64,
    /// The lengths of the entries from tail to head.
    entries: VecDeque<u32>,
    /// How many records came so far.
    records: u64,
    /// The entry that is being made.
    entry: Vec<u8>,
}

impl<M: Memory> Recorder<M> {
    /// Begins a journal.
    ///
    /// # Errors
    /// Where the memory has no room for the header and some events.
    pub fn begin(mut memory: M, header: &Header) -> io::Result<Self> {
        let mut beginning = frame::preamble(frame::HEAD_VERSION).to_vec();
        frame::put_json(&mut beginning, kind::HEADER, header)?;
        let start = ring_after(beginning.len());
        let ring = memory.size().saturating_sub(start);
        if ring < LEAST_RING {
            let (has, wants) = (memory.size(), start + LEAST_RING);
            let why = format!("{has} bytes have no room for a journal's header and some events: it takes {wants}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut fixed = MAGIC.to_vec();
        fixed.extend(VERSION.to_le_bytes());
        fixed.extend((beginning.len() as u32).to_le_bytes());
        fixed.extend((ring as u64).to_le_bytes());
        let crc = crc32fast::hash(&fixed);
        debug_assert_eq!(fixed.len(), FIXED);
        memory.write(BEGINNING, &beginning);
        memory.write(MAGIC.len(), &fixed[MAGIC.len()..]);
        memory.write(FIXED, &crc.to_le_bytes());
        // With the magic all of it counts.
        memory.publish(0, u64::from_le_bytes(MAGIC));
        Ok(Self {
            memory,
            start,
            ring,
            tail: 0,
            head: 0,
            entries: VecDeque::new(),
            records: 0,
            entry: Vec::new(),
        })
    }

    /// Keeps a kernel record. One that is longer than the whole ring counts as overwritten at once.
    pub fn record(&mut self, record: &[u8]) {
        self.begin_entry();
        if frame::put(&mut self.entry, kind::EVENT, record) {
            self.keep();
        }
        self.records += 1;
    }

    /// Keeps a later reading of the clocks.
    pub fn clock(&mut self, clock: &Clock) {
        self.json(kind::CLOCK, clock);
    }

    /// Keeps the mark of a clean end.
    pub fn end(&mut self, end: &End) {
        self.json(kind::END, end);
    }

    fn json(&mut self, kind: u16, value: &impl Serialize) {
        self.begin_entry();
        if frame::put_json(&mut self.entry, kind, value).is_ok() {
            self.keep();
        }
    }

    fn begin_entry(&mut self) {
        self.entry.clear();
        let number = self.records.to_le_bytes();
        self.entry.extend(number);
        self.entry.extend(crc32fast::hash(&number).to_le_bytes());
        debug_assert_eq!(self.entry.len(), NUMBER + NUMBER_CRC);
    }

    /// Puts the entry into the ring.
    fn keep(&mut self) {
        let len = self.entry.len();
        if len > self.ring {
            return;
        }
        let before = self.tail;
        while self.head + len as u64 > self.tail + self.ring as u64
            && let Some(oldest) = self.entries.pop_front()
        {
            self.tail += u64::from(oldest);
        }
        if self.tail != before {
            self.memory.publish(TAIL_AT, sealed(self.tail));
        }
        let at = (self.head % self.ring as u64) as usize;
        let (first, rest) = self.entry.split_at(len.min(self.ring - at));
        self.memory.write(self.start + at, first);
        if !rest.is_empty() {
            self.memory.write(self.start, rest);
        }
        self.head += len as u64;
        self.memory.publish(HEAD_AT, sealed(self.head));
        self.entries.push_back(len as u32);
    }
}
