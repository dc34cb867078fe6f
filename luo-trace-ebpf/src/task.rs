//! What a task is in the middle of: noted by entry programs, used by the exit programs of the same task.
//!
//! LUO's operations nest (a release unpreserves files, which calls a handler, which takes down global state), but no
//! operation contains another of its own hook: one slot per hook and task is enough.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use luo_trace_common::events::{Keys, Outcome, SessionRelease};
use luo_trace_common::hooks::{Family, Hook};

use crate::emit::{count_loss, zero};
use crate::kho;
use crate::storage::TaskStorage;

/// How deep LUO's operations nest, and one more; a power of two.
const DEPTH: usize = 4;

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
    /// The outermost function of KHO's interface under way, as `Hook` and one; 0: none.
    pub kho_call: u64,
    /// How many keys could not be added in it.
    pub kho_failures: u64,
    /// What `kho_restore_page` was asked for: the `struct page *` where it is known, and KHO's note on it.
    pub restore_page: u64,
    /// See `restore_page`.
    pub restore_note: u64,
    /// How many operations are under way, one in another.
    depth: u64,
    operations: [Operation; DEPTH],
}

/// An operation of LUO that is under way.
#[repr(C)]
struct Operation {
    /// `Hook` and one.
    within: u64,
    account: Account,
}

/// What an operation did to preserved memory, but for the operations within it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Account {
    /// Keys added to KHO's tree.
    pub added: Keys,
    /// Keys removed from it.
    pub removed: Keys,
    /// Ranges restored.
    pub restored: Keys,
    /// Keys that could not be added.
    pub failures: u64,
    /// Keys added that lie in scratch memory.
    pub in_scratch: u64,
}

/// Notes of each task, which go with it: one that died in an operation leaves nothing behind.
#[btf_map]
static TASKS: TaskStorage<Task> = TaskStorage::new();

impl Task {
    /// Whether this hook's function is under way.
    #[inline(always)]
    pub fn is_in(&self, hook: Hook) -> bool {
        self.starts[hook as usize] != 0
    }

    /// The innermost operation under way, as `Hook` and one; 0: none.
    #[inline(always)]
    pub fn within(&self) -> u32 {
        match self.depth {
            0 => 0,
            depth => self.operations[(depth - 1) as usize % DEPTH].within as u32,
        }
    }

    /// The account of the innermost operation under way.
    #[inline(always)]
    pub fn account(&mut self) -> Option<&mut Account> {
        match self.depth {
            0 => None,
            depth => Some(&mut self.operations[(depth - 1) as usize % DEPTH].account),
        }
    }

    #[inline(always)]
    fn begin(&mut self, hook: Hook) {
        // What a system call begins with is in nothing else: an operation that seems to be under way is one whose end was
        // not seen.
        if !is_among(INNER, hook) {
            self.depth = 0;
            self.kho_call = 0;
        }
        let operation = &mut self.operations[self.depth as usize % DEPTH];
        operation.within = hook as u64 + 1;
        if kho::is_accounting() {
            // SAFETY: zeros are valid there.
            unsafe { zero(&raw mut operation.account) };
        }
        self.depth += 1;
    }

    /// Ends an operation; whether its beginning was seen.
    #[inline(always)]
    fn end(&mut self, hook: Hook) -> bool {
        let Some(depth) = self.depth.checked_sub(1) else {
            return false;
        };
        let known = self.operations[depth as usize % DEPTH].within == hook as u64 + 1;
        self.depth = if known { depth } else { 0 };
        known
    }

    /// The account of the operation that has just ended.
    #[inline(always)]
    pub fn settled(&self) -> &Account {
        &self.operations[self.depth as usize % DEPTH].account
    }
}

/// Hooks as bits, since a program may serve many hooks, and asks of the one that it runs for.
#[inline(always)]
fn is_among(hooks: u64, hook: Hook) -> bool {
    hooks >> (hook as u32 & 63) & 1 != 0
}

const fn bit(hook: Hook) -> u64 {
    const { assert!(Hook::ALL.len() <= 64) };
    1 << hook as u32
}

/// All hooks of a family.
const fn family(family: Family) -> u64 {
    let mut bits = 0;
    let mut i = 0;
    while i < Hook::ALL.len() {
        if Hook::ALL[i].family() as u8 == family as u8 {
            bits |= bit(Hook::ALL[i]);
        }
        i += 1;
    }
    bits
}

