//! What a scenario can have the guest do, one type for each step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ErrnoName, Kexec, PolicyFile, SessionName, Size};

/// One step. In TOML: `{ create-session = { name = "vm-web" } }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant is named like the type that describes it")]
pub enum Step {
    CreateSession(CreateSession),
    CreateMisnamed(CreateMisnamed),
    CloseSession(CloseSession),
    RetrieveSession(RetrieveSession),
    Preserve(Preserve),
    PreserveAgain(PreserveAgain),
    PreserveOther(PreserveOther),
    Refill(Refill),
    Retrieve(Retrieve),
    PreserveDevice(PreserveDevice),
    RetrieveDevice(RetrieveDevice),
    Finish(Finish),
    OpenDevice(Open),
    /// Opens the device while the driver has it open, and closes it again.
    OpenTwice(Open),
    /// Closes `/dev/liveupdate`, which a later step opens again when it needs it; sessions stay open.
    CloseDevice(Nothing),
    /// Keeps the sessions that are open now open to the end: LUO would not survive that some are closed.
    KeepSessions(Nothing),
    Load(Load),
    Unload(Unload),
    Reboot(Reboot),
    LoadByI386(LoadByI386),
    Fault(Fault),
    WriteFile(WriteFile),
    /// Removes what is pinned in the BPF file system, as another root could.
    RemovePins(Nothing),
    /// Tries to detach every BPF link there is, as another root could: the kernel has to refuse each.
    DetachLinks(Nothing),
    Crowd(Crowd),
    /// Detaches what `crowd` attached.
    Disperse(Nothing),
    FailNth(FailNth),
    Failing(Failing),
    Together(Together),
    /// Creates sessions and preserves files in each; they stay open.
    ManySessions(ManySessions),
    /// Closes the sessions that `many-sessions` created.
    CloseManySessions(ManySessions),
    /// Retrieves them after the kexec, compares every byte, and finishes them.
    RetrieveManySessions(ManySessions),
    Churn(Churn),
    Run(Run),
    ScrapeMetrics(ScrapeMetrics),
    /// Has a collector at `127.0.0.1:4318` take what the agent pushes, from now on.
    Collect(Nothing),
    Collected(Collected),
    StartAgent(StartAgent),
    StopAgent(StopAgent),
    ReloadPolicy(ReloadPolicy),
    ReloadSettings(ReloadSettings),
    /// Ends the agent by SIGKILL, which it cannot know of.
    KillAgent(Nothing),
    /// Starts the agent, and ends it by SIGKILL when it has loaded something and is not ready yet.
    KillStartingAgent(Nothing),
    /// Starts the agent, and asks it to stop when it has loaded something and is not ready yet.
    StopStartingAgent(Nothing),
    PauseAgent(PauseAgent),
    /// Lets it run again.
    ResumeAgent(Nothing),
    /// Asks the agent, by SIGUSR1, to take a snapshot of LUO's lists; it does so while the next steps are done.
    Snapshot(Nothing),
    AgentSays(AgentSays),
    AgentThreads(AgentThreads),
    /// Gives the agent of `agent_without = "room"` a disk that is large enough.
    MakeRoom(Nothing),
    /// Checks that there are a BPF program, a map and a link that were not there before the agent's first start.
    CheckBpf(Nothing),
    /// Checks that there is no BPF program, map, link or pin that was not there before the agent's first start.
    CheckNoBpf(Nothing),
    /// Measures what the [`Bench`](super::Bench) in `/host/bench-plan.json` asks for: `cargo xtask bench`.
    Bench(Nothing),
    As(As),
    BothModes(BothModes),
    Product(Product),
    RefusedThroughout(RefusedThroughout),
    DeniedThroughout(DeniedThroughout),
    PortFloodedThroughout(PortFloodedThroughout),
    MountBpffs(MountBpffs),
    MakeAsStranger(MakeAsStranger),
    /// Makes `/tmp/precious`, in which everything is named as luo-trace names its pins.
    MakePrecious(Nothing),
    /// Checks that nothing of that is gone, and nothing came to it.
    CheckPrecious(Nothing),
    Remove(Remove),
    /// Does a step over and over until it comes out as it should: for what nothing tells of that could be waited for.
    Eventually(Box<Step>),
}

