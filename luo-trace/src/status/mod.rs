//! What an operator asks of a host, in one piece: LUO's sessions, files and global state now, what they hold, and whether
//! the promises were kept so far.
//!
//! A [`Status`] is made by a pure function from a [`Model`], a [`Digest`] of the events it saw, and a few facts about the
//! host. Its JSON form is stable: keys are added, and never renamed or taken away. Names are escaped as everywhere.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};

use luo_trace_common::events as abi;
use serde::{Deserialize, Serialize};

use crate::event::{Body, ByName, Event, image_name};
use crate::journal::HookState;
use crate::model::{self, Coverage, FileView, Model, SessionView, Task, WaitingView};
use crate::policy::tell::ImageVerdict;
use crate::report::{Row, when};

pub mod policy;
mod preserved;
pub mod table;

/// The rate of operations is taken over this many whole seconds.
const WINDOW: u64 = 10;

/// LUO on one host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Who says so: `agent`, which has watched since it was attached, `snapshot`, which saw the kernel's lists once, or `recording`, which
    /// is played again.
    pub source: Cow<'static, str>,
    /// The host's name.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// When it was so, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// LUO's number of the live update that brought this kernel: 0 after a cold boot; null: not known.
    pub update_number: Option<u64>,
    /// The format in which LUO tells the next kernel of what is preserved, `luo-v5`; null: not known.
    pub luo_format: Option<String>,
    /// The format of KHO's tree for the next kernel, `kho-v4`; null: not known.
    pub kho_format: Option<String>,
    /// How much scratch memory KHO keeps for the next kernel to start in, in bytes; null: not known.
    pub kho_scratch_bytes: Option<u64>,
    /// The image to jump into: `none`, `carries` (by `kexec_file_load(2)`, with KHO's tree), `carries nothing`, `legacy`
    /// (by `kexec_load(2)`, which loses everything); null: not known.
    pub image: Option<Cow<'static, str>>,
    /// The live updates that this kernel or the one before has tried, and the one that brought it, the newest first, as `luo-trace
    /// updates` tells them; empty for a snapshot, and without a directory of journals.
    pub updates: Vec<Row>,
    /// Whether something has happened since that may change what is told of them: ask again.
    pub judging_updates: bool,
    /// Live sessions, outgoing ones first, then by name.
    pub sessions: Vec<Session>,
    /// Global state that exists.
    pub flbs: Vec<Flb>,
    /// What is preserved, by handler.
    pub memory: Vec<Memory>,
    /// What LUO did while the agent watched.
    pub operations: Operations,
    /// What is known of each promise, in the order of the catalogue.
    pub verdicts: Vec<Verdict>,
    /// The last violations, latest first.
    pub findings: Vec<Finding>,
    /// What is missing from the record.
    pub losses: Losses,
    /// Why not everything is seen, in sentences; empty: everything is.
    pub troubles: Vec<String>,
    /// The hooks of the agent, and what became of each; empty for a snapshot, which has none.
    pub hooks: Vec<HookState>,
    /// How they are attached: `multi`, by links to many functions at once, or `each`, one by one; null for a snapshot.
    pub attach: Option<String>,
    /// The agent's policy; null: it has none.
    pub policy: Option<policy::Policy>,
    /// What the agent found in the image that is loaded; null: none is, or it was not looked into yet.
    pub image_verdict: Option<ImageVerdict>,
}

impl Status {
    /// What is known of the image that is loaded, in a word: as [`Digest::image_word`].
    pub fn image_word(&self) -> &str {
        image_word(self.image_verdict.as_ref(), self.image.as_deref())
    }
}

fn image_word(verdict: Option<&ImageVerdict>, image: Option<&str>) -> &'static str {
    match (verdict, image) {
        (Some(verdict), _) => verdict.word(),
        (None, Some("none")) => "none",
        (None, Some("legacy" | "carries nothing")) => "loses",
        (None, Some(_)) => "pending",
        (None, None) => "unknown",
    }
}

/// A live session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Its name; empty: not known.
    pub name: String,
    /// `outgoing` or `incoming`.
    pub direction: Cow<'static, str>,
    /// `open`, `frozen`, `pending`, `retrieved` or `stranded`.
    pub state: Cow<'static, str>,
    /// For how long it has existed in this kernel, in nanoseconds; null: it is older than the record.
    pub age_ns: Option<u64>,
    /// Who made it or, for an incoming one, retrieved it; null: no process yet, or before the record.
    pub taken_by: Option<Process>,
    /// The processes that hold a descriptor of this name now, by pid.
    pub owners: Vec<Process>,
    /// How many incoming files no process has asked for; their tokens and handlers may not be known.
    pub pending_files: u64,
    /// Its other files, in the order they came.
    pub files: Vec<File>,
    /// Whether it is the recorder's own, in which it has its journal carried over a kexec: the counts leave it out.
    pub own: bool,
}

