//! The updates of a host, a line each: `luo-trace updates`, and what a running agent tells of the last ones.
//!
//! The JSON form is stable from version to version: keys are added, never renamed. What is not known is null.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Report;
use super::json::{File, Session, SessionFate, Update};
use crate::chain::Fate;
use crate::model::Invariant;
use crate::text::units::span;

/// How long after its boot a kernel may be asked for what arrived, unless told otherwise.
pub const ARRIVAL_DEADLINE: Duration = Duration::from_secs(600);

/// What a live update came to, for who runs the host. The first that applies stands, in this order:
///
/// | outcome | what |
/// |---|---|
/// | aborted | the kernel that tried it went on: the freeze failed, or the jump did |
/// | cold-boot | it departed, and the machine booted cold |
/// | departed | it departed, and there is no record of its arrival |
/// | carried-nothing | it jumped into an image that takes nothing along: by `kexec_load(2)`, or without KHO's tree |
/// | lost | sessions or files are lost |
/// | violated | another promise is broken that takes both kernels to see |
/// | unclaimed | files were finished that no process had asked for, or wait beyond the deadline |
/// | waiting | sessions or files wait to be asked for, and the deadline is still to come |
/// | arrived | it arrived, and there is no record of its departure |
/// | inconclusive | something is missing that would tell |
/// | completed | all that left has arrived, and a process has asked for all of it |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpdateOutcome {
    /// The kernel that tried it went on.
    Aborted,
    /// It departed, and the machine booted cold.
    ColdBoot,
    /// It departed, and there is no record of its arrival.
    Departed,
    /// It jumped into an image that takes nothing along.
    CarriedNothing,
    /// Sessions or files are lost.
    Lost,
    /// Another promise is broken.
    Violated,
    /// What arrived was finished without having been asked for, or waits beyond the deadline.
    Unclaimed,
    /// What arrived waits to be asked for.
    Waiting,
    /// It arrived, and there is no record of its departure.
    Arrived,
    /// Something is missing that would tell.
    Inconclusive,
    /// All went as it should.
    Completed,
}

impl UpdateOutcome {
    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Aborted,
        Self::ColdBoot,
        Self::Departed,
        Self::CarriedNothing,
        Self::Lost,
        Self::Violated,
        Self::Unclaimed,
        Self::Waiting,
        Self::Arrived,
        Self::Inconclusive,
        Self::Completed,
    ];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aborted => Fate::Aborted.name(),
            Self::ColdBoot => "cold-boot",
            Self::Departed => Fate::Departed.name(),
            Self::CarriedNothing => "carried-nothing",
            Self::Lost => "lost",
            Self::Violated => "violated",
            Self::Unclaimed => "unclaimed",
            Self::Waiting => "waiting",
            Self::Arrived => Fate::Arrived.name(),
            Self::Inconclusive => "inconclusive",
            Self::Completed => Fate::Completed.name(),
        }
    }
}

/// One phase, or several that cannot be told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phase {
    /// One of [`crate::chain::timeline::PHASES`], or the first and the last of several with `…` between.
    pub phase: String,
    /// How long it took.
    pub duration_ns: u64,
}

/// What is known of an invariant over one update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Its id.
    pub invariant: Cow<'static, str>,
    /// `ok`, `violated`, `unknown`, or `unwatched` where an option would be needed to tell.
    pub status: Cow<'static, str>,
}

/// One live update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// The name of the machine, escaped; empty: not known.
    pub host: String,
    /// Its id, that of its trace in OTLP: 32 hexadecimal digits.
    pub id: String,
    /// Whether its journals are gone, so that only the ledger of the agent that judged it tells of it.
    pub only_in_ledger: bool,
    /// The boot that left; null: there is no record of it.
    pub from_boot: Option<String>,
    /// The boot that arrived; null: there is no record of it.
    pub to_boot: Option<String>,
    /// LUO's number of it.
    pub number: Option<u64>,
    /// When it began to freeze, in nanoseconds since 1970 by the wall clock of the kernel that left. Where that is not known, when the
    /// first phase that is known began; where none is, when the next kernel's clock did.
    pub time_unix_ns: Option<u64>,
    /// The release of the kernel that left.
    pub from: Option<String>,
    /// The release of the kernel that arrived. Of an aborted update there is none.
    pub to: Option<String>,
    /// What it came to, the name of an [`UpdateOutcome`].
    pub outcome: Cow<'static, str>,
    /// What became of it: `completed`, `aborted`, `departed` (there is no record of its arrival) or `arrived` (there is no record of its
    /// departure).
    pub fate: Cow<'static, str>,
    /// From the beginning of the freeze to the last file brought back.
    pub blackout_ns: Option<u64>,
    /// Its phases, as far as they are known, in their order.
    pub phases: Vec<Phase>,
    /// How many sessions left or arrived.
    pub sessions: usize,
    /// How many files they have.
    pub files: usize,
    /// The size of these files together.
    pub bytes: u64,
    /// How many sessions did not arrive, or arrived and were lost with their kernel.
    pub lost_sessions: usize,
    /// How many files were lost with their session, or with the kernel in which they had arrived.
    pub lost_files: usize,
    /// How many sessions were finished of whose files no process had asked for one.
    pub unclaimed_sessions: usize,
    /// How many files were finished that no process had asked for.
    pub unclaimed_files: usize,
    /// How many sessions wait to be asked for.
    pub pending_sessions: usize,
    /// How many files wait to be asked for.
    pub pending_files: usize,
    /// The verdicts on the invariants that take both kernels to see; of an aborted update there are none.
    pub verdicts: Vec<Verdict>,
}

