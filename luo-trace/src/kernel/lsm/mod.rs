//! The programs that refuse, and the policy they refuse by.
//!
//! `LsmPrograms::attach` attaches all of them or none. [`LsmPrograms::enforce`] puts a policy in force as a whole: what it consists of is
//! laid down first, then one number tells the programs to go by it, and what the one before it consisted of goes when no
//! program reads it any more. A decision is by the one policy or by the other.

mod gate;
mod maps;
mod pins;
mod state;

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::Map;
use aya::programs::links::FdLink;
use aya::programs::{FEntry, Lsm, Program};
use luo_trace_common::fields::{ABSENT, Field};
use luo_trace_common::policy::{Aspect, CGROUP_NODES, PROBE, RULES, Selected, State, Table, VALUES};
use luo_trace_common::variables::Variable;
use zerocopy::IntoBytes;

use super::preflight::VMLINUX_BTF;
use super::shared::Shared;
use super::signals::HeldSignals;
use super::verifier::explain;
use crate::host;
use crate::image::btf::Btf;
use crate::policy::Compiled;
use gate::Gate;
use maps::Maps;
pub use pins::{Adopted, Left, clear, left};
pub use state::SharedState;

/// The programs, in the order in which they are attached: what notes a name comes before what asks for it.
const PROGRAMS: [(&str, Target); 5] = [
    ("policy_session_create", Target::Function("luo_session_create")),
    ("policy_file_ioctl", Target::Check("file_ioctl")),
    ("policy_read_file", Target::Check("kernel_read_file")),
    ("policy_load_data", Target::Check("kernel_load_data")),
    ("policy_capable", Target::Check("capable")),
];

/// What the programs cannot do without. What else they read makes only a condition unknown.
const FIELDS: &[Field] = &[
    Field::FileOps,
    Field::FilePrivate,
    Field::SessionName,
    #[cfg(target_arch = "x86_64")]
    Field::RegsCall,
    #[cfg(target_arch = "x86_64")]
    Field::RegsArg2,
    #[cfg(target_arch = "x86_64")]
    Field::RegsArg3,
    #[cfg(target_arch = "aarch64")]
    Field::RegsCallArm,
    #[cfg(target_arch = "aarch64")]
    Field::RegsArgsArm,
];

/// The same of variables.
const VARIABLES: &[Variable] = &[Variable::SessionOps];

/// What a program is attached to.
#[derive(Clone, Copy)]
enum Target {
    /// A function of the kernel.
    Function(&'static str),
    /// One of the kernel's security checks.
    Check(&'static str),
}

impl Target {
    /// The function that it is attached to.
    fn function(self) -> String {
        match self {
            Target::Function(name) => name.into(),
            Target::Check(name) => format!("bpf_lsm_{name}"),
        }
    }
}

/// Why nothing can be refused on this host.
#[derive(Debug)]
pub enum LsmError {
    /// BPF programs cannot refuse anything on this kernel as it was booted.
    NotActive(String),
    /// The kernel lacks something that the programs need, or does not tell where it is.
    Lacks(String),
    /// The programs could not be loaded or attached.
    Failed(anyhow::Error),
}

impl fmt::Display for LsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LsmError::NotActive(why) => write!(
                f,
                "nothing can be refused on this host, since bpf is no active security module: {why}"
            ),
            LsmError::Lacks(what) => write!(f, "nothing can be refused on this kernel: {what}"),
            LsmError::Failed(error) => write!(f, "the programs that refuse cannot be attached: {error:#}"),
        }
    }
}

impl std::error::Error for LsmError {}

impl From<anyhow::Error> for LsmError {
    fn from(error: anyhow::Error) -> Self {
        LsmError::Failed(error)
    }
}

/// The attached programs, and the policy in force. Dropping it detaches them, unless they are pinned.
pub struct LsmPrograms {
    gate: Gate,
    links: Vec<FdLink>,
    state: SharedState,
    tables: Shared,
    maps: Maps,
    /// The policy in force.
    in_force: Option<Compiled>,
    /// Number of the last policy; its lowest bit says where its table is.
    generation: u64,
    /// Where the programs are pinned.
    pinned: Option<pins::Set>,
}

