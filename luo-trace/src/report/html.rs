//! The report as one HTML page, which needs neither a script nor anything from outside.

use askama::Template;
use time::OffsetDateTime;

use super::json::{self, Durations, File, Flb, Refused, Session, Stretch, Update};
use super::{HostLine, Report, hosts};
use crate::chain::Fate;
use crate::chain::case::Conclusion;
use crate::model::Severity;
use crate::text::units::{bytes, count, span};

/// How many updates are told in full: the last ones.
const UPDATES: usize = 20;
/// How many updates are compared: the last ones.
const TREND: usize = 500;
/// How many sessions of an update are shown.
const SESSIONS: usize = 300;
/// How many files of a session are shown.
const FILES: usize = 100;
/// How many machines are shown.
const HOSTS: usize = 5000;
/// How many findings are shown.
const FINDINGS: usize = 200;
/// How wide a bar's picture is, in its own units.
const WIDE: f64 = 1000.0;
/// How many lines of policy are shown of each kernel.
const POLICY: usize = 200;
/// The narrowest bar, in the same units: what is short still shows where it is.
const NARROW: f64 = 2.5;

/// Draws the page.
///
/// # Errors
/// None that can happen: the page is written into memory.
pub fn html(report: &Report) -> Result<String, askama::Error> {
    Page::of(report).render()
}

/// The page. Everything is text to show as it is: the template escapes it.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: String,
    result: &'static str,
    tone: &'static str,
    tiles: Vec<Tile>,
    hosts: Rows<HostView>,
    trend: Rows<Trend>,
    updates: Vec<UpdateView<'a>>,
    stayed: Vec<Stayed<'a>>,
    policy: Vec<PolicyView<'a>>,
    findings: Rows<FindingView>,
    verdicts: &'a [json::Verdict],
    counted: String,
    doubts: &'a [String],
    repeated: &'a [String],
    unreadable: &'a [String],
    kernels: &'a [json::Kernel],
    version: &'static str,
}

/// The first rows of a table, and how many there are besides.
struct Rows<T> {
    rows: Vec<T>,
    more: usize,
}

impl<T> Rows<T> {
    fn of<'s, S>(items: &'s [S], limit: usize, row: impl FnMut(&'s S) -> T) -> Self {
        Self {
            rows: items.iter().take(limit).map(row).collect(),
            more: items.len().saturating_sub(limit),
        }
    }
}

/// What policy did in one kernel.
struct PolicyView<'a> {
    number: usize,
    release: &'a str,
    rows: Rows<PolicyRow<'a>>,
}

struct PolicyRow<'a> {
    when: String,
    line: &'a json::Policy,
}

/// One machine of several.
struct HostView {
    line: HostLine,
    when: String,
    kernels: String,
    blackout: String,
}

impl HostView {
    fn of(line: &HostLine) -> Self {
        let last = line.last.as_ref();
        Self {
            when: last.and_then(|row| row.time_unix_ns).map_or("–".into(), super::when),
            kernels: last.map_or("–".into(), super::Row::way),
            blackout: last.and_then(|row| row.blackout_ns).map_or("–".into(), span),
            line: line.clone(),
        }
    }

    fn outcome(&self) -> &str {
        self.line.last.as_ref().map_or("–", |row| &*row.outcome)
    }
}

struct Tile {
    value: String,
    label: &'static str,
}

/// A bar in a picture of [`WIDE`] units.
struct Bar {
    x: String,
    width: String,
}

struct Trend {
    number: String,
    kernels: String,
    when: String,
    fate: &'static str,
    tone: &'static str,
    blackout: String,
    bar: Bar,
}

struct UpdateView<'a> {
    title: String,
    fate: &'static str,
    tone: &'static str,
    when: String,
    open: bool,
    /// The part of the picture that belongs to the kernel that left.
    left: Option<Side>,
    arrived: Option<Side>,
    phases: Vec<PhaseView>,
    blackout: Option<Bar>,
    whole: String,
    notes: Vec<String>,
    sessions: Sessions<'a>,
    flbs: &'a [Flb],
    durations: Vec<DurationsView<'a>>,
}

/// One kernel's side of a timeline.
struct Side {
    bar: Bar,
    label: String,
}