impl Row {
    /// The row of an update whose last kernel has run for so long, where that is longer than its record; what waits then waits beyond
    /// this deadline, or not.
    fn of(report: &Report, (place, update): (usize, &Update), deadline: Duration, now_ns: u64) -> Self {
        let [from, to] = report.releases(update).map(|release| release.map(str::to_owned));
        let sessions = || update.sessions.iter();
        let files = || {
            sessions()
                .filter(|session| session.fate != SessionFate::Missing)
                .flat_map(|session| &session.files)
        };
        let in_state = |fate| sessions().filter(|session| session.fate == fate).count();
        let files_in = |fate| files().filter(|file: &&File| file.fate == Some(fate)).count();
        let freeze = update.phases.iter().find(|phase| phase.name.starts_with("freeze"));
        let begins = freeze.or(update.phases.first()).map(|phase| phase.start_ns);
        let arrives = || Some(report.kernels.get(update.to?)?.start_ns);
        let phases = update.phases.iter().map(|phase| Phase {
            phase: phase.name.clone(),
            duration_ns: phase.duration_ns,
        });
        let verdicts = update.verdicts.iter().map(|verdict| Verdict {
            invariant: verdict.invariant.into(),
            status: verdict.status.into(),
        });
        let boot = |place: Option<usize>| Some(report.kernels.get(place?)?.boot_id.clone());
        let host = report.kernels.get(update.to.or(update.from).unwrap_or(usize::MAX));
        let mut row = Self {
            host: host.map_or_else(String::new, |kernel| kernel.host.clone()),
            id: format!("{:032x}", report.update_id(place)),
            only_in_ledger: false,
            from_boot: boot(update.from),
            to_boot: boot(update.to),
            number: update.number,
            time_unix_ns: begins.or_else(arrives).and_then(|at| report.unix(update, at)),
            from,
            to: to.filter(|_| update.fate != Fate::Aborted),
            outcome: Cow::default(),
            fate: update.fate.name().into(),
            blackout_ns: update.blackout_ns,
            phases: phases.collect(),
            sessions: update.sessions.len(),
            files: update.files(),
            bytes: update.bytes(),
            lost_sessions: sessions().filter(|session| is_lost(session)).count(),
            lost_files: files_in("lost")
                + sessions()
                    .filter(|session| session.fate == SessionFate::Missing)
                    .map(|session| session.files.len())
                    .sum::<usize>(),
            unclaimed_sessions: in_state(SessionFate::Unclaimed),
            unclaimed_files: files_in("unclaimed"),
            pending_sessions: in_state(SessionFate::Pending),
            pending_files: files_in("pending"),
            verdicts: verdicts.collect(),
        };
        let since_boot = Duration::from_nanos(update.recorded_ns.unwrap_or(0).max(now_ns));
        row.outcome = row.outcome_of(update, since_boot >= deadline).name().into();
        row
    }

    /// What it came to; `late` tells whether the deadline is over.
    fn outcome_of(&self, update: &Update, late: bool) -> UpdateOutcome {
        let is = |status: &'static str| self.verdicts.iter().filter(move |verdict| verdict.status == status);
        let breaks = |id: Invariant| is("violated").any(|verdict| verdict.invariant == id.id());
        let loses = [Invariant::KexecSessionsConserved, Invariant::KexecFilesAccounted]
            .into_iter()
            .any(breaks);
        let waits = self.pending_sessions > 0 || self.pending_files > 0;
        match update.fate {
            Fate::Aborted => UpdateOutcome::Aborted,
            Fate::Departed if breaks(Invariant::KexecArrived) => UpdateOutcome::ColdBoot,
            Fate::Departed => UpdateOutcome::Departed,
            _ if update.carries_nothing => UpdateOutcome::CarriedNothing,
            _ if loses || self.lost_sessions > 0 || self.lost_files > 0 => UpdateOutcome::Lost,
            _ if is("violated").next().is_some() => UpdateOutcome::Violated,
            _ if self.unclaimed_files > 0 || waits && late => UpdateOutcome::Unclaimed,
            _ if waits => UpdateOutcome::Waiting,
            Fate::Arrived => UpdateOutcome::Arrived,
            Fate::Completed if is("unknown").next().is_some() => UpdateOutcome::Inconclusive,
            Fate::Completed => UpdateOutcome::Completed,
        }
    }

