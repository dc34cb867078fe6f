//! Whether the hooks that are attached still see, and how often the kernel skipped their programs.
//!
//! A hook can be made blind from outside, and its owner is not told: kprobes are switched off as a whole (`kprobes/enabled` in debugfs),
//! so is ftrace (`kernel.ftrace_enabled`, before 7.3), or the kernel shuts ftrace down after a fault. Where a hook is attached, its
//! function calls a tracer, by a call at its beginning that the kernel patches in; where nothing is, a no-operation stands there. The
//! program `sight` reads those places and the switches. What was switched off and on between two readings is counted by programs on
//! the functions that do it.
//!
//! Only a function that was seen to call a tracer when its hook was attached is watched: a second function of the same name must not
//! be taken for it.

use std::sync::atomic::Ordering;

use anyhow::Result;
use aya::Ebpf;
use luo_trace_common::events::{
    BLIND_FOR_A_MOMENT, BLIND_FTRACE_DEAD, BLIND_FTRACE_OFF, BLIND_KPROBES_OFF, BLIND_UNPATCHED, HooksBlind,
};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::{Attach, Hook};
use luo_trace_common::sight::{PLACES, TEXT};

use super::bpf::{Function, When};
use super::kallsyms::Symbols;
use super::links::Links;
use super::memory::Memory;
use super::misses::{self, Misses};
use super::programs::Programs;
use super::shared::Shared;
use super::way::Way;
use crate::image::btf::Btf;
use crate::journal::HookState;

/// The kernel's switches, in the order in which they are read, before any function; each with the number that says that it is off,
/// and the cause that it is then.
const SWITCHES: [Switch; 3] = [
    // `int`, kernel/trace/ftrace.c (7.3). Before the others, which go with it.
    Switch {
        variable: "ftrace_disabled",
        bytes: 4,
        is_off: |number| number != 0,
        cause: BLIND_FTRACE_DEAD,
    },
    // `bool`, kernel/kprobes.c (7.3).
    Switch {
        variable: "kprobes_all_disarmed",
        bytes: 1,
        is_off: |number| number != 0,
        cause: BLIND_KPROBES_OFF,
    },
    // `int`, kernel/trace/ftrace.c (7.3).
    Switch {
        variable: FTRACE_ENABLED,
        bytes: 4,
        is_off: |number| number == 0,
        cause: BLIND_FTRACE_OFF,
    },
];

const FTRACE_ENABLED: &str = "ftrace_enabled";

struct Switch {
    variable: &'static str,
    bytes: usize,
    is_off: fn(u32) -> bool,
    cause: u32,
}

/// The program that counts when a switch is turned.
pub(super) const COUNTER: &str = "switched";

/// How many counters it has: of kprobes, and of ftrace.
const COUNTERS: usize = 2;

/// The symbols that are looked up for it, besides the functions of the hooks.
pub(super) fn variables() -> [&'static str; SWITCHES.len() + 1] {
    let [dead, kprobes, ftrace] = SWITCHES.map(|switch| switch.variable);
    [dead, kprobes, ftrace, misses::CPU_OFFSETS]
}

/// Whether a function calls a tracer at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Calls,
    CallsNothing,
    /// Its beginning is not one that is known.
    Unknown,
}

/// Reads the beginning of a function of x86-64: a call, a breakpoint or a jump that was patched in, or the no-operation of five bytes
/// that the compiler's call to `__fentry__` was made (`arch/x86/kernel/ftrace.c`, `arch/x86/kernel/kprobes/`, 7.3).
#[cfg(target_arch = "x86_64")]
fn entry(text: &[u8; TEXT]) -> Entry {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    const NOP5: &[u8] = &[0x0f, 0x1f, 0x44, 0x00, 0x00];
    match text.strip_prefix(ENDBR64).unwrap_or(text) {
        [0xe8 | 0xe9 | 0xcc, ..] => Entry::Calls,
        text if text.starts_with(NOP5) => Entry::CallsNothing,
        _ => Entry::Unknown,
    }
}

