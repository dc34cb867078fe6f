//! What a report says, in the form that `--format json` prints. The other formats draw the same.
//!
//! The form is stable from version to version: keys are added, never renamed. Times that end in `_ns` are nanoseconds on one
//! axis over all kernels, which is zero when the clock of the first one was; durations are nanoseconds as well. What is not
//! known is null.

use serde::Serialize;

use crate::chain::Fate;
use crate::chain::case::Conclusion;
use crate::model::{self, Severity};
use crate::text::hash::fnv;
use crate::text::units::{count, span};

/// A chain of kernels and the live updates between them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether all promises were kept: `held`, `violated` or `inconclusive`.
    pub result: Conclusion,
    /// The kernels, in the order they ran.
    pub kernels: Vec<Kernel>,
    /// The live updates that were tried, in their order.
    pub updates: Vec<Update>,
    /// What keeps the chain from being a full proof, a sentence each; of each record, its kernel tells.
    pub doubts: Vec<String>,
    /// Journals that were left out, since another one tells more of the same boot, escaped.
    pub repeated: Vec<String>,
    /// Journals of a directory that could not be read, each with its reason, escaped.
    pub unreadable: Vec<String>,
    /// What was found, of each kernel and over the updates.
    pub findings: Vec<Finding>,
    /// The verdict on every invariant, over everything.
    pub verdicts: Vec<Verdict>,
}

/// One kernel, and the record of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kernel {
    /// The name of the machine it ran on, escaped; empty: not known.
    pub host: String,
    /// The id that tells this machine from others: one that an operator gave, else of the machine, else of its hardware, escaped.
    pub host_id: Option<String>,
    /// `uname -r`.
    pub release: String,
    /// Which boot.
    pub boot_id: String,
    /// LUO's own number of the update that brought it: 0 after a cold boot.
    pub update_number: Option<u64>,
    /// When its clock was zero.
    pub start_ns: i64,
    /// The same by the wall clock, in nanoseconds since 1970.
    pub start_unix_ns: i64,
    /// The file that the record lies in, escaped.
    pub journal: String,
    /// The version of the agent that made the record.
    pub agent_version: String,
    /// How many events there are.
    pub events: u64,
    /// How many events are known to be missing.
    pub lost: u64,
    /// How the record ends; null where it just stops.
    pub ending: Option<String>,
    /// What keeps the record from being a full proof, a sentence each.
    pub doubts: Vec<String>,
    /// Sessions that no live update took: those that are still alive, and the first of those that were closed.
    pub sessions: Vec<Session>,
    /// What policy did, an operator ordered and was found in images, in their order.
    pub policy: Vec<Policy>,
    /// How many more lines of policy there are.
    pub policy_more: u64,
}

/// A change of policy, an operator's order, a call to which a rule said no, or a look into the image that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// When.
    pub time_ns: i64,
    /// The name of a refusal; null of all else.
    pub id: Option<model::Id>,
    /// How long after its kernel's clock began.
    #[serde(skip)]
    pub since_boot: u64,
    /// `loaded`, `off`, `hold`, `allow`, `clear`, `expired` or `adopted`; of a call `deny`, `would-deny` or `allowed`; of an image
    /// `carries`, `loses`, `panics` or `unknown`.
    pub what: &'static str,
    /// The same in a sentence, escaped.
    pub text: String,
}

impl Policy {
    /// `good`, `fair` or `bad`.
    pub fn tone(&self) -> &'static str {
        match self.what {
            "deny" | "loses" | "panics" => "bad",
            "would-deny" | "allowed" | "hold" | "allow" | "unknown" => "fair",
            _ => "good",
        }
    }
}

