//! Loading the programs and attaching the hooks, each by the table in `luo_trace_common::hooks`.

use std::fmt;

use anyhow::{Context, Result, bail};
use aya::maps::RingBuf;
use aya::programs::{FEntry, FExit, KProbe, Program};
use aya::{Ebpf, EbpfLoader};
use luo_trace_common::fields::{ABSENT, Field};
use luo_trace_common::hooks::{Attach, Hook, KhoDetail, Need};
use luo_trace_common::variables::Variable;

use super::kallsyms::{self, Symbols};
use super::lsm::{Brake, BrakeError};
use super::misses::Misses;
use super::multi::{Links, Wish};
use super::ring::Ring;
use super::shared::Shared;
use super::sight::{self, Sight};
use super::signals::HeldSignals;
use super::snapshot::Snapshots;
use super::verifier::explain;
use super::way::Way;
use crate::host;
use crate::image::btf::Btf;
use crate::journal::{Header, HookState};

/// A required hook could not be attached: nothing that luo-trace says would hold.
#[derive(Debug)]
pub struct AttachError {
    /// The hooks that are required and failed, each with its reason.
    pub failed: Vec<HookState>,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("required hooks cannot be attached on this kernel")?;
        for hook in &self.failed {
            write!(
                f,
                "\n  {}: {}",
                hook.id,
                hook.reason.as_deref().unwrap_or("unknown reason")
            )?;
        }
        f.write_str("\nrun `luo-trace doctor` for the whole picture")
    }
}

impl std::error::Error for AttachError {}

/// Attached programs. Dropping it detaches and unloads them all; nothing is ever pinned.
pub struct Tracer {
    way: Way,
    /// Before the programs that they go on with.
    links: Links,
    ebpf: Ebpf,
    hooks: Vec<HookState>,
    /// Until the ring takes it.
    sight: Option<Sight>,
    snapshots: Result<Snapshots>,
    /// Whether the program that looks through what the previous kernel left is loaded.
    arrival: Result<()>,
    /// What the programs were told of this kernel.
    offsets: [u32; Field::COUNT],
    variables: [u64; Variable::COUNT],
    #[cfg(feature = "bpf-log")]
    log: super::log::KernelLog,
}

