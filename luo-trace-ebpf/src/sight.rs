//! Reading what tells whether hooks still see, and how often their programs were skipped; counting what switches them off.

use core::ffi::{c_long, c_void};
use core::ptr;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_loop, bpf_probe_read_kernel};
use aya_ebpf::macros::{btf_map, fentry};
use aya_ebpf::programs::FEntryContext;
use luo_trace_common::fields::Field;
use luo_trace_common::sight::{PLACES, Place, TEXT, Told};

use crate::call::Call;
use crate::emit::add_one;
use crate::kernel::Address;

/// The places to read. The agent maps them into its memory, as it does `LOST`.
#[btf_map]
static PLACES_TO_READ: Array<Place, PLACES, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The addresses of the counters that are added up; a 0 ends them. The agent writes them, and sets how many there can be.
#[btf_map]
static COUNTERS: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// How many can be added up at all: what `bpf_loop` takes.
const MOST_COUNTERS: u32 = 1 << 23;

/// What is told besides. The agent maps it, too.
#[btf_map]
static TOLD: Array<Told, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// How often a switch was turned that makes hooks blind, or lets them see again: of kprobes, and of ftrace.
#[btf_map]
static SWITCHED: Array<u64, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Which counter is whose.
const KPROBES: u32 = 0;
const FTRACE: u32 = 1;

/// Reads the places and the counters. It is attached to nothing: the agent runs it by `BPF_PROG_TEST_RUN`.
// Written out, like `snapshot`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn sight(_ctx: *mut c_void) -> u32 {
    // A loop that the verifier goes through once, where it would go through one of its own for each place.
    // SAFETY: the callback has the signature that the helper calls, and takes no context.
    unsafe { bpf_loop(PLACES as u32, read_place as *mut c_void, ptr::null_mut(), 0) };
    let Some(told) = told() else { return 0 };
    // SAFETY: helper without preconditions.
    told.task = unsafe { bpf_get_current_task() };
    told.sum = 0;
    told.counters = 0;
    // SAFETY: as above.
    unsafe { bpf_loop(MOST_COUNTERS, add_counter as *mut c_void, ptr::null_mut(), 0) };
    0
}

#[inline(always)]
fn told() -> Option<&'static mut Told> {
    // SAFETY: the map's only slot; the agent runs this program once at a time.
    TOLD.get_ptr_mut(0).map(|told| unsafe { &mut *told })
}

#[inline(never)]
extern "C" fn add_counter(i: u32, _ctx: *mut c_void) -> c_long {
    // SAFETY: the map's slot, which the agent does not change while it runs the program.
    let address = COUNTERS.get_ptr(i).map_or(0, |address| unsafe { *address });
    let (1.., Some(told)) = (address, told()) else { return 1 };
    if let Some(count) = Address(address).read_here::<u64>() {
        told.sum = told.sum.wrapping_add(count);
        told.counters += 1;
    }
    0
}

#[inline(never)]
extern "C" fn read_place(i: u32, _ctx: *mut c_void) -> c_long {
    let Some(place) = PLACES_TO_READ.get_ptr_mut(i) else {
        return 1;
    };
    // SAFETY: a slot of the map, whose address the agent does not change while it runs the program.
    let place = unsafe { &mut *place };
    if place.address == 0 {
        return 1;
    }
    let to = place.text.as_mut_ptr().cast();
    // SAFETY: the helper writes that many bytes to memory of that many, or zeros where it fails.
    let failed = unsafe { bpf_probe_read_kernel(to, TEXT as u32, place.address as *const _) };
    place.read = u64::from(failed == 0);
    0
}

/// `ssize_t write_enabled_file_bool(struct file *, const char __user *, size_t, loff_t *)`, kernel/kprobes.c (7.3): a write to
/// `kprobes/enabled` in debugfs. The cookie is 0.
///
/// `int proc_dointvec(const struct ctl_table *table, int write, void *, size_t *, loff_t *)`, kernel/sysctl.c (7.3): a number of
/// sysctl is read or written. The cookie is the address of `ftrace_enabled`. What is called for that one alone lies in kernel/trace, of
/// which nothing can be traced. Switching it on is not seen, since this program is then blind itself.
#[fentry]
pub fn switched(ctx: FEntryContext) -> u32 {
    let counter = match ctx.cookie() {
        0 => KPROBES,
        variable if is_written(&ctx, variable) => FTRACE,
        _ => return 0,
    };
    if let Some(counter) = SWITCHED.get_ptr_mut(counter) {
        // SAFETY: a slot of the map that is touched by atomic adds alone.
        unsafe { add_one(counter) };
    }
    0
}

/// Whether `proc_dointvec` is called to write this variable.
#[inline(always)]
fn is_written(ctx: &FEntryContext, variable: u64) -> bool {
    let table = Address(ctx.argument(0));
    ctx.argument::<i32>(1) != 0 && table.read::<u64>(Field::CtlTableData) == Some(variable)
}