/// The hooks of operations in which LUO calls file handlers.
const CALLERS_OF_HANDLERS: u64 = family(Family::File) & !bit(Hook::FileCallback);

/// The hooks of operations in which LUO calls owners of global state.
const CALLERS_OF_FLBS: u64 =
    bit(Hook::FlbPreserve) | bit(Hook::FlbUnpreserve) | bit(Hook::FlbFinish) | bit(Hook::FlbSerialize);

/// The hooks of operations that keep account of preserved memory.
const OPERATIONS: u64 = family(Family::Session) | CALLERS_OF_HANDLERS | bit(Hook::LiveupdateReboot);

/// The hooks of operations that can be part of another.
const INNER: u64 = bit(Hook::SessionDeserialize)
    | bit(Hook::SessionSerialize)
    | bit(Hook::FilesUnpreserve)
    | bit(Hook::FilesFinish)
    | bit(Hook::FilesFreeze)
    | bit(Hook::FilesUnfreeze)
    | bit(Hook::FilesDeserialize);

/// The current task's notes, if it has any.
#[inline(always)]
pub fn current() -> Option<&'static mut Task> {
    // SAFETY: a map's value; only programs of this same task use it, and they do not run at the same time.
    TASKS.of_current().map(|task| unsafe { &mut *task })
}

/// The current task's notes; blank ones, if it has none yet.
#[inline(always)]
pub fn current_or_new() -> Option<&'static mut Task> {
    // SAFETY: as above, and zeros are valid there.
    TASKS.of_current_or_new().map(|task| unsafe { &mut *task })
}

/// Notes that the current task entered a hook's function.
#[inline(always)]
pub fn enter(hook: Hook) -> Option<&'static mut Task> {
    let task = current_or_new()?;
    // SAFETY: helper without preconditions.
    task.starts[hook as usize] = unsafe { bpf_ktime_get_ns() };
    if is_among(OPERATIONS, hook) {
        task.begin(hook);
    }
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
pub struct Ended {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// Its result, and how long it took.
    pub outcome: Outcome,
    /// Whether it is an operation whose account is known.
    pub accounted: bool,
    /// The task's notes.
    pub task: Option<&'static mut Task>,
}

/// A hook's function returns now.
#[inline(always)]
pub fn leave(hook: Hook, result: i64) -> Ended {
    // SAFETY: helper without preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    let mut start = 0;
    let mut accounted = false;
    let mut task = current();
    if let Some(task) = &mut task {
        start = core::mem::take(&mut task.starts[hook as usize]);
        if is_among(CALLERS_OF_HANDLERS, hook) {
            forget_callback(&mut task.file_args);
        }
        if is_among(CALLERS_OF_FLBS, hook) {
            forget_callback(&mut task.flb_args);
        }
        if is_among(OPERATIONS, hook) {
            accounted = task.end(hook);
        }
    }
    Ended {
        at,
        outcome: outcome(start, at, result),
        accounted,
        task,
    }
}

#[inline(always)]
fn outcome(start: u64, at: u64, result: i64) -> Outcome {
    // 0 stands for an entry that was not seen; a clock that ticks slowly may well show no time at all.
    let duration = if start == 0 { 0 } else { at.saturating_sub(start).max(1) };
    Outcome { result, duration }
}

/// Notes that the current task entered a function of KHO's interface, unless it is in another one.
#[inline(always)]
pub fn enter_kho(hook: Hook) {
    let Some(task) = current_or_new() else { return };
    let call = hook as u64 + 1;
    if task.kho_call == 0 || task.kho_call == call {
        task.kho_call = call;
        task.kho_failures = 0;
        // SAFETY: helper without preconditions.
        task.starts[hook as usize] = unsafe { bpf_ktime_get_ns() };
    }
}

/// A function of KHO's interface returns now; `None` where it is part of another one.
#[inline(always)]
pub fn leave_kho(hook: Hook, result: i64) -> Option<Ended> {
    let Some(task) = current() else {
        // Its beginning was not seen, or is forgotten.
        count_loss();
        return None;
    };
    if task.kho_call != hook as u64 + 1 {
        return None;
    }
    task.kho_call = 0;
    // SAFETY: helper without preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    Some(Ended {
        at,
        outcome: outcome(core::mem::take(&mut task.starts[hook as usize]), at, result),
        accounted: false,
        task: Some(task),
    })
}
