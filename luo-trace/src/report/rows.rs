//! What records tell as rows of tables, for engines that ask by SQL: `luo-trace export`.
//!
//! The columns are stable from version to version: some are added, none is renamed or gets another type. What is not known is null.
//! Numbers are whole; text is escaped as everywhere.

use serde::Serialize;

use super::json::{self, Report, Stretch};
use super::updates;
use crate::event::{Event, Value};
use crate::model::Id;
use crate::text::errno;

/// What a column holds. Whatever the type, what is not known is null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// UTF-8.
    Text,
    /// A whole number of 64 bits with a sign: engines differ in what they make of one without. A larger one stands as the largest.
    Integer,
    /// True or false.
    Boolean,
    /// An array of objects with these columns.
    Objects(&'static [Column]),
}

/// A column: its name, and what it holds.
pub type Column = (&'static str, Type);

/// What is a row of a table.
pub trait Row: Serialize {
    /// The table's name.
    const TABLE: &'static str;
    /// Its columns, those of [`Origin`] first. They are the keys of the JSON form.
    const COLUMNS: &'static [Column];

    /// Of which host and boot it is.
    fn origin(&self) -> &Origin;

    /// Which moment it belongs to, in nanoseconds since 1970; `None`: not known.
    fn time_unix_ns(&self) -> Option<i64>;
}

/// Says that a type is the row of a table.
macro_rules! row {
    ($row:ty, $table:literal, $time:expr, [$($name:literal: $type:expr),* $(,)?]) => {
        impl Row for $row {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [Column] = &[
                ("host", Type::Text),
                ("host_id", Type::Text),
                ("boot_id", Type::Text),
                $(($name, $type)),*
            ];

            fn origin(&self) -> &Origin {
                &self.origin
            }

            fn time_unix_ns(&self) -> Option<i64> {
                let time: fn(&Self) -> Option<i64> = $time;
                time(self)
            }
        }
    };
}

row!(EventRow<'_>, "events", |row| Some(row.time_unix_ns), [
    "time_unix_ns": Type::Integer,
    "time_ns": Type::Integer,
    "cpu": Type::Integer,
    "seq": Type::Integer,
    "event": Type::Text,
    "pid": Type::Integer,
    "tid": Type::Integer,
    "comm": Type::Text,
    "session": Type::Text,
    "result": Type::Text,
    "duration_ns": Type::Integer,
    "token": Type::Text,
    "handler": Type::Text,
    "details": Type::Text,
]);

row!(FindingRow, "findings", |row| row.time_unix_ns, [
    "id": Type::Text,
    "time_unix_ns": Type::Integer,
    "invariant": Type::Text,
    "severity": Type::Text,
    "object": Type::Text,
    "expected": Type::Text,
    "seen": Type::Text,
]);

row!(UpdateRow, "updates", |row| row.row.time_unix_ns.map(whole), [
    "id": Type::Text,
    "only_in_ledger": Type::Boolean,
    "from_boot": Type::Text,
    "to_boot": Type::Text,
    "number": Type::Integer,
    "time_unix_ns": Type::Integer,
    "from": Type::Text,
    "to": Type::Text,
    "outcome": Type::Text,
    "fate": Type::Text,
    "blackout_ns": Type::Integer,
    "phases": Type::Objects(&[("phase", Type::Text), ("duration_ns", Type::Integer)]),
    "sessions": Type::Integer,
    "files": Type::Integer,
    "bytes": Type::Integer,
    "lost_sessions": Type::Integer,
    "lost_files": Type::Integer,
    "unclaimed_sessions": Type::Integer,
    "unclaimed_files": Type::Integer,
    "pending_sessions": Type::Integer,
    "pending_files": Type::Integer,
    "verdicts": Type::Objects(&[("invariant", Type::Text), ("status", Type::Text)]),
]);

row!(SessionRow, "sessions", |row| row.time_unix_ns, [
    "time_unix_ns": Type::Integer,
    "update_number": Type::Integer,
    "session": Type::Text,
    "fate": Type::Text,
    "blackout_ns": Type::Integer,
    "files": Type::Integer,
    "bytes": Type::Integer,
]);