/// Reads the beginning of a function of arm64: after a landing pad there may be, `mov x9, lr` and a call, or two no-operations
/// (`arch/arm64/kernel/ftrace.c`, 7.3).
#[cfg(target_arch = "aarch64")]
fn entry(text: &[u8; TEXT]) -> Entry {
    const BTI_C: u32 = 0xd503_245f;
    const NOP: u32 = 0xd503_201f;
    const MOV_X9_LR: u32 = 0xaa1e_03e9;
    let words: Vec<u32> = text
        .chunks_exact(4)
        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
        .collect();
    let words = words.strip_prefix(&[BTI_C]).unwrap_or(&words);
    match *words {
        // The opcode of `bl`.
        [MOV_X9_LR, call, ..] if call >> 26 == 0b10_0101 => Entry::Calls,
        [MOV_X9_LR | NOP, NOP, ..] => Entry::CallsNothing,
        _ => Entry::Unknown,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn entry(_: &[u8; TEXT]) -> Entry {
    Entry::Unknown
}

/// Looks whether the hooks see.
pub(super) struct Sight {
    memory: Memory,
    misses: Misses,
    switched: Shared,
    /// How often switches had been turned at the last reading.
    turned: [u64; COUNTERS],
    switches: Vec<&'static Switch>,
    /// Of each function, the hook that it belongs to, and whether it is watched.
    functions: Vec<(Hook, bool)>,
    kprobes: u64,
    attached: u64,
    /// What the last reading came to.
    last: HooksBlind,
}

/// What was found at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// How often a program was skipped so far.
    pub missed: u64,
    /// The hooks that see nothing now, or that were blind for a moment since the look before.
    pub blind: HooksBlind,
}

impl Sight {
    /// Begins to watch these hooks, right after they were attached, and after [`count_switches`], whose program is among `links`. Where
    /// the kernel does not tell where its functions are, no hook is watched, and programs are asked how often they were skipped.
    ///
    /// # Errors
    /// Where the kernel refuses the program.
    pub(super) fn begin(
        ebpf: &mut Ebpf,
        links: &Links,
        hooks: &[HookState],
        way: Way,
        offsets: &[u32; Field::COUNT],
        symbols: &Symbols,
    ) -> Result<Self> {
        let switches: Vec<_> = SWITCHES
            .iter()
            .filter(|switch| symbols.address(switch.variable).is_some())
            .collect();
        let functions: Vec<(Hook, u64)> = attached(hooks)
            .flat_map(|(hook, state)| state.targets.iter().map(move |target| (hook, target)))
            .filter_map(|(hook, target)| Some((hook, symbols.only_address(target)?)))
            .take(PLACES - SWITCHES.len())
            .collect();
        let memory = Memory::load(ebpf, misses::room())?;
        let misses = Misses::watch(ebpf, links.programs(), &memory, offsets, symbols)?;
        let addresses = switches.iter().filter_map(|switch| symbols.address(switch.variable));
        memory.set_places(addresses.chain(functions.iter().map(|&(_, address)| address)));
        let is_kprobe = |hook: Hook| way == Way::Each && matches!(hook.attach(), Attach::Callbacks { .. });
        let bits = |is: &dyn Fn(Hook) -> bool| {
            HooksBlind::bits(attached(hooks).map(|(hook, _)| hook).filter(|&hook| is(hook)))
        };
        let mut sight = Self {
            memory,
            misses,
            turned: [0; COUNTERS],
            switched: Shared::take(ebpf, "SWITCHED", COUNTERS * size_of::<u64>())?,
            switches,
            functions: Vec::new(),
            kprobes: bits(&is_kprobe),
            attached: bits(&|_| true),
            last: HooksBlind::default(),
        };
        sight.turned = sight.counts();
        sight.memory.read()?;
        let first = sight.switches.len();
        let calls = |i: usize| {
            sight
                .memory
                .place(first + i)
                .is_some_and(|text| entry(&text) == Entry::Calls)
        };
        sight.functions = functions
            .iter()
            .enumerate()
            .map(|(i, &(hook, _))| (hook, calls(i)))
            .collect();
        Ok(sight)
    }

    /// Looks once.
    pub(super) fn look(&mut self) -> Seen {
        let was_read = self.memory.read().is_ok();
        // What cannot be read is no evidence that a hook is blind, and none that it sees again: what was read last stands.
        if was_read {
            self.last = self.blind();
        }
        Seen {
            missed: self.misses.count(&self.memory, was_read),
            blind: self.last,
        }
    }

    /// What the places that were read come to.
    fn blind(&mut self) -> HooksBlind {
        let numbers = self.switches.iter().enumerate().map(|(i, switch)| {
            let text = self.memory.place(i)?;
            let mut number = [0; 4];
            number[..switch.bytes].copy_from_slice(&text[..switch.bytes]);
            Some((switch.is_off)(u32::from_le_bytes(number)))
        });
        let off = numbers.zip(&self.switches).find(|(off, _)| *off == Some(true));
        let first = self.switches.len();
        let unpatched = self.functions.iter().enumerate().filter(|&(i, &(_, watched))| {
            watched
                && self
                    .memory
                    .place(first + i)
                    .is_some_and(|text| entry(&text) == Entry::CallsNothing)
        });
        let unpatched = HooksBlind::bits(unpatched.map(|(_, &(hook, _))| hook));
        let turned = self.counts();
        let before = std::mem::replace(&mut self.turned, turned);
        let told = |hooks: u64, cause: u32| match hooks & self.attached {
            0 => HooksBlind::default(),
            hooks => HooksBlind {
                hooks,
                cause,
                reserved: 0,
            },
        };
        match off {
            // A kernel that shuts ftrace down leaves in place what functions call, and calls no kprobe any more that ftrace calls.
            Some((_, switch)) if matches!(switch.cause, BLIND_KPROBES_OFF | BLIND_FTRACE_DEAD) => {
                told(self.kprobes | unpatched, switch.cause)
            }
            Some((_, switch)) => told(self.attached, switch.cause),
            None if unpatched != 0 => told(unpatched, BLIND_UNPATCHED),
            None if turned[1] != before[1] => told(self.attached, BLIND_FOR_A_MOMENT),
            None if turned[0] != before[0] => told(self.kprobes, BLIND_FOR_A_MOMENT),
            None => HooksBlind::default(),
        }
    }

    fn counts(&self) -> [u64; COUNTERS] {
        std::array::from_fn(|i| self.switched.words()[i].load(Ordering::Acquire))
    }
}

/// The hooks that are attached.
fn attached(hooks: &[HookState]) -> impl Iterator<Item = (Hook, &HookState)> {
    Hook::ALL.iter().copied().zip(hooks).filter(|(_, state)| state.attached)
}

/// Attaches what counts when a switch is turned. A kernel that lacks such a function, or inlined it, has that switch read only.
pub(super) fn count_switches(links: &mut Links, programs: &Programs, way: Way, btf: &Btf<'_>, symbols: &Symbols) {
    let ftrace = symbols.address(FTRACE_ENABLED);
    let functions: Vec<_> = [("write_enabled_file_bool", Some(0)), ("proc_dointvec", ftrace)]
        .into_iter()
        .filter_map(|(name, cookie)| btf.function(name).zip(cookie))
        .map(|(id, cookie)| Function { id, cookie })
        .collect();
    links.attach_some(programs, way, COUNTER, When::Enter, &functions);
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> [u8; TEXT] {
        let mut text = [0x90; TEXT];
        text[..bytes.len()].copy_from_slice(bytes);
        text
    }

    #[test]
    fn a_function_that_is_traced_begins_with_a_call_or_a_breakpoint() {
        assert_eq!(entry(&text(&[0xe8, 1, 2, 3, 4])), Entry::Calls);
        assert_eq!(entry(&text(&[0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 1, 2, 3, 4])), Entry::Calls);
        assert_eq!(entry(&text(&[0xcc, 0x1f, 0x44, 0, 0])), Entry::Calls);
    }

    #[test]
    fn one_that_is_not_begins_with_a_no_operation() {
        assert_eq!(entry(&text(&[0x0f, 0x1f, 0x44, 0, 0])), Entry::CallsNothing);
        assert_eq!(
            entry(&text(&[0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0, 0])),
            Entry::CallsNothing
        );
    }

    #[test]
    fn any_other_beginning_tells_nothing() {
        assert_eq!(entry(&text(&[0x55, 0x48, 0x89, 0xe5])), Entry::Unknown);
        assert_eq!(entry(&[0; TEXT]), Entry::Unknown);
    }
}
