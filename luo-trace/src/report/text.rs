//! The report for a terminal.

use std::collections::BTreeSet;
use std::fmt::Write;

use luo_trace_common::text::SessionName;

use super::Report;
use super::units::{bytes, count, span};
use crate::chain::{Boot, Chain, FileLine, SessionLine};
use crate::model::Status;
use crate::timeline::Course;

/// How a report is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether to use colours.
    pub colour: bool,
    /// How many columns there are.
    pub width: usize,
}

/// How many sessions are listed one by one.
const SESSIONS: usize = 20;
/// How many files of a session are listed one by one.
const FILES: usize = 8;
/// Columns that a bar of the timeline leaves to name, kernel and duration.
const BAR_MARGIN: usize = 36;

/// Draws a report.
pub fn render(report: &Report, style: Style) -> String {
    let mut page = Page {
        out: String::new(),
        style,
    };
    page.head(&report.case.chain);
    for course in &report.timeline.updates {
        page.phases(course);
    }
    page.sessions(&report.case.chain);
    page.global_state(&report.case.chain);
    page.verdicts(report);
    page.records(report);
    page.out
}

struct Page {
    out: String,
    style: Style,
}

/// Writing to a String cannot fail.
macro_rules! line {
    ($page:expr) => { _ = writeln!($page.out) };
    ($page:expr, $($arg:tt)*) => { _ = writeln!($page.out, $($arg)*) };
}

impl Page {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.style.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn title(&mut self, text: &str) {
        let title = self.paint("1", text);
        line!(self);
        line!(self, "{title}");
    }

    fn head(&mut self, chain: &Chain) {
        let releases: Vec<&str> = chain.boots.iter().map(|boot| boot.release.as_str()).collect();
        let what = match chain.boots.len() {
            0 => "Nothing was recorded".to_owned(),
            1 => format!("One kernel: {}", releases[0]),
            _ => format!(
                "A live update over {} kernels: {}",
                releases.len(),
                releases.join(" → ")
            ),
        };
        let head = self.paint("1;36", &what);
        line!(self, "{head}");
    }

    fn phases(&mut self, course: &Course) {
        let (Some(first), Some(whole)) = (course.phases.first(), course.whole()) else {
            return;
        };
        let room = self.style.width.saturating_sub(BAR_MARGIN).clamp(20, 120);
        self.title("Timeline");
        for phase in course.phases.iter().filter(|phase| phase.duration() > 0) {
            let column = |time: i128| ((time - first.start) as f64 / whole.max(1) as f64 * room as f64) as usize;
            let (start, end) = (column(phase.start).min(room - 1), column(phase.end));
            // A phase too short for a column still shows where it is.
            let bar = if end > start {
                "█".repeat(end - start)
            } else {
                "▏".to_owned()
            };
            let blank = room - start - bar.chars().count();
            let bar = self.paint(if phase.is_blackout() { "33" } else { "32" }, &bar);
            line!(
                self,
                "  {:<12} {}{bar}{} {:>10}",
                phase.name(),
                " ".repeat(start),
                " ".repeat(blank),
                span(phase.duration())
            );
        }
        line!(self, "  {:<12} {} {:>10}", "in all", " ".repeat(room), span(whole));
        if let Some(blackout) = course.blackout {
            let blackout = self.paint("1;33", &span(blackout));
            line!(
                self,
                "  Blackout {blackout}: from the beginning of the freeze to the last file brought back."
            );
        }
        if let Some(link) = course.link {
            let basis = link.basis.describe();
            line!(self, "  Time between kernels: {basis}, ± {}.", span(link.uncertainty));
        }
    }

    fn sessions(&mut self, chain: &Chain) {
        let names: BTreeSet<SessionName> = chain
            .boots
            .iter()
            .flat_map(|boot| {
                boot.incoming
                    .iter()
                    .chain(boot.outgoing.iter())
                    .chain(&boot.outgoing.abandoned)
            })
            .map(|session| session.name)
            .collect();
        self.title("Sessions");
        if names.is_empty() {
            line!(self, "  none");
            return;
        }
        line!(
            self,
            "  {:<28} {:<14} {:>10} {:>10} {:>10}  what became of it",
            "",
            "handler",
            "size",
            "preserve",
            "retrieve"
        );
        for name in names.iter().take(SESSIONS) {
            let sides: Vec<Option<&SessionLine>> = chain.boots.iter().flat_map(|boot| sides_of(boot, name)).collect();
            let label = self.paint("1", &format!("{:<28}", shorten(&name.to_string(), 28)));
            let files: BTreeSet<u64> = sides
                .iter()
                .flatten()
                .flat_map(|side| side.files.keys().copied())
                .collect();
            let size: u64 = files
                .iter()
                .map(|token| side(&sides, |s| s.files.get(token)).map(|f| f.size).max().unwrap_or(0))
                .sum();
            line!(
                self,
                "  {label} {:<14} {:>10} {:>10} {:>10}  {}",
                count(files.len() as u64, "file"),
                bytes(size),
                total(&sides, |file| file.preserve.map(|span| span.duration())),
                total(&sides, |file| file.retrieve.map(|span| span.duration())),
                fate(&sides, chain.boots.len() > 1)
            );
            for token in files.iter().take(FILES) {
                self.file(*token, &side(&sides, |s| s.files.get(token)).collect::<Vec<_>>());
            }
            if files.len() > FILES {
                line!(self, "    and {}", count((files.len() - FILES) as u64, "file"));
            }
        }
        if names.len() > SESSIONS {
            line!(self, "  and {}", count((names.len() - SESSIONS) as u64, "session"));
        }
    }

