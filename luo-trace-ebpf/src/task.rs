//! What a task is in the middle of: noted by entry programs, used by the exit programs of the same task.
//!
//! LUO's operations nest (a release unpreserves files, which calls a handler, which takes down global state), but no
//! operation contains another of its own hook: one slot per hook and task is enough.

use aya_ebpf::btf_maps::{Array, LruHashMap};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use luo_trace_common::events::{Outcome, SessionRelease};
use luo_trace_common::hooks::{Family, Hook};

use crate::emit::count_loss;

/// One task's notes.
#[repr(C)]
pub struct Task {
    /// When each hook's function was entered; 0: it was not, or has returned.
    starts: [u64; Hook::ALL.len()],
    /// The `struct luo_file_set *` of the file operation under way; 0: none.
    pub file_set: u64,
    /// The token of the file operation under way, if `token_known`.
    pub token: u64,
    /// Whether the operation under way is about one token.
    pub token_known: u64,
    /// How many files the set held when the operation began.
    pub files: u64,
    /// The `struct liveupdate_file_handler *` whose FLBs are being visited; 0: none.
    pub handler: u64,
    /// The file callback under way: its raw `FileCall`, and its argument.
    pub file_call: u64,
    /// See `file_call`.
    pub file_args: u64,
    /// The FLB callback under way: its raw `FlbCall`, its argument, and the users it found.
    pub flb_call: u64,
    /// See `flb_call`.
    pub flb_args: u64,
    /// See `flb_call`.
    pub flb_users: i64,
    /// The session being released, which is gone when the release returns.
    pub release: SessionRelease,
}

/// Notes by thread id. Least recently used, so that a task that died in an operation leaves nothing behind.
#[btf_map]
static TASKS: LruHashMap<u32, Task, 2048> = LruHashMap::new();

/// A task's notes before it began anything: too large for a program's stack.
#[btf_map]
static BLANK: Array<Task, 1> = Array::new();

/// The current task's notes, if it has any.
#[inline(always)]
pub fn current() -> Option<&'static mut Task> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: a map's value; only programs of this same task use this slot, and they do not run at the same time.
    TASKS.get_ptr_mut(tid).map(|task| unsafe { &mut *task })
}

/// Notes that the current task entered a hook's function.
#[inline(always)]
pub fn enter(hook: Hook) -> Option<&'static mut Task> {
    let task = match current() {
        Some(task) => task,
        None => {
            let tid = bpf_get_current_pid_tgid() as u32;
            let blank = BLANK.get(0)?;
            TASKS.insert(tid, blank, 0).ok()?;
            current()?
        }
    };
    // SAFETY: helper without preconditions.
    task.starts[hook as usize] = unsafe { bpf_ktime_get_ns() };
    Some(task)
}

/// Forgets a callback's argument. One that is still there when its operation ends, or when the next callback begins, is of
/// a callback whose return the kernel did not report: it has room for only so many at a time. That is a loss.
#[inline(always)]
pub fn forget_callback(args: &mut u64) {
    if core::mem::take(args) != 0 {
        count_loss();
    }
}

/// How a hook's function ended, and when.
#[derive(Clone, Copy)]
pub struct Ended {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// Its result, and how long it took.
    pub outcome: Outcome,
}

/// A hook's function returns now.
#[inline(always)]
pub fn leave(hook: Hook, result: i64) -> Ended {
    // SAFETY: helper without preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    let mut start = 0;
    if let Some(task) = current() {
        start = core::mem::take(&mut task.starts[hook as usize]);
        match (hook, hook.family()) {
            (Hook::FileCallback | Hook::FlbCallback, _) => {}
            (_, Family::File) => forget_callback(&mut task.file_args),
            (_, Family::Flb) => forget_callback(&mut task.flb_args),
            _ => {}
        }
    }
    // 0 stands for an entry that was not seen; a clock that ticks slowly may well show no time at all.
    let duration = if start == 0 { 0 } else { at.saturating_sub(start).max(1) };
    Ended {
        at,
        outcome: Outcome { result, duration },
    }
}