impl Step {
    /// The policies that the agent takes by it.
    pub fn policies(&self) -> Vec<PolicyFile> {
        match self {
            Step::StartAgent(step) => step.policy.iter().cloned().collect(),
            Step::ReloadPolicy(step) if step.refused.is_none() => vec![step.policy.clone()],
            Step::Churn(step) => step.policies.clone(),
            Step::As(As { steps, .. })
            | Step::RefusedThroughout(RefusedThroughout { steps, .. })
            | Step::DeniedThroughout(DeniedThroughout { steps, .. })
            | Step::PortFloodedThroughout(PortFloodedThroughout { steps, .. }) => {
                steps.iter().flat_map(Step::policies).collect()
            }
            Step::BothModes(BothModes { policy, steps }) => {
                let own = policy.iter().flat_map(|policy| [policy.clone(), policy.looking()]);
                own.chain(steps.iter().flat_map(Step::policies)).collect()
            }
            Step::Eventually(step) => step.policies(),
            _ => Vec::new(),
        }
    }

    /// The session that it is about, where it is one that `together` can have.
    pub fn session(&self) -> Option<&SessionName> {
        match self {
            Step::CreateSession(CreateSession { name, .. })
            | Step::CloseSession(CloseSession { name })
            | Step::RetrieveSession(RetrieveSession { name, .. })
            | Step::Preserve(Preserve { session: name, .. })
            | Step::PreserveAgain(PreserveAgain { session: name, .. })
            | Step::PreserveOther(PreserveOther { session: name, .. })
            | Step::PreserveDevice(PreserveDevice { session: name, .. })
            | Step::Retrieve(Retrieve { session: name, .. })
            | Step::RetrieveDevice(RetrieveDevice { session: name, .. })
            | Step::Finish(Finish { session: name, .. }) => Some(name),
            Step::Failing(Failing { step, .. }) => step.session(),
            _ => None,
        }
    }

    /// The file of an earlier step that it needs.
    pub fn file(&self) -> Option<&str> {
        match self {
            Step::PreserveAgain(step) => Some(&step.memfd),
            Step::Failing(Failing { step, .. }) => step.file(),
            _ => None,
        }
    }

    /// Says what is wrong with a step that its type allows, or nothing.
    ///
    /// # Errors
    /// A sentence for the scenario's author.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Step::Retrieve(step) if step.memfd.is_some() == step.fails.is_some() => Err(format!(
                "retrieve of token {}: give either `memfd`, to compare with, or `fails`",
                step.token
            )),
            Step::RetrieveDevice(step) if step.device.is_some() == step.fails.is_some() => Err(format!(
                "retrieve-device of token {}: give either `device`, to compare with, or `fails`",
                step.token
            )),
            Step::Load(Load { how, .. }) | Step::Unload(Unload { how })
                if matches!(how, Kexec::Loaded | Kexec::None) =>
            {
                Err("load and unload: `how` is \"file\" or \"legacy\"".into())
            }
            Step::As(As { comm: Some(comm), .. }) if comm.len() > COMM_MAX => Err(format!(
                "as: a task's name has {COMM_MAX} bytes at most, and {comm:?} is longer"
            )),
            Step::As(As { cgroup: Some(path), .. }) if !path.starts_with('/') => Err(format!(
                "as: the path of a control group begins with /, and {path:?} does not"
            )),
            Step::As(As { steps, .. })
            | Step::BothModes(BothModes { steps, .. })
            | Step::RefusedThroughout(RefusedThroughout { steps, .. })
            | Step::DeniedThroughout(DeniedThroughout { steps, .. })
            | Step::PortFloodedThroughout(PortFloodedThroughout { steps, .. }) => {
                steps.iter().try_for_each(Step::check)
            }
            Step::Eventually(step) => step.check(),
            Step::Failing(Failing { nth, step }) if *nth == 0 || step.session().is_none() => {
                Err("failing: `nth` counts from 1, and `step` is about a session".into())
            }
            Step::Failing(step) => step.step.check(),
            Step::Together(step) => step.check(),
            Step::Run(run) if run.argv.is_empty() => Err("run: `argv` needs the program's path".into()),
            _ => Ok(()),
        }
    }
}

/// How long the name of a task may be.
const COMM_MAX: usize = 15;

/// Creates an outgoing session, which stays open until `close-session` or the kexec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The session's name.
    pub name: SessionName,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Creates a session whose name has so many bytes: none, or 64, so that the NUL which ends it has no room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMisnamed {
    /// How many bytes.
    pub bytes: usize,
    /// The error it must fail with.
    pub fails: ErrnoName,
}

/// Closes an open session: abandons an outgoing one, finishes an incoming one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseSession {
    /// The session's name.
    pub name: SessionName,
}

