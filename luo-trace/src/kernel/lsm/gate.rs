//! The gate: the program that has the kernel refuse to make a session's file.
//!
//! No LSM program may stand at `file_alloc_security` (`bpf_lsm_disabled_hooks` in `kernel/bpf/bpf_lsm.c`, 7.3). But a program that
//! changes what a function returns may stand at `security_file_alloc`, as at every function of that prefix
//! (`check_attach_modify_return` in `kernel/bpf/verifier.c`, 7.3). aya loads no such programs, so this one is made of single
//! instructions: it looks whether the current thread is in the call that makes a session, and whether its refusal was noted.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use luo_trace_common::fields::{ABSENT, Field};
use luo_trace_common::policy::CREATE_SESSION;

/// What it is attached to: `int security_file_alloc(struct file *file)`, security/security.c (7.3).
pub(super) const FUNCTION: &str = "security_file_alloc";

/// Where the saved registers have the system call's number, and its second argument.
#[cfg(target_arch = "x86_64")]
const CALL_AND_COMMAND: [(Field, u32); 2] = [(Field::RegsCall, 0), (Field::RegsArg2, 0)];
/// See the one for x86-64.
#[cfg(target_arch = "aarch64")]
const CALL_AND_COMMAND: [(Field, u32); 2] = [(Field::RegsCallArm, 0), (Field::RegsArgsArm, 8)];

/// `BPF_PROG_LOAD` and the next ones, `include/uapi/linux/bpf.h` (7.3).
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
/// `BPF_PROG_TYPE_TRACING`.
const TRACING: u32 = 26;
/// `BPF_MODIFY_RETURN`.
const MODIFY_RETURN: u32 = 26;
/// How much of the verifier's log is kept.
const LOG: usize = 1 << 16;

/// `struct bpf_insn`: code, registers (the source in the upper half), offset, immediate.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction(u8, u8, i16, i32);

const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_NUMBER: u8 = 0x07;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const LOAD_ADDRESS: u8 = 0x18;
const UNLESS_WORD_IS: u8 = 0x56;
const UNLESS_IS: u8 = 0x55;
/// Source register of an address that is a map's.
const OF_MAP: u8 = 1 << 4;

/// Helpers of the kernel, by number.
const MAP_DELETE_ELEM: i32 = 3;
const GET_CURRENT_PID_TGID: i32 = 14;
const GET_CURRENT_TASK_BTF: i32 = 158;
const TASK_PT_REGS: i32 = 175;

/// The beginning of `union bpf_attr` for [`PROG_LOAD`].
#[derive(Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// The attached program.
pub(super) struct Gate(OwnedFd);

impl Gate {
    /// Attaches it to the function that has this id in the kernel's type information. `refused` has the threads whose next
    /// file is refused.
    pub(super) fn attach(function: u32, offsets: &[u32; Field::COUNT], refused: BorrowedFd<'_>) -> Result<Self> {
        let program = load(&instructions(offsets, refused)?, function)?;
        #[repr(C)]
        struct Attach {
            name: u64,
            program: u32,
            reserved: u32,
        }
        let attach = Attach {
            name: 0,
            program: program.as_raw_fd().unsigned_abs(),
            reserved: 0,
        };
        // SAFETY: the attributes are whole, and point to nothing.
        let link = unsafe { bpf(RAW_TRACEPOINT_OPEN, &attach) };
        Ok(Self(link.with_context(|| format!("cannot attach to {FUNCTION}"))?))
    }

    /// Pins it.
    pub(super) fn pin(&self, path: &Path) -> Result<()> {
        #[repr(C)]
        struct Pin {
            path: u64,
            link: u32,
            flags: u32,
        }
        let name = CString::new(path.as_os_str().as_bytes())?;
        let pin = Pin {
            path: name.as_ptr() as u64,
            link: self.0.as_raw_fd().unsigned_abs(),
            flags: 0,
        };
        // SAFETY: the attributes are whole, and the path ends with a NUL. The command gives no descriptor, but 0.
        let result = unsafe { call(OBJ_PIN, &pin) };
        result
            .map(drop)
            .with_context(|| format!("cannot pin {}", path.display()))
    }
}

