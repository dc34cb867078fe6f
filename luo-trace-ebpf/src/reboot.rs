//! The way into the next kernel.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use luo_trace_common::events::{Kexec, Kind, Plain};
use luo_trace_common::hooks::Hook;

use crate::emit::emit;
use crate::kernel::read_image;
use crate::task;

/// `int kernel_kexec(void)`, kernel/kexec_core.c (7.3)
#[fentry]
pub fn kexec_enter(_ctx: FEntryContext) -> u32 {
    task::enter(Hook::Kexec);
    // SAFETY: helper without preconditions.
    emit(Kind::KexecEnter, unsafe { bpf_ktime_get_ns() }, |event: &mut Kexec| {
        read_image(&mut event.image)
    });
    0
}

/// It returns only where the jump did not happen.
#[fexit]
pub fn kexec_return(ctx: FExitContext) -> u32 {
    let ended = task::leave(Hook::Kexec, i64::from(ctx.arg::<i32>(0)));
    emit(Kind::KexecReturn, ended.at, |event: &mut Plain| {
        event.outcome = ended.outcome
    });
    0
}

/// `int liveupdate_reboot(void)`, kernel/liveupdate/luo_core.c (7.3)
#[fentry]
pub fn liveupdate_reboot_enter(_ctx: FEntryContext) -> u32 {
    task::enter(Hook::LiveupdateReboot);
    0
}

#[fexit]
pub fn liveupdate_reboot(ctx: FExitContext) -> u32 {
    let ended = task::leave(Hook::LiveupdateReboot, i64::from(ctx.arg::<i32>(0)));
    emit(Kind::LiveupdateReboot, ended.at, |event: &mut Plain| {
        event.outcome = ended.outcome
    });
    0
}
