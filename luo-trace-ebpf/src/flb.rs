//! Global state that files share (FLB), and its owners' callbacks: `kernel/liveupdate/luo_flb.c`.

use core::ffi::{c_long, c_void};
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_get_func_ip, bpf_loop};
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};
use luo_trace_common::events::{FlbCall, FlbCallback, FlbOp, FlbRecord, FlbUse, INCOMING, Kind, OUTGOING, Plain};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::Hook;
use luo_trace_common::variables::Variable;

use crate::call::{Call, Return};
use crate::emit::emit;
use crate::kernel::{Address, size};
use crate::task::{self, Task};

/// `int luo_flb_file_preserve(struct liveupdate_file_handler *fh)` (7.3)
/// `void luo_flb_file_unpreserve(struct liveupdate_file_handler *fh)` (7.3)
/// `void luo_flb_file_finish(struct liveupdate_file_handler *fh)` (7.3)
#[fentry]
pub fn flb_file_enter(ctx: FEntryContext) -> u32 {
    if let Some(task) = ctx.hook().and_then(task::enter) {
        task.handler = ctx.argument(0);
    }
    0
}

#[fexit]
pub fn flb_file_exit(ctx: FExitContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    let (kind, result) = match hook {
        Hook::FlbPreserve => (Kind::FlbPreserve, i64::from(ctx.result::<i32>())),
        Hook::FlbUnpreserve => (Kind::FlbUnpreserve, 0),
        _ => (Kind::FlbFinish, 0),
    };
    let ended = task::leave(hook, result);
    // What a file's callback does to global state afterwards is no doing of this handler's.
    if let Some(task) = ended.task {
        task.handler = 0;
    }
    let handler = Address(ctx.argument(0));
    emit(kind, ended.at, |event: &mut FlbOp| {
        event.outcome = ended.outcome;
        handler.read_name(Field::HandlerCompatible, &mut event.handler);
    });
    0
}

/// `void luo_flb_serialize(void)` (7.3)
#[fexit]
pub fn flb_serialize(_ctx: FExitContext) -> u32 {
    emit_records();
    let ended = task::leave(Hook::FlbSerialize, 0);
    emit(Kind::FlbSerialize, ended.at, |event: &mut Plain| {
        event.outcome = ended.outcome
    });
    0
}

/// How many FLBs can be written for the next kernel: `LUO_FLB_MAX` (7.3), one page of them.
const MOST_RECORDS: u64 = 63;

/// What has been written for the next kernel. The machine is about to jump, and nobody registers FLBs any more.
#[inline(always)]
fn emit_records() {
    let count = Address::of(Variable::Flbs)
        .and_then(|flbs| flbs.follow(Field::FlbGlobalHeader))
        .and_then(|header| header.read::<u64>(Field::FlbHeaderCount))
        .unwrap_or(0);
    let count = count.min(MOST_RECORDS) as u32;
    // SAFETY: the callback has the signature that the helper calls, and takes no context: one on the stack takes the verifier long.
    unsafe { bpf_loop(count, emit_record as *mut c_void, ptr::null_mut(), 0) };
}

#[inline(never)]
extern "C" fn emit_record(index: u32, _ctx: *mut c_void) -> c_long {
    let records = Address::of(Variable::Flbs).and_then(|flbs| flbs.follow(Field::FlbGlobalRecords));
    let (Some(records), Some(size)) = (records, size(Field::FlbRecord)) else {
        return 1;
    };
    let record = Address(records.0.wrapping_add(u64::from(index) * size));
    // SAFETY: helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    emit(Kind::FlbRecord, now, |event: &mut FlbRecord| {
        record.read_name(Field::FlbRecordName, &mut event.name);
        event.data = record.read::<u64>(Field::FlbRecordData).unwrap_or(0);
        event.users = record.read::<u64>(Field::FlbRecordCount).unwrap_or(0);
    });
    0
}