/// Retrieves an incoming session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrieveSession {
    /// The session's name.
    pub name: SessionName,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Creates a memfd, fills it, and preserves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preserve {
    /// The open session.
    pub session: SessionName,
    /// The token in it.
    pub token: u64,
    /// The memfd, which stays open.
    pub memfd: Memfd,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Preserves a memfd that an earlier step created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreserveAgain {
    /// The open session.
    pub session: SessionName,
    /// The token in it.
    pub token: u64,
    /// The memfd's name.
    pub memfd: String,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Tries to preserve what no handler takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreserveOther {
    /// The open session.
    pub session: SessionName,
    /// The token in it.
    pub token: u64,
    /// What it is.
    pub what: Stranger,
    /// The error it must fail with.
    pub fails: ErrnoName,
}

/// What no handler takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stranger {
    /// `/dev/null`.
    Null,
    /// The descriptor of the session itself.
    Session,
    /// A file with a name, in memory as a memfd is.
    Named,
    /// A number that no descriptor has.
    Closed,
}

/// Writes other contents over those of a memfd that an earlier step made or retrieved, which may be preserved meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refill {
    /// The memfd as it is from now on: of its former size, and with its former holes.
    pub memfd: Memfd,
}

/// Does a step whereby the `nth` allocation of the kernel in its system call fails. Where that makes the call fail, it is made
/// again without.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failing {
    /// Which allocation; the call may have fewer.
    pub nth: u32,
    /// The step, which is about a session.
    pub step: Box<Step>,
}

/// Does steps in several threads at the same time: each thread has sessions and files of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Together {
    /// What each thread does.
    pub threads: Vec<Vec<Step>>,
    /// What becomes of the agent meanwhile: `snapshot`, `kill-agent`, `check-no-bpf` or `stop-agent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meanwhile: Vec<Step>,
}

impl Together {
    fn check(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (thread, step) in (0..)
            .zip(&self.threads)
            .flat_map(|(n, steps)| steps.iter().map(move |step| (n, step)))
        {
            step.check()?;
            let session = step
                .session()
                .ok_or("together: each step is about a session, and none sets a switch, or is about the agent")?;
            if *owners.entry(session).or_insert(thread) != thread {
                return Err(format!("together: two threads have the session {session}"));
            }
        }
        let about_agent = |step: &Step| {
            use Step::{CheckNoBpf, KillAgent, Snapshot, StopAgent};
            matches!(step, Snapshot(_) | KillAgent(_) | CheckNoBpf(_) | StopAgent(_))
        };
        if !self.meanwhile.iter().all(about_agent) {
            return Err(
                "together: `meanwhile` the agent looks, is stopped or is killed, and nothing else is done".into(),
            );
        }
        Ok(())
    }
}

/// Retrieves a file and compares its size, its seals and every byte with what was preserved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieve {
    /// The open session.
    pub session: SessionName,
    /// The token in it.
    pub token: u64,
    /// What it must be; left out when the step must fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memfd: Option<Memfd>,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Opens a device of the testbed, fills the file, and preserves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreserveDevice {
    /// The open session.
    pub session: SessionName,
    /// The token in it.
    pub token: u64,
    /// The file, which stays open.
    pub device: DeviceFile,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Retrieves a file of a testbed's device and compares every byte with what was preserved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrieveDevice {
    /// The open session.
    pub session: SessionName,
    /// The token in it.
    pub token: u64,
    /// What it must be; left out when the step must fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceFile>,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// An open file of one of the testbed's devices, and its contents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFile {
    /// The device, a file in `/dev/luo_testbed`.
    pub node: String,
    /// Its name, for `preserve-again`.
    pub name: String,
    /// How much is written to it.
    pub size: Size,
    /// What its contents are made from.
    pub seed: u64,
}

/// Opens `/dev/liveupdate`. Without this step that is done by the first one that needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Loads a kernel, and does not jump.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// How it is loaded: `"file"` or `"legacy"`.
    pub how: Kexec,
    /// The image's file, such as `/host/boot/other-abi`; the next kernel's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether it is the kernel for a crash rather than the one to jump into.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub crash: bool,
    /// Words of the image's command line, as in the scenario's `next.cmdline`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmdline: Vec<String>,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Takes the loaded kernel out again, if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unload {
    /// By which system call: `"file"` or `"legacy"`.
    pub how: Kexec,
}

