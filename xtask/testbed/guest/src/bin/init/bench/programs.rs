//! What the kernel says of each BPF program that is loaded: how often it ran, and how long.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use testbed_guest::scenario::ProgramCost;

/// The commands of bpf(2), from `include/uapi/linux/bpf.h`.
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The beginning of `struct bpf_prog_info` there, as far as it is read here: in words of 8 bytes.
type Info = [u64; 28];
/// Bytes of machine code, and of verified instructions in the upper half.
const CODE: usize = 2;
const NAME: usize = 8;
const RUN_TIME_NS: usize = 24;
const RUN_COUNT: usize = 25;
/// In the lower half.
const VERIFIED: usize = 27;

/// While it lives, the kernel takes the time of BPF programs, which costs some itself.
pub(super) struct Timing;

impl Timing {
    /// Begins.
    pub(super) fn begin() -> Result<Timing> {
        fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").context("cannot have BPF programs timed")?;
        Ok(Timing)
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        // Where it cannot be ended, what is measured later shows it.
        _ = fs::write("/proc/sys/kernel/bpf_stats_enabled", "0");
    }
}

/// Every program, as it ran while programs were timed.
pub(super) fn costs() -> Result<Vec<ProgramCost>> {
    let mut found = Vec::new();
    let mut id = 0;
    while let Some(next) = next(id)? {
        id = next;
        // One that is unloaded meanwhile is no loss: the tracer's live longer than this.
        let Ok(program) = info(id) else { continue };
        found.push(program);
    }
    Ok(found)
}

fn next(id: u32) -> Result<Option<u32>> {
    let mut attr = [id, 0, 0];
    match bpf(PROG_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr[1])),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).context("cannot list BPF programs"),
    }
}

fn info(id: u32) -> io::Result<ProgramCost> {
    let fd = bpf(PROG_GET_FD_BY_ID, &mut [id, 0, 0])?;
    // SAFETY: the kernel has just installed this descriptor for us, and nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut info: Info = [0; _];
    // A descriptor and the length of what the next word points to.
    let mut attr = [
        u64::from(fd.as_raw_fd() as u32) | (size_of_val(&info) as u64) << 32,
        &raw mut info as u64,
    ];
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let name: Vec<u8> = info[NAME..NAME + 2]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let name = CStr::from_bytes_until_nul(&name).map_or_else(|_| String::new(), |name| name.to_string_lossy().into());
    Ok(ProgramCost {
        name,
        verified: info[VERIFIED] as u32,
        code: info[CODE] as u32,
        runs: info[RUN_COUNT],
        run_ns: info[RUN_TIME_NS],
    })
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the size given is that of `attr`, which the kernel reads and writes; where it holds an address, that is
    // one of a buffer of the length beside it, which the caller keeps through the call.
    match unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of_val(attr)) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