/// `int liveupdate_flb_get_incoming(struct liveupdate_flb *flb, void **objp)` (7.3)
/// `int liveupdate_flb_get_outgoing(struct liveupdate_flb *flb, void **objp)` (7.3)
/// `void liveupdate_flb_put_incoming(struct liveupdate_flb *flb)` (7.3)
/// `void liveupdate_flb_put_outgoing(struct liveupdate_flb *flb)` (7.3)
///
/// LUO gives back a file's reference by the same functions that drivers use. Its own are told by the operation they are
/// part of.
#[fexit]
pub fn flb_use_exit(ctx: FExitContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    let gets = matches!(hook, Hook::FlbGetIncoming | Hook::FlbGetOutgoing);
    let incoming = matches!(hook, Hook::FlbGetIncoming | Hook::FlbPutIncoming);
    let result = if gets { i64::from(ctx.result::<i32>()) } else { 0 };
    let ended = task::leave(hook, result);
    let is_own = |task: &&mut Task| {
        let operations = [Hook::FlbPreserve, Hook::FlbUnpreserve, Hook::FlbFinish];
        operations.iter().any(|&hook| task.is_in(hook))
    };
    if !gets && ended.task.as_ref().is_some_and(is_own) {
        return 0;
    }
    let flb = Address(ctx.argument(0));
    let kind = if gets { Kind::FlbGet } else { Kind::FlbPut };
    emit(kind, ended.at, |event: &mut FlbUse| {
        event.outcome = ended.outcome;
        event.flb = flb.0;
        flb.read_name(Field::FlbCompatible, &mut event.name);
        let users = match incoming {
            true => flb.read::<i32>(Field::FlbIncomingCount),
            false => flb.read::<i32>(Field::FlbOutgoingCount),
        };
        event.direction = if incoming { INCOMING } else { OUTGOING };
        event.users = users.map_or(-1, i64::from);
    });
    0
}

/// `int (*)(struct liveupdate_flb_op_args *argp)` and alike, include/linux/liveupdate.h (7.3): any FLB's.
#[fentry]
pub fn flb_callback_enter(ctx: FEntryContext) -> u32 {
    // SAFETY: the context is this program's own.
    enter_callback(ctx.argument(0), unsafe { bpf_get_func_ip(ctx.as_ptr()) });
    0
}

#[fexit]
pub fn flb_callback(ctx: FExitContext) -> u32 {
    leave_callback(ctx.result());
    0
}

/// The same where a program can be attached to one function only.
#[kprobe]
pub fn flb_callback_probe(ctx: ProbeContext) -> u32 {
    if let Some(args) = ctx.arg(0) {
        // SAFETY: the context is this program's own.
        enter_callback(args, unsafe { bpf_get_func_ip(ctx.as_ptr()) });
    }
    0
}

#[kretprobe]
pub fn flb_callback_return(ctx: RetProbeContext) -> u32 {
    leave_callback(ctx.ret());
    0
}

/// LUO calls them with the FLB's lock held, so the number of users read here is the one it decided on. Which callback it is, is told as
/// it is for those of a file handler.
#[inline(always)]
fn enter_callback(args: u64, function: u64) {
    let Some(flb) = Address(args).follow(Field::FlbArgsFlb) else {
        return;
    };
    let Some(ops) = flb.follow(Field::FlbOps) else { return };
    let Some(call) = which_call(ops, function) else {
        return;
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

/// `answer` is the register of the result, which is any number for a callback that answers nothing.
#[inline(always)]
fn leave_callback(answer: u64) {
    let Some(task) = task::current() else { return };
    let args = Address(core::mem::take(&mut task.flb_args));
    if args.0 == 0 {
        return;
    }
    let call = task.flb_call as u32;
    let result = match FlbCall::from_raw(call) {
        Some(FlbCall::Preserve | FlbCall::Retrieve) => i64::from(answer as i32),
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
}
