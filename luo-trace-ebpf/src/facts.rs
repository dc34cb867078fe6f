//! What the kernel says of itself, for a journal's header.

use core::ffi::{c_long, c_void};

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::btf_map;
use luo_trace_common::facts::{Facts, Format, NOT_TOLD, Release};
use luo_trace_common::fields::Field;
use luo_trace_common::variables::Variable;

use crate::kernel::Address;
use crate::snapshot::{count, incoming_is_active, incoming_is_unread};

/// How long a kernel's release is, without its NUL.
const RELEASE_LEN: u64 = 64;

/// Where the agent finds them.
#[btf_map]
static FACTS: Array<Facts, 1> = Array::new();

/// How many ranges of scratch memory are added up; a machine has one for each memory node, and two more.
const RANGES: u32 = 64;

/// How much scratch memory there is; `None`: not known in full.
#[inline(always)]
fn scratch_bytes() -> Option<u64> {
    let count = Address::of(Variable::ScratchCount).and_then(Address::read_here::<u32>)?;
    let at = Address::of(Variable::Scratch).and_then(Address::read_here::<u64>)?;
    if at == 0 || count > RANGES {
        return None;
    }
    let mut sum = Sum {
        at,
        bytes: 0,
        ranges: 0,
    };
    // SAFETY: the callback has the signature that the helper calls, and its context outlives the loop. The verifier goes through it
    // once, where it would go through a loop of its own for each range.
    unsafe { bpf_loop(count, add_range as *mut c_void, (&raw mut sum).cast(), 0) };
    (sum.ranges == count).then_some(sum.bytes)
}

/// A sum of ranges.
struct Sum {
    /// The next one.
    at: u64,
    bytes: u64,
    /// How many it has.
    ranges: u32,
}

/// Adds one range; gives 0 where there may be another.
#[inline(never)]
extern "C" fn add_range(_index: u32, sum: *mut c_void) -> c_long {
    // SAFETY: the context that `scratch_bytes` gives, which nobody else has.
    let sum = unsafe { &mut *sum.cast::<Sum>() };
    let Some(bytes) = Address(sum.at).read::<u64>(Field::ScratchSize) else {
        return 1;
    };
    sum.bytes = sum.bytes.wrapping_add(bytes);
    sum.ranges += 1;
    // `struct kho_scratch` is an address and a size.
    sum.at = sum.at.wrapping_add(16);
    0
}

/// Notes the facts. It is attached to nothing: the agent runs it by `BPF_PROG_TEST_RUN`.
// Written out, like `snapshot`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn facts(_ctx: *mut c_void) -> u32 {
    let Some(facts) = FACTS.get_ptr_mut(0) else { return 1 };
    // SAFETY: the map's only slot, which nobody else touches while the program runs.
    let facts = unsafe { &mut *facts };
    facts.update_number = Address::of(Variable::Luo)
        .and_then(|luo| luo.read::<u64>(Field::LuoUpdateNumber))
        .unwrap_or(NOT_TOLD);
    let origin = Address::of(Variable::KhoIn);
    facts.kexec_count = origin
        .and_then(|origin| origin.read::<u32>(Field::KhoKexecCount))
        .map_or(NOT_TOLD, u64::from);
    facts.previous_release = Release::EMPTY;
    if let Some(release) = origin.and_then(|origin| origin.member(Field::KhoPreviousRelease)) {
        release.read_bytes(RELEASE_LEN, &mut facts.previous_release);
    }
    let number = |variable: Variable| Address::of(variable).and_then(Address::read_here::<u32>);
    facts.counter_khz = number(Variable::CounterRate).unwrap_or(0);
    facts.counter_unstable = u32::from(number(Variable::CounterUnstable).is_some_and(|unstable| unstable != 0));
    let read_in = incoming_is_active() && !incoming_is_unread();
    let sessions = count(Field::GlobalOutgoing) > 0 || count(Field::GlobalIncoming) > 0;
    facts.in_use = u32::from(read_in || sessions);
    facts.scratch_bytes = scratch_bytes().unwrap_or(NOT_TOLD);
    facts.luo_format = Format::EMPTY;
    facts.kho_format = Format::EMPTY;
    if let Some(luo) = Address::of(Variable::Luo) {
        if let Some(outgoing) = luo.follow(Field::LuoSerialized) {
            outgoing.read_name(Field::LuoFormat, &mut facts.luo_format);
        } else if let Some(tree) = luo.follow(Field::LuoOutTreeHead) {
            read_format(tree, &mut facts.luo_format);
        }
    }
    if let Some(tree) = Address::of(Variable::KhoOut).and_then(|out| out.follow(Field::KhoOutTreeHead)) {
        read_format(tree, &mut facts.kho_format);
    }
    0
}

/// Where a flattened device tree says where its nodes begin. Mirrors `struct fdt_header` in `scripts/dtc/libfdt/fdt.h` (7.3).
const TREE_NODES: u64 = 8;
/// How far the first property lies behind the root's beginning: the mark of a node, and the root's empty name.
const FIRST_PROPERTY: u64 = 8;
/// `FDT_PROP` of the same header.
const PROPERTY: u32 = 3;
/// How far a property's value lies behind its beginning: the mark, its length, its name.
const PROPERTY_VALUE: u64 = 12;

/// Reads the first property of a tree's root, which KHO and LUO make the format's name.
#[inline(always)]
fn read_format(tree: Address, format: &mut Format) {
    let number = |at: u64| Address(at).read_here::<u32>().map(u32::from_be);
    let Some(nodes) = number(tree.0.wrapping_add(TREE_NODES)) else {
        return;
    };
    let property = tree.0.wrapping_add(u64::from(nodes)).wrapping_add(FIRST_PROPERTY);
    if number(property) == Some(PROPERTY) {
        Address(property.wrapping_add(PROPERTY_VALUE)).read_name_here(format);
    }
}
