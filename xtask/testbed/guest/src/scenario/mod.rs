//! The language of scenario files: what the guest does before and after each kexec, and what must be found.
//!
//! `xtask/testbed/README.md` describes it for authors. Every table refuses keys it does not know.

mod bench;
mod expect;
mod next;
mod steps;
mod values;

use serde::{Deserialize, Serialize};

pub use bench::{Bench, Call, Cost, How, Measured, Measurement, Operation, ProgramCost, Tracer, Work};
pub use expect::{Check, EventPattern, Expect, PolicyTest, Verdict};
pub use next::{Next, NextAgent};
pub use steps::{
    AgentSays, AgentThreads, As, BothModes, Caller, Churn, CloseSession, Collected, CreateMisnamed, CreateSession,
    DeniedThroughout, DeviceFile, FailNth, Failing, FailingOperation, Fault, Finish, Load, LoadByI386, MakeAsStranger,
    ManySessions, Memfd, MountBpffs, Nothing, Open, PauseAgent, PortFloodedThroughout, Preserve, PreserveAgain,
    PreserveDevice, PreserveOther, Product, Reboot, Refill, RefusedThroughout, ReloadPolicy, ReloadSettings, Remove,
    Retrieve, RetrieveDevice, RetrieveSession, Run, ScrapeMetrics, StartAgent, Step, StopAgent, Stranger, Together,
    Unload, WriteFile,
};
pub use values::{ErrnoName, PolicyFile, SessionName, Size, changed_words};

/// One scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in one line.
    pub summary: String,
    /// Whether the agent runs, from before the first step to after the last.
    #[serde(default = "yes")]
    pub agent: bool,
    /// More arguments for the agent.
    #[serde(default)]
    pub agent_args: Vec<String>,
    /// The agent's policy, until a step gives it another one; without one it decides nothing.
    #[serde(default)]
    pub policy: Option<PolicyFile>,
    /// Whether the journals go through a second serial port, with nothing of them on a disk.
    #[serde(default)]
    pub serial_journal: bool,
    /// The user that the agent runs as, root by default.
    #[serde(default)]
    pub agent_uid: u32,
    /// What the agent must do without.
    #[serde(default)]
    pub agent_without: Option<Without>,
    /// The agent must refuse to work, with this exit status and one line, instead of getting ready.
    #[serde(default)]
    pub agent_refuses: Option<i32>,
    /// Which build of the kernel boots.
    #[serde(default)]
    pub kernel: Build,
    /// Builds of the kernel that lie in `/host/boot` by their names, for `load` and for programs.
    #[serde(default)]
    pub images: Vec<Build>,
    /// What the guest's userspace is.
    #[serde(default)]
    pub root: Root,
    /// Words of the kernel's command line; one that begins with `!` takes a default word out.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// How much memory the guest has.
    #[serde(default = "one_gib")]
    pub memory: Size,
    /// When the scenario has failed, in seconds on the host's clock.
    #[serde(default = "a_quarter_of_an_hour")]
    pub deadline_seconds: u64,
    /// Whether the kernel may warn (`WARN_ON`) without failing the scenario.
    #[serde(default)]
    pub allow_warnings: bool,
    /// Programs of the kernel's own selftests that the guest needs, as `/payload/NAME`.
    #[serde(default)]
    pub payload: Vec<String>,
    /// How each next kernel is loaded, if there is one.
    pub kexec: Kexec,
    /// How many live updates there are, one after the other.
    #[serde(default = "one")]
    pub updates: u32,
    /// What is different in the kernels after the first.
    #[serde(default)]
    pub next: Next,
    /// What happens in every kernel that another one follows, and in the only one.
    #[serde(default)]
    pub before: Vec<Step>,
    /// What happens in every kernel but the first; where another one follows, before the steps of `before`.
    #[serde(default)]
    pub after: Vec<Step>,
    /// What happens in each kernel, a list for each of them, instead of `before` and `after`.
    #[serde(default)]
    pub kernels: Vec<Vec<Step>>,
    /// What the journals must show. The guest has no use for it.
    #[serde(default, skip_serializing)]
    pub expect: Expect,
}

/// How a next kernel is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kexec {
    /// By `kexec_file_load(2)`, which carries preserved state.
    File,
    /// By `kexec_load(2)`, which silently loses it.
    Legacy,
    /// A step of `before` has loaded it.
    Loaded,
    /// There is no second kernel.
    None,
}

/// What can be taken away from the agent, and from no other process in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Without {
    /// The kernel's type information: where it lies, the agent finds an empty directory.
    Btf,
    /// `bpf(2)`: it answers the agent with ENOSYS, as in a kernel that was built without it.
    Bpf,
    /// The port: another program has it.
    Port,
    /// Standard output: a pipe whose reader has gone.
    Stdout,
    /// Disk space: the journal's directory has room for little more than a journal's beginning, until `make-room`.
    Room,
    /// More than the 1,024 descriptors that systemd gives a service which asks for no more.
    Descriptors,
    /// A disk: the journals' directory is in memory, and gone with each kernel. The last kernel's goes to the host.
    Disk,
}

