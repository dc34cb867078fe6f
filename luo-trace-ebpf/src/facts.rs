//! What the kernel says of itself, for a journal's header.

use core::ffi::c_void;

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use luo_trace_common::facts::{Facts, NOT_TOLD, Release};
use luo_trace_common::fields::Field;
use luo_trace_common::variables::Variable;

use crate::kernel::Address;
use crate::snapshot::{count, incoming_is_active, incoming_is_unread};

/// How long a kernel's release is, without its NUL.
const RELEASE_LEN: u64 = 64;

/// Where the agent finds them.
#[btf_map]
static FACTS: Array<Facts, 1> = Array::new();

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
    0
}
