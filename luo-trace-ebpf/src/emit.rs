//! Sending an event: a record in the ring buffer, numbered per CPU, or one more loss.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr;

use aya_ebpf::bindings::{
    BPF_F_MMAPABLE, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_PROD_POS, BPF_RB_RING_SIZE,
    BPF_RINGBUF_HDR_SZ,
};
use aya_ebpf::btf_maps::{Array, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit};
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use luo_trace_common::events::{HUSHED, Header, Kind, URGENT};
use luo_trace_common::fields::Field;
use luo_trace_common::text::Comm;

use crate::caller::current;

/// The ring buffer; the agent sets its size in bytes.
#[btf_map]
static EVENTS: RingBuf<u64, 4096> = RingBuf::new();

/// Number of the last event on each CPU.
#[btf_map]
static SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Events lost on all CPUs, one counter for all, since it is written only when the ring is full. The agent maps it into its
/// memory: while a task reads a map by bpf(2), the kernel skips every kprobe's program on that CPU.
#[btf_map]
static LOST: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Calls of which no event tells, since the kernel turned them away: there may be millions. The agent maps it, as it does `LOST`.
#[btf_map]
static DENIED: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Whether the agent looks at the ring by itself in a moment, so that events need not wake it: [`HUSHED`]; else 0. The agent writes it
/// in its memory. An event that cannot wait makes it [`URGENT`].
#[btf_map]
static HUSH: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[repr(C)]
struct Record<P> {
    header: Header,
    payload: P,
}

/// Sends one event of something that happened at `at`, in nanoseconds of `CLOCK_MONOTONIC`. `fill` gets a payload of zeros
/// and writes what it knows.
#[inline(always)]
pub fn emit<P: 'static>(kind: Kind, at: u64, fill: impl FnOnce(&mut P)) {
    let Some(seq) = next_sequence() else { return };
    let Some(mut entry) = EVENTS.reserve_untyped::<Record<P>>(0) else {
        count_loss();
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved memory has the record's size and alignment, is ours until submitted, and every type sent
    // here is plain data for which zeros are valid.
    let record = unsafe {
        zero(record);
        &mut *record
    };
    // One by one: of a whole header the compiler makes a call that takes five instructions for each byte of the name.
    let header = &mut record.header;
    header.kind = kind as u16;
    header.size = size_of::<Record<P>>() as u16;
    // SAFETY: helper without preconditions.
    header.cpu = unsafe { bpf_get_smp_processor_id() };
    header.seq = seq;
    header.lost = lost();
    header.ktime = at;
    note_task(header);
    fill(&mut record.payload);
    entry.submit(wake_up(kind));
}

/// The same for a program that sends many kinds and is not in a hurry: what is common to all is there once. The kernel's verifier
/// takes some 20,000 instructions for each one that a program has, whether it ever runs or not.
#[inline(always)]
pub fn emit_from_walk<P: 'static>(kind: Kind, fill: impl FnOnce(&mut P)) {
    let record = begin_record(kind as u64, size_of::<Record<P>>() as u64).cast::<Record<P>>();
    if record.is_null() {
        return;
    }
    // SAFETY: as in `emit`, and zeros are in it.
    fill(unsafe { &mut (*record).payload });
    // SAFETY: what was reserved, and is not used any more.
    unsafe { bpf_ringbuf_submit(record.cast(), wake_up(kind)) };
}

/// Reserves a record of this size, with zeros for its payload; null where there is no room, which is counted.
#[inline(never)]
fn begin_record(kind: u64, size: u64) -> *mut u8 {
    let Some(seq) = next_sequence() else {
        return ptr::null_mut();
    };
    // SAFETY: the helper wants a ring buffer map, which this is.
    let record = unsafe { bpf_ringbuf_reserve((&raw const EVENTS).cast_mut().cast(), size, 0) };
    if record.is_null() {
        count_loss();
        return ptr::null_mut();
    }
    // SAFETY: as large as was reserved. Nothing can be read at this address, and where nothing can be read the helper writes zeros.
    unsafe { bpf_probe_read_kernel(record, size as u32, ptr::null()) };
    // SAFETY: each record begins with a header.
    let header = unsafe { &mut *record.cast::<Header>() };
    header.kind = kind as u16;
    header.size = size as u16;
    // SAFETY: helpers without preconditions.
    unsafe {
        header.cpu = bpf_get_smp_processor_id();
        header.ktime = bpf_ktime_get_ns();
    }
    header.seq = seq;
    header.lost = lost();
    note_task(header);
    record.cast()
}

