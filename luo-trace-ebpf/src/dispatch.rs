//! One program for many functions: what a link to the functions of all hooks runs, and which goes on with the hook's own program.
//!
//! To patch a function's beginning costs the kernel a walk over all functions that can be traced, however many are patched at once; so
//! there is one link for many functions, with the hook's number as the cookie that tells them apart. The hooks' own programs are the
//! same that are attached to one function at a time where the kernel has no such links.

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::helpers::generated::bpf_get_func_ip;
use aya_ebpf::macros::{btf_map, fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use luo_trace_common::hooks::Hook;

use crate::call::Call;

/// The program of each hook that runs when its function is entered.
#[btf_map]
static ENTER: ProgramArray<{ Hook::ALL.len() }> = ProgramArray::new();

/// The program of each hook that runs when its function returns.
#[btf_map]
static EXIT: ProgramArray<{ Hook::ALL.len() }> = ProgramArray::new();

/// A function is entered.
#[fentry]
pub fn dispatch_enter(ctx: FEntryContext) -> u32 {
    // SAFETY: the context is this program's own. Only since this program asks, the kernel notes which function it is, which the
    // callbacks' programs ask for.
    unsafe { bpf_get_func_ip(ctx.as_ptr()) };
    if let Some(hook) = ctx.hook() {
        // SAFETY: nothing here is to be dropped.
        unsafe { ENTER.tail_call(&ctx, hook as u32) };
    }
    0
}

/// A function returns.
#[fexit]
pub fn dispatch_exit(ctx: FExitContext) -> u32 {
    if let Some(hook) = ctx.hook() {
        // SAFETY: nothing here is to be dropped.
        unsafe { EXIT.tail_call(&ctx, hook as u32) };
    }
    0
}