/// A build of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Build {
    /// With everything in `kernel/testbed.config`.
    #[default]
    Testbed,
    /// The same, but for LUO.
    WithoutLuo,
    /// The same, but for the handler that preserves memfds.
    WithoutMemfd,
    /// The same, but LUO's ABI has another name.
    OtherAbi,
    /// The same, with a command line of its own that it takes in the place of any other, and that does not switch KHO on.
    OwnLine,
}

impl Build {
    /// Its name, in scenarios and among the guest's files.
    pub fn name(self) -> &'static str {
        match self {
            Build::Testbed => "testbed",
            Build::WithoutLuo => "without-luo",
            Build::WithoutMemfd => "without-memfd",
            Build::OtherAbi => "other-abi",
            Build::OwnLine => "own-line",
        }
    }
}

/// What runs in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// `init` of this crate, which does the steps.
    #[default]
    Init,
    /// A Debian system with systemd, in which the agent and `workload` of this crate are services. It has no steps.
    Systemd,
    /// The same system without the agent: `package` of this crate is a service, which installs it. It has no steps.
    Package,
}

impl Root {
    /// Whether it is a Debian system, on a disk.
    pub fn is_system(self) -> bool {
        self != Root::Init
    }
}

impl Scenario {
    /// Says what is wrong with a scenario that its types allow, or nothing.
    ///
    /// # Errors
    /// A sentence for the scenario's author.
    pub fn check(&self) -> Result<(), String> {
        if self.kexec == Kexec::None && !(self.after.is_empty() && self.updates == 1 && self.next == Next::default()) {
            return Err(
                "`after`, `updates` and `next` are of a second kernel, but with kexec = \"none\" there is none".into(),
            );
        }
        if self.updates == 0 {
            return Err("`updates` is 1 or more; a scenario without one has kexec = \"none\"".into());
        }
        if self.next.then_cold && (self.next.panics.is_none() || self.root.is_system()) {
            return Err("`then_cold` takes a kernel that `panics`, and root = \"init\"".into());
        }
        if self.next.panics.is_some() && !self.next.then_cold && self.updates == 1 && !self.after.is_empty() {
            return Err("`after` has steps, but the second kernel panics before it could run them".into());
        }
        if (self.agent_refuses.is_some() || self.agent_without.is_some()) && !self.agent {
            return Err("`agent_refuses` and `agent_without` need the agent, but agent = false".into());
        }
        if self.root.is_system() && !(self.before.is_empty() && self.after.is_empty()) {
            return Err("without root = \"init\" no program does the steps of `before` and `after`".into());
        }
        let lists = self.kernels.len();
        if lists > 0 && (!(self.before.is_empty() && self.after.is_empty()) || lists != self.boots() as usize) {
            return Err(
                "`kernels` has a list of steps for each kernel, and `before` and `after` have none then".into(),
            );
        }
        self.all_steps().try_for_each(Step::check)
    }

    /// Whether the guest gets the agent, running or to be installed.
    pub fn needs_agent(&self) -> bool {
        self.agent || self.root == Root::Package
    }

    /// How many kernels this scenario boots to where steps can be done.
    pub fn boots(&self) -> u32 {
        self.kernels() - u32::from(self.next.panics.is_some()) + u32::from(self.next.then_cold)
    }

    /// The number of the last kernel: they count from 1.
    fn kernels(&self) -> u32 {
        if self.kexec == Kexec::None { 1 } else { 1 + self.updates }
    }

    /// Whether another kernel follows this one.
    pub fn is_followed(&self, boot: u32) -> bool {
        boot < self.kernels()
    }

    /// What is done in this kernel.
    pub fn steps(&self, boot: u32) -> impl Iterator<Item = &Step> {
        let own = self.kernels.get(boot as usize - 1).into_iter().flatten();
        let after = if boot > 1 { self.after.as_slice() } else { &[] };
        let before = if boot == 1 || self.is_followed(boot) {
            self.before.as_slice()
        } else {
            &[]
        };
        own.chain(after).chain(before)
    }

    /// Every step that there is, in whatever kernel.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        let own = self.kernels.iter().flatten();
        own.chain(&self.before).chain(&self.after)
    }

    /// Every policy that the agent gets in the course of it.
    pub fn policies(&self) -> Vec<PolicyFile> {
        let own = self.policy.iter().flat_map(|policy| [policy.clone(), policy.looking()]);
        own.chain(self.all_steps().flat_map(Step::policies)).collect()
    }

    /// What the agent does in this kernel when it is started first.
    pub fn agent_in(&self, boot: u32) -> AgentIn {
        let runs = match self.agent_refuses {
            Some(status) => AgentIn::Refuses(status),
            None => AgentIn::Runs,
        };
        match self.next.agent {
            _ if !self.agent => AgentIn::Nowhere,
            NextAgent::None if boot > 1 => AgentIn::Nowhere,
            NextAgent::Refuses if boot > 1 => AgentIn::Refuses(CANNOT_WORK),
            _ => runs,
        }
    }
}

/// The agent's exit status where it cannot work.
const CANNOT_WORK: i32 = 4;

/// The agent in one kernel of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentIn {
    /// It runs, and leaves a journal.
    Runs,
    /// It refuses to work, with this exit status and one line.
    Refuses(i32),
    /// It is not started.
    Nowhere,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn one_gib() -> Size {
    (1 << 30).into()
}

fn a_quarter_of_an_hour() -> u64 {
    900
}

#[cfg(test)]
mod tests;