impl Session {
    /// How many files it holds.
    pub fn files_held(&self) -> u64 {
        self.pending_files.saturating_add(self.files.len() as u64)
    }

    /// Their sizes together, in bytes.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
}

impl From<Task> for Process {
    fn from(task: Task) -> Self {
        Self {
            pid: task.pid,
            comm: task.comm.to_string(),
        }
    }
}

/// A live file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// Its token, in hexadecimal: `0x1`.
    pub token: String,
    /// Its handler's compatible string; empty: not known.
    pub handler: String,
    /// Its size in bytes; 0 for files without one.
    pub size: u64,
    /// `preserved`, `frozen`, `pending`, `retrieved` or `failed`.
    pub state: Cow<'static, str>,
    /// How long ago it was preserved, or first asked for, in nanoseconds; null: before the record.
    pub age_ns: Option<u64>,
}

/// One direction of a global state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flb {
    /// Its compatible string.
    pub name: String,
    /// `outgoing` or `incoming`.
    pub direction: Cow<'static, str>,
    /// How many files are known to use it.
    pub users: u64,
    /// Whether it exists.
    pub alive: bool,
}

/// What one handler's files hold for the next kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The handler's compatible string; empty: not known.
    pub handler: String,
    /// How many outgoing files.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// What LUO did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operations {
    /// Operations that ended in a second, on average over the last ten.
    pub per_second: f64,
    /// How many ended, by name.
    pub ended: Vec<Operation>,
}

/// Operations of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// The event's name.
    pub op: Cow<'static, str>,
    /// How many succeeded.
    pub ok: u64,
    /// How many failed.
    pub failed: u64,
}

/// What is known of a promise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// The invariant's id.
    pub invariant: Cow<'static, str>,
    /// `ok`, `violated` or `unknown`.
    pub status: Cow<'static, str>,
    /// `critical`, `error` or `warning`.
    pub severity: Cow<'static, str>,
    /// What it says.
    pub statement: Cow<'static, str>,
    /// The hooks that are missing for it.
    pub missing_hooks: Vec<Cow<'static, str>>,
    /// The hooks it needs that are switched off.
    pub switched_off_hooks: Vec<Cow<'static, str>>,
}

impl From<&model::Verdict> for Verdict {
    fn from(verdict: &model::Verdict) -> Self {
        Self {
            invariant: verdict.invariant.id().into(),
            status: verdict.status.name().into(),
            severity: verdict.invariant.severity().name().into(),
            statement: verdict.invariant.statement().trim().into(),
            missing_hooks: verdict.missing_hooks.iter().map(|&hook| hook.into()).collect(),
            switched_off_hooks: verdict.switched_off_hooks.iter().map(|&hook| hook.into()).collect(),
        }
    }
}

/// A violation, in the JSON form of [`model::Finding`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// Its name.
    pub id: String,
    /// The invariant's id.
    pub invariant: Cow<'static, str>,
    /// `critical`, `error` or `warning`.
    pub severity: Cow<'static, str>,
    /// What it is about.
    pub object: String,
    /// What should have been.
    pub expected: Cow<'static, str>,
    /// What was.
    pub seen: Cow<'static, str>,
    /// What an operator should do.
    pub advice: Cow<'static, str>,
    /// `cpu:seq` of each event that proves it.
    pub evidence: Vec<String>,
    /// When it was certain, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}

impl From<&model::Finding> for Finding {
    fn from(finding: &model::Finding) -> Self {
        Self {
            id: finding.id.to_string(),
            invariant: finding.invariant.id().into(),
            severity: finding.invariant.severity().name().into(),
            object: finding.object.to_string(),
            expected: finding.expected.clone(),
            seen: finding.seen.clone(),
            advice: finding.advice.into(),
            evidence: finding.evidence.iter().map(ToString::to_string).collect(),
            time_ns: finding.time_ns,
        }
    }
}

/// What never reached the model, or a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Losses {
    /// Events that the programs could not send.
    pub events: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Items that a sink was too slow for, by sink.
    pub dropped: BTreeMap<Cow<'static, str>, u64>,
}

/// The processes that hold a session's descriptor, by the session's name as the kernel has it.
pub type Owners = HashMap<Vec<u8>, Vec<Process>>;

/// What the host says of itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The host's name.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `CLOCK_MONOTONIC` now.
    pub now_ns: u64,
    /// Who holds what.
    pub owners: Owners,
}

