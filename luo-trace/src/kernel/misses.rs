//! How often programs did not run although their function was called.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::Result;
use aya::Ebpf;
use aya::programs::Program;

/// `BPF_OBJ_GET_INFO_BY_FD` in `include/uapi/linux/bpf.h` (7.3).
const GET_INFO_BY_FD: libc::c_int = 15;
/// How much of `struct bpf_prog_info` (7.3) is asked for, in words of 8 bytes: up to `recursion_misses`.
const INFO_WORDS: usize = 27;

/// The programs, by descriptors of their own.
///
/// The kernel skips a program where the same program is already running on the CPU, since another task was preempted in it,
/// and a kprobe's also where a task was preempted while reading or writing a map by bpf(2). It counts that with the program.
/// (Returns that a kretprobe has no room for are told by the programs themselves.)
///
/// Asking a program for its count is no use of a map, and skips nothing.
pub struct Misses(Vec<OwnedFd>);

impl Misses {
    /// Watches every program that is loaded now.
    ///
    /// # Errors
    /// Where there is no room for their descriptors.
    pub fn watch(ebpf: &Ebpf) -> Result<Self> {
        let fds = ebpf.programs().filter_map(|(_, program)| descriptor(program));
        Ok(Self(fds.collect::<io::Result<_>>()?))
    }

    /// How often a program was skipped so far.
    pub fn count(&self) -> u64 {
        self.0.iter().map(recursion_misses).sum()
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

/// How often this program was skipped; 0 where the kernel does not tell.
fn recursion_misses(program: &OwnedFd) -> u64 {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = [0u64; INFO_WORDS];
    let attributes = Attributes {
        fd: program.as_raw_fd().unsigned_abs(),
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attributes are of the size given, and the kernel writes at most `info_len` bytes to `info`.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            GET_INFO_BY_FD,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    info[INFO_WORDS - 1]
}