impl Tracer {
    /// Loads the programs and attaches every hook that this kernel allows and `detail` asks for, in the best way there is, or in the
    /// given one.
    ///
    /// # Errors
    /// An [`AttachError`] where a required hook failed, any other error where nothing could be loaded at all.
    pub fn attach(vmlinux_btf: &[u8], ring_bytes: u32, detail: KhoDetail, way: Option<Way>) -> Result<Self> {
        let _held = HeldSignals::hold();
        let way = way.unwrap_or_else(Way::best);
        let btf = Btf::parse(vmlinux_btf)?;
        let offsets = btf.offsets();
        // Without the list of symbols no variable is read, which those who need one tell.
        let symbols = Symbols::find(&wanted(&btf)).ok();
        let variables = symbols.as_ref().map_or([0; Variable::COUNT], Symbols::variables);
        let plans: Vec<_> = Hook::ALL
            .iter()
            .map(|&hook| match hook.detail() > detail {
                true => Plan::SwitchedOff,
                false => plan(hook, way, &btf, &offsets, &variables, symbols.as_ref()),
            })
            .collect();
        let plans = without_doubtful(plans);
        // aya reads all of it, and searches it from the beginning for each program.
        let mut functions: Vec<&str> = plans.iter().flat_map(Plan::functions).collect();
        functions.extend(sight::counted());
        let small = btf.only_functions(functions);
        let aya_btf = aya::Btf::parse(&small, aya::Endianness::default())?;
        let targets: Vec<u32> = plans.iter().map(Plan::alternative).collect();
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&aya_btf))
            .override_global("FIELDS", &offsets[..], true)
            .override_global("VARIABLES", &variables[..], true)
            .override_global("TARGETS", &targets[..], true)
            .override_global("PAGE_SHIFT", &page_shift(), true)
            .map_max_entries("EVENTS", ring_bytes)
            .load(super::OBJECT)
            .context("the kernel refuses luo-trace's maps")?;
        let (links, hooks) = match way {
            Way::Multi => attach_at_once(plans, &ebpf, &btf)?,
            Way::Each => {
                let plans = Hook::ALL.iter().zip(plans);
                let hooks = plans.map(|(&hook, plan)| carry_out(plan, &mut ebpf, hook, &aya_btf));
                (Links::default(), hooks.collect())
            }
        };
        let symbols = symbols.unwrap_or_default();
        let sight = Sight::begin(&mut ebpf, &hooks, way, &symbols, &aya_btf)?;
        let snapshots = Snapshots::load(&mut ebpf, &symbols);
        let arrival = super::arrival::load(&mut ebpf);
        let tracer = Self {
            #[cfg(feature = "bpf-log")]
            log: super::log::KernelLog::start(&mut ebpf)?,
            way,
            links,
            ebpf,
            hooks,
            sight,
            snapshots,
            arrival,
            offsets,
            variables,
        };
        let required = |state: &&HookState| {
            Hook::ALL
                .iter()
                .any(|hook| hook.id() == state.id && hook.need() == Need::Required)
        };
        let failed: Vec<_> = tracer
            .hooks
            .iter()
            .filter(|state| state.is_missing())
            .filter(required)
            .cloned()
            .collect();
        if !failed.is_empty() {
            return Err(AttachError { failed }.into());
        }
        Ok(tracer)
    }

    /// How they are attached.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The hooks and what became of each.
    pub fn hooks(&self) -> &[HookState] {
        &self.hooks
    }

    /// Writes into a journal's header what the kernel says of itself. What it does not tell stays as it is.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn describe(&mut self, header: &mut Header) -> Result<()> {
        super::facts::fill(&super::facts::read(&mut self.ebpf)?, header);
        Ok(())
    }

    /// Looks through what the previous kernel left for LUO, as long as no process has read it in; what it finds comes through the
    /// ring. `drain` empties the ring, and gives whether to go on.
    ///
    /// # Errors
    /// Where the kernel does not run the program.
    pub fn arrival(&mut self, drain: impl FnMut() -> bool) -> Result<()> {
        match &self.arrival {
            Ok(()) => super::arrival::take(&mut self.ebpf, drain),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        }
    }

    /// Walks over LUO's lists; what it finds comes through the ring. A walk that is disturbed is repeated some times. `drain`
    /// empties the ring, and gives whether to go on.
    ///
    /// # Errors
    /// Where this kernel's lists cannot be walked, which will be so the next time, too.
    pub fn snapshot(&mut self, drain: impl FnMut() -> bool) -> Result<()> {
        match &mut self.snapshots {
            Ok(snapshots) => snapshots.take(&self.ebpf, drain, || true),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        }
    }

    /// Attaches the programs that refuse. As long as no policy is in force they let everything pass.
    ///
    /// # Errors
    /// Where the kernel has no room for them or never runs them; then none is attached. A second call fails.
    pub fn brake(&mut self) -> Result<Brake, BrakeError> {
        Brake::attach(&mut self.ebpf, &self.offsets, &self.variables)
    }

    /// Prints what the programs logged, in a build with the feature `bpf-log`.
    pub fn print_log(&mut self) {
        #[cfg(feature = "bpf-log")]
        self.log.flush();
    }

    /// The ring buffer's reading end. There is one: a second call fails.
    pub fn ring(&mut self) -> Result<Ring> {
        let ring = self
            .ebpf
            .take_map("EVENTS")
            .context("the ring buffer was taken before")?;
        let mut shared = |name| Shared::take(&mut self.ebpf, name, size_of::<u64>());
        let (lost, denied, hush) = (shared("LOST")?, shared("DENIED")?, shared("HUSH")?);
        let misses = Misses::watch(&self.ebpf, self.links.programs()).context("the programs cannot be watched")?;
        Ring::new(RingBuf::try_from(ring)?, lost, denied, hush, misses, self.sight.take())
    }
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
    fn functions(&self) -> impl Iterator<Item = &str> {
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
    fn alternative(&self) -> u32 {
        match self {
            Plan::Attach { alternative, .. } => *alternative,
            _ => 0,
        }
    }
}