    /// Its number, as it is shown.
    pub fn label(&self) -> String {
        self.number.map_or("?".into(), |number| number.to_string())
    }

    /// The way from the one release to the other, as it is shown.
    pub fn way(&self) -> String {
        let release = |release: &Option<String>| release.clone().unwrap_or_else(|| "?".into());
        match self.fate == Fate::Aborted.name() {
            true => release(&self.from),
            false => format!("{} → {}", release(&self.from), release(&self.to)),
        }
    }

    /// What was lost, and what waits, in words; empty where nothing is known to.
    pub fn remark(&self) -> String {
        let told = [
            (self.lost_sessions, "sessions lost"),
            (self.lost_files, "files lost"),
            (self.unclaimed_files, "files unclaimed"),
            (self.pending_sessions, "sessions wait"),
            (self.pending_files, "files wait"),
        ];
        let told = told.iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!("{what}: {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The rows of a ledger that the journals do not have any more, and then those that they have. Of an update of which they have one
    /// side alone, and the ledger both, the ledger's row stands.
    pub fn with_ledger(journals: Vec<Self>, ledger: Vec<Self>) -> Vec<Self> {
        let (mut all, mut rest) = (Vec::new(), journals);
        for row in ledger {
            if rest.iter().any(|known| known.id == row.id) {
                continue;
            }
            rest.retain(|known| !known.is_half_of(&row));
            all.push(Self {
                only_in_ledger: true,
                ..row
            });
        }
        all.extend(rest);
        all
    }

    /// Whether this is what one kernel tells of an update of which the other tells of both.
    fn is_half_of(&self, whole: &Self) -> bool {
        let is_whole = whole.from_boot.is_some() && whole.to_boot.is_some();
        match (&self.from_boot, &self.to_boot) {
            (None, Some(_)) => is_whole && self.to_boot == whole.to_boot,
            (Some(_), None) => is_whole && self.from_boot == whole.from_boot && self.fate != Fate::Aborted.name(),
            _ => false,
        }
    }

    /// The whole of it in a sentence.
    pub fn sentence(&self) -> String {
        let blackout = self.blackout_ns.map(|ns| format!("blackout {}", span(ns)));
        let remark = Some(self.remark()).filter(|remark| !remark.is_empty());
        let more: Vec<_> = blackout.into_iter().chain(remark).collect();
        let more = if more.is_empty() {
            String::new()
        } else {
            format!(" ({})", more.join(", "))
        };
        format!("live update {}, {}: {}{more}", self.label(), self.way(), self.outcome)
    }
}

fn is_lost(session: &Session) -> bool {
    matches!(session.fate, SessionFate::Missing | SessionFate::Lost)
}

/// Every update of a report, in their order. What waits for longer than this deadline after its kernel's boot is unclaimed, going by the
/// end of that one's record or by this time of its clock, where that is later.
pub fn updates(report: &Report, deadline: Duration, now_ns: u64) -> Vec<Row> {
    let updates = report.updates.iter().enumerate();
    updates
        .map(|update| Row::of(report, update, deadline, now_ns))
        .collect()
}

/// Draws them as a table with a line for each; where they are of several machines, machine by machine.
pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no live update is recorded\n".into();
    }
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by_key(|row| &row.host);
    let several = rows.iter().any(|row| row.host != rows[0].host);
    let names = rows.iter().map(|row| row.host.chars().count());
    let name = names
        .max()
        .filter(|_| several)
        .map_or(0, |longest| longest.max("host".len()) + 2);
    let widest = rows.iter().map(|row| row.way().chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    _ = writeln!(
        out,
        "{:<name$}{:>6}  {:<20}  {:<widest$}  {:<15}  {:>9}  {:>8}  {:>6}",
        if several { "host" } else { "" },
        "number",
        "when (UTC)",
        "kernels",
        "outcome",
        "blackout",
        "sessions",
        "files"
    );
    for row in rows {
        let line = format!(
            "{:<name$}{:>6}  {:<20}  {:<widest$}  {:<15}  {:>9}  {:>8}  {:>6}  {}",
            if several { &row.host } else { "" },
            row.label(),
            row.time_unix_ns.map_or("?".into(), when),
            row.way(),
            row.outcome,
            row.blackout_ns.map_or("-".into(), span),
            row.sessions,
            row.files,
            match (row.remark(), row.only_in_ledger) {
                (remark, false) => remark,
                (remark, true) if remark.is_empty() => "only in the ledger".into(),
                (remark, true) => remark + ", only in the ledger",
            },
        );
        _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// A time by the wall clock as it is shown, in UTC.
pub fn when(unix_ns: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_seconds(time).to_string()
}
