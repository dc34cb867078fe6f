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
//! Tail and head count all bytes that ever went into the ring; their place in it is the remainder. Each entry of the ring
//! is a number, of the records that came before it, in 8 bytes, and a frame of the journal. An entry that has no room moves
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

/// Version of the layout that this code writes. It reads no other.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"LUOCARRY";
/// Bytes that the checksum is of.
const FIXED: usize = 24;
const TAIL_AT: usize = 32;
const HEAD_AT: usize = 40;
/// Where the journal's beginning lies.
const BEGINNING: usize = 64;
/// Bytes of an entry before its frame.
const NUMBER: usize = 8;

/// Where the ring lies after a beginning of this length.
const fn ring_after(beginning: usize) -> usize {
    (BEGINNING + beginning).next_multiple_of(8)
}
