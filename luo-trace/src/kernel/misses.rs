//! How often programs did not run although their function was called.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use aya::Ebpf;
use aya::programs::Program;

use super::bpf;

/// The programs, by descriptors of their own.
///
/// The kernel skips a program where the same program is already running on the CPU, since another task was preempted in it,
/// and a kprobe's also where a task was preempted while reading or writing a map by bpf(2). It counts that with the program.
/// (Returns that a kretprobe has no room for are told by the programs themselves.)
///
/// Asking a program for its count is no use of a map, and skips nothing.
pub struct Misses(Vec<OwnedFd>);

impl Misses {
    /// Watches every program that is loaded now, and these others.
    ///
    /// # Errors
    /// Where there is no room for their descriptors.
    pub fn watch<'a>(ebpf: &Ebpf, others: impl Iterator<Item = BorrowedFd<'a>>) -> Result<Self> {
        let own = ebpf.programs().filter_map(|(_, program)| descriptor(program));
        let others = others.map(|program| program.try_clone_to_owned());
        Ok(Self(own.chain(others).collect::<io::Result<_>>()?))
    }

    /// How often a program was skipped so far.
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .map(|program| bpf::recursion_misses(program.as_fd()))
            .sum()
    }
}

fn descriptor(program: &Program) -> Option<io::Result<OwnedFd>> {
    let fd = match program {
        Program::FEntry(program) => program.fd(),
        Program::FExit(program) => program.fd(),
        Program::KProbe(program) => program.fd(),
        // The others do not watch the kernel.
        _ => return None,
    };
    // One that is not loaded misses nothing.
    Some(fd.ok()?.as_fd().try_clone_to_owned())
}