/// Calls `reboot(LINUX_REBOOT_CMD_KEXEC)`, which must fail; the scenario goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reboot {
    /// The error it must fail with.
    pub fails: ErrnoName,
    /// Who calls.
    #[serde(default)]
    pub by: Caller,
}

/// Who makes a system call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Caller {
    /// Root, as the other steps do.
    #[default]
    Root,
    /// Root in a pid namespace of its own.
    PidNamespace,
    /// A user without any right, that is root in a user namespace of its own and has a pid namespace there.
    UserNamespace,
    /// Root, by the number that 32-bit programs on x86 call it by.
    I386,
}

/// Calls `kexec_load(2)` as 32-bit programs on x86 do, with segments that lie nowhere: with none it takes out the kernel that is
/// loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadByI386 {
    /// How many segments.
    #[serde(default)]
    pub segments: u32,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Sets a switch of the testbed's kernel, a file in `/sys/kernel/debug/luo_testbed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The switch.
    pub name: String,
    /// What it is set to: 0 is off.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub value: u32,
}

/// Writes into a file of the kernel's, as an operator's shell would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteFile {
    /// The file.
    pub file: String,
    /// What is written.
    pub text: String,
    /// The error that it may fail with: other versions of the kernel refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_fail: Option<ErrnoName>,
}

/// Does an operation over and over, whereby each time the next one of the kernel's allocations fails, until none is
/// left that could.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailNth {
    /// The operation.
    pub operation: FailingOperation,
    /// The sessions that `many-sessions` made, one for each try; for `reboot` all of them stay.
    pub prefix: String,
    /// How many sessions there are, and so how many tries at most.
    pub count: u32,
}

/// What `fail-nth` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailingOperation {
    /// Creates a session of the prefix's name and closes it.
    Create,
    /// Preserves a memfd of two pages in the session, under a token that is free.
    PreserveMemfd,
    /// Preserves a file of the device `hugetlb` in the session, under a token that is free.
    PreserveDevice,
    /// Retrieves the session.
    RetrieveSession,
    /// Retrieves the file of token 0 of the session, which must be open.
    Retrieve,
    /// Finishes the session, which must be open.
    Finish,
    /// Calls `reboot(KEXEC)`, which must fail in the end, too.
    Reboot,
}

/// Finishes a retrieved session, and closes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    /// The open session.
    pub session: SessionName,
    /// The error it must fail with; the session then stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// A memfd and its contents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memfd {
    /// Its name, for `memfd_create(2)` and for `preserve-again`.
    pub name: String,
    /// Its size.
    pub size: Size,
    /// What its contents are made from.
    pub seed: u64,
    /// Whether it is sealed against writing, growing, shrinking and further sealing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// Whether every second page of it, from the second one on, is never written: a hole, which reads as zeros.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holes: bool,
}

/// Sessions by the number, named PREFIX-0, PREFIX-1 and so on, each with files under the tokens 0, 1 and so on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManySessions {
    /// How their names begin.
    pub prefix: String,
    /// How many sessions.
    pub count: u32,
    /// How many files in each.
    pub files: u32,
    /// The size of each file.
    pub size: Size,
}

/// A flood of operations: each thread creates a session, preserves one page in it and closes it, over and over. With policies
/// there are pauses, so that they go on during all of the swaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// How many threads at the same time.
    pub threads: u32,
    /// How many sessions each of them makes at least.
    pub rounds: u32,
    /// How many seconds it goes on at least, on the guest's clock.
    #[serde(default)]
    pub seconds: u64,
    /// Policies that the agent gets in turn meanwhile, over and over; some of them may refuse to preserve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyFile>,
    /// How many of them it gets at least; each is in force before the next one comes.
    #[serde(default)]
    pub swaps: u32,
    /// Whether the agent is asked, by SIGUSR1 in every round of the first thread, to take a snapshot of LUO's lists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshots: bool,
}

/// Runs a program to its end. Its output goes to `run-BOOT-NAME.log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The program's path and its arguments.
    pub argv: Vec<String>,
    /// The exit status it must have.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exits: i32,
    /// Text that its output must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prints: Option<String>,
}

/// Asks the agent for its metrics and keeps them as `metrics-BOOT.prom`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrapeMetrics {
    /// Ask again until this sample, a metric's name with any labels, is there and not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Ask again until each of these samples has this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shows: BTreeMap<String, f64>,
}