/// One live update.
#[derive(Clone, Debug, Serialize)]
pub struct Update {
    /// LUO's number of it.
    pub number: Option<u64>,
    /// What became of it: `completed`, `aborted`, `departed` (there is no record of its arrival) or `arrived` (there is no
    /// record of its departure).
    #[serde(serialize_with = "fate")]
    pub fate: Fate,
    /// The kernel that left, as its place in [`Report::kernels`]; in JSON from 1.
    #[serde(serialize_with = "from_one")]
    pub from: Option<usize>,
    /// The kernel that arrived, as its place in [`Report::kernels`]; in JSON from 1.
    #[serde(serialize_with = "from_one")]
    pub to: Option<usize>,
    /// How the times of both are compared.
    pub clock: Option<Clock>,
    /// Adjacent phases, which sum to the whole.
    pub phases: Vec<Phase>,
    /// From the first phase's beginning to the last one's end.
    pub whole_ns: Option<u64>,
    /// How long guests had no service: from the beginning of the freeze to the last file brought back.
    pub blackout_ns: Option<u64>,
    /// How much of the blackout passed while the agent attached its hooks, where that phase is known by itself. Guests waited for it
    /// where what brings them back waits until the agent is ready.
    pub agent_ns: Option<u64>,
    /// When the kernel that left was last heard of after its freeze: the jump came later.
    pub last_heard_ns: Option<i64>,
    /// The sessions that left or arrived, by name.
    pub sessions: Vec<Session>,
    /// Global state that files shared.
    pub flbs: Vec<Flb>,
    /// How long each operation took, by handler.
    pub durations: Vec<Durations>,
    /// The verdicts on the invariants that take a chain, over this update alone; of an aborted one there are none.
    pub verdicts: Vec<Verdict>,
    /// Whether it jumped into an image that takes nothing along.
    #[serde(skip)]
    pub carries_nothing: bool,
    /// How long the kernel that arrived had run when its record ended; null: there is no record of it.
    #[serde(skip)]
    pub recorded_ns: Option<u64>,
}

/// How times of two kernels are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Clock {
    /// `counter` (of the CPU, which runs on over the kexec) or `realtime` (the wall clock).
    pub basis: &'static str,
    /// The same in words.
    #[serde(skip)]
    pub describe: &'static str,
    /// Whether the CPU promises that its counter always runs at one rate.
    pub promised: bool,
    /// How far off it may be, either way.
    pub uncertainty_ns: u64,
}

/// One phase, or several that cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// One of [`crate::chain::timeline::PHASES`], or the first and the last of several with `…` between.
    pub name: String,
    /// When it began.
    pub start_ns: i64,
    /// How long it took.
    pub duration_ns: u64,
    /// The kernel in which it began, as its place in [`Report::kernels`], in JSON from 1; null: there is no record of it.
    #[serde(serialize_with = "from_one")]
    pub kernel: Option<usize>,
    /// Whether guests have no service in it.
    pub blackout: bool,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// When it began.
    pub start_ns: i64,
    /// How long it took.
    pub duration_ns: u64,
}

/// One session.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Session {
    /// Its name, escaped; empty: not known.
    pub name: String,
    /// What became of it.
    pub fate: SessionFate,
    /// Whether the kernel that left had it.
    pub outgoing: bool,
    /// Whether the kernel that arrived had it.
    pub incoming: bool,
    /// When it was created.
    pub created_ns: Option<i64>,
    /// The freeze of its files.
    pub freeze: Option<Stretch>,
    /// When it was asked for and handed out.
    pub retrieved_ns: Option<i64>,
    /// When its files were finished.
    pub finished_ns: Option<i64>,
    /// From the freeze of its files to the last of them brought back.
    pub blackout_ns: Option<u64>,
    /// The size of its files together.
    pub bytes: u64,
    /// How many operations on files that it does not have failed.
    pub refusals: u32,
    /// Those of them that were to preserve a file, by caller and error.
    pub refused: Vec<Refused>,
    /// Its files by token.
    pub files: Vec<File>,
}

/// Files that the kernel refused to preserve: they did not go over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The caller's name and process id, escaped.
    pub process: String,
    /// The errno's name.
    pub result: String,
    /// How many there were.
    pub files: u32,
    /// Whether this happens in every update: a descriptor that a service has stored with systemd, and that no handler takes.
    pub usual: bool,
}

impl Refused {
    /// The same in words.
    pub fn describe(&self) -> String {
        let Self {
            process,
            result,
            files,
            usual,
        } = self;
        let files = count((*files).into(), "file");
        match usual {
            true => format!(
                "not preserved: {files} of {process}, {result}, as usual: no handler takes such stored descriptors"
            ),
            false => format!("not preserved: {files} of {process}, {result}"),
        }
    }
}

