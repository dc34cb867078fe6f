//! What records tell as rows of tables, for engines that ask by SQL: `luo-trace export`.
//!
//! The columns are stable from version to version: some are added, none is renamed or gets another type. What is not known is null.
//! Numbers are whole; text is escaped as everywhere.

use serde::Serialize;

use super::json::{self, Report, Stretch};
use super::updates;
use crate::event::{Event, Value};
use crate::text::errno;

/// Of which host and boot a row is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The host's name; empty: not known.
    pub host: String,
    /// The id that tells it from others: one that an operator gave, else of the machine, else of its hardware; null: not known.
    pub host_id: Option<String>,
    /// The boot: of an update, a session and a file that in which they arrived, else that which they left.
    pub boot_id: String,
}

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct EventRow<'a> {
    /// Where it is from.
    #[serde(flatten)]
    pub origin: &'a Origin,
    /// When, in nanoseconds since 1970.
    pub time_unix_ns: u64,
    /// The same by `CLOCK_MONOTONIC` of its boot.
    pub time_ns: u64,
    /// The processor that it was recorded on.
    pub cpu: u32,
    /// Its number there.
    pub seq: u64,
    /// Its name.
    pub event: &'static str,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// The session that it is about.
    pub session: Option<String>,
    /// How it ended: `ok` or an errno's name; null: it is no operation.
    pub result: Option<String>,
    /// How long it took.
    pub duration_ns: Option<u64>,
    /// The file's token, as `0x2a`.
    pub token: Option<String>,
    /// The file's handler.
    pub handler: Option<String>,
    /// What else it tells: an object in JSON, as text.
    pub details: String,
}

impl<'a> EventRow<'a> {
    /// The row of an event that came at this time, in nanoseconds since 1970.
    pub fn of(origin: &'a Origin, event: &Event, time_unix_ns: u64) -> Self {
        let mut row = Self {
            origin,
            time_unix_ns,
            time_ns: event.header.ktime,
            cpu: event.header.cpu,
            seq: event.header.seq,
            event: event.name(),
            pid: event.header.tgid,
            tid: event.header.pid,
            comm: event.header.comm.to_string(),
            session: None,
            result: event
                .outcome()
                .map(|outcome| errno::result(outcome.result).into_owned()),
            duration_ns: event.outcome().map(|outcome| outcome.duration).filter(|&ns| ns > 0),
            token: None,
            handler: None,
            details: String::new(),
        };
        let mut rest = serde_json::Map::new();
        for (key, value) in event.details() {
            let column = match key {
                "session" => &mut row.session,
                "token" => &mut row.token,
                "handler" => &mut row.handler,
                _ => {
                    rest.insert(key.to_owned(), json(value));
                    continue;
                }
            };
            *column = Some(value.to_string());
        }
        row.details = serde_json::Value::Object(rest).to_string();
        row
    }
}

fn json(value: Value) -> serde_json::Value {
    match value {
        Value::Text(text) => text.into(),
        Value::Number(number) => number.into(),
        Value::Signed(number) => number.into(),
    }
}