/// What the events told that a model does not keep: how many there were of each, how fast they came, and what is loaded.
#[derive(Debug, Default)]
pub struct Digest {
    /// How often each operation succeeded, and failed.
    ended: ByName<(u64, u64)>,
    /// Operations that ended in each of the last seconds in which any did.
    seconds: VecDeque<(u64, u64)>,
    image: Option<&'static str>,
    image_id: u64,
    image_verdict: Option<ImageVerdict>,
    update_number: Option<u64>,
    lost: u64,
    /// What the last walk over the lists said of itself: [`abi::SnapshotEnd::flags`].
    walk: u32,
    /// Everything that the previous kernel left was seen as it lies in memory.
    arrived: bool,
    policy: policy::Tally,
}

impl Digest {
    /// Takes in the next event.
    pub fn observe(&mut self, event: &Event) {
        self.policy.observe(event);
        match &event.body {
            Body::Gap { lost } => self.lost = self.lost.saturating_add(*lost),
            Body::SnapshotBegin(p) => {
                self.update_number = p.known_update_number().or(self.update_number);
                self.see(&p.image);
            }
            Body::SnapshotEnd(p) => self.walk = p.flags,
            Body::Handover(p) => {
                self.update_number = p.known_update_number().or(self.update_number);
                self.arrived = p.flags & abi::HANDOVER_WHOLE != 0;
            }
            // Whatever is read in from now on is seen.
            Body::SessionDeserialize(_) => self.walk &= !abi::SNAPSHOT_INCOMING_UNREAD,
            Body::ImageLoad(p) => self.see(&p.image),
            Body::ImageVerdict(p) if p.image == self.image_id => {
                self.image_verdict = Some(ImageVerdict::from(&**p));
            }
            Body::KexecEnter(p) => {
                self.see(&p.image);
                // A moment, and the beginning of an operation.
                return;
            }
            _ => {}
        }
        let Some(outcome) = event.outcome() else { return };
        let ended = self.ended.of(event);
        match outcome.is_ok() {
            true => ended.0 += 1,
            false => ended.1 += 1,
        }
        self.count_at(event.header.ktime / 1_000_000_000);
    }

    /// LUO's number of the live update that brought this kernel, where it is known.
    pub fn update_number(&self) -> Option<u64> {
        self.update_number
    }

    /// The policy with what it decided.
    pub fn policy(&self, policy: policy::Policy) -> policy::Policy {
        self.policy.tell(policy)
    }

    fn see(&mut self, image: &abi::Image) {
        let Some(name) = image_name(image) else { return };
        self.image = Some(name);
        if self.image_id != image.id {
            (self.image_id, self.image_verdict) = (image.id, None);
        }
    }

    /// What the agent found in the image that is loaded.
    pub fn image_verdict(&self) -> Option<&ImageVerdict> {
        self.image_verdict.as_ref()
    }

    /// What is known of the image that is loaded, in a word: `none`, `pending`, or as [`ImageVerdict::word`] says.
    pub fn image_word(&self) -> &str {
        image_word(self.image_verdict.as_ref(), self.image)
    }

    fn count_at(&mut self, second: u64) {
        if let Some((at, count)) = self.seconds.back_mut()
            && *at == second
        {
            *count += 1;
            return;
        }
        // Events of several CPUs may come a little out of order.
        match self.seconds.iter_mut().rev().find(|(at, _)| *at == second) {
            Some((_, count)) => *count += 1,
            None => self.seconds.push_back((second, 1)),
        }
        while self.seconds.len() as u64 > WINDOW + 2 {
            self.seconds.pop_front();
        }
    }

    /// Over the last whole seconds: the one that has just begun would make any rate look small.
    fn per_second(&self, now_ns: u64) -> f64 {
        let now = now_ns / 1_000_000_000;
        let window = now.saturating_sub(WINDOW)..now;
        let ended: u64 = self
            .seconds
            .iter()
            .filter(|(at, _)| window.contains(at))
            .map(|(_, count)| count)
            .sum();
        ended as f64 / WINDOW as f64
    }

    /// Why the lists may hold more than is shown.
    fn troubles(&self) -> Vec<String> {
        let troubles = [
            (
                abi::SNAPSHOT_CHANGED,
                "LUO's lists changed while they were read, so what is shown may be of different moments",
            ),
            (abi::SNAPSHOT_INCOMPLETE, "a part of LUO's lists could not be read"),
            (
                abi::SNAPSHOT_INCOMING_UNREAD,
                "sessions of the previous kernel may wait to be read in: they show when /dev/liveupdate is first opened",
            ),
        ];
        let seen = if self.arrived { abi::SNAPSHOT_INCOMING_UNREAD } else { 0 };
        let told = troubles.iter().filter(|(flag, _)| self.walk & !seen & flag != 0);
        told.map(|(_, trouble)| (*trouble).to_owned()).collect()
    }

    fn operations(&self, now_ns: u64) -> Operations {
        let ended = self.ended.iter().map(|(op, &(ok, failed))| Operation {
            op: op.into(),
            ok,
            failed,
        });
        let mut ended: Vec<_> = ended.collect();
        ended.sort_by(|a, b| a.op.cmp(&b.op));
        Operations {
            per_second: self.per_second(now_ns),
            ended,
        }
    }
}