impl LsmPrograms {
    /// Attaches all programs, and finds out whether the kernel runs them.
    pub(super) fn attach(
        ebpf: &mut Ebpf,
        offsets: &[u32; Field::COUNT],
        variables: &[u64; Variable::COUNT],
    ) -> Result<Self, LsmError> {
        let _held = HeldSignals::hold();
        lack(offsets, variables).map_or(Ok(()), |what| Err(LsmError::Lacks(what)))?;
        let vmlinux = fs::read(VMLINUX_BTF).with_context(|| format!("cannot read {VMLINUX_BTF}"))?;
        let btf = Btf::parse(&vmlinux)?;
        for (_, target) in PROGRAMS {
            has_target(&btf, target)?;
        }
        let gate = btf
            .function(gate::FUNCTION)
            .ok_or_else(|| LsmError::Lacks(format!("it has no function {} to attach to", gate::FUNCTION)))?;
        let functions: Vec<String> = PROGRAMS.iter().map(|(_, target)| target.function()).collect();
        let small = btf.only_functions(functions.iter().map(String::as_str));
        drop(btf);
        drop(vmlinux);
        let btf = aya::Btf::parse(&small, aya::Endianness::default()).map_err(anyhow::Error::from)?;
        let attached = PROGRAMS
            .iter()
            .map(|&(program, target)| {
                attach_one(ebpf, program, target, &btf)
                    .with_context(|| format!("program {program} on {}", target.function()))
            })
            .collect::<Result<Vec<_>>>();
        let attached = attached.and_then(|links| Ok((Gate::attach(gate, offsets, refused(ebpf)?)?, links)));
        let result = attached
            .map_err(LsmError::from)
            .and_then(|(gate, links)| Self::with(ebpf, gate, links));
        if result.is_err() {
            for (program, _) in PROGRAMS {
                // One that was not loaded cannot be unloaded, and need not be.
                _ = match ebpf.program_mut(program) {
                    Some(Program::Lsm(program)) => program.unload(),
                    Some(Program::FEntry(program)) => program.unload(),
                    _ => Ok(()),
                };
            }
        }
        result
    }

    /// Takes the maps of programs that are attached.
    fn with(ebpf: &mut Ebpf, gate: Gate, links: Vec<FdLink>) -> Result<Self, LsmError> {
        let state = Shared::take(ebpf, "STATE", size_of::<State>())?;
        let tables = Shared::take(ebpf, "TABLES", 2 * size_of::<Table>())?;
        let programs = Self {
            gate,
            links,
            state: SharedState(state),
            tables,
            maps: Maps::take(ebpf)?,
            in_force: None,
            generation: 0,
            pinned: None,
        };
        programs.probe()?;
        Ok(programs)
    }

    /// Attaching succeeds also where the kernel was booted without BPF as a security module: then nothing ever runs.
    fn probe(&self) -> Result<(), LsmError> {
        let before = self.state.probes();
        // SAFETY: a command that no file knows, without an argument.
        unsafe { libc::ioctl(self.state.0.array().fd().as_fd().as_raw_fd(), PROBE.into(), 0) };
        if self.state.probes() != before {
            return Ok(());
        }
        let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_else(|_| "not told".into());
        Err(LsmError::NotActive(format!(
            "the active ones are {}; boot the kernel with lsm= and a list that has bpf",
            active.trim()
        )))
    }

    /// Puts a policy in force, as a whole, and gives its generation. [`Table::preserved`] is as the compiled table has it. When
    /// this returns no decision is by the policy before it, which stays in force where this fails.
    ///
    /// # Errors
    /// Where the policy is too large, or the kernel takes no more entries.
    pub fn enforce(&mut self, policy: &Compiled) -> Result<u64> {
        fits(policy)?;
        let generation = self.generation + 1;
        if let Err(error) = self.maps.lay_down(policy, generation) {
            self.maps.take_away(policy, generation);
            return Err(error);
        }
        self.write_table(&Table {
            generation,
            ..policy.table
        });
        // The caller that puts a policy in force lives.
        self.state.beat(host::clock().monotonic_ns);
        self.generation = generation;
        self.state.switch(generation);
        let before = self.in_force.replace(policy.clone());
        self.forget(before, generation - 1)?;
        Ok(generation)
    }

    /// Takes the policy away: from here on everything passes. The programs stay attached.
    ///
    /// # Errors
    /// Where the kernel does not wait for decisions under way; everything passes even so.
    pub fn release(&mut self) -> Result<()> {
        self.state.switch(0);
        let before = self.in_force.take();
        self.forget(before, self.generation)
    }