/// Waits until the collector has got so many requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collected {
    /// With traces.
    #[serde(default)]
    pub traces: u32,
    /// With logs.
    #[serde(default)]
    pub logs: u32,
    /// With metrics.
    #[serde(default)]
    pub metrics: u32,
}

/// Starts the agent, with the scenario's arguments and more, and waits until it is ready.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartAgent {
    /// More arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The policy that it has from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyFile>,
    /// Whether it has none this time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_policy: bool,
    /// It must refuse to work, with this exit status, instead of getting ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuses: Option<i32>,
}

/// Replaces the agent's policy and asks it, by SIGHUP, to read it; waits until it has done so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadPolicy {
    /// The policy.
    pub policy: PolicyFile,
    /// What the agent says where it must refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Does steps in a thread that is another program. Its descriptors, and what it opens, are the guest's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct As {
    /// The thread's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its real user; its effective one is root, as in a program with set-user-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its control group, which is made where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// What it does.
    pub steps: Vec<Step>,
}

/// Asks the agent to stop, by SIGTERM, and waits until it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopAgent {
    /// The exit status it must have.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exits: i32,
}

/// Replaces the agent's file of settings and asks it, by SIGHUP, to read it; waits until it says what came of that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadSettings {
    /// The file's text.
    pub text: String,
    /// What the agent writes to its standard error.
    pub says: String,
}

/// Waits until the agent has written this text to its standard output or error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSays {
    /// The text.
    pub text: String,
}

/// Checks what the kernel tells of the agent's threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentThreads {
    /// Lines of `/proc/PID/status` that each thread has, by their names, as `CapEff`.
    pub status: BTreeMap<String, String>,
}

/// Attaches another tracer's programs to a function of the kernel until it has no room for one more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crowd {
    /// Its name.
    pub function: String,
}

/// Keeps the agent from running, by SIGSTOP: nobody empties its ring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseAgent {
    /// For how many seconds it has shown no sign of life when the next step comes.
    #[serde(default)]
    pub silent_seconds: u64,
}

/// Does steps under the scenario's policy with mode `audit`, and once more under the same one with mode `enforce`, which the file
/// has. In the first mode what must fail with `EPERM` must not; what it opens is closed, and an image that it loads is taken out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BothModes {
    /// Another policy than the scenario's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyFile>,
    /// What is done.
    pub steps: Vec<Step>,
}

/// Tries every rule that there can be with this condition and one thing in `match`, on each operation by itself, in both modes:
/// by callers that it names and by callers that it does not. xtask makes other steps of it before the guest gets the scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// The condition.
    pub when: String,
    /// Whether it holds: the steps before have seen to that.
    pub holds: bool,
    /// The error of a reboot that policy lets pass: the one without an image to jump into, unless it is said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<ErrnoName>,
}

/// Does steps while a thread tries over and over to create a session, which must fail with `EPERM` each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedThroughout {
    /// The session's name.
    pub session: SessionName,
    /// What is done meanwhile.
    pub steps: Vec<Step>,
}

/// Does steps while a thread without any right tries over and over to load an image, which must fail with `EPERM` each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeniedThroughout {
    /// How often it tries at least.
    pub times: u64,
    /// What is done meanwhile.
    pub steps: Vec<Step>,
}

/// Does steps while connections come to the agent's port that say nothing, while clients ask for its metrics a hundred times over each
/// of theirs, and while the control socket gets an order after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortFloodedThroughout {
    /// How many silent connections there are; one that the agent ends is made again.
    pub silent: u32,
    /// How many clients pipeline.
    pub pipelining: u32,
    /// How many orders there are at least.
    pub orders: u32,
    /// How long the answer to an order may take, in milliseconds of the guest's clock.
    pub answered_within_ms: u64,
    /// What is done meanwhile.
    pub steps: Vec<Step>,
}

/// Mounts an empty BPF file system over the one that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountBpffs {
    /// The mode of its root, such as `"0700"`.
    pub mode: String,
}

/// Makes a directory, or a link, as a user without any right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeAsStranger {
    /// Where.
    pub path: String,
    /// Where the link leads; left out, it is a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<String>,
    /// The error it must fail with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails: Option<ErrnoName>,
}

/// Removes a directory with what is in it, or a link and not what it leads to, as root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Where.
    pub path: String,
}

/// The keys of a step that needs none: `{ check-bpf = {} }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

fn one() -> u32 {
    1
}

fn is_one(value: &u32) -> bool {
    *value == 1
}

fn is_zero(status: &i32) -> bool {
    *status == 0
}