row!(FileRow, "files", |row| row.time_unix_ns, [
    "time_unix_ns": Type::Integer,
    "update_number": Type::Integer,
    "session": Type::Text,
    "token": Type::Text,
    "handler": Type::Text,
    "bytes": Type::Integer,
    "fate": Type::Text,
    "preserve_ns": Type::Integer,
    "freeze_ns": Type::Integer,
    "retrieve_ns": Type::Integer,
    "finish_ns": Type::Integer,
    "failures": Type::Integer,
]);

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
    pub time_unix_ns: i64,
    /// The same by `CLOCK_MONOTONIC` of its boot.
    pub time_ns: i64,
    /// The processor that it was recorded on.
    pub cpu: u32,
    /// Its number there.
    pub seq: i64,
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
    pub duration_ns: Option<i64>,
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
            time_unix_ns: whole(time_unix_ns),
            time_ns: whole(event.header.ktime),
            cpu: event.header.cpu,
            seq: whole(event.header.seq),
            event: event.name(),
            pid: event.header.tgid,
            tid: event.header.pid,
            comm: event.header.comm.to_string(),
            session: None,
            result: event
                .outcome()
                .map(|outcome| errno::result(outcome.result).into_owned()),
            duration_ns: event
                .outcome()
                .map(|outcome| whole(outcome.duration))
                .filter(|&ns| ns > 0),
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
    /// Its id, the same wherever it is told.
    pub id: Id,
    /// When, in nanoseconds since 1970.
    pub time_unix_ns: Option<i64>,
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
            id: finding.id,
            // What only several kernels prove together has no time on one's clock.
            time_unix_ns: start.and_then(|start| start.checked_add_unsigned(finding.time_ns)),
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
    /// Where it is from; its host's name is in the row.
    #[serde(skip)]
    pub origin: Origin,
    /// The host's id, as in [`Origin`].
    pub host_id: Option<String>,
    /// The boot, as in [`Origin`].
    pub boot_id: String,
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
    pub time_unix_ns: Option<i64>,
    /// The update's number.
    pub update_number: Option<i64>,
    /// Its name.
    pub session: String,
    /// What became of it, as in a report.
    pub fate: json::SessionFate,
    /// From the freeze of its files to the last of them brought back.
    pub blackout_ns: Option<i64>,
    /// How many files it has.
    pub files: usize,
    /// Their size together.
    pub bytes: i64,
}

/// A file over one live update.
#[derive(Clone, Debug, Serialize)]
pub struct FileRow {
    /// Where it is from.
    #[serde(flatten)]
    pub origin: Origin,
    /// When the update began to freeze, in nanoseconds since 1970.
    pub time_unix_ns: Option<i64>,
    /// The update's number.
    pub update_number: Option<i64>,
    /// The session that has it.
    pub session: String,
    /// Its token, as `0x2a`.
    pub token: String,
    /// Its handler.
    pub handler: String,
    /// Its size.
    pub bytes: i64,
    /// What became of it, as in a report.
    pub fate: Option<&'static str>,
    /// How long its preserve took.
    pub preserve_ns: Option<i64>,
    /// How long its handler's freeze took.
    pub freeze_ns: Option<i64>,
    /// How long its retrieve took, the first that succeeded.
    pub retrieve_ns: Option<i64>,
    /// How long its handler's finish took.
    pub finish_ns: Option<i64>,
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
        for (update, row) in report.updates.iter().zip(rows.into_iter().map(within)) {
            let time_unix_ns = row.time_unix_ns.map(whole);
            let update_number = row.number.map(whole);
            let origin = at(update.to.or(update.from));
            for session in &update.sessions {
                all.sessions.push(SessionRow {
                    origin: origin.clone(),
                    time_unix_ns,
                    update_number,
                    session: session.name.clone(),
                    fate: session.fate,
                    blackout_ns: session.blackout_ns.map(whole),
                    files: session.files.len(),
                    bytes: whole(session.bytes),
                });
                all.files.extend(session.files.iter().map(|file| FileRow {
                    origin: origin.clone(),
                    time_unix_ns,
                    update_number,
                    session: session.name.clone(),
                    token: file.token.clone(),
                    handler: file.handler.clone(),
                    bytes: whole(file.bytes),
                    fate: file.fate,
                    preserve_ns: took(file.preserve),
                    freeze_ns: took(file.freeze),
                    retrieve_ns: took(file.retrieve),
                    finish_ns: took(file.finish),
                    failures: file.failures,
                }));
            }
            all.updates.push(UpdateRow {
                host_id: origin.host_id.clone(),
                boot_id: origin.boot_id.clone(),
                row: updates::Row {
                    host: origin.host.clone(),
                    ..row
                },
                origin,
            });
        }
        all
    }
}

fn took(stretch: Option<Stretch>) -> Option<i64> {
    stretch.map(|stretch| whole(stretch.duration_ns))
}

/// The number as one of [`Type::Integer`].
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The same row, its numbers as those of [`Type::Integer`].
fn within(mut row: updates::Row) -> updates::Row {
    let most = |number: &mut u64| *number = (*number).min(i64::MAX as u64);
    most(&mut row.bytes);
    let numbers = [&mut row.number, &mut row.time_unix_ns, &mut row.blackout_ns];
    numbers.into_iter().flatten().for_each(most);
    row.phases.iter_mut().for_each(|phase| most(&mut phase.duration_ns));
    row
}
