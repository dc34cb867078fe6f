//! Kexec HandOver, the memory that outlives this kernel: `kernel/liveupdate/kexec_handover.c`.
//!
//! Functions of its interface that are called once for an object send an event a call. What runs once for a page never
//! does: it is added to the account of the LUO operation that the task is in, which is sent when the operation ends.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use luo_trace_common::events::{
    Keys, KhoAnomaly, KhoBalance, KhoCall, KhoOp, Kind, Outcome, PRESERVED_IN_SCRATCH, RESTORE_OF_UNPRESERVED,
    SessionRef, TOKEN_KNOWN,
};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::Hook;
use luo_trace_common::variables::Variable;

use crate::call::{Call, Return};
use crate::emit::emit;
use crate::kernel::{Address, page_shift, read_string, target};
use crate::task::{self, Ended};

/// ENOENT: what a function that answers with a null pointer is taken to mean.
const ENOENT: i64 = 2;
/// EINVAL.
const EINVAL: i64 = 22;
/// The largest errno, `MAX_ERRNO` in `include/linux/err.h`.
const MAX_ERRNO: i64 = 4095;
/// Size of `struct page`, `include/linux/mm_types.h` (7.3). Where it were another, what is restored would be found not to be
/// what was asked for, and counted as lost.
const STRUCT_PAGE: u64 = 64;
/// `KHO_PAGE_MAGIC` (7.3): marks the first page of a range from the previous kernel, above the range's order.
const PAGE_MAGIC: u64 = 0x4b48_4f50;
/// The largest order a range can have and still be counted: 4 GiB of 4 KiB pages.
const MAX_ORDER: u32 = 20;

/// `int kho_preserve_pages(struct page *page, unsigned long nr_pages)` (7.3)
/// `void kho_unpreserve_pages(struct page *page, unsigned long nr_pages)` (7.3)
/// `struct page *kho_restore_pages(phys_addr_t phys, unsigned long nr_pages)` (7.3)
/// `int kho_preserve_vmalloc(void *ptr, struct kho_vmalloc *preservation)` (7.3)
/// `void kho_unpreserve_vmalloc(struct kho_vmalloc *preservation)` (7.3)
/// `void *kho_restore_vmalloc(const struct kho_vmalloc *preservation)` (7.3)
/// `void *kho_alloc_preserve(size_t size)` (7.3)
/// `void kho_unpreserve_free(void *mem)` (7.3)
/// `void kho_restore_free(void *mem)` (7.3)
/// `int kho_add_subtree(const char *name, void *blob, size_t size)` (7.3), without the size in older kernels
/// `void kho_remove_subtree(void *blob)` (7.3)
/// `int kho_retrieve_subtree(const char *name, phys_addr_t *phys, size_t *size)` (7.3), without the size in older kernels
#[fentry]
pub fn kho_enter(ctx: FEntryContext) -> u32 {
    if let Some(hook) = ctx.hook() {
        task::enter_kho(hook);
    }
    0
}