impl Status {
    /// What an agent knows: `source` is its name for itself. Findings, sinks' losses, further troubles, formats
    /// and hooks are the caller's to add.
    pub fn new(source: &'static str, facts: Facts, model: &Model, digest: &Digest) -> Self {
        let Facts {
            host,
            kernel,
            boot_id,
            now_ns,
            owners,
        } = facts;
        Self {
            source: source.into(),
            host,
            kernel,
            boot_id,
            time_ns: now_ns,
            update_number: digest.update_number,
            luo_format: None,
            kho_format: None,
            kho_scratch_bytes: None,
            attach: None,
            updates: Vec::new(),
            judging_updates: false,
            image: digest.image.map(Into::into),
            sessions: model
                .sessions()
                .map(|view| session(&view, now_ns, &owners))
                .chain(model.waiting().map(|view| waiting(&view, now_ns)))
                .collect(),
            flbs: model
                .flbs()
                .map(|flb| Flb {
                    name: flb.name.to_string(),
                    direction: flb.direction.name().into(),
                    users: flb.users,
                    alive: flb.alive,
                })
                .collect(),
            memory: memory(model),
            operations: digest.operations(now_ns),
            verdicts: verdicts(model),
            findings: Vec::new(),
            losses: Losses {
                events: digest.lost,
                ..Losses::default()
            },
            troubles: digest.troubles(),
            hooks: Vec::new(),
            policy: None,
            image_verdict: digest.image_verdict.clone(),
        }
    }

    /// What one snapshot of the kernel's lists shows.
    pub fn of_snapshot(facts: Facts, events: &[Event]) -> Self {
        let mut model = Model::new(&Coverage::default());
        let mut digest = Digest::default();
        let mut findings = Vec::new();
        for event in events {
            digest.observe(event);
            findings.extend(model.apply(event).iter().map(Finding::from));
        }
        findings.reverse();
        Self {
            findings,
            ..Self::new("snapshot", facts, &model, &digest)
        }
    }

    /// What is told of the last live updates, a sentence each, the newest first.
    pub fn updates_told(&self) -> impl Iterator<Item = String> {
        self.updates.iter().map(|update| match update.time_unix_ns {
            Some(time) => format!("{}, at {}", update.sentence(), when(time)),
            None => update.sentence(),
        })
    }

    /// How many of the promises have this verdict.
    pub fn verdicts_that_are(&self, status: &str) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.status == status).count()
    }

    /// Bytes that are preserved for the next kernel.
    pub fn preserved_bytes(&self) -> u64 {
        self.memory
            .iter()
            .map(|memory| memory.bytes)
            .fold(0, u64::saturating_add)
    }
}

fn session(view: &SessionView<'_>, now_ns: u64, owners: &Owners) -> Session {
    let name = view.name();
    Session {
        name: name.to_string(),
        own: view.is_own(),
        direction: view.direction().name().into(),
        state: view.state().name().into(),
        age_ns: view.born().map(|born| now_ns.saturating_sub(born)),
        taken_by: view.taken_by().map(Into::into),
        owners: owners.get(name.as_bytes()).cloned().unwrap_or_default(),
        pending_files: view.pending_files(),
        files: view.files().map(|view| file(&view, now_ns)).collect(),
    }
}

/// A session that waits to be read in, of which no process can have a descriptor.
fn waiting(view: &WaitingView<'_>, now_ns: u64) -> Session {
    Session {
        name: view.name().to_string(),
        own: view.is_own(),
        direction: model::Direction::Incoming.name().into(),
        state: model::SessionState::Pending.name().into(),
        files: view.files().map(|view| file(&view, now_ns)).collect(),
        ..Session::default()
    }
}

fn file(view: &FileView, now_ns: u64) -> File {
    File {
        token: format!("{:#x}", view.token),
        handler: view.handler.to_string(),
        size: view.size,
        state: view.state.name().into(),
        age_ns: view.since.map(|since| now_ns.saturating_sub(since)),
    }
}

fn memory(model: &Model) -> Vec<Memory> {
    let mut memory: BTreeMap<String, Memory> = BTreeMap::new();
    let counts = model.counts_of_others();
    let outgoing = counts
        .files()
        .filter(|count| count.files > 0 && count.state.direction() == model::Direction::Outgoing);
    for count in outgoing {
        let handler = count.handler.to_string();
        let sum = memory.entry(handler.clone()).or_insert_with(|| Memory {
            handler,
            ..Memory::default()
        });
        sum.files = sum.files.saturating_add(count.files);
        sum.bytes = sum.bytes.saturating_add(count.bytes);
    }
    memory.into_values().collect()
}

fn verdicts(model: &Model) -> Vec<Verdict> {
    model.verdicts().iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests;