/// One violation.
#[derive(Clone, Debug, Serialize)]
pub struct FindingRow {
    /// Where it is from.
    #[serde(flatten)]
    pub origin: Origin,
    /// When, in nanoseconds since 1970.
    pub time_unix_ns: Option<u64>,
    /// The invariant.
    pub invariant: &'static str,
    /// `critical`, `error` or `warning`.
    pub severity: &'static str,
    /// What it is about.
    pub object: String,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

impl FindingRow {
    fn of(report: &Report, found: &json::Finding, at: &impl Fn(Option<usize>) -> Origin) -> Self {
        let finding = &found.finding;
        let start = found
            .kernel
            .and_then(|kernel| Some(report.kernels.get(kernel)?.start_unix_ns));
        Self {
            origin: at(found.kernel),
            // What only several kernels prove together has no time on one's clock.
            time_unix_ns: start.and_then(|start| u64::try_from(start).ok()?.checked_add(finding.time_ns)),
            invariant: finding.invariant.id(),
            severity: found.severity().name(),
            object: finding.object.to_string(),
            expected: finding.expected.to_string(),
            seen: finding.seen.to_string(),
        }
    }
}

/// One live update.
#[derive(Clone, Debug, Serialize)]
pub struct UpdateRow {
    /// Where it is from.
    #[serde(flatten)]
    pub origin: Origin,
    /// What `luo-trace updates` tells of it.
    #[serde(flatten)]
    pub row: updates::Row,
}

/// A session over one live update.
#[derive(Clone, Debug, Serialize)]
pub struct SessionRow {
    /// Where it is from.
    #[serde(flatten)]
    pub origin: Origin,
    /// When the update began to freeze, in nanoseconds since 1970.
    pub time_unix_ns: Option<u64>,
    /// The update's number.
    pub update_number: Option<u64>,
    /// Its name.
    pub session: String,
    /// What became of it, as in a report.
    pub fate: json::SessionFate,
    /// From the freeze of its files to the last of them brought back.
    pub blackout_ns: Option<u64>,
    /// How many files it has.
    pub files: usize,
    /// Their size together.
    pub bytes: u64,
}

/// A file over one live update.
#[derive(Clone, Debug, Serialize)]
pub struct FileRow {
    /// Where it is from.
    #[serde(flatten)]
    pub origin: Origin,
    /// When the update began to freeze, in nanoseconds since 1970.
    pub time_unix_ns: Option<u64>,
    /// The update's number.
    pub update_number: Option<u64>,
    /// The session that has it.
    pub session: String,
    /// Its token, as `0x2a`.
    pub token: String,
    /// Its handler.
    pub handler: String,
    /// Its size.
    pub bytes: u64,
    /// What became of it, as in a report.
    pub fate: Option<&'static str>,
    /// How long its preserve took.
    pub preserve_ns: Option<u64>,
    /// How long its handler's freeze took.
    pub freeze_ns: Option<u64>,
    /// How long its retrieve took, the first that succeeded.
    pub retrieve_ns: Option<u64>,
    /// How long its handler's finish took.
    pub finish_ns: Option<u64>,
    /// How many operations on it failed.
    pub failures: u32,
}

/// The rows of what one host's records prove.
#[derive(Debug, Default)]
pub struct Rows {
    /// What was found.
    pub findings: Vec<FindingRow>,
    /// Its live updates.
    pub updates: Vec<UpdateRow>,
    /// Their sessions.
    pub sessions: Vec<SessionRow>,
    /// Their files.
    pub files: Vec<FileRow>,
}

impl Rows {
    /// Those of a report on one host, which `origin` tells of without a boot.
    pub fn of(report: &Report, rows: Vec<updates::Row>, origin: &Origin) -> Self {
        let at = |kernel: Option<usize>| Origin {
            boot_id: kernel
                .and_then(|kernel| report.kernels.get(kernel))
                .map_or_else(String::new, |kernel| kernel.boot_id.clone()),
            ..origin.clone()
        };
        let mut all = Self {
            findings: report
                .findings
                .iter()
                .map(|finding| FindingRow::of(report, finding, &at))
                .collect(),
            ..Self::default()
        };
        for (update, row) in report.updates.iter().zip(rows) {
            let origin = at(update.to.or(update.from));
            for session in &update.sessions {
                all.sessions.push(SessionRow {
                    origin: origin.clone(),
                    time_unix_ns: row.time_unix_ns,
                    update_number: update.number,
                    session: session.name.clone(),
                    fate: session.fate,
                    blackout_ns: session.blackout_ns,
                    files: session.files.len(),
                    bytes: session.bytes,
                });
                all.files.extend(session.files.iter().map(|file| FileRow {
                    origin: origin.clone(),
                    time_unix_ns: row.time_unix_ns,
                    update_number: update.number,
                    session: session.name.clone(),
                    token: file.token.clone(),
                    handler: file.handler.clone(),
                    bytes: file.bytes,
                    fate: file.fate,
                    preserve_ns: took(file.preserve),
                    freeze_ns: took(file.freeze),
                    retrieve_ns: took(file.retrieve),
                    finish_ns: took(file.finish),
                    failures: file.failures,
                }));
            }
            all.updates.push(UpdateRow { origin, row });
        }
        all
    }
}

fn took(stretch: Option<Stretch>) -> Option<u64> {
    stretch.map(|stretch| stretch.duration_ns)
}