/// Notes which task it is.
#[inline(always)]
fn note_task(header: &mut Header) {
    let task = current();
    header.pid = task.get(Field::TaskThread, 0);
    header.tgid = task.get(Field::TaskProcess, 0);
    let name = [
        task.get::<u64>(Field::TaskComm, 0),
        task.get(Field::TaskComm, size_of::<u64>() as u32),
    ];
    const { assert!(size_of::<Comm>() == size_of::<[u64; 2]>()) };
    // SAFETY: the name's whole buffer, wherever it lies.
    unsafe { header.comm.0.as_mut_ptr().cast::<[u64; 2]>().write_unaligned(name) };
}

/// Up to how many bytes are filled with zeros one after the other. More of them take the verifier long, and the program.
const FEW: usize = 512;

/// Fills what lies there with zeros.
///
/// # Safety
/// `place` is valid for writes, and zeros are valid there.
#[inline(always)]
pub unsafe fn zero<T>(place: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>()) && align_of::<T>() == align_of::<u64>()) };
    if size_of::<T>() > FEW {
        // SAFETY: within it. Nothing can be read at this address, and where nothing can be read the helper writes zeros.
        unsafe { bpf_probe_read_kernel(place.cast(), size_of::<T>() as u32, ptr::null()) };
        return;
    }
    for i in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: within it, and aligned. Volatile, lest the compiler make one call of all.
        unsafe { ptr::write_volatile(place.cast::<u64>().add(i), 0) };
    }
}

/// How to wake the agent: by default where it has read everything before, and while it rests only where it must not.
#[inline(always)]
fn wake_up(kind: Kind) -> u64 {
    let Some(hush) = HUSH.get_ptr_mut(0) else { return 0 };
    // The machine is about to jump, or a file can be looked into as long as its descriptor is open.
    if matches!(kind, Kind::KexecEnter | Kind::ImageFile) {
        // SAFETY: the map's slot, whose 8 bytes are written at once.
        unsafe { ptr::write_volatile(hush, URGENT) };
        return u64::from(BPF_RB_FORCE_WAKEUP);
    }
    // SAFETY: as above.
    match unsafe { ptr::read_volatile(hush) } == HUSHED {
        false => 0,
        true if !has_room() => u64::from(BPF_RB_FORCE_WAKEUP),
        true => u64::from(BPF_RB_NO_WAKEUP),
    }
}

#[inline(always)]
fn next_sequence() -> Option<u64> {
    // SAFETY: the map's slot for this CPU; programs do not migrate. One that preempts another on the same CPU may number
    // its event between reserve and submit of the other: numbers stay distinct because the add is atomic.
    SEQUENCE.get_ptr_mut(0).map(|counter| unsafe { add_one(counter) } + 1)
}

/// Something happened that no event will tell.
#[inline(always)]
pub fn count_loss() {
    if let Some(counter) = LOST.get_ptr_mut(0) {
        // SAFETY: a slot of the map that is touched by atomic adds alone.
        unsafe { add_one(counter) };
    }
}

/// A call that any process can make was turned away by the kernel, and no event tells of it.
#[inline(always)]
pub fn count_denied() {
    if let Some(counter) = DENIED.get_ptr_mut(0) {
        // SAFETY: as in `count_loss`.
        unsafe { add_one(counter) };
    }
}

/// How many events were lost so far.
#[inline(always)]
pub fn lost() -> u64 {
    // SAFETY: the map's slot, whose 8 bytes are written at once.
    LOST.get_ptr(0)
        .map_or(0, |counter| unsafe { ptr::read_volatile(counter) })
}

/// How many bytes were ever put into the ring. It grows by [`footprint`] with each event, whoever sends it.
#[inline(always)]
pub fn position() -> u64 {
    query(BPF_RB_PROD_POS)
}

/// How many bytes of the ring an event takes up.
#[inline(always)]
pub const fn footprint<P>() -> u64 {
    (size_of::<Record<P>>() as u64 + BPF_RINGBUF_HDR_SZ as u64).next_multiple_of(8)
}

/// Whether the ring is at least half empty.
#[inline(always)]
pub fn has_room() -> bool {
    query(BPF_RB_AVAIL_DATA) <= query(BPF_RB_RING_SIZE) / 2
}

#[inline(always)]
fn query(what: u32) -> u64 {
    // SAFETY: the helper wants a ring buffer map, which this is, and only reads of it.
    unsafe { bpf_ringbuf_query((&raw const EVENTS).cast_mut().cast(), u64::from(what)) }
}

/// Adds one atomically and gives the value before. The target's `AtomicU64` lacks what BPF has had since Linux 5.12.
///
/// # Safety
/// `counter` is valid for reads and writes, and every process writes it through this function.
#[inline(always)]
pub unsafe fn add_one(counter: *mut u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}
