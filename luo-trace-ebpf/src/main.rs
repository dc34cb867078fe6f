//! luo-trace's eBPF programs: one file per hook family, named as in `luo_trace_common::hooks`.
//!
//! Entry programs note when an operation began and what will be gone when it ends; exit programs send the event.
//! Nothing here decides anything: what an event means is the agent's business.
//!
//! Above each program stands the kernel function it expects, with the version it was read from.
#![no_std]
#![no_main]
// The workspace builds this crate with `-Z build-std` already; see `emit::add_one` for what the intrinsic is for.
#![allow(internal_features, reason = "one intrinsic, wrapped in one function")]
#![feature(core_intrinsics)]
#![allow(missing_docs, reason = "programs are documented by the hook table")]

mod call;
mod caller;
mod dispatch;
mod emit;
mod facts;
mod file;
mod flb;
mod handover;
mod image;
mod kernel;
mod kho;
mod list;
mod policy;
mod reboot;
mod registers;
mod session;
mod sight;
mod snapshot;
mod storage;
mod task;

/// The helpers that read kernel memory are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No program may panic: the verifier would see this loop and refuse it.
    loop {}
}