/// All symbols that are looked up: the variables, and the functions that a kernel may do without.
pub(super) fn symbols() -> Vec<&'static str> {
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
fn wanted<'a>(btf: &Btf<'a>) -> Vec<&'a str> {
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
fn without_doubtful(mut plans: Vec<Plan>) -> Vec<Plan> {
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

/// Does what is planned for a hook, and tells what became of it.
fn carry_out(plan: Plan, ebpf: &mut Ebpf, hook: Hook, btf: &aya::Btf) -> HookState {
    let mut state = plan.promise(hook);
    if let Plan::Attach { .. } = plan {
        match attach(ebpf, hook, std::mem::take(&mut state.targets), btf) {
            Ok(attached) => {
                state.attached = true;
                state.reason = attached.partly;
                state.targets = attached.targets;
            }
            Err(error) => state.reason = Some(format!("{error:#}")),
        }
    }
    state
}

/// Does what is planned for all hooks, and tells what became of each.
fn attach_at_once(plans: Vec<Plan>, ebpf: &Ebpf, btf: &Btf<'_>) -> Result<(Links, Vec<HookState>)> {
    let plans = || Hook::ALL.iter().copied().zip(&plans);
    let wishes: Vec<Wish> = plans()
        .filter(|(_, plan)| plan.alternative() != 0)
        .map(|(hook, plan)| Wish {
            hook,
            targets: plan
                .functions()
                .filter_map(|name| Some((name.to_owned(), btf.function(name)?)))
                .collect(),
        })
        .collect();
    let (links, mut failures) = Links::attach(ebpf, super::OBJECT, &wishes)?;
    let become_of = |(hook, plan): (Hook, &Plan)| {
        let mut state = plan.promise(hook);
        if plan.alternative() == 0 {
            return state;
        }
        let failed = failures.remove(&hook).unwrap_or_default();
        let reasons: Vec<String> = failed
            .iter()
            .map(|(name, error)| format!("{name}: {error:#}"))
            .collect();
        state
            .targets
            .retain(|target| failed.iter().all(|(name, _)| name != target));
        state.attached = !state.targets.is_empty();
        state.reason = match (state.attached, reasons.is_empty()) {
            (_, true) => None,
            (true, false) => Some(format!("not all: {}", reasons.join("; "))),
            (false, false) => Some(reasons.join("; ")),
        };
        state
    };
    let hooks = plans().map(become_of).collect();
    Ok((links, hooks))
}

struct Attached {
    targets: Vec<String>,
    /// What could not be attached although the hook works.
    partly: Option<String>,
}

fn attach(ebpf: &mut Ebpf, hook: Hook, targets: Vec<String>, btf: &aya::Btf) -> Result<Attached> {
    if let Attach::Callbacks { probes, .. } = hook.attach() {
        return attach_callbacks(ebpf, probes, targets);
    }
    for target in &targets {
        for program in [hook.enter(), hook.exit()].into_iter().flatten() {
            attach_function(ebpf, program, target, btf).with_context(|| format!("program {program} on {target}"))?;
        }
    }
    Ok(Attached { targets, partly: None })
}

/// Base 2 logarithm of the size of a page.
fn page_shift() -> u32 {
    host::page_size().trailing_zeros()
}

fn attach_function(ebpf: &mut Ebpf, program: &str, target: &str, btf: &aya::Btf) -> Result<()> {
    match ebpf.program_mut(program).context("the binary lacks this program")? {
        Program::FEntry(program) => {
            let program: &mut FEntry = program;
            program.load(target, btf).map_err(explain)?;
            program.attach()?;
        }
        Program::FExit(program) => {
            let program: &mut FExit = program;
            program.load(target, btf).map_err(explain)?;
            program.attach()?;
        }
        _ => bail!("the program is of a kind that cannot be attached to a function"),
    }
    Ok(())
}

/// One program serves every callback; a callback that cannot be reached is told and does not stop the others.
fn attach_callbacks(ebpf: &mut Ebpf, programs: [&'static str; 2], targets: Vec<String>) -> Result<Attached> {
    for name in programs {
        kprobe(ebpf, name)?
            .load()
            .map_err(explain)
            .with_context(|| format!("program {name}"))?;
    }
    let mut attached = Vec::new();
    let mut failed = Vec::new();
    for target in targets {
        let result = programs.into_iter().try_for_each(|name| {
            kprobe(ebpf, name)?
                .attach(&target, 0)
                .map(drop)
                .map_err(anyhow::Error::from)
        });
        match result {
            Ok(()) => attached.push(target),
            Err(error) => failed.push(format!("{target}: {error:#}")),
        }
    }
    if attached.is_empty() {
        bail!("{}", failed.join("; "));
    }
    let partly = (!failed.is_empty()).then(|| format!("not all: {}", failed.join("; ")));
    Ok(Attached {
        targets: attached,
        partly,
    })
}

fn kprobe<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut KProbe> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the binary lacks program {name}"))?;
    program
        .try_into()
        .with_context(|| format!("program {name} is no kprobe"))
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