    /// What operators ordered and what the agent knows.
    pub fn state(&self) -> &SharedState {
        &self.state
    }

    /// Tells which rules name a session or a handler of what is preserved, as `Policy::preserved` has them. Nothing without a
    /// policy in force.
    pub fn preserved(&self, preserved: &[Selected; Aspect::COUNT]) {
        if self.in_force.is_some() {
            let first = std::mem::offset_of!(Table, preserved) / size_of::<u64>();
            self.write_words(self.generation, first, preserved.as_bytes());
        }
    }

    /// Removes the entries of a policy that is in force no longer, when no program reads them.
    fn forget(&mut self, policy: Option<Compiled>, generation: u64) -> Result<()> {
        let Some(policy) = policy else { return Ok(()) };
        self.maps.wait()?;
        self.maps.take_away(&policy, generation);
        Ok(())
    }

    fn write_table(&self, table: &Table) {
        self.write_words(table.generation, 0, table.as_bytes());
    }

    /// Writes into the table of a generation, from this word on.
    fn write_words(&self, generation: u64, first: usize, bytes: &[u8]) {
        let start = (generation & 1) as usize * (size_of::<Table>() / size_of::<u64>()) + first;
        let words = bytes.as_chunks().0.iter().map(|&word| u64::from_ne_bytes(word));
        for (word, value) in self.tables.words()[start..].iter().zip(words) {
            word.store(value, Ordering::SeqCst);
        }
    }
}

/// What this kernel lacks, or does not tell; nothing where it has all.
fn lack(offsets: &[u32; Field::COUNT], variables: &[u64; Variable::COUNT]) -> Option<String> {
    let fields = FIELDS.iter().filter(|&&field| offsets[field as usize] == ABSENT);
    let hidden = VARIABLES.iter().filter(|&&variable| variables[variable as usize] == 0);
    let absent: Vec<String> = fields
        .map(|field| format!("it has no {}.{}", field.structure(), field.path()))
        .chain(hidden.map(|variable| {
            format!(
                "it does not tell where {} is, which needs CONFIG_KALLSYMS_ALL=y and CAP_SYSLOG",
                variable.symbol()
            )
        }))
        .collect();
    (!absent.is_empty()).then(|| absent.join("; "))
}

/// Whether the kernel has what a program is attached to.
fn has_target(btf: &Btf<'_>, target: Target) -> Result<(), LsmError> {
    if btf.has_function(&target.function()) {
        return Ok(());
    }
    Err(match target {
        Target::Function(name) => LsmError::Lacks(format!(
            "it has no function {name} to attach to, or the compiler inlined it, so that a session's name is not known in time"
        )),
        Target::Check(_) => LsmError::NotActive("the kernel was built without CONFIG_BPF_LSM=y".into()),
    })
}

fn attach_one(ebpf: &mut Ebpf, name: &str, target: Target, btf: &aya::Btf) -> Result<FdLink> {
    let program = ebpf.program_mut(name).context("the binary lacks this program")?;
    match (program, target) {
        (Program::FEntry(program), Target::Function(function)) => {
            let program: &mut FEntry = program;
            program.load(function, btf).map_err(explain)?;
            let link = program.attach()?;
            Ok(program.take_link(link)?.into())
        }
        (Program::Lsm(program), Target::Check(check)) => {
            let program: &mut Lsm = program;
            program.load(check, btf).map_err(explain)?;
            let link = program.attach()?;
            Ok(program.take_link(link)?.into())
        }
        _ => bail!("the program is of another kind"),
    }
}

/// The threads that the gate refuses.
fn refused(ebpf: &Ebpf) -> Result<BorrowedFd<'_>> {
    match ebpf.map("REFUSED") {
        Some(Map::LruHashMap(map)) => Ok(map.fd().as_fd()),
        _ => bail!("the binary lacks map REFUSED"),
    }
}

/// Fails where a policy has more than the kernel's maps have room for beside another one.
fn fits(policy: &Compiled) -> Result<()> {
    let room = |what: &str, number: usize, most: usize| {
        ensure!(
            number <= most,
            "the policy names {number} {what}, of which there may be {most}"
        );
        Ok(())
    };
    room("rules", policy.names.len(), RULES)?;
    room("thread names", policy.comms.len(), VALUES)?;
    room("users", policy.uids.len(), VALUES)?;
    room("control groups", policy.cgroups.len(), CGROUP_NODES)?;
    room("sessions", policy.sessions.len(), VALUES)
}