struct PhaseView {
    name: String,
    bar: Bar,
    duration: String,
    blackout: bool,
}

struct Sessions<'a> {
    rows: Rows<SessionView<'a>>,
    summary: String,
}

struct SessionView<'a> {
    name: &'a str,
    fate: &'static str,
    tone: &'static str,
    files: String,
    size: String,
    preserve: String,
    retrieve: String,
    blackout: String,
    rows: Rows<FileView<'a>>,
    refused: Vec<String>,
}

struct FileView<'a> {
    token: &'a str,
    handler: &'a str,
    size: String,
    times: [String; 4],
    note: String,
}

struct DurationsView<'a> {
    handler: &'a str,
    operation: &'static str,
    count: u64,
    times: [String; 4],
}

struct Stayed<'a> {
    number: usize,
    release: &'a str,
    sessions: Sessions<'a>,
}

struct FindingView {
    severity: &'static str,
    tone: &'static str,
    invariant: &'static str,
    place: String,
    object: String,
    expected: String,
    seen: String,
    advice: &'static str,
}

impl<'a> Page<'a> {
    fn of(report: &'a Report) -> Self {
        let all = report.updates.len();
        let trend = &report.updates[all.saturating_sub(TREND)..];
        let longest = trend.iter().filter_map(|update| update.blackout_ns).max();
        let rows = if all > 1 {
            trend
                .iter()
                .rev()
                .map(|update| trend_row(report, update, longest))
                .collect()
        } else {
            Vec::new()
        };
        let told = report
            .updates
            .iter()
            .enumerate()
            .skip(all.saturating_sub(UPDATES))
            .rev();
        let with = |status: &str| {
            report
                .verdicts
                .iter()
                .filter(|verdict| verdict.status == status)
                .count()
        };
        let stayed = report.kernels.iter().enumerate();
        let stayed = stayed.filter(|(_, kernel)| !kernel.sessions.is_empty());
        Self {
            title: title(report),
            result: report.result.name(),
            tone: match report.result {
                Conclusion::Held => "good",
                Conclusion::Inconclusive => "fair",
                Conclusion::Violated => "bad",
            },
            tiles: tiles(report),
            hosts: Rows::of(&hosts(report), HOSTS, HostView::of),
            trend: Rows {
                rows,
                more: all.saturating_sub(TREND),
            },
            updates: told
                .map(|(place, update)| UpdateView::of(report, update, place + 1 == all))
                .collect(),
            policy: policies(report),
            stayed: stayed
                .map(|(place, kernel)| Stayed {
                    number: place + 1,
                    release: &kernel.release,
                    sessions: Sessions::of(&kernel.sessions),
                })
                .collect(),
            findings: Rows::of(&report.findings, FINDINGS, finding),
            verdicts: &report.verdicts,
            counted: format!(
                "{} held, {} violated, {} unknown, {} not watched",
                with("ok"),
                with("violated"),
                with("unknown"),
                with("unwatched")
            ),
            doubts: &report.doubts,
            repeated: &report.repeated,
            unreadable: &report.unreadable,
            kernels: &report.kernels,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn title(report: &Report) -> String {
    match report.updates.as_slice() {
        [] => "No live update".into(),
        [update] => format!("Live update: {}", report.way(update)),
        updates => count(updates.len() as u64, "live update"),
    }
}

/// The figures that a reader looks for first: of the last update, or over all of them.
fn tiles(report: &Report) -> Vec<Tile> {
    // One that was given up took nothing along.
    let mut updates = report.updates.iter().rev();
    let left = updates.find(|update| update.fate != Fate::Aborted);
    let Some(last) = left.or(report.updates.last()) else {
        return Vec::new();
    };
    let tile = |value: String, label| Tile { value, label };
    let blackouts: Vec<u64> = report.updates.iter().filter_map(|update| update.blackout_ns).collect();
    let mut tiles = Vec::new();
    if report.updates.len() > 1 {
        let completed = report
            .updates
            .iter()
            .filter(|update| update.fate == Fate::Completed)
            .count();
        tiles.push(tile(completed.to_string(), "updates completed"));
        tiles.extend(
            blackouts
                .iter()
                .max()
                .map(|&longest| tile(span(longest), "longest blackout")),
        );
        tiles.extend(last.blackout_ns.map(|last| tile(span(last), "last blackout")));
    } else {
        tiles.push(tile(last.blackout_ns.map_or("not known".into(), span), "blackout"));
        tiles.extend(last.whole_ns.map(|whole| tile(span(whole), "in all")));
    }
    let (sessions, files) = (last.sessions.len(), last.files());
    tiles.push(tile(
        sessions.to_string(),
        if sessions == 1 { "session" } else { "sessions" },
    ));
    tiles.push(tile(files.to_string(), if files == 1 { "file" } else { "files" }));
    tiles.push(tile(bytes(last.bytes()), "in files"));
    tiles
}

fn trend_row(report: &Report, update: &Update, longest: Option<u64>) -> Trend {
    let share = update.blackout_ns.unwrap_or(0) as f64 / longest.unwrap_or(0).max(1) as f64;
    Trend {
        number: update.label(),
        kernels: report.way(update),
        when: when(report, update),
        fate: update.fate.name(),
        tone: tone(update),
        blackout: update.blackout_ns.map_or("–".into(), span),
        bar: Bar {
            x: "0".into(),
            width: format!("{:.1}", share * WIDE),
        },
    }
}

impl<'a> UpdateView<'a> {
    fn of(report: &Report, update: &'a Update, open: bool) -> Self {
        let scale = Scale::of(update);
        let ends = |phase: &json::Phase| phase.start_ns.saturating_add_unsigned(phase.duration_ns);
        let last = update.phases.last().map_or(0, ends);
        let jump = update
            .phases
            .iter()
            .find(|phase| phase.kernel == update.to && update.to.is_some());
        let jump = jump.map_or(last, |phase| phase.start_ns);
        let [from, to] = report.releases(update);
        let first = update.phases.first().map_or(0, |phase| phase.start_ns);
        let side = |release: Option<&str>, start: i64, end: i64| {
            (end > start).then_some(())?;
            Some(Side {
                bar: scale.bar(start, end.abs_diff(start)),
                label: release?.to_owned(),
            })
        };
        let freeze = update.phases.iter().find(|phase| phase.name == "freeze");
        let blackout = freeze.zip(update.blackout_ns);
        let phases = update.phases.iter().filter(|phase| phase.duration_ns > 0);
        Self {
            title: format!("Update {}: {}", update.label(), report.way(update)),
            fate: update.fate.name(),
            tone: tone(update),
            when: when(report, update),
            open,
            left: side(from, first, jump),
            arrived: side(to, jump, last),
            phases: phases
                .map(|phase| PhaseView {
                    name: phase.name.clone(),
                    bar: scale.bar(phase.start_ns, phase.duration_ns),
                    duration: span(phase.duration_ns),
                    blackout: phase.blackout,
                })
                .collect(),
            blackout: blackout.map(|(freeze, blackout)| scale.bar(freeze.start_ns, blackout)),
            whole: update.whole_ns.map_or(String::new(), span),
            notes: update.notes(),
            sessions: Sessions::of(&update.sessions),
            flbs: &update.flbs,
            durations: update.durations.iter().map(DurationsView::of).collect(),
        }
    }
}

/// Nanoseconds to units of the picture.
struct Scale {
    first: i64,
    per_ns: f64,
}

impl Scale {
    fn of(update: &Update) -> Self {
        Self {
            first: update.phases.first().map_or(0, |phase| phase.start_ns),
            per_ns: WIDE / update.whole_ns.unwrap_or(0).max(1) as f64,
        }
    }

    fn bar(&self, start: i64, duration: u64) -> Bar {
        let x = (start.saturating_sub(self.first) as f64 * self.per_ns).clamp(0.0, WIDE - NARROW);
        let width = (duration as f64 * self.per_ns).clamp(NARROW, WIDE - x);
        Bar {
            x: format!("{x:.1}"),
            width: format!("{width:.1}"),
        }
    }
}

impl<'a> Sessions<'a> {
    /// What is not as it should be comes first, so that it is among what is shown.
    fn of(sessions: &'a [Session]) -> Self {
        let mut sorted: Vec<&Session> = sessions.iter().collect();
        sorted.sort_by_key(|session| session.fate.is_good());
        let files: usize = sessions.iter().map(|session| session.files.len()).sum();
        let size = sessions
            .iter()
            .map(|session| session.bytes)
            .fold(0, u64::saturating_add);
        Self {
            rows: Rows::of(&sorted, SESSIONS, |&session| SessionView::of(session)),
            summary: format!(
                "{}, {}, {}",
                count(sessions.len() as u64, "session"),
                count(files as u64, "file"),
                bytes(size)
            ),
        }
    }
}

impl<'a> SessionView<'a> {
    fn of(session: &'a Session) -> Self {
        let total = |pick: fn(&File) -> Option<Stretch>| {
            let times = session.files.iter().filter_map(pick).map(|stretch| stretch.duration_ns);
            let sum = times.reduce(u64::saturating_add);
            sum.map_or("–".into(), span)
        };
        Self {
            name: if session.name.is_empty() {
                "(not known)"
            } else {
                &session.name
            },
            fate: session.fate.describe(),
            tone: if session.fate.is_good() { "good" } else { "bad" },
            files: count(session.files.len() as u64, "file"),
            size: bytes(session.bytes),
            preserve: total(|file| file.preserve),
            retrieve: total(|file| file.retrieve),
            blackout: session.blackout_ns.map_or("–".into(), span),
            rows: Rows::of(&session.files, FILES, FileView::of),
            refused: session.refused.iter().map(Refused::describe).collect(),
        }
    }
}

impl<'a> FileView<'a> {
    fn of(file: &'a File) -> Self {
        let times = [file.preserve, file.freeze, file.retrieve, file.finish];
        Self {
            token: &file.token,
            handler: &file.handler,
            size: bytes(file.bytes),
            times: times.map(|stretch| stretch.map_or("–".into(), |stretch| span(stretch.duration_ns))),
            note: file.note(),
        }
    }
}

impl<'a> DurationsView<'a> {
    fn of(durations: &'a Durations) -> Self {
        let times = [
            durations.min_ns,
            durations.median_ns,
            durations.p99_ns,
            durations.max_ns,
        ];
        Self {
            handler: &durations.handler,
            operation: durations.operation,
            count: durations.count,
            times: times.map(span),
        }
    }
}

fn finding(found: &json::Finding) -> FindingView {
    let finding = &found.finding;
    FindingView {
        severity: found.severity().name(),
        tone: if found.severity() >= Severity::Error {
            "bad"
        } else {
            "fair"
        },
        invariant: finding.invariant.id(),
        place: found
            .kernel
            .map_or("over the update".into(), |kernel| format!("kernel {}", kernel + 1)),
        object: finding.object.to_string(),
        expected: finding.expected.to_string(),
        seen: finding.seen.to_string(),
        advice: finding.advice,
    }
}

/// When it began, by the wall clock.
fn when(report: &Report, update: &Update) -> String {
    let first = update
        .phases
        .first()
        .and_then(|phase| report.unix(update, phase.start_ns));
    let date = first.and_then(|ns| OffsetDateTime::from_unix_timestamp_nanos(ns.into()).ok());
    date.map_or(String::new(), |date| {
        let (hour, minute, second) = date.to_hms();
        format!("{} {hour:02}:{minute:02}:{second:02} UTC", date.date())
    })
}

fn tone(update: &Update) -> &'static str {
    let good = update.sessions.iter().all(|session| session.fate.is_good());
    match update.fate {
        Fate::Completed if good => "good",
        Fate::Aborted => "bad",
        Fate::Completed | Fate::Departed | Fate::Arrived => "fair",
    }
}
/// What policy did, by kernel.
fn policies(report: &Report) -> Vec<PolicyView<'_>> {
    let kernels = report.kernels.iter().enumerate();
    let with_policy = kernels.filter(|(_, kernel)| !kernel.policy.is_empty());
    with_policy
        .map(|(place, kernel)| {
            let mut rows = Rows::of(&kernel.policy, POLICY, |line| PolicyRow {
                when: span(line.since_boot),
                line,
            });
            rows.more += usize::try_from(kernel.policy_more).unwrap_or(usize::MAX - rows.more);
            PolicyView {
                number: place + 1,
                release: &kernel.release,
                rows,
            }
        })
        .collect()
}
