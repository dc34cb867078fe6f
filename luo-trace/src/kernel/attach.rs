//! Loading the programs and attaching the hooks, each by the table in `luo_trace_common::hooks`.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use aya::maps::RingBuf;
use aya::programs::KProbe;
use aya::{Ebpf, EbpfLoader};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::{Attach, Hook, KhoDetail, Need};
use luo_trace_common::variables::Variable;

use super::handover::Handover;
use super::index;
use super::kallsyms::Symbols;
use super::links::{self, Links, Wish};
use super::lsm::{LsmError, LsmPrograms};
use super::memory;
use super::misses;
use super::plan::{Plan, plan, wanted, without_doubtful};
use super::programs::Programs;
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
    _links: Links,
    ebpf: Ebpf,
    hooks: Vec<HookState>,
    /// Until the ring takes it.
    sight: Option<Sight>,
    snapshots: Result<Snapshots>,
    /// Whether the program that looks through what the previous kernel left is loaded.
    handover: Result<Handover>,
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
    pub fn attach(btf: &Btf<'_>, ring_bytes: u32, detail: KhoDetail, way: Option<Way>) -> Result<Self> {
        let _held = HeldSignals::hold();
        let way = way.unwrap_or_else(Way::best);
        let offsets = btf.offsets();
        // Without the list of symbols no variable is read, which those who need one tell.
        let symbols = index::look_up(&wanted(btf)).ok();
        let variables = symbols.as_ref().map_or([0; Variable::COUNT], Symbols::variables);
        let plans: Vec<_> = Hook::ALL
            .iter()
            .map(|&hook| match hook.detail() > detail {
                true => Plan::SwitchedOff,
                false => plan(hook, way, btf, &offsets, &variables, symbols.as_ref()),
            })
            .collect();
        let plans = without_doubtful(plans);
        let targets: Vec<u32> = plans.iter().map(Plan::alternative).collect();
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("FIELDS", &offsets[..], true)
            .override_global("VARIABLES", &variables[..], true)
            .override_global("TARGETS", &targets[..], true)
            .override_global("PAGE_SHIFT", &page_shift(), true)
            .map_max_entries("EVENTS", ring_bytes)
            .map_max_entries(memory::COUNTERS, misses::room() as u32)
            // What belongs to tasks.
            .allow_unsupported_maps()
            .load(super::OBJECT)
            .context("the kernel refuses luo-trace's maps")?;
        let mut wanted = links::programs();
        wanted.insert(sight::COUNTER);
        let programs = Programs::read(super::OBJECT, &ebpf, &wanted, detail)?;
        let (mut links, hooks) = carry_out(&plans, way, &mut ebpf, &programs, btf)?;
        let symbols = symbols.unwrap_or_default();
        sight::count_switches(&mut links, &programs, way, btf, &symbols);
        let sight = Sight::begin(&mut ebpf, &links, &hooks, way, &offsets, &symbols)?;
        let snapshots = Snapshots::load(&mut ebpf, &symbols);
        let handover = Handover::load(&mut ebpf);
        let tracer = Self {
            #[cfg(feature = "bpf-log")]
            log: super::log::KernelLog::start(&mut ebpf)?,
            way,
            _links: links,
            ebpf,
            hooks,
            sight: Some(sight),
            snapshots,
            handover,
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
    pub fn handover(&mut self, drain: impl FnMut() -> bool) -> Result<()> {
        match &self.handover {
            Ok(handover) => handover.take(&mut self.ebpf, drain),
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
    pub fn lsm(&mut self) -> Result<LsmPrograms, LsmError> {
        LsmPrograms::attach(&mut self.ebpf, &self.offsets, &self.variables)
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
        let sight = self.sight.take().context("the ring buffer was taken before")?;
        Ring::new(RingBuf::try_from(ring)?, lost, denied, hush, sight)
    }
}

/// Does what is planned for all hooks, and tells what became of each.
fn carry_out(
    plans: &[Plan],
    way: Way,
    ebpf: &mut Ebpf,
    programs: &Programs,
    btf: &Btf<'_>,
) -> Result<(Links, Vec<HookState>)> {
    let plans = || Hook::ALL.iter().copied().zip(plans);
    let by_probes = |hook: Hook| match (way, hook.attach()) {
        (Way::Each, Attach::Callbacks { probes, .. }) => Some(probes),
        _ => None,
    };
    let wish = |(hook, plan): (Hook, &Plan)| Wish {
        hook,
        targets: plan
            .functions()
            .filter_map(|name| Some((name.to_owned(), btf.function(name)?)))
            .collect(),
    };
    let wishes: Vec<Wish> = plans()
        .filter(|&(hook, _)| by_probes(hook).is_none())
        .map(wish)
        .filter(|wish| !wish.targets.is_empty())
        .collect();
    let (links, mut failures) = Links::attach(ebpf, programs, way, &wishes)?;
    let mut become_of = |(hook, plan): (Hook, &Plan)| {
        let mut state = plan.promise(hook);
        if plan.alternative() == 0 {
            return state;
        }
        let mut failed = match by_probes(hook) {
            Some(probes) => attach_callbacks(ebpf, probes, &state.targets),
            None => HashMap::new(),
        };
        if let Some(wish) = wishes.iter().find(|wish| wish.hook == hook) {
            let of_function = |(name, id): &(String, u32)| Some((name.clone(), failures.take(hook, *id)?));
            failed.extend(wish.targets.iter().filter_map(of_function));
        }
        settle(&mut state, &failed);
        state
    };
    let hooks = plans().map(&mut become_of).collect();
    Ok((links, hooks))
}

/// Notes to which functions a hook is attached: a function that cannot be reached is told and does not stop the others.
fn settle(state: &mut HookState, failed: &HashMap<String, anyhow::Error>) {
    let reasons: Vec<String> = state
        .targets
        .iter()
        .filter_map(|target| Some(format!("{target}: {:#}", failed.get(target)?)))
        .collect();
    let targets = state.targets.len();
    state.attached = reasons.len() < targets;
    if state.attached {
        state.targets.retain(|target| !failed.contains_key(target));
    }
    state.reason = match reasons.join("; ") {
        reasons if reasons.is_empty() => None,
        reasons if state.attached => Some(format!("not all: {reasons}")),
        reasons => Some(reasons),
    };
}

/// Base 2 logarithm of the size of a page.
fn page_shift() -> u32 {
    host::page_size().trailing_zeros()
}

/// Attaches kprobes to callbacks: one program serves all of them. Gives which could not be attached, and why.
fn attach_callbacks(
    ebpf: &mut Ebpf,
    programs: [&'static str; 2],
    targets: &[String],
) -> HashMap<String, anyhow::Error> {
    let mut load = || -> Result<()> {
        for name in programs {
            let program = kprobe(ebpf, name)?.load().map_err(explain);
            program.with_context(|| format!("program {name}"))?;
        }
        Ok(())
    };
    if let Err(error) = load() {
        let failed = targets.iter().map(|target| (target.clone(), anyhow!("{error:#}")));
        return failed.collect();
    }
    let mut attach = |target: &str| -> Result<()> {
        for name in programs {
            kprobe(ebpf, name)?.attach(target, 0)?;
        }
        Ok(())
    };
    let failed = targets
        .iter()
        .filter_map(|target| Some((target.clone(), attach(target).err()?)));
    failed.collect()
}

fn kprobe<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut KProbe> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the binary lacks program {name}"))?;
    program
        .try_into()
        .with_context(|| format!("program {name} is no kprobe"))
}