/// What became of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionFate {
    /// It came over and was finished.
    Finished,
    /// It came over and was handed out, and is not finished.
    Retrieved,
    /// It came over and was finished, and not one of its files had been brought back.
    Unclaimed,
    /// It came over, and no process has asked for it.
    Pending,
    /// It came over, no process asked for it, and its kernel left without it.
    Lost,
    /// It left, and the next kernel did not find it.
    Missing,
    /// Events are missing that would tell.
    Unknown,
    /// It left, and there is no record of what came.
    Left,
    /// It was closed before any live update.
    Abandoned,
    /// It is there when the record ends.
    #[default]
    Alive,
}

impl SessionFate {
    /// The same in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Finished => "came over and finished",
            Self::Retrieved => "came over, not finished",
            Self::Unclaimed => "finished, never brought back",
            Self::Pending => "came over, never asked for",
            Self::Lost => "never brought back, and lost",
            Self::Missing => "left, and did not arrive",
            Self::Unknown => "not known",
            Self::Left => "left",
            Self::Abandoned => "abandoned",
            Self::Alive => "alive",
        }
    }

    /// Whether that is as it should be.
    pub const fn is_good(self) -> bool {
        !matches!(self, Self::Unclaimed | Self::Pending | Self::Lost | Self::Missing)
    }
}

/// One file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct File {
    /// Its token, as `0x2a`.
    pub token: String,
    /// Its handler's compatible string, escaped; empty: not known.
    pub handler: String,
    /// Its size.
    pub bytes: u64,
    /// What became of it in the kernel that arrived: `finished`, `retrieved`, `unclaimed` (finished, and no process had asked
    /// for it), `pending` (neither, and no process has asked for it) or `lost` (pending when its kernel left without it); null
    /// where that is not known.
    pub fate: Option<&'static str>,
    /// Its preserve.
    pub preserve: Option<Stretch>,
    /// Its handler's freeze.
    pub freeze: Option<Stretch>,
    /// Its retrieve, the first that succeeded.
    pub retrieve: Option<Stretch>,
    /// Its handler's finish.
    pub finish: Option<Stretch>,
    /// How many operations on it failed.
    pub failures: u32,
}

impl File {
    /// What is worth a word of it; empty where it went as it should.
    pub fn note(&self) -> String {
        // Where a retrieve failed, a process did ask.
        let never = if self.failures > 0 {
            "never brought back"
        } else {
            "never asked for"
        };
        let fate = match self.fate {
            Some("unclaimed") => Some(format!("finished, {never}")),
            Some("pending") => Some(never.to_owned()),
            Some("lost") => Some(format!("{never}, and lost")),
            Some("retrieved") => Some("not finished".to_owned()),
            _ => None,
        };
        let failures = (self.failures > 0).then(|| count(self.failures.into(), "refusal"));
        let notes: Vec<String> = fate.into_iter().chain(failures).collect();
        notes.join(", ")
    }
}

/// One global state that files shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flb {
    /// Its compatible string, escaped.
    pub name: String,
    /// How often it was made in the kernel that left.
    pub created: Option<u32>,
    /// How many files joined it there.
    pub users: Option<u32>,
    /// How often it was brought back in the kernel that arrived.
    pub restored: Option<u32>,
    /// How often it was taken down there.
    pub destroyed: Option<u32>,
}

impl Flb {
    /// Its counts, in the order of their fields.
    pub fn counts(&self) -> [Option<u32>; 4] {
        [self.created, self.users, self.restored, self.destroyed]
    }
}

/// How long one operation of one handler took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Durations {
    /// The handler's compatible string, escaped.
    pub handler: String,
    /// `preserve`, `freeze`, `retrieve` or `finish`.
    pub operation: &'static str,
    /// How often it was seen.
    pub count: u64,
    /// The shortest.
    pub min_ns: u64,
    /// Half of them took no longer.
    pub median_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// What was found, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The kernel whose record proves it, as its place in [`Report::kernels`], in JSON from 1; null: only several together
    /// do.
    #[serde(serialize_with = "from_one")]
    pub kernel: Option<usize>,
    /// What was found.
    #[serde(flatten)]
    pub finding: model::Finding,
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.finding.invariant.severity()
    }
}

