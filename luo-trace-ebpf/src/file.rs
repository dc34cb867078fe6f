//! Files of a session, and their handlers' callbacks: `kernel/liveupdate/luo_file.c`.

use core::ffi::{c_long, c_void};

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_func_ip, bpf_loop};
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};
use luo_trace_common::events::{FileCall, FileCallback, FileOp, FilesOp, Kind, Outcome, TOKEN_KNOWN};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::Hook;

use crate::call::{Call, Return};
use crate::emit::emit;
use crate::kernel::{Address, read_object, read_session, session_of};
use crate::kho;
use crate::task::{self, Ended};

/// EBUSY, as `luo_file_can_finish_one` makes it of a handler's no.
const EBUSY: i64 = 16;

kho::ends_operation!(file_preserve, file_preserve_keys, end_preserve);

/// `int luo_preserve_file(struct luo_file_set *file_set, u64 token, int fd)` (7.3)
///
/// After a success the file is the last of its set, and the session's mutex, which the caller holds, keeps it there.
#[inline(always)]
fn end_preserve<const KEYS: bool>(ctx: &FExitContext) -> u32 {
    let ended = task::leave(Hook::FilePreserve, i64::from(ctx.result::<i32>()));
    let set: u64 = ctx.argument(0);
    let token: u64 = ctx.argument(1);
    settle::<KEYS>(Hook::FilePreserve, &ended, set, Some(token));
    emit(Kind::FilePreserve, ended.at, |event: &mut FileOp| {
        begin_file(event, set, token, ended.outcome);
        let handler = ended.task.as_ref().map_or(0, |task| task.handler);
        if ended.outcome.is_ok() {
            let last = Address(set)
                .member(Field::FileSetList)
                .and_then(|list| list.follow(Field::ListPrev));
            if let Some(luo_file) = last.and_then(|link| link.container(Field::LuoFileList)) {
                read_luo_file(luo_file, event);
            }
        } else if handler != 0 {
            Address(handler).read_name(Field::HandlerCompatible, &mut event.handler);
        }
    });
    leave_file(ended);
    0
}

/// How many files a set is searched through for the one retrieved; a file further back is reported without its handler.
const SEARCH: u32 = 64;

kho::ends_operation!(file_retrieve, file_retrieve_keys, end_retrieve);

/// `int luo_retrieve_file(struct luo_file_set *file_set, u64 token, struct file **filep)` (7.3)
#[inline(always)]
fn end_retrieve<const KEYS: bool>(ctx: &FExitContext) -> u32 {
    let ended = task::leave(Hook::FileRetrieve, i64::from(ctx.result::<i32>()));
    let set: u64 = ctx.argument(0);
    let token: u64 = ctx.argument(1);
    settle::<KEYS>(Hook::FileRetrieve, &ended, set, Some(token));
    emit(Kind::FileRetrieve, ended.at, |event: &mut FileOp| {
        begin_file(event, set, token, ended.outcome);
        if let Some(luo_file) = find_file(set, token) {
            read_luo_file(luo_file, event);
        }
    });
    leave_file(ended);
    0
}

/// A search through a set of files.
struct Search {
    token: u64,
    head: Address,
    /// What is looked at next.
    link: Address,
    found: Option<Address>,
}

/// The file of a token. The session's mutex, which the caller of the traced function holds, keeps the list as it is.
#[inline(always)]
fn find_file(set: u64, token: u64) -> Option<Address> {
    let head = Address(set).member(Field::FileSetList)?;
    let mut search = Search {
        token,
        head,
        link: head.follow(Field::ListNext)?,
        found: None,
    };
    // SAFETY: the callback has the signature that the helper calls, and its context outlives the loop. The verifier goes through it
    // once, where it would go through a loop of its own for each file.
    unsafe { bpf_loop(SEARCH, look_at_file as *mut c_void, (&raw mut search).cast(), 0) };
    search.found
}

