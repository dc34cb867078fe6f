//! Another tracer that takes all the room a function has for programs.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd, OwnedFd};

use anyhow::{Context as _, Result, bail};

use crate::bpf;

/// Commands of bpf(2) and what they are given, from `include/uapi/linux/bpf.h` (7.3).
const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const TRACING: u32 = 26;
const TRACE_FENTRY: u32 = 24;
/// How many programs are tried at most: a trampoline of x86-64 has room for 38.
const MOST: usize = 64;

/// Programs that do nothing, attached to a function until the kernel takes no more. They go with this.
#[derive(Debug)]
pub(crate) struct Crowd(#[expect(dead_code, reason = "closing them detaches the programs")] Vec<OwnedFd>);

impl Crowd {
    /// Attaches them.
    ///
    /// # Errors
    /// Where the kernel does not know the function, has something else against the programs than that they are too many, or takes
    /// however many there are.
    pub(crate) fn on(function: &str) -> Result<Self> {
        let types = fs::read("/sys/kernel/btf/vmlinux").context("the kernel's type information cannot be read")?;
        let id = function_id(&types, function).with_context(|| format!("the kernel has no function {function}"))?;
        let mut descriptors = Vec::new();
        for _ in 0..MOST {
            let program = load(id).context("the program is not taken")?;
            match attach(&program) {
                Ok(link) => descriptors.extend([program, link]),
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Ok(Self(descriptors)),
                Err(error) => return Err(error).context("a program is not attached"),
            }
        }
        bail!("{MOST} programs are attached to {function}, and there is room for more")
    }
}

/// Loads a program that gives 0, for the function with this id.
fn load(function: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        instructions_len: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: u64,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
        functions_and_lines: [u64; 4],
        lines_len: u32,
        attach_id: u32,
    }
    // `r0 = 0` and `exit`.
    let instructions: [u64; 2] = [0xb7, 0x95];
    let license: &CStr = c"GPL";
    let mut attributes = Load {
        kind: TRACING,
        instructions_len: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        attach_type: TRACE_FENTRY,
        attach_id: function,
        ..Load::default()
    };
    // SAFETY: instructions and licence are only read, and live longer than the call.
    unsafe { descriptor(PROG_LOAD, &mut attributes) }
}

fn attach(program: &OwnedFd) -> io::Result<OwnedFd> {
    // No name: the program knows its function.
    let mut attributes = [0, u64::from(program.as_raw_fd().unsigned_abs())];
    // SAFETY: they point to nothing.
    unsafe { descriptor(RAW_TRACEPOINT_OPEN, &mut attributes) }
}

/// A command that gives a descriptor.
///
/// # Safety
/// As for [`bpf::call`].
unsafe fn descriptor<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let fd = unsafe { bpf::call(command, attributes) }?;
    // SAFETY: the kernel has just made it for this.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// The id of a function in type information: its place among the types, from 1.
fn function_id(btf: &[u8], name: &str) -> Option<u32> {
    const INTEGER: u32 = 1;
    const ARRAY: u32 = 3;
    const STRUCTURE: u32 = 4;
    const UNION: u32 = 5;
    const ENUMERATION: u32 = 6;
    const FUNCTION: u32 = 12;
    const PROTOTYPE: u32 = 13;
    const VARIABLE: u32 = 14;
    const SECTION: u32 = 15;
    const TAG: u32 = 17;
    const WIDE_ENUMERATION: u32 = 19;
    let word = |at: usize| Some(u32::from_le_bytes(btf.get(at..at + 4)?.try_into().ok()?));
    // `struct btf_header`: the length of itself, and where types and strings are behind it.
    let header = word(4)? as usize;
    let (types, types_len, strings) = (word(8)? as usize, word(12)? as usize, word(16)? as usize);
    let (mut at, end) = (header + types, header + types + types_len);
    let is_named = |offset: usize| {
        let at = header + strings + offset;
        btf.get(at..at + name.len()) == Some(name.as_bytes()) && btf.get(at + name.len()) == Some(&0)
    };
    let mut id = 1;
    while at < end {
        let (named, info) = (word(at)?, word(at + 4)?);
        // Linux 7.3 has 24 bits for the number of members, and 7 for the kind.
        let (kind, members) = (info >> 24 & 0x7f, (info & 0xff_ffff) as usize);
        if kind == FUNCTION && is_named(named as usize) {
            return Some(id);
        }
        // What follows the type, by `include/uapi/linux/btf.h`.
        at += 12
            + match kind {
                INTEGER | VARIABLE | TAG => 4,
                ARRAY => 12,
                STRUCTURE | UNION | SECTION | WIDE_ENUMERATION => 12 * members,
                ENUMERATION | PROTOTYPE => 8 * members,
                _ => 0,
            };
        id += 1;
    }
    None
}
