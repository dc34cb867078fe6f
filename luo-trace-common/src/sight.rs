//! What the program `sight` reads for the agent: whether the functions that hooks are attached to still call a tracer, and how often the
//! kernel skipped the programs that they call.
//!
//! A hook that is attached can be made blind from outside, and nothing tells its owner: kprobes are switched off as a whole, function
//! tracing is, or the kernel shuts it down. What is certain is in the kernel's own text and variables, so the agent has them read.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many places the program reads at a time, at most.
pub const PLACES: usize = 256;

/// How many bytes it reads of each: enough for a mark of indirect branches, and the call behind it.
pub const TEXT: usize = 16;

/// A place in the kernel's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Place {
    /// Where it is; 0 ends the list. The agent writes it.
    pub address: u64,
    /// What lies there, where `read` is 1. The program writes it.
    pub text: [u8; TEXT],
    /// 1: the place could be read.
    pub read: u64,
}

/// What the program tells besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Told {
    /// The `struct task_struct *` of the thread that ran it.
    pub task: u64,
    /// What the counters come to that the agent has it add up.
    pub sum: u64,
    /// How many of them could be read.
    pub counters: u64,
}