/// Looks at one file; gives 0 where there is another to look at.
#[inline(never)]
extern "C" fn look_at_file(_index: u32, search: *mut c_void) -> c_long {
    // SAFETY: the context that `find_file` gives, which nobody else has.
    let search = unsafe { &mut *search.cast::<Search>() };
    if search.link == search.head {
        return 1;
    }
    let Some(luo_file) = search.link.container(Field::LuoFileList) else {
        return 1;
    };
    if luo_file.read::<u64>(Field::LuoFileToken) == Some(search.token) {
        search.found = Some(luo_file);
        return 1;
    }
    let Some(next) = search.link.follow(Field::ListNext) else {
        return 1;
    };
    search.link = next;
    0
}

/// Both take the set of files, and the token.
#[fentry]
pub fn file_enter(ctx: FEntryContext) -> u32 {
    if let Some(task) = ctx.hook().and_then(task::enter) {
        task.file_set = ctx.argument(0);
        task.token = ctx.argument(1);
        task.token_known = 1;
        task.handler = 0;
    }
    0
}

#[inline(always)]
fn leave_file(ended: Ended) {
    if let Some(task) = ended.task {
        task.file_set = 0;
        task.token_known = 0;
        task.handler = 0;
    }
}

#[inline(always)]
fn settle<const KEYS: bool>(hook: Hook, ended: &Ended, set: u64, token: Option<u64>) {
    kho::settle::<KEYS>(hook, ended, token, |to| {
        if let Some(session) = session_of(set) {
            read_session(session, to);
        }
    });
}

#[inline(always)]
fn begin_file(event: &mut FileOp, set: u64, token: u64, outcome: Outcome) {
    event.outcome = outcome;
    event.token = token;
    if let Some(session) = session_of(set) {
        read_session(session, &mut event.session);
    }
}

/// Reads a `struct luo_file *`.
#[inline(always)]
fn read_luo_file(luo_file: Address, event: &mut FileOp) {
    event.data = luo_file.read::<u64>(Field::LuoFileData).unwrap_or(0);
    let Some(handler) = luo_file.follow(Field::LuoFileHandler) else {
        return;
    };
    handler.read_name(Field::HandlerCompatible, &mut event.handler);
    let get_id = handler
        .follow(Field::HandlerOps)
        .and_then(|ops| ops.follow(Field::FileOpsGetId));
    if let Some(file) = luo_file.follow(Field::LuoFileFile) {
        read_object(file, get_id.is_some(), &mut event.object);
    }
}

/// `void luo_file_unpreserve_files(struct luo_file_set *file_set)` (7.3)
/// `int luo_file_finish(struct luo_file_set *file_set)` (7.3)
/// `int luo_file_freeze(struct luo_file_set *file_set, struct luo_file_set_ser *file_set_ser)` (7.3)
/// `void luo_file_unfreeze(struct luo_file_set *file_set, struct luo_file_set_ser *file_set_ser)` (7.3)
/// `int luo_file_deserialize(struct luo_file_set *file_set, struct luo_file_set_ser *file_set_ser)` (7.3)
#[fentry]
pub fn files_enter(ctx: FEntryContext) -> u32 {
    if let Some(task) = ctx.hook().and_then(task::enter) {
        task.file_set = ctx.argument(0);
        task.token_known = 0;
        task.files = Address(task.file_set).read::<u64>(Field::FileSetCount).unwrap_or(0);
    }
    0
}

kho::ends_operation!(files_exit, files_exit_keys, end_files);

#[inline(always)]
fn end_files<const KEYS: bool>(ctx: &FExitContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    let kind = match hook {
        Hook::FilesUnpreserve => Kind::FilesUnpreserve,
        Hook::FilesFinish => Kind::FilesFinish,
        Hook::FilesFreeze => Kind::FilesFreeze,
        Hook::FilesUnfreeze => Kind::FilesUnfreeze,
        _ => Kind::FilesDeserialize,
    };
    let result = match hook {
        Hook::FilesUnpreserve | Hook::FilesUnfreeze => 0,
        _ => i64::from(ctx.result::<i32>()),
    };
    let set: u64 = ctx.argument(0);
    let ended = task::leave(hook, result);
    settle::<KEYS>(hook, &ended, set, None);
    emit(kind, ended.at, |event: &mut FilesOp| {
        event.outcome = ended.outcome;
        if let Some(session) = session_of(set) {
            read_session(session, &mut event.session);
        }
        if hook == Hook::FilesDeserialize {
            // The count is what has just arrived.
            event.files = Address(set).read::<u64>(Field::FileSetCount).unwrap_or(0);
        } else if let Some(task) = &ended.task {
            event.files = task.files;
        }
    });
    leave_file(ended);
    0
}