/// Sends what a function did, unless it is part of another of them: what that one tells includes it.
#[fexit]
pub fn kho_exit(ctx: FExitContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    let answer: u64 = ctx.result();
    let (call, result) = match hook {
        Hook::KhoPreservePages => (KhoCall::PreservePages, of_number(answer)),
        Hook::KhoUnpreservePages => (KhoCall::UnpreservePages, 0),
        Hook::KhoRestorePages => (KhoCall::RestorePages, of_pointer(answer)),
        Hook::KhoPreserveVmalloc => (KhoCall::PreserveVmalloc, of_number(answer)),
        Hook::KhoUnpreserveVmalloc => (KhoCall::UnpreserveVmalloc, 0),
        Hook::KhoRestoreVmalloc => (KhoCall::RestoreVmalloc, of_pointer(answer)),
        Hook::KhoAllocPreserve => (KhoCall::AllocPreserve, of_pointer(answer)),
        Hook::KhoUnpreserveFree => (KhoCall::UnpreserveFree, 0),
        Hook::KhoRestoreFree => (KhoCall::RestoreFree, 0),
        Hook::KhoAddSubtree => (KhoCall::AddSubtree, of_number(answer)),
        Hook::KhoRemoveSubtree => (KhoCall::RemoveSubtree, 0),
        Hook::KhoRetrieveSubtree => (KhoCall::RetrieveSubtree, of_number(answer)),
        _ => return 0,
    };
    let Some(ended) = task::leave_kho(hook, result) else {
        return 0;
    };
    emit(Kind::KhoOp, ended.at, |event: &mut KhoOp| {
        event.call = call as u32;
        event.outcome = ended.outcome;
        if let Some(task) = &ended.task {
            event.inner_failures = task.kho_failures as u32;
            event.within = task.within();
        }
        let first: u64 = ctx.argument(0);
        match hook {
            Hook::KhoPreservePages | Hook::KhoUnpreservePages => {
                event.address = page_to_address(first);
                event.pages = ctx.argument(1);
            }
            Hook::KhoRestorePages => {
                event.address = first;
                event.pages = ctx.argument(1);
            }
            Hook::KhoPreserveVmalloc => {
                event.address = first;
                // Only a success fills it.
                if result == 0 {
                    event.pages = vmalloc_pages(ctx.argument(1));
                }
            }
            Hook::KhoUnpreserveVmalloc => event.pages = vmalloc_pages(first),
            Hook::KhoRestoreVmalloc => {
                event.address = answer;
                event.pages = vmalloc_pages(first);
            }
            Hook::KhoAllocPreserve => {
                if result == 0 {
                    event.address = answer;
                }
                event.pages = pages_for(first);
            }
            Hook::KhoAddSubtree => {
                read_string(first, &mut event.name);
                event.address = ctx.argument(1);
            }
            Hook::KhoRetrieveSubtree => _ = read_string(first, &mut event.name),
            _ => event.address = first,
        }
    });
    0
}

/// How a function that returns an `int` has ended.
#[inline(always)]
fn of_number(answer: u64) -> i64 {
    i64::from(answer as i32)
}

/// How a function that returns a pointer, or an errno made into one, has ended.
#[inline(always)]
fn of_pointer(pointer: u64) -> i64 {
    match pointer as i64 {
        0 => -ENOENT,
        errno if (-MAX_ERRNO..0).contains(&errno) => errno,
        _ => 0,
    }
}

#[inline(always)]
fn vmalloc_pages(preservation: u64) -> u64 {
    Address(preservation)
        .read::<u32>(Field::KhoVmallocPages)
        .map_or(0, u64::from)
}

/// How many pages are allocated for so many bytes: a power of two.
#[inline(always)]
fn pages_for(bytes: u64) -> u64 {
    if bytes == 0 {
        return 0;
    }
    let last = (bytes - 1) >> page_shift();
    for order in 0..MAX_ORDER {
        if last >> order == 0 {
            return 1 << order;
        }
    }
    0
}

/// The physical address of a `struct page *`; 0 where it cannot be told.
#[inline(always)]
fn page_to_address(page: u64) -> u64 {
    match Address::of(Variable::PageMap).and_then(Address::read_here::<u64>) {
        Some(first) => (page.wrapping_sub(first) / STRUCT_PAGE) << page_shift(),
        None => 0,
    }
}

/// Whether any program counts keys.
#[inline(always)]
pub fn is_accounting() -> bool {
    target(Hook::KhoKeyAdd) | target(Hook::KhoKeyDel) | target(Hook::KhoRestorePage) != 0
}

/// A program that ends an operation, twice: one that settles the operation's account, and one that has nothing to do with accounts, for
/// agents that do not count keys. The verifier goes through all that a program has, whether it ever runs or not.
macro_rules! ends_operation {
    ($plain:ident, $keys:ident, $body:ident) => {
        #[aya_ebpf::macros::fexit]
        pub fn $plain(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            $body::<false>(&ctx)
        }

        #[aya_ebpf::macros::fexit]
        pub fn $keys(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            $body::<true>(&ctx)
        }
    };
}
pub(crate) use ends_operation;

