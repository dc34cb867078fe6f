//! What is to be done about each hook on this kernel, as far as its type information and its symbols tell: it takes no privilege to
//! read.

use std::fs;

use luo_trace_common::fields::{ABSENT, Field};
use luo_trace_common::hooks::{Attach, Hook, Need};
use luo_trace_common::variables::Variable;

use super::kallsyms::{self, Symbols};
use super::preflight::VMLINUX_BTF;
use super::sight;
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

/// What is to be done about a hook on this kernel.
pub(super) enum Plan {
    /// Attach it to these functions; `alternative` says which of the table's targets that is, from 1.
    Attach { targets: Vec<String>, alternative: u32 },
    /// Leave it, since no option asked for it.
    SwitchedOff,
    /// Leave it, since the kernel has no such function.
    NothingToTell(String),
    /// It cannot be attached.
    Cannot(String),
}

impl Plan {
    /// The functions it attaches to.
    pub(super) fn functions(&self) -> impl Iterator<Item = &str> {
        let targets: &[String] = match self {
            Plan::Attach { targets, .. } => targets,
            _ => &[],
        };
        targets.iter().map(String::as_str)
    }

    /// What becomes of the hook by this plan, as long as nothing is attached.
    pub(super) fn promise(&self, hook: Hook) -> HookState {
        let mut state = HookState {
            id: hook.id().into(),
            ..HookState::default()
        };
        match self {
            Plan::Attach { targets, .. } => state.targets.clone_from(targets),
            Plan::SwitchedOff => {
                state.switched_off = true;
                state.reason = Some(format!("needs --kho {}", hook.detail().name()));
            }
            Plan::NothingToTell(reason) => {
                state.nothing_to_tell = true;
                state.reason = Some(reason.clone());
            }
            Plan::Cannot(reason) => state.reason = Some(reason.clone()),
        }
        state
    }

    /// What the programs are told of it.
    pub(super) fn alternative(&self) -> u32 {
        match self {
            Plan::Attach { alternative, .. } => *alternative,
            _ => 0,
        }
    }
}

/// All symbols that are looked up: the variables, and the functions that a kernel may do without.
fn symbols() -> Vec<&'static str> {
    let targets = |hook: &Hook| match (hook.need(), hook.attach()) {
        (Need::IfPresent, Attach::Function { targets, .. }) => targets,
        _ => &[],
    };
    let functions = Hook::ALL.iter().flat_map(targets).copied();
    kallsyms::variables()
        .into_iter()
        .chain(functions)
        .chain(FTRACE)
        .collect()
}

/// All symbols that attaching takes: these, the switches that make hooks blind, and the functions of all hooks.
pub(super) fn wanted<'a>(btf: &Btf<'a>) -> Vec<&'a str> {
    let functions = |hook: &Hook| -> Vec<&'a str> {
        match hook.attach() {
            Attach::Callbacks { argument, .. } => btf.callbacks(argument),
            Attach::Function { targets, .. } => targets.to_vec(),
        }
    };
    let there = Hook::ALL
        .iter()
        .flat_map(functions)
        .filter(|name| btf.has_function(name));
    symbols().into_iter().chain(sight::variables()).chain(there).collect()
}

/// What ftrace calls for a function that is probed.
const FTRACE: [&str; 2] = ["arch_ftrace_ops_list_func", "kprobe_ftrace_handler"];

/// Why no kprobe may be attached to this kernel. On x86-64 Linux marks addresses in their lowest bit
/// (`ftrace_jmp_set` in `include/linux/ftrace.h`, 7.2 and 7.3) and takes ftrace's own functions for marked ones where they
/// lie at odd addresses, as a kernel that is optimised for size has them: it then calls the byte before, and crashes. Seen
/// on 7.2.13 when probes came back, and when another user's shared a function with ours.
fn unsafe_probes(symbols: Option<&Symbols>) -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let odd = |name: &&&str| symbols.and_then(|s| s.address(name)).is_some_and(|at| at % 2 == 1);
    let function = FTRACE.iter().find(odd)?;
    Some(format!(
        "a probe could crash this kernel, which has {function} at an odd address; build it with CONFIG_FUNCTION_ALIGNMENT_4B or more"
    ))
}

