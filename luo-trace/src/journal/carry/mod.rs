//! The tail of a journal in a fixed piece of memory that outlives its kernel: nothing here says how it does that.
//!
//! The machine jumps at any moment, so that at any moment the memory has to be readable. It holds the journal's beginning
//! at a fixed place, and then a ring of frames:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic |
//! | 4 | version of this layout: [`VERSION`] |
//! | 4 | length of the journal's beginning |
//! | 8 | length of the ring |
//! | 4 | CRC32 of all of the above |
//! | 4 | zero |
//! | 8 | tail: where the oldest frame begins |
//! | 8 | head: where the newest one ends |
//! | 16 | zero |
//! | length | the journal's preamble and its header's frame, as in a file |
//! | length | the ring, at the next multiple of 8 |
//!
//! Tail and head count all bytes that ever went into the ring; their place in it is the remainder. Their upper two bytes are a
//! checksum of the other six. Each entry of the ring is a number, of the records that came before it, in 8 bytes, the CRC32 of
//! those in 4, and a frame of the journal. An entry that has no room moves
//! the tail past the oldest ones first, is written second, and moves the head last: what lies between the two is always whole.
//! From the numbers a reader tells how many records were overwritten.
//!
//! [`Recorder`] writes it, [`recover()`] makes a journal of it again, [`bring_home`] puts that into a directory.

mod home;
mod recorder;
mod recover;
#[cfg(test)]
mod tests;

pub use home::{Home, bring_home};
pub use recorder::{Memory, Recorder};
pub use recover::{Recovered, Unreadable, recover};

/// Version of the layout that this code writes. It reads the first one as well, which has neither the checksum of tail and head nor
/// that of a number.
pub const VERSION: u32 = 2;
const FIRST_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"LUOCARRY";
/// Bytes that the checksum is of.
const FIXED: usize = 24;
const TAIL_AT: usize = 32;
const HEAD_AT: usize = 40;
/// Where the journal's beginning lies.
const BEGINNING: usize = 64;
/// Bytes of an entry's number.
const NUMBER: usize = 8;
/// Bytes of the number's checksum.
const NUMBER_CRC: usize = 4;
/// How many bits of a tail or a head count; the others are their checksum.
const COUNT_BITS: u32 = 48;

/// Where the ring lies after a beginning of this length.
const fn ring_after(beginning: usize) -> usize {
    (BEGINNING + beginning).next_multiple_of(8)
}

/// A tail or a head with its checksum, to be stored in one piece. Zero, as in memory that is new, is sealed.
fn sealed(count: u64) -> u64 {
    let count = count & ((1 << COUNT_BITS) - 1);
    count | u64::from(check(count)) << COUNT_BITS
}

/// What was sealed; `None`: its checksum is wrong.
fn unsealed(word: u64) -> Option<u64> {
    let count = word & ((1 << COUNT_BITS) - 1);
    (sealed(count) == word).then_some(count)
}

/// No two counts that differ in one bit have the same.
fn check(count: u64) -> u16 {
    let crc = crc32fast::hash(&count.to_le_bytes()) ^ crc32fast::hash(&[0; 8]);
    (crc ^ crc >> 16) as u16
}