/// Sends what an operation that ends now did to preserved memory, if anything, in a program that is to tell. `session` fills in which
/// one it is about.
#[inline(always)]
pub fn settle<const KEYS: bool>(hook: Hook, ended: &Ended, token: Option<u64>, session: impl FnOnce(&mut SessionRef)) {
    if !KEYS || !is_accounting() || !ended.accounted {
        return;
    }
    let Some(task) = &ended.task else { return };
    let account = task.settled();
    if account.added.calls | account.removed.calls | account.restored.calls | account.failures == 0 {
        return;
    }
    emit(Kind::KhoBalance, ended.at, |event: &mut KhoBalance| {
        event.operation = hook as u32;
        session(&mut event.session);
        if let Some(token) = token {
            event.flags = TOKEN_KNOWN;
            event.token = token;
        }
        event.added = account.added;
        event.removed = account.removed;
        event.restored = account.restored;
        event.failures = account.failures;
        event.outcome = ended.outcome;
    });
}

/// `int kho_radix_add_key(struct kho_radix_tree *tree, unsigned long key)` (7.3)
/// `int kho_radix_add_page(struct kho_radix_tree *tree, unsigned long pfn, unsigned int order)` (7.2)
#[fexit]
pub fn kho_key_add(ctx: FExitContext) -> u32 {
    if !is_out(ctx.argument(0)) {
        return 0;
    }
    let Some(task) = task::current() else { return 0 };
    let (key, result) = match target(Hook::KhoKeyAdd) {
        1 => (Key(ctx.argument(1)), ctx.result::<i32>()),
        _ => (Key::new(ctx.argument(1), ctx.argument(2)), ctx.result::<i32>()),
    };
    let within = task.within();
    let failed = result < 0;
    task.kho_failures += u64::from(failed);
    let Some(account) = task.account() else { return 0 };
    if failed {
        account.failures += 1;
        return 0;
    }
    let order = key.order();
    add(&mut account.added, key, order);
    // One tells of an operation's mistake; there may be a key for every page.
    if account.in_scratch == 0 && is_in_scratch(key, order) {
        account.in_scratch = 1;
        anomaly(PRESERVED_IN_SCRATCH, within, key.address(order), 1 << order, 0);
    }
    0
}

/// `void kho_radix_del_key(struct kho_radix_tree *tree, unsigned long key)` (7.3)
/// `void kho_radix_del_page(struct kho_radix_tree *tree, unsigned long pfn, unsigned int order)` (7.2)
#[fexit]
pub fn kho_key_del(ctx: FExitContext) -> u32 {
    if !is_out(ctx.argument(0)) {
        return 0;
    }
    let key = match target(Hook::KhoKeyDel) {
        1 => Key(ctx.argument(1)),
        _ => Key::new(ctx.argument(1), ctx.argument(2)),
    };
    if let Some(account) = task::current().and_then(|task| task.account()) {
        add(&mut account.removed, key, key.order());
    }
    0
}

/// `struct page *kho_restore_page(phys_addr_t phys, bool is_folio)` (7.3)
///
/// It takes KHO's note off the page, so the note is read on entry.
#[fentry]
pub fn kho_restore_page_enter(ctx: FEntryContext) -> u32 {
    let Some(task) = task::current_or_new() else { return 0 };
    let phys: u64 = ctx.argument(0);
    let map = Address::of(Variable::PageMap).and_then(Address::read_here::<u64>);
    task.restore_page = map.map_or(0, |map| map.wrapping_add((phys >> page_shift()) * STRUCT_PAGE));
    task.restore_note = Address(task.restore_page).read::<u64>(Field::PagePrivate).unwrap_or(0);
    0
}

#[fexit]
pub fn kho_restore_page(ctx: FExitContext) -> u32 {
    let phys: u64 = ctx.argument(0);
    let page: u64 = ctx.result();
    let task = task::current();
    if page == 0 {
        let within = task.map_or(0, |task| task.within());
        anomaly(RESTORE_OF_UNPRESERVED, within, phys, 0, -EINVAL);
        return 0;
    }
    let Some(task) = task else { return 0 };
    let note = task.restore_note;
    let known = page == core::mem::take(&mut task.restore_page) && note >> 32 == PAGE_MAGIC;
    let Some(account) = task.account() else { return 0 };
    let order = note as u32;
    if !known || order > MAX_ORDER {
        // It was restored, and how much it is was not seen.
        crate::emit::count_loss();
        return 0;
    }
    add(&mut account.restored, Key::new(phys >> page_shift(), order), order);
    0
}