    fn file(&mut self, token: u64, sides: &[&FileLine]) {
        let handler = sides
            .iter()
            .map(|file| file.handler)
            .find(|handler| !handler.is_empty())
            .unwrap_or_default();
        let size = sides.iter().map(|file| file.size).max().unwrap_or(0);
        let time = |pick: fn(&FileLine) -> Option<u64>| sides.iter().copied().find_map(pick).map_or("-".into(), span);
        let failures: u32 = sides.iter().map(|file| file.failures).sum();
        let note = if failures > 0 {
            count(failures.into(), "refusal")
        } else {
            String::new()
        };
        line!(
            self,
            "    token {:<20} {:<14} {:>10} {:>10} {:>10}  {note}",
            format!("{token:#x}"),
            handler.to_string(),
            bytes(size),
            time(|file| file.preserve.map(|span| span.duration())),
            time(|file| file.retrieve.map(|span| span.duration()))
        );
    }

    fn global_state(&mut self, chain: &Chain) {
        let names: BTreeSet<_> = chain.boots.iter().flat_map(|boot| boot.flbs.keys().copied()).collect();
        if names.is_empty() {
            return;
        }
        self.title("Global state");
        for name in names {
            let tell = |boot: &Boot| {
                let Some(flb) = boot.flbs.get(&name) else {
                    return "not touched".to_owned();
                };
                let mut told = Vec::new();
                for (times, what) in [
                    (flb.created, "created"),
                    (flb.restored, "restored"),
                    (flb.destroyed, "destroyed"),
                ] {
                    match times {
                        0 => {}
                        1 => told.push(format!("{what} once")),
                        times => told.push(format!("{what} {times} times")),
                    }
                }
                if flb.joined > 0 {
                    told.push(format!("used by {}", count(flb.joined.into(), "file")));
                }
                told.join(", ")
            };
            let sides: Vec<String> = chain.boots.iter().map(tell).collect();
            line!(self, "  {:<28} {}", shorten(&name.to_string(), 28), sides.join("  →  "));
        }
    }

    fn verdicts(&mut self, report: &Report) {
        self.title("Findings");
        for finding in report.case.findings() {
            let finding = self.paint("31", &finding.to_string());
            line!(self, "  {finding}");
        }
        let with = |status, unwatched: bool| {
            let boots = report.case.records.iter().flat_map(|record| &record.judgement.verdicts);
            let verdicts = boots.chain(&report.case.chain.verdicts);
            let verdicts = verdicts.filter(move |verdict| verdict.status == status);
            let wanted = verdicts.filter(move |verdict| verdict.is_unwatched() == unwatched);
            wanted.map(|verdict| verdict.invariant).collect::<BTreeSet<_>>()
        };
        let (violated, unknown) = (with(Status::Violated, false), with(Status::Unknown, false));
        let unwatched = with(Status::Unknown, true);
        let held = with(Status::Ok, false)
            .iter()
            .filter(|id| ![&violated, &unknown, &unwatched].iter().any(|set| set.contains(id)))
            .count();
        let mut verdict = format!(
            "{} held, {} violated, {} unknown",
            count(held as u64, "invariant"),
            violated.len(),
            unknown.len()
        );
        if !unwatched.is_empty() {
            verdict += &format!(", {} not watched without --kho keys", unwatched.len());
        }
        let (colour, none) = if violated.is_empty() {
            ("32", "none: ")
        } else {
            ("1;31", "")
        };
        let verdict = self.paint(colour, &verdict);
        line!(self, "  {none}{verdict}");
        if !unknown.is_empty() {
            let unknown: Vec<&str> = unknown.iter().map(|invariant| invariant.id()).collect();
            line!(self, "  unknown: {}", unknown.join(", "));
        }
    }

    fn records(&mut self, report: &Report) {
        self.title("Records");
        for (boot, record) in report.case.chain.boots.iter().zip(&report.case.records) {
            line!(
                self,
                "  {}, {} lost  {}",
                count(boot.events, "event"),
                boot.lost,
                record.journal.display()
            );
            for doubt in record.judgement.doubts() {
                let doubt = self.paint("33", &doubt);
                line!(self, "    {doubt}");
            }
        }
    }
}

/// What one kernel knows of the sessions of this name.
fn sides_of<'a>(boot: &'a Boot, name: &SessionName) -> [Option<&'a SessionLine>; 3] {
    let abandoned = boot.outgoing.abandoned.iter().find(|session| session.name == *name);
    [boot.incoming.get(name), abandoned, boot.outgoing.get(name)]
}

/// What each kernel knows of something that one session holds.
fn side<'a, T>(
    sides: &'a [Option<&'a SessionLine>],
    pick: impl Fn(&'a SessionLine) -> Option<T> + 'a,
) -> impl Iterator<Item = T> + 'a {
    sides.iter().flatten().filter_map(move |session| pick(session))
}

fn total(sides: &[Option<&SessionLine>], pick: fn(&FileLine) -> Option<u64>) -> String {
    let times: Vec<u64> = side(sides, |session| Some(session.files.values().filter_map(pick)))
        .flatten()
        .collect();
    if times.is_empty() {
        "-".into()
    } else {
        span(times.iter().sum())
    }
}

/// What became of a session, in words.
fn fate(sides: &[Option<&SessionLine>], followed: bool) -> &'static str {
    let any = |pick: fn(&SessionLine) -> bool| sides.iter().flatten().copied().any(pick);
    let frozen = any(|session| session.frozen.is_some_and(|span| span.ok));
    match () {
        () if any(|session| session.finished.is_some()) => "came over and finished",
        () if any(|session| session.retrieved.is_some()) => "came over, not finished",
        () if frozen && followed => "left, and was not asked for",
        () if frozen => "left",
        () if any(|session| session.abandoned.is_some()) => "abandoned",
        () => "alive",
    }
}

fn shorten(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}
