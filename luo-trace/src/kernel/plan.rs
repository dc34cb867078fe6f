//! What could be attached on this kernel, as far as its type information tells: it takes no privilege to read.

use std::fs;

use luo_trace_common::hooks::Hook;
use luo_trace_common::variables::Variable;

use super::attach::{plan, symbols};
use super::kallsyms::Symbols;
use super::preflight::VMLINUX_BTF;
use super::way::Way;
use crate::image::btf::Btf;
use crate::journal::HookState;

/// What makes a link to many functions, `kernel/trace/bpf_trace.c` (7.3).
const LINKS_TO_MANY: &str = "bpf_tracing_multi_attach";

/// The hooks, each with the functions it would be attached to, or why it would not be; empty where the kernel tells nothing.
pub fn prospects() -> Vec<HookState> {
    let Ok(bytes) = fs::read(VMLINUX_BTF) else {
        return Vec::new();
    };
    match Btf::parse(&bytes) {
        Ok(btf) => of(&btf, Symbols::find(&symbols()).ok().as_ref()),
        Err(_) => Vec::new(),
    }
}

/// The prospects on a kernel with this type information and these symbols.
pub(super) fn of(btf: &Btf<'_>, symbols: Option<&Symbols>) -> Vec<HookState> {
    let offsets = btf.offsets();
    // Addresses are shown to a user who may attach: here it matters only that there is such a variable.
    let mut variables = [1; Variable::COUNT];
    for &variable in Variable::ALL {
        variables[variable as usize] = symbols.map_or(1, |symbols| symbols.has(variable.symbol()).into());
    }
    // Without privilege the kernel cannot be asked: what has the function has the links.
    let way = match btf.has_function(LINKS_TO_MANY) {
        true => Way::Multi,
        false => Way::Each,
    };
    let state = |&hook: &Hook| plan(hook, way, btf, &offsets, &variables, symbols).promise(hook);
    Hook::ALL.iter().map(state).collect()
}