/// A range as KHO's tree has it since 7.1, whatever this kernel's functions take: the number of its first page in units of
/// its size, below a bit whose place tells the order. Mirrors `kho_encode_radix_key` (7.3).
#[derive(Clone, Copy)]
struct Key(u64);

impl Key {
    #[inline(always)]
    fn new(page: u64, order: u32) -> Self {
        let order = order & 63;
        Self((1u64 << (order_bit(0).wrapping_sub(order) & 63)) | page >> order)
    }

    #[inline(always)]
    fn order(self) -> u32 {
        for order in 0..=MAX_ORDER {
            if self.0 >> order_bit(order) == 1 {
                return order;
            }
        }
        0
    }

    /// The physical address.
    #[inline(always)]
    fn address(self, order: u32) -> u64 {
        (self.0 & !(1u64 << order_bit(order))) << (page_shift() + order)
    }

    /// A number in which every bit depends on every bit of the key, so that sums of them tell sets of keys apart.
    #[inline(always)]
    fn mixed(self) -> u64 {
        let mut x = self.0;
        x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ x >> 33
    }
}

/// Which bit of a key is set for this order.
#[inline(always)]
fn order_bit(order: u32) -> u32 {
    64u32.wrapping_sub(page_shift()).wrapping_sub(order) & 63
}

#[inline(always)]
fn add(keys: &mut Keys, key: Key, order: u32) {
    keys.calls += 1;
    keys.pages += 1 << (order & 63);
    keys.sum = keys.sum.wrapping_add(key.mixed());
}

/// Whether this is the tree of what is preserved for the next kernel: other code may have trees of its own.
#[inline(always)]
fn is_out(tree: u64) -> bool {
    Address::of(Variable::KhoOut).and_then(|out| out.member(Field::KhoOutTree)) == Some(Address(tree))
}

#[inline(always)]
fn anomaly(what: u32, within: u32, address: u64, pages: u64, result: i64) {
    // SAFETY: helper without preconditions.
    let now = unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
    emit(Kind::KhoAnomaly, now, |event: &mut KhoAnomaly| {
        event.what = what;
        event.within = within;
        event.address = address;
        event.pages = pages;
        event.outcome = Outcome { result, duration: 0 };
    });
}

/// How many ranges of scratch memory are looked at; a machine has one for each memory node, and two more.
const RANGES: usize = 8;

/// Scratch memory, read when the first key is added. It does not change after boot.
#[repr(C)]
struct Scratch {
    /// 1: it has been read.
    known: u64,
    /// Start and end of each range; an empty one ends them.
    ranges: [[u64; 2]; RANGES],
}

#[btf_map]
static SCRATCH: Array<Scratch, 1> = Array::new();

#[inline(always)]
fn is_in_scratch(key: Key, order: u32) -> bool {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the map's only slot. Two tasks may fill it at the same time, with the same numbers.
    let scratch = unsafe { &mut *scratch };
    if scratch.known == 0 {
        read_scratch(scratch);
        scratch.known = 1;
    }
    let start = key.address(order);
    let end = start.wrapping_add(1 << (page_shift() + order));
    for [from, to] in scratch.ranges {
        if to == 0 {
            return false;
        }
        if start < to && end > from {
            return true;
        }
    }
    false
}

#[inline(always)]
fn read_scratch(scratch: &mut Scratch) {
    let count = Address::of(Variable::ScratchCount).and_then(Address::read_here::<u32>);
    let first = Address::of(Variable::Scratch).and_then(Address::read_here::<u64>);
    let (Some(count), Some(first)) = (count, first) else {
        return;
    };
    // `struct kho_scratch` is these two members.
    let mut at = Address(first);
    for (i, range) in scratch.ranges.iter_mut().enumerate() {
        if i as u32 >= count {
            return;
        }
        let start = at.read::<u64>(Field::ScratchAddress).unwrap_or(0);
        let size = at.read::<u64>(Field::ScratchSize).unwrap_or(0);
        *range = [start, start.wrapping_add(size)];
        at = Address(at.0 + 16);
    }
}
