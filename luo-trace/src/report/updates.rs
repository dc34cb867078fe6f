//! The updates of a host, a line each: `luo-trace updates`.
//!
//! The JSON form is stable from version to version: keys are added, never renamed. What is not known is null.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Report;
use super::json::{Session, SessionFate, Update};
use crate::chain::Fate;
use crate::text::units::span;

/// One live update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The number, as it is shown.
    #[serde(skip)]
    label: String,
    /// The way from the one release to the other, as it is shown.
    #[serde(skip)]
    way: String,
    /// LUO's number of it.
    pub number: Option<u64>,
    /// When it began to freeze, in nanoseconds since 1970 by the wall clock of the kernel that left. Where that is not known, when the
    /// first phase that is known began; where none is, when the next kernel's clock did.
    pub time_unix_ns: Option<u64>,
    /// The release of the kernel that left.
    pub from: Option<String>,
    /// The release of the kernel that arrived. Of an aborted update there is none.
    pub to: Option<String>,
    /// What became of it: `completed`, `aborted`, `departed` (there is no record of its arrival) or `arrived` (there is no record of its
    /// departure).
    pub outcome: &'static str,
    /// From the beginning of the freeze to the last file brought back.
    pub blackout_ns: Option<u64>,
    /// How many sessions left or arrived.
    pub sessions: usize,
    /// How many files they have.
    pub files: usize,
    /// The size of these files together.
    pub bytes: u64,
    /// How many sessions did not arrive, or arrived and were lost with their kernel.
    pub lost_sessions: usize,
    /// How many files no process brought back: they were finished unclaimed, or lost with their kernel or their session.
    pub lost_files: usize,
    /// How many sessions wait to be asked for when the record ends.
    pub pending_sessions: usize,
}

impl Row {
    fn of(report: &Report, update: &Update) -> Self {
        let [from, to] = report.releases(update).map(|release| release.map(str::to_owned));
        let sessions = || update.sessions.iter();
        let freeze = update.phases.iter().find(|phase| phase.name.starts_with("freeze"));
        let begins = freeze.or(update.phases.first()).map(|phase| phase.start_ns);
        let arrives = || Some(report.kernels.get(update.to?)?.start_ns);
        Self {
            label: update.label(),
            way: report.way(update),
            number: update.number,
            time_unix_ns: begins.or_else(arrives).and_then(|at| report.unix(update, at)),
            from,
            to: to.filter(|_| update.fate != Fate::Aborted),
            outcome: update.fate.name(),
            blackout_ns: update.blackout_ns,
            sessions: update.sessions.len(),
            files: update.files(),
            bytes: update.bytes(),
            lost_sessions: sessions().filter(|session| is_lost(session)).count(),
            lost_files: sessions().map(lost_files).sum(),
            pending_sessions: sessions()
                .filter(|session| session.fate == SessionFate::Pending)
                .count(),
        }
    }

    /// What was lost, and what waits, in words; empty where nothing is known to.
    fn remark(&self) -> String {
        let told = [
            (self.lost_sessions, "sessions lost"),
            (self.lost_files, "files lost"),
            (self.pending_sessions, "sessions wait"),
        ];
        let told = told.iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!("{what}: {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn is_lost(session: &Session) -> bool {
    matches!(session.fate, SessionFate::Missing | SessionFate::Lost)
}

fn lost_files(session: &Session) -> usize {
    let lost = |fate| matches!(fate, Some("unclaimed" | "lost"));
    match session.fate {
        SessionFate::Missing => session.files.len(),
        _ => session.files.iter().filter(|file| lost(file.fate)).count(),
    }
}

/// Every update of a report, in their order.
pub fn updates(report: &Report) -> Vec<Row> {
    report.updates.iter().map(|update| Row::of(report, update)).collect()
}

/// Draws them as a table with a line for each.
pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no live update is recorded\n".into();
    }
    let widest = rows.iter().map(|row| row.way.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    _ = writeln!(
        out,
        "{:>6}  {:<20}  {:<widest$}  {:<9}  {:>9}  {:>8}  {:>6}",
        "number", "when (UTC)", "kernels", "outcome", "blackout", "sessions", "files"
    );
    for row in rows {
        let line = format!(
            "{:>6}  {:<20}  {:<widest$}  {:<9}  {:>9}  {:>8}  {:>6}  {}",
            row.label,
            row.time_unix_ns.map_or("?".into(), when),
            row.way,
            row.outcome,
            row.blackout_ns.map_or("-".into(), span),
            row.sessions,
            row.files,
            row.remark(),
        );
        _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn when(unix_ns: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_seconds(time).to_string()
}