/// `int (*)(struct liveupdate_file_op_args *args)` and alike, include/linux/liveupdate.h (7.3): any handler's.
#[fentry]
pub fn file_callback_enter(ctx: FEntryContext) -> u32 {
    // SAFETY: the context is this program's own.
    enter_callback(ctx.argument(0), unsafe { bpf_get_func_ip(ctx.as_ptr()) });
    0
}

#[fexit]
pub fn file_callback(ctx: FExitContext) -> u32 {
    leave_callback(ctx.result());
    0
}

/// The same where a program can be attached to one function only.
#[kprobe]
pub fn file_callback_probe(ctx: ProbeContext) -> u32 {
    if let Some(args) = ctx.arg(0) {
        // SAFETY: the context is this program's own.
        enter_callback(args, unsafe { bpf_get_func_ip(ctx.as_ptr()) });
    }
    0
}

#[kretprobe]
pub fn file_callback_return(ctx: RetProbeContext) -> u32 {
    leave_callback(ctx.ret());
    0
}

/// Which callback it is, is told by the handler's own table: the member that points to the function that runs. One that is in no
/// table is a helper, or a callback that this version does not know.
#[inline(always)]
fn enter_callback(args: u64, function: u64) {
    let handler = Address(args).follow(Field::FileArgsHandler);
    let Some(ops) = handler.and_then(|handler| handler.follow(Field::HandlerOps)) else {
        return;
    };
    let Some(call) = which_call(ops, function) else {
        return;
    };
    if let Some(task) = task::enter(Hook::FileCallback) {
        task::forget_callback(&mut task.file_args);
        task.file_call = call as u64;
        task.file_args = args;
    }
}

#[inline(always)]
fn which_call(ops: Address, function: u64) -> Option<FileCall> {
    let calls = [
        (Field::FileOpsPreserve, FileCall::Preserve),
        (Field::FileOpsUnpreserve, FileCall::Unpreserve),
        (Field::FileOpsFreeze, FileCall::Freeze),
        (Field::FileOpsUnfreeze, FileCall::Unfreeze),
        (Field::FileOpsRetrieve, FileCall::Retrieve),
        (Field::FileOpsCanFinish, FileCall::CanFinish),
        (Field::FileOpsFinish, FileCall::Finish),
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
    let args = Address(core::mem::take(&mut task.file_args));
    if args.0 == 0 {
        return;
    }
    let call = task.file_call as u32;
    // Of the callbacks, three return nothing, one returns a bool, and the others an int.
    let result = match FileCall::from_raw(call) {
        Some(FileCall::CanFinish) if answer as u8 == 0 => -EBUSY,
        Some(FileCall::Preserve | FileCall::Freeze | FileCall::Retrieve) => i64::from(answer as i32),
        _ => 0,
    };
    let ended = task::leave(Hook::FileCallback, result);
    emit(Kind::FileCallback, ended.at, |event: &mut FileCallback| {
        event.outcome = ended.outcome;
        event.call = call;
        if task.token_known != 0 {
            event.flags = TOKEN_KNOWN;
            event.token = task.token;
        }
        if let Some(session) = session_of(task.file_set) {
            read_session(session, &mut event.session);
        }
        if let Some(handler) = args.follow(Field::FileArgsHandler) {
            handler.read_name(Field::HandlerCompatible, &mut event.handler);
        }
        event.file = args.read::<u64>(Field::FileArgsFile).unwrap_or(0);
        event.data = args.read::<u64>(Field::FileArgsData).unwrap_or(0);
        event.retrieve_status = match args.read::<i32>(Field::FileArgsRetrieveStatus) {
            Some(status) => i64::from(status),
            None => i64::from(args.read::<u8>(Field::FileArgsRetrieved).unwrap_or(0)),
        };
    });
}