/// What is to be done about a hook on the kernel with this type information and these symbols.
pub(super) fn plan(
    hook: Hook,
    way: Way,
    btf: &Btf<'_>,
    offsets: &[u32; Field::COUNT],
    variables: &[u64; Variable::COUNT],
    symbols: Option<&Symbols>,
) -> Plan {
    let fields = hook.fields().iter().filter(|&&field| offsets[field as usize] == ABSENT);
    let hidden = hook
        .variables()
        .iter()
        .filter(|&&variable| variables[variable as usize] == 0);
    let absent: Vec<String> = fields
        .map(|field| format!("{}.{}", field.structure(), field.path()))
        .chain(hidden.map(|variable| format!("variable {} that can be read", variable.symbol())))
        .collect();
    if !absent.is_empty() {
        return Plan::Cannot(format!("this kernel has no {}", absent.join(", ")));
    }
    match hook.attach() {
        Attach::Function { targets, .. } => {
            if let Some(i) = targets.iter().position(|target| btf.has_function(target)) {
                return Plan::Attach {
                    targets: vec![targets[i].into()],
                    alternative: i as u32 + 1,
                };
            }
            let names = targets.join(" or ");
            let has_none = |symbols: &Symbols| !targets.iter().any(|target| symbols.has(target));
            if hook.need() == Need::IfPresent && symbols.is_some_and(has_none) {
                return Plan::NothingToTell(format!("this kernel has no {names}"));
            }
            Plan::Cannot(format!(
                "no function {names} to attach to: the kernel lacks it, or the compiler inlined it"
            ))
        }
        Attach::Callbacks { argument, .. } => match btf.callbacks(argument) {
            targets if targets.is_empty() => {
                Plan::Cannot(format!("this kernel has no callback that takes a struct {argument}"))
            }
            targets => (way == Way::Each)
                .then(|| unsafe_probes(symbols))
                .flatten()
                .map_or_else(
                    || Plan::Attach {
                        targets: targets.into_iter().map(str::to_owned).collect(),
                        alternative: 1,
                    },
                    Plan::Cannot,
                ),
        },
    }
}

/// Leaves out the hooks that cannot be understood without others that are left out.
pub(super) fn without_doubtful(mut plans: Vec<Plan>) -> Vec<Plan> {
    for &hook in Hook::ALL {
        let missing = |other: &&Hook| plans[**other as usize].alternative() == 0;
        if let Some(other) = hook.relies_on().iter().find(missing)
            && plans[hook as usize].alternative() != 0
        {
            plans[hook as usize] =
                Plan::Cannot(format!("it cannot be told from {}, which is not attached", other.id()));
        }
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn no_probe_is_attached_to_a_kernel_that_would_crash_by_it() {
        let symbols = |list: &'static str| Symbols::parse(list.as_bytes(), &FTRACE).expect("reads");
        let aligned =
            symbols("ffffffff812fe210 T arch_ftrace_ops_list_func\nffffffff81243a40 T kprobe_ftrace_handler\n");
        assert_eq!(unsafe_probes(Some(&aligned)), None);
        let packed =
            symbols("ffffffff812fe213 T arch_ftrace_ops_list_func\nffffffff81243a40 T kprobe_ftrace_handler\n");
        let why = unsafe_probes(Some(&packed)).expect("a reason");
        assert!(why.contains("arch_ftrace_ops_list_func"), "{why}");
        // Hidden addresses tell nothing.
        let hidden =
            symbols("0000000000000000 T arch_ftrace_ops_list_func\n0000000000000000 T kprobe_ftrace_handler\n");
        assert_eq!(unsafe_probes(Some(&hidden)), None);
    }
}
