//! Sessions, and the device they come from: `kernel/liveupdate/luo_session.c`.

use aya_ebpf::macros::fentry;
use aya_ebpf::programs::{FEntryContext, FExitContext};
use luo_trace_common::events::{INCOMING, Kind, OUTGOING, Plain, SessionOp, SessionRef, SessionRelease};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::Hook;

use crate::call::{Call, Return};
use crate::emit::{emit, zero};
use crate::kernel::{Address, read_session};
use crate::kho;
use crate::task;

/// Any function of which nothing has to be noted but when it was entered.
#[fentry]
pub fn plain_enter(ctx: FEntryContext) -> u32 {
    if let Some(hook) = ctx.hook() {
        task::enter(hook);
    }
    0
}

kho::ends_operation!(session_exit, session_exit_keys, end_session);

/// `int luo_session_create(const char *name, struct file **filep)` (7.3)
/// `int luo_session_retrieve(const char *name, struct file **filep)` (7.3)
///
/// Both take the name they were asked for and a place for the new file, whose private data is the session.
#[inline(always)]
fn end_session<const KEYS: bool>(ctx: &FExitContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    let kind = match hook {
        Hook::SessionCreate => Kind::SessionCreate,
        _ => Kind::SessionRetrieve,
    };
    let ended = task::leave(hook, i64::from(ctx.result::<i32>()));
    let name = Address(ctx.argument::<u64>(0));
    let session = match ended.outcome.is_ok() {
        true => Address(ctx.argument(1))
            .read_here()
            .and_then(|file| Address(file).follow(Field::FilePrivate)),
        false => None,
    };
    let read = |to: &mut SessionRef| {
        name.read_name_here(&mut to.name);
        to.id = session.map_or(0, |session| session.0);
    };
    kho::settle::<KEYS>(hook, &ended, None, read);
    emit(kind, ended.at, |event: &mut SessionOp| {
        event.outcome = ended.outcome;
        read(&mut event.session);
    });
    0
}

kho::ends_operation!(plain_exit, plain_exit_keys, end_plain);

/// An operation on all sessions, or on none:
/// `int luo_session_deserialize(void)` (7.3)
/// `int luo_session_serialize(void)` (7.3)
/// `int luo_open(struct inode *inodep, struct file *filep)`, kernel/liveupdate/luo_core.c (7.3)
/// `int luo_release(struct inode *inodep, struct file *filep)`, kernel/liveupdate/luo_core.c (7.3)
/// `int kernel_kexec(void)`, kernel/kexec_core.c (7.3), which returns only where the jump did not happen
/// `int liveupdate_reboot(void)`, kernel/liveupdate/luo_core.c (7.3)
#[inline(always)]
fn end_plain<const KEYS: bool>(ctx: &FExitContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    let kind = match hook {
        Hook::SessionDeserialize => Kind::SessionDeserialize,
        Hook::SessionSerialize => Kind::SessionSerialize,
        Hook::DeviceOpen => Kind::DeviceOpen,
        Hook::DeviceRelease => Kind::DeviceRelease,
        Hook::Kexec => Kind::KexecReturn,
        Hook::LiveupdateReboot => Kind::LiveupdateReboot,
        _ => return 0,
    };
    let ended = task::leave(hook, i64::from(ctx.result::<i32>()));
    kho::settle::<KEYS>(hook, &ended, None, |_| ());
    emit(kind, ended.at, |event: &mut Plain| event.outcome = ended.outcome);
    0
}

/// `int luo_session_release(struct inode *inodep, struct file *filep)` (7.3)
///
/// A successful release frees the session, so everything about it is noted on entry.
#[fentry]
pub fn session_release_enter(ctx: FEntryContext) -> u32 {
    let Some(task) = task::enter(Hook::SessionRelease) else {
        return 0;
    };
    let release = &mut task.release;
    // SAFETY: zeros are valid there.
    unsafe { zero(release) };
    if let Some(session) = Address(ctx.argument::<u64>(1)).follow(Field::FilePrivate) {
        read_session(session, &mut release.session);
        release.direction = match session.read::<u8>(Field::SessionRetrieved) {
            None => 0,
            Some(0) => OUTGOING,
            Some(_) => INCOMING,
        };
        let set = session.member(Field::SessionFileSet);
        release.files = set.and_then(|set| set.read::<u64>(Field::FileSetCount)).unwrap_or(0);
    }
    0
}

kho::ends_operation!(session_release, session_release_keys, end_release);

#[inline(always)]
fn end_release<const KEYS: bool>(ctx: &FExitContext) -> u32 {
    let ended = task::leave(Hook::SessionRelease, i64::from(ctx.result::<i32>()));
    let noted = ended.task.as_ref().filter(|_| ended.outcome.duration != 0);
    kho::settle::<KEYS>(Hook::SessionRelease, &ended, None, |to| {
        if let Some(task) = noted {
            *to = task.release.session;
        }
    });
    emit(Kind::SessionRelease, ended.at, |event: &mut SessionRelease| {
        if let Some(task) = noted {
            *event = task.release;
        }
        event.outcome = ended.outcome;
    });
    0
}
