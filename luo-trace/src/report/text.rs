//! The report for a terminal.

use std::fmt::Write;

use super::json::{File, Flb, Kernel, Session, Stretch, Update};
use super::{Report, hosts, when};
use crate::chain::case::Conclusion;
use crate::text::units::{bytes, count, span};

/// How a report is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether to use colours.
    pub colour: bool,
    /// How many columns there are.
    pub width: usize,
}

/// How many updates are told in full; of more, only the last is.
const UPDATES: usize = 2;
/// How many sessions are listed one by one.
const SESSIONS: usize = 20;
/// How many files of a session are listed one by one.
const FILES: usize = 8;
/// How many machines are listed one by one.
const HOSTS: usize = 100;
/// How many findings are listed one by one.
const FINDINGS: usize = 50;
/// How many lines of policy are shown of each kernel.
const POLICY: usize = 20;
/// Columns that a bar of the timeline leaves to name and duration.
const BAR_MARGIN: usize = 38;
/// Columns that a bar of the trend leaves to number, kernels, fate and duration.
const TREND_MARGIN: usize = 68;

/// Draws a report.
pub fn render(report: &Report, style: Style) -> String {
    let mut page = Page {
        out: String::new(),
        style,
    };
    page.head(report);
    page.hosts(report);
    page.trend(report);
    let told = match report.updates.len() {
        all @ ..=UPDATES => all,
        _ => 1,
    };
    for update in &report.updates[report.updates.len() - told..] {
        if report.updates.len() > 1 {
            page.update(report, update);
        }
        page.phases(update);
        page.sessions(&update.sessions);
        page.global_state(&update.flbs);
    }
    for (place, kernel) in report.kernels.iter().enumerate() {
        page.stayed(report, place, kernel);
    }
    page.policy(report);
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

    fn head(&mut self, report: &Report) {
        let releases: Vec<&str> = report.kernels.iter().map(|kernel| kernel.release.as_str()).collect();
        let what = match (report.updates.len(), releases.len()) {
            (_, 0) => "Nothing was recorded".to_owned(),
            (0, 1) => format!("One kernel: {}", releases[0]),
            (0, kernels) => format!("{kernels} kernels, and no live update between them"),
            (1, 1) => format!("A live update, seen from one kernel: {}", releases[0]),
            (1, _) => format!(
                "A live update over {} kernels: {}",
                releases.len(),
                releases.join(" → ")
            ),
            (updates, kernels) => format!(
                "{} over {}",
                count(updates as u64, "live update"),
                count(kernels as u64, "kernel")
            ),
        };
        let head = self.paint("1;36", &what);
        line!(self, "{head}");
    }

    /// One line a machine, where there are several.
    fn hosts(&mut self, report: &Report) {
        let hosts = hosts(report);
        if hosts.is_empty() {
            return;
        }
        self.title("Hosts");
        line!(
            self,
            "  {:<24} {:>7} {:>7} {:>8}  {:<20}  {:<36} {:>10}  last outcome",
            "",
            "kernels",
            "updates",
            "findings",
            "last update (UTC)",
            "its kernels",
            "blackout"
        );
        for host in hosts.iter().take(HOSTS) {
            let last = host.last.as_ref();
            let outcome = last.map_or("-", |row| &*row.outcome);
            let code = match host.tone() {
                "bad" => "31",
                "fair" => "33",
                _ => "32",
            };
            let outcome = self.paint(code, outcome);
            line!(
                self,
                "  {:<24} {:>7} {:>7} {:>8}  {:<20}  {:<36} {:>10}  {outcome}",
                shorten(&host.name, 24),
                host.kernels,
                host.updates,
                host.findings,
                last.and_then(|row| row.time_unix_ns).map_or("-".into(), when),
                last.map_or("-".into(), |row| shorten(&row.way(), 36)),
                last.and_then(|row| row.blackout_ns).map_or("-".into(), span),
            );
        }
        if hosts.len() > HOSTS {
            line!(self, "  and {} more", count((hosts.len() - HOSTS) as u64, "host"));
        }
    }

    /// One line an update, so that many can be compared.
    fn trend(&mut self, report: &Report) {
        if report.updates.len() < 2 {
            return;
        }
        self.title("Updates");
        let longest = report.updates.iter().filter_map(|update| update.blackout_ns).max();
        let room = self.style.width.saturating_sub(TREND_MARGIN).clamp(10, 60);
        line!(
            self,
            "  {:<8} {:<36} {:<10} {:>10}",
            "number",
            "kernels",
            "",
            "blackout"
        );
        for update in &report.updates {
            let blackout = update.blackout_ns;
            let length = (blackout.unwrap_or(0) as f64 / longest.unwrap_or(0).max(1) as f64 * room as f64).ceil();
            let bar = self.paint("33", &"█".repeat(length as usize));
            line!(
                self,
                "  {:<8} {:<36} {:<10} {:>10}  {bar}",
                update.label(),
                shorten(&report.way(update), 36),
                update.fate.name(),
                blackout.map_or("-".into(), span),
            );
        }
    }

    fn update(&mut self, report: &Report, update: &Update) {
        let what = format!(
            "Update {}: {}, {}",
            update.label(),
            report.way(update),
            update.fate.name()
        );
        let what = self.paint("1;36", &what);
        line!(self);
        line!(self, "{what}");
    }

    fn phases(&mut self, update: &Update) {
        let (Some(first), Some(whole)) = (update.phases.first(), update.whole_ns) else {
            return;
        };
        let room = self.style.width.saturating_sub(BAR_MARGIN).clamp(20, 120);
        self.title("Timeline");
        let column = |ns: i64| ((ns - first.start_ns) as f64 / whole.max(1) as f64 * room as f64) as usize;
        for phase in update.phases.iter().filter(|phase| phase.duration_ns > 0) {
            let start = column(phase.start_ns).min(room - 1);
            let end = column(phase.start_ns.saturating_add_unsigned(phase.duration_ns)).min(room);
            // A phase too short for a column still shows where it is.
            let bar = if end > start {
                "█".repeat(end - start)
            } else {
                "▏".to_owned()
            };
            let blank = room - start - bar.chars().count();
            let bar = self.paint(if phase.blackout { "33" } else { "32" }, &bar);
            line!(
                self,
                "  {:<20} {}{bar}{} {:>10}",
                phase.name,
                " ".repeat(start),
                " ".repeat(blank),
                span(phase.duration_ns)
            );
        }
        line!(self, "  {:<20} {} {:>10}", "in all", " ".repeat(room), span(whole));
        for note in update.notes() {
            line!(self, "  {note}");
        }
    }

    fn sessions(&mut self, sessions: &[Session]) {
        self.title("Sessions");
        if sessions.is_empty() {
            line!(self, "  none");
            return;
        }
        line!(
            self,
            "  {:<28} {:<14} {:>10} {:>10} {:>10} {:>10}  what became of it",
            "",
            "handler",
            "size",
            "preserve",
            "retrieve",
            "blackout"
        );
        for session in sessions.iter().take(SESSIONS) {
            let name = if session.name.is_empty() { "?" } else { &session.name };
            let label = self.paint("1", &format!("{:<28}", shorten(name, 28)));
            let fate = session.fate.describe();
            let fate = if session.fate.is_good() {
                fate.to_owned()
            } else {
                self.paint("1;31", fate)
            };
            line!(
                self,
                "  {label} {:<14} {:>10} {:>10} {:>10} {:>10}  {fate}",
                count(session.files.len() as u64, "file"),
                bytes(session.bytes),
                total(session, |file| file.preserve),
                total(session, |file| file.retrieve),
                session.blackout_ns.map_or("-".into(), span),
            );
            for file in session.files.iter().take(FILES) {
                self.file(file);
            }
            if session.files.len() > FILES {
                line!(
                    self,
                    "    and {} more",
                    count((session.files.len() - FILES) as u64, "file")
                );
            }
            for refused in &session.refused {
                let code = if refused.usual { "2" } else { "33" };
                let text = self.paint(code, &refused.describe());
                line!(self, "    {text}");
            }
        }
        if sessions.len() > SESSIONS {
            line!(
                self,
                "  and {} more",
                count((sessions.len() - SESSIONS) as u64, "session")
            );
        }
    }

    fn file(&mut self, file: &File) {
        let time = |stretch: Option<Stretch>| stretch.map_or("-".into(), |stretch| span(stretch.duration_ns));
        line!(
            self,
            "    {}",
            format!(
                "token {:<20} {:<14} {:>10} {:>10} {:>10} {:>10}  {}",
                file.token,
                file.handler,
                bytes(file.bytes),
                time(file.preserve),
                time(file.retrieve),
                "",
                file.note()
            )
            .trim_end()
        );
    }

    fn global_state(&mut self, flbs: &[Flb]) {
        if flbs.is_empty() {
            return;
        }
        self.title("Global state");
        for flb in flbs {
            let sides = [
                side(&[(flb.created, "created")], flb.users),
                side(&[(flb.restored, "restored"), (flb.destroyed, "destroyed")], None),
            ];
            let sides: Vec<String> = sides.into_iter().flatten().collect();
            line!(self, "  {:<28} {}", shorten(&flb.name, 28), sides.join("  →  "));
        }
    }

    /// Sessions that no update took along.
    fn stayed(&mut self, report: &Report, place: usize, kernel: &Kernel) {
        if kernel.sessions.is_empty() {
            return;
        }
        if report.kernels.len() > 1 {
            let what = self.paint(
                "1;36",
                &format!("What stayed in kernel {}, {}", place + 1, kernel.release),
            );
            line!(self);
            line!(self, "{what}");
        }
        self.sessions(&kernel.sessions);
    }

    /// What policy did, and what an operator ordered.
    fn policy(&mut self, report: &Report) {
        for (place, kernel) in report.kernels.iter().enumerate() {
            if kernel.policy.is_empty() {
                continue;
            }
            self.title(&format!(
                "Policy and images in kernel {}, {}",
                place + 1,
                kernel.release
            ));
            for line in kernel.policy.iter().take(POLICY) {
                let code = match line.tone() {
                    "bad" => "31",
                    "fair" => "33",
                    _ => "0",
                };
                let text = self.paint(code, &line.text);
                line!(self, "  {:>10}  {text}", span(line.since_boot));
            }
            let more = kernel.policy_more + kernel.policy.len().saturating_sub(POLICY) as u64;
            if more > 0 {
                line!(self, "  and {}", count(more, "more line"));
            }
        }
    }

    fn verdicts(&mut self, report: &Report) {
        self.title("Findings");
        for found in report.findings.iter().take(FINDINGS) {
            let finding = self.paint("31", &found.finding.to_string());
            line!(self, "  {finding}");
        }
        if report.findings.len() > FINDINGS {
            line!(
                self,
                "  and {} more",
                count((report.findings.len() - FINDINGS) as u64, "finding")
            );
        }
        let with = |status| {
            let verdicts = report.verdicts.iter().filter(move |verdict| verdict.status == status);
            verdicts.map(|verdict| verdict.invariant).collect::<Vec<_>>()
        };
        let (held, violated, unknown) = (with("ok"), with("violated"), with("unknown"));
        let unwatched = with("unwatched");
        let mut verdict = format!(
            "{} held, {} violated, {} unknown",
            count(held.len() as u64, "invariant"),
            violated.len(),
            unknown.len()
        );
        if !unwatched.is_empty() {
            verdict += &format!(", {} not watched without --kho keys", unwatched.len());
        }
        let (colour, none) = match (violated.is_empty(), report.findings.is_empty()) {
            (true, true) => ("32", "none: "),
            (true, false) => ("33", ""),
            (false, _) => ("1;31", ""),
        };
        let verdict = self.paint(colour, &verdict);
        line!(self, "  {none}{verdict}");
        if !unknown.is_empty() {
            line!(self, "  unknown: {}", unknown.join(", "));
        }
        if report.result != Conclusion::Held {
            line!(self, "  In all: {}.", report.result.name());
        }
    }

    fn records(&mut self, report: &Report) {
        self.title("Records");
        for kernel in &report.kernels {
            line!(
                self,
                "  {}, {} lost  {}",
                count(kernel.events, "event"),
                kernel.lost,
                kernel.journal
            );
            for doubt in &kernel.doubts {
                let doubt = self.paint("33", doubt);
                line!(self, "    {doubt}");
            }
        }
        for journal in &report.repeated {
            line!(
                self,
                "  left out, since another record tells more of the same boot: {journal}"
            );
        }
        for journal in &report.unreadable {
            let journal = self.paint("33", journal);
            line!(self, "  left out, and what is in it is not known: {journal}");
        }
        for doubt in &report.doubts {
            let doubt = self.paint("33", doubt);
            line!(self, "  {doubt}");
        }
    }
}

fn side(counts: &[(Option<u32>, &str)], users: Option<u32>) -> Option<String> {
    let known: Vec<(u32, &str)> = counts
        .iter()
        .filter_map(|&(times, what)| Some((times?, what)))
        .collect();
    if known.is_empty() {
        return None;
    }
    let mut told = Vec::new();
    for (times, what) in known {
        match times {
            0 => {}
            1 => told.push(format!("{what} once")),
            times => told.push(format!("{what} {times} times")),
        }
    }
    if let Some(users) = users.filter(|&users| users > 0) {
        told.push(format!("used by {}", count(users.into(), "file")));
    }
    Some(if told.is_empty() {
        "not touched".into()
    } else {
        told.join(", ")
    })
}

fn total(session: &Session, pick: fn(&File) -> Option<Stretch>) -> String {
    let times: Vec<u64> = session
        .files
        .iter()
        .filter_map(pick)
        .map(|stretch| stretch.duration_ns)
        .collect();
    if times.is_empty() {
        "-".into()
    } else {
        span(times.iter().fold(0, |sum, &time| sum.saturating_add(time)))
    }
}

fn shorten(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}