/// What is known of one invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its id.
    pub invariant: &'static str,
    /// `ok`, `violated`, `unknown`, or `unwatched` where an option would be needed to tell.
    pub status: &'static str,
    /// What it says.
    #[serde(skip)]
    pub statement: &'static str,
}

impl Verdict {
    /// `good`, `fair` or `bad`.
    pub fn tone(&self) -> &'static str {
        match self.status {
            "ok" => "good",
            "violated" => "bad",
            _ => "fair",
        }
    }
}

fn fate<S: serde::Serializer>(fate: &Fate, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(fate.name())
}

fn from_one<S: serde::Serializer>(place: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
    place.map(|place| place + 1).serialize(serializer)
}

impl Report {
    /// A moment of an update by the wall clock of the kernel that left, in nanoseconds since 1970; by that of the kernel
    /// that arrived, where there is no record of the other.
    pub fn unix(&self, update: &Update, at_ns: i64) -> Option<u64> {
        let kernel = self.kernels.get(update.from.or(update.to)?)?;
        let since = at_ns.checked_sub(kernel.start_ns)?;
        u64::try_from(kernel.start_unix_ns.checked_add(since)?).ok()
    }

    /// The way of an update, from the one release to the other.
    pub fn way(&self, update: &Update) -> String {
        let [from, to] = self.releases(update).map(|release| release.unwrap_or("?"));
        match update.fate {
            Fate::Aborted => from.to_owned(),
            _ => format!("{from} → {to}"),
        }
    }

    /// The id of the update at this place: of its kernels' boots, and of which try it was where the first of them tried more than once.
    /// It is never 0, and its trace has it, too.
    pub fn update_id(&self, place: usize) -> u128 {
        let update = self.updates.get(place);
        let (from, to) = update.map_or((None, None), |update| (update.from, update.to));
        let boot = |kernel: Option<usize>| Some(self.kernels.get(kernel?)?.boot_id.as_str());
        let before = self.updates.iter().take(place);
        let tries = before.filter(|other| other.from == from).count();
        let (from, to) = (boot(from).unwrap_or("?"), boot(to).unwrap_or("?"));
        fnv(format!("{from}/{to}/{tries}")).max(1)
    }

    /// The releases of an update's kernels.
    pub fn releases(&self, update: &Update) -> [Option<&str>; 2] {
        [update.from, update.to].map(|place| Some(self.kernels.get(place?)?.release.as_str()))
    }
}

impl Update {
    /// Its number, as it is shown.
    pub fn label(&self) -> String {
        self.number.map_or("?".into(), |number| number.to_string())
    }

    /// What has to be said of its times, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let blackout = self.blackout_ns.map(|ns| {
            format!(
                "Blackout {}: from the beginning of the freeze to the last file brought back.",
                span(ns)
            )
        });
        let agent = self.agent_ns.zip(self.blackout_ns).map(|(ns, blackout)| {
            let share = u128::from(ns) * 100 / u128::from(blackout.max(1));
            format!(
                "Of the blackout, {} ({share} %) passed while the agent attached its hooks.",
                span(ns)
            )
        });
        let clock = self.clock.map(|clock| {
            format!(
                "Time between kernels: {}, ± {}.",
                clock.describe,
                span(clock.uncertainty_ns)
            )
        });
        let apart = self.phases.iter().any(|phase| phase.name.contains('…'));
        let apart = apart.then(|| "Phases with … between them: the moment between them is not known.".to_owned());
        let shutdown = self.phases.iter().find(|phase| phase.name == "shutdown");
        let open = shutdown.filter(|_| self.to.is_none());
        let open =
            open.map(|_| "The shutdown is told up to the kernel's last sign of life; the jump came later.".into());
        let notes = blackout.into_iter().chain(agent).chain(clock).chain(apart);
        notes.chain(open).collect()
    }

    /// How many files its sessions have.
    pub fn files(&self) -> usize {
        self.sessions.iter().map(|session| session.files.len()).sum()
    }

    /// The size of all of them together.
    pub fn bytes(&self) -> u64 {
        self.sessions
            .iter()
            .map(|session| session.bytes)
            .fold(0, u64::saturating_add)
    }
}
