//! The programs that refuse: each asks, before the kernel goes on, whether policy has something against a call.
//!
//! They are LSM programs, which the kernel never skips, and whose no the caller sees as `EPERM`. Most calls they see have
//! nothing to do with LUO, so the first comparison of each settles those. Nothing here ever refuses to retrieve, to finish or
//! to close a session: preserved memory would leak.
//!
//! What a caller could still change is not looked at: the commands of a call are taken from its arguments or saved registers,
//! a session's name from the kernel's copy of it.

#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key is looked up where it lies: the stack has no room for a copy"
)]

mod cgroup;
mod decide;
mod sessions;

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{btf_map, fentry, lsm};
use aya_ebpf::programs::{FEntryContext, LsmContext};
use luo_trace_common::fields::Field;
use luo_trace_common::policy::{CREATE_SESSION, Operation, PROBE};
use luo_trace_common::variables::Variable;

use crate::caller::{CAP_SYS_BOOT, is_first_user_namespace, is_in_first_pid_namespace};
use crate::image::begin_load;
use crate::kernel::{Address, Trusted};
use crate::reboot::READING_KEXEC_IMAGE;
use crate::registers::Registers;
pub use decide::STATE;
use decide::{About, decide, note_probe};

/// `EPERM` of `include/uapi/asm-generic/errno-base.h` (7.3), as an LSM program gives it.
const EPERM: i32 = -1;
/// `LIVEUPDATE_SESSION_PRESERVE_FD` of `include/uapi/linux/liveupdate.h` (7.3).
const PRESERVE_FD: u32 = 0xba40;
/// `LOADING_KEXEC_IMAGE` of `enum kernel_load_data_id`, `include/linux/kernel_read_file.h` (7.3), which has the same numbers.
const LOADING_KEXEC_IMAGE: u32 = READING_KEXEC_IMAGE;

/// The threads that may not make the session that they are about to make. The gate, which the agent makes from single
/// instructions since aya has no programs of its kind, takes them out: see `kernel/lsm/gate.rs` in the agent.
#[btf_map]
static REFUSED: LruHashMap<u32, u32, 1024> = LruHashMap::new();

/// `int file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`, include/linux/lsm_hook_defs.h (7.3)
#[lsm(hook = "file_ioctl")]
pub fn policy_file_ioctl(ctx: LsmContext) -> i32 {
    match ctx.arg::<u32>(1) {
        CREATE_SESSION => {
            // A mark that is still there is of a call that failed before it came to its file.
            _ = REFUSED.remove(bpf_get_current_pid_tgid() as u32);
            0
        }
        PRESERVE_FD if is_session(&ctx) => {
            let session = file(&ctx).load::<u64>(Field::FilePrivate).unwrap_or(0);
            let name = Address(session).member(Field::SessionName).map_or(0, |name| name.0);
            let about = About {
                session,
                name,
                legacy: false,
            };
            answer(decide(Operation::FilePreserve, about))
        }
        PROBE => {
            note_probe();
            0
        }
        _ => 0,
    }
}

/// `int luo_session_create(const char *name, struct file **filep)` (7.3), whose name is the kernel's copy.
///
/// Nothing can be refused here: the gate does it when the kernel makes the session's file, and LUO takes the session out of its
/// list again.
#[fentry]
pub fn policy_session_create(ctx: FEntryContext) -> u32 {
    let about = About {
        name: ctx.arg(0),
        ..About::default()
    };
    if decide(Operation::SessionCreate, about) {
        _ = REFUSED.insert(bpf_get_current_pid_tgid() as u32, 0, 0);
    }
    0
}

/// `int kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)`, include/linux/lsm_hook_defs.h (7.3)
#[lsm(hook = "kernel_read_file")]
pub fn policy_read_file(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(1) != READING_KEXEC_IMAGE || Registers::of_current().loads_for_crash_by_file() {
        return 0;
    }
    // It is counted whether it is refused or not: its number stands for nothing else.
    begin_load();
    load(false)
}

/// `int kernel_load_data(enum kernel_load_data_id id, bool contents)`, include/linux/lsm_hook_defs.h (7.3)
#[lsm(hook = "kernel_load_data")]
pub fn policy_load_data(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(0) != LOADING_KEXEC_IMAGE || Registers::of_current().unloads_or_loads_for_crash() {
        return 0;
    }
    load(true)
}

/// `int capable(const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts)`, include/linux/lsm_hook_defs.h
/// (7.3)
#[lsm(hook = "capable")]
pub fn policy_capable(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(2) != CAP_SYS_BOOT || !Registers::of_current().reboots_by_kexec() {
        return 0;
    }
    // In a namespace of its own a caller is asked about that one, and can never jump.
    if !is_first_user_namespace(Address(ctx.arg(1))) || !is_in_first_pid_namespace() {
        return 0;
    }
    answer(decide(Operation::KexecReboot, About::default()))
}

/// An image to jump into is about to be loaded.
#[inline(always)]
fn load(legacy: bool) -> i32 {
    let about = About {
        legacy,
        ..About::default()
    };
    answer(decide(Operation::KexecLoad, about))
}

/// The verifier wants the answer as a number in the program.
#[inline(always)]
fn answer(refused: bool) -> i32 {
    if refused { EPERM } else { 0 }
}

/// The file that a call is about.
#[inline(always)]
fn file(ctx: &LsmContext) -> Trusted {
    Trusted(ctx.arg(0))
}

/// Whether that file is a session's, which no process can make another look like.
#[inline(always)]
fn is_session(ctx: &LsmContext) -> bool {
    let operations = Address::of(Variable::SessionOps).map(|operations| operations.0);
    operations.is_some() && file(ctx).load::<u64>(Field::FileOps) == operations
}