/// The program.
fn instructions(offsets: &[u32; Field::COUNT], refused: BorrowedFd<'_>) -> Result<Vec<Instruction>> {
    let [number, command] = CALL_AND_COMMAND.map(|(field, further)| match offsets[field as usize] {
        ABSENT => None,
        offset => i16::try_from(offset + further).ok(),
    });
    let (number, command) = number
        .zip(command)
        .context("the kernel does not tell where a task's registers are")?;
    // Jumps go so far over what follows them, to the last two.
    Ok(vec![
        Instruction(CALL, 0, 0, GET_CURRENT_TASK_BTF),
        Instruction(MOVE_REGISTER, 0x01, 0, 0),
        Instruction(CALL, 0, 0, TASK_PT_REGS),
        Instruction(LOAD_WORD, 0x01, number, 0),
        Instruction(UNLESS_WORD_IS, 0x01, 12, libc::SYS_ioctl as i32),
        Instruction(LOAD_WORD, 0x01, command, 0),
        Instruction(UNLESS_WORD_IS, 0x01, 10, CREATE_SESSION as i32),
        Instruction(CALL, 0, 0, GET_CURRENT_PID_TGID),
        Instruction(STORE_WORD, 0x0a, -4, 0),
        Instruction(LOAD_ADDRESS, OF_MAP | 0x01, 0, refused.as_raw_fd()),
        Instruction(0, 0, 0, 0),
        Instruction(MOVE_REGISTER, 0xa2, 0, 0),
        Instruction(ADD_NUMBER, 0x02, 0, -4),
        Instruction(CALL, 0, 0, MAP_DELETE_ELEM),
        // It fails where there is no such thread.
        Instruction(UNLESS_IS, 0x00, 2, 0),
        Instruction(MOVE_NUMBER, 0x00, 0, -libc::EPERM),
        Instruction(EXIT, 0, 0, 0),
        Instruction(MOVE_NUMBER, 0x00, 0, 0),
        Instruction(EXIT, 0, 0, 0),
    ])
}

fn load(instructions: &[Instruction], function: u32) -> Result<OwnedFd> {
    let mut log = vec![0u8; LOG];
    let mut name = [0; 16];
    name[..11].copy_from_slice(b"policy_gate");
    let load = Load {
        prog_type: TRACING,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: LOG as u32,
        log_buf: log.as_mut_ptr() as u64,
        prog_name: name,
        expected_attach_type: MODIFY_RETURN,
        attach_btf_id: function,
        ..Load::default()
    };
    // SAFETY: the attributes are whole, and point to as much as they say.
    let loaded = unsafe { bpf(PROG_LOAD, &load) };
    loaded.map_err(|io_error| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG);
        let log = String::from_utf8_lossy(&log[..end]);
        anyhow::anyhow!(
            "the kernel refuses the program ({io_error}): {}",
            super::super::verifier::tail(&log)
        )
    })
}

/// `bpf(2)` for a command that gives a descriptor.
///
/// # Safety
/// What the attributes point to is as the command wants it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises; the descriptor is new.
    unsafe { Ok(OwnedFd::from_raw_fd(call(command, attributes)?)) }
}

/// `bpf(2)`.
///
/// # Safety
/// What the attributes point to is as the command wants it.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    match result {
        0.. => Ok(result as i32),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn every_jump_of_the_gate_goes_to_where_the_file_passes() {
        // Given the program for a kernel whose registers lie somewhere,
        let file = std::fs::File::open("/dev/null").expect("opens");
        let program = instructions(&[8; Field::COUNT], file.as_fd()).expect("a program");
        // then its last two instructions let the file pass, and all jumps go there.
        let pass = program.len() - 2;
        assert_eq!((program[pass].0, program[pass].3), (MOVE_NUMBER, 0));
        let jumps = || {
            let jumps = program.iter().enumerate();
            jumps.filter(|(_, to)| [UNLESS_IS, UNLESS_WORD_IS].contains(&to.0))
        };
        assert_eq!(jumps().count(), 3);
        for (at, to) in jumps() {
            assert_eq!(at + 1 + to.2 as usize, pass, "the jump at {at}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_tell_where_registers_are_has_no_gate() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert!(instructions(&[ABSENT; Field::COUNT], file.as_fd()).is_err());
    }

    #[test]
    fn the_attributes_lie_where_the_kernel_looks_for_them() {
        // As in `include/uapi/linux/bpf.h`, counted by hand.
        assert_eq!(offset_of!(Load, expected_attach_type), 68);
        assert_eq!(offset_of!(Load, attach_btf_id), 108);
    }
}
