//! Global state that files share (FLB), and its owners' callbacks: `kernel/liveupdate/luo_flb.c`.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_func_ip;
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};
use luo_trace_common::events::{FlbCall, FlbCallback, FlbOp, Kind, Plain};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::Hook;

use crate::emit::emit;
use crate::kernel::Address;
use crate::task::{self, Ended};

/// `int luo_flb_file_preserve(struct liveupdate_file_handler *fh)` (7.3)
#[fentry]
pub fn flb_file_preserve_enter(ctx: FEntryContext) -> u32 {
    enter_flb(Hook::FlbPreserve, &ctx);
    0
}

#[fexit]
pub fn flb_file_preserve(ctx: FExitContext) -> u32 {
    emit_flb(
        Kind::FlbPreserve,
        task::leave(Hook::FlbPreserve, i64::from(ctx.arg::<i32>(1))),
        &ctx,
    );
    0
}

/// `void luo_flb_file_unpreserve(struct liveupdate_file_handler *fh)` (7.3)
#[fentry]
pub fn flb_file_unpreserve_enter(ctx: FEntryContext) -> u32 {
    enter_flb(Hook::FlbUnpreserve, &ctx);
    0
}

#[fexit]
pub fn flb_file_unpreserve(ctx: FExitContext) -> u32 {
    emit_flb(Kind::FlbUnpreserve, task::leave(Hook::FlbUnpreserve, 0), &ctx);
    0
}

/// `void luo_flb_file_finish(struct liveupdate_file_handler *fh)` (7.3)
#[fentry]
pub fn flb_file_finish_enter(ctx: FEntryContext) -> u32 {
    enter_flb(Hook::FlbFinish, &ctx);
    0
}

#[fexit]
pub fn flb_file_finish(ctx: FExitContext) -> u32 {
    emit_flb(Kind::FlbFinish, task::leave(Hook::FlbFinish, 0), &ctx);
    0
}

#[inline(always)]
fn enter_flb(hook: Hook, ctx: &FEntryContext) {
    if let Some(task) = task::enter(hook) {
        task.handler = ctx.arg(0);
    }
}

#[inline(always)]
fn emit_flb(kind: Kind, ended: Ended, ctx: &FExitContext) {
    let handler = Address(ctx.arg(0));
    emit(kind, ended.at, |event: &mut FlbOp| {
        event.outcome = ended.outcome;
        handler.read_name(Field::HandlerCompatible, &mut event.handler);
    });
}

/// `void luo_flb_serialize(void)` (7.3)
#[fentry]
pub fn flb_serialize_enter(_ctx: FEntryContext) -> u32 {
    task::enter(Hook::FlbSerialize);
    0
}

#[fexit]
pub fn flb_serialize(_ctx: FExitContext) -> u32 {
    let ended = task::leave(Hook::FlbSerialize, 0);
    emit(Kind::FlbSerialize, ended.at, |event: &mut Plain| {
        event.outcome = ended.outcome
    });
    0
}

/// `int (*)(struct liveupdate_flb_op_args *argp)` and alike, include/linux/liveupdate.h (7.3): any FLB's.
///
/// LUO calls them with the FLB's lock held, so the number of users read here is the one it decided on.
#[kprobe]
pub fn flb_callback_enter(ctx: ProbeContext) -> u32 {
    let Some(args) = ctx.arg::<u64>(0) else { return 0 };
    let Some(flb) = Address(args).follow(Field::FlbArgsFlb) else {
        return 0;
    };
    let Some(ops) = flb.follow(Field::FlbOps) else { return 0 };
    // SAFETY: the context is this program's own.
    let function = unsafe { bpf_get_func_ip(ctx.as_ptr()) };
    let Some(call) = which_call(ops, function) else {
        // It takes the right argument and is in no table: a helper, or a callback that this version does not know.
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(&ctx, "function {:x} is no known callback of its FLB", function);
        return 0;
    };
    let count = match call {
        FlbCall::Preserve | FlbCall::Unpreserve => Field::FlbOutgoingCount,
        FlbCall::Retrieve | FlbCall::Finish => Field::FlbIncomingCount,
    };
    if let Some(task) = task::enter(Hook::FlbCallback) {
        task::forget_callback(&mut task.flb_args);
        task.flb_call = call as u64;
        task.flb_args = args;
        task.flb_users = flb.read::<i32>(count).map_or(-1, i64::from);
    }
    0
}

#[inline(always)]
fn which_call(ops: Address, function: u64) -> Option<FlbCall> {
    let calls = [
        (Field::FlbOpsPreserve, FlbCall::Preserve),
        (Field::FlbOpsUnpreserve, FlbCall::Unpreserve),
        (Field::FlbOpsRetrieve, FlbCall::Retrieve),
        (Field::FlbOpsFinish, FlbCall::Finish),
    ];
    for (field, call) in calls {
        if ops.read::<u64>(field) == Some(function) {
            return Some(call);
        }
    }
    None
}

#[kretprobe]
pub fn flb_callback(ctx: RetProbeContext) -> u32 {
    let Some(task) = task::current() else { return 0 };
    let args = Address(core::mem::take(&mut task.flb_args));
    if args.0 == 0 {
        return 0;
    }
    let call = task.flb_call as u32;
    let result = match FlbCall::from_raw(call) {
        Some(FlbCall::Preserve | FlbCall::Retrieve) => i64::from(ctx.ret::<i32>()),
        _ => 0,
    };
    let ended = task::leave(Hook::FlbCallback, result);
    emit(Kind::FlbCallback, ended.at, |event: &mut FlbCallback| {
        event.outcome = ended.outcome;
        event.call = call;
        event.users = task.flb_users;
        if let Some(flb) = args.follow(Field::FlbArgsFlb) {
            event.flb = flb.0;
            flb.read_name(Field::FlbCompatible, &mut event.name);
        }
        if task.handler != 0 {
            Address(task.handler).read_name(Field::HandlerCompatible, &mut event.handler);
        }
        event.data = args.read::<u64>(Field::FlbArgsData).unwrap_or(0);
    });
    0
}
