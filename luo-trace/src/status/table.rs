//! A [`Status`] as text for a terminal of 80 columns.
//!
//! Nothing is cut: what is wider than its column stands on a line of its own.

use std::fmt;
use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::{File, Process, Session, Status};
use crate::text::units::{bytes, count, span};

/// The width of everything.
const WIDTH: usize = 80;
/// How many of the last live updates are told.
const UPDATES: usize = 3;
/// The columns of sessions and their files: name, state, files, size, age. What follows has the rest.
const SESSION: &[Column] = &[left(22), left(9), right(6), right(10), right(8)];
const GLOBAL: &[Column] = &[left(40), left(9), right(6)];
const MEMORY: &[Column] = &[left(40), right(9), right(12)];
const OPERATIONS: &[Column] = &[left(40), right(9), right(9)];
const VERDICTS: &[Column] = &[left(28), left(9)];

/// A column's width, and whether numbers stand in it.
#[derive(Clone, Copy)]
struct Column {
    width: usize,
    right: bool,
}

const fn left(width: usize) -> Column {
    Column { width, right: false }
}

const fn right(width: usize) -> Column {
    Column { width, right: true }
}

/// Writes all of a status.
///
/// # Errors
/// Where `out` cannot be written.
pub fn write(out: &mut impl Write, status: &Status) -> io::Result<()> {
    head(out, status)?;
    if let Some(policy) = &status.policy {
        for line in policy.lines(status.time_ns) {
            paragraph(out, &format!("policy: {line}"))?;
        }
    }
    for (direction, title) in [("outgoing", "Outgoing"), ("incoming", "Incoming")] {
        sessions(out, status, direction, title)?;
    }
    global_state(out, status)?;
    memory(out, status)?;
    operations(out, status)?;
    promises(out, status)
}

fn head(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let Status { host, kernel, .. } = status;
    writeln!(out, "{} on Linux {kernel}", or_unknown(host))?;
    for update in status.updates_told().take(UPDATES) {
        paragraph(out, &update)?;
    }
    writeln!(
        out,
        "live updates since the last cold boot: {}",
        status
            .update_number
            .map_or("unknown".into(), |number| number.to_string())
    )?;
    let formats = [("LUO", &status.luo_format), ("KHO", &status.kho_format)];
    let formats = formats.map(|(name, format)| format!("{name} {}", or_unknown(format.as_deref().unwrap_or_default())));
    writeln!(out, "formats for the next kernel: {}", formats.join(", "))?;
    if let Some(scratch) = status.kho_scratch_bytes {
        writeln!(
            out,
            "memory that KHO keeps for the next kernel to start in: {}",
            bytes(scratch)
        )?;
    }
    writeln!(out, "image to jump into: {}", image(status.image.as_deref()))?;
    if let Some(verdict) = &status.image_verdict {
        paragraph(out, &verdict.tell())?;
    }
    let source = match status.source.as_ref() {
        "snapshot" => "one snapshot of the kernel's lists: no agent runs, so nothing is known of what happened before",
        _ => match status.attach.as_deref() {
            Some("multi") => {
                "the agent, which has watched since it was attached, with its hooks by links to many functions at once"
            }
            Some("each") => "the agent, which has watched since it was attached, with its hooks one by one",
            _ => "the agent, which has watched since it was attached",
        },
    };
    paragraph(out, &format!("source: {source}"))?;
    for trouble in &status.troubles {
        paragraph(out, &format!("not everything is seen: {trouble}"))?;
    }
    if status.losses.events > 0 {
        let lost = count(status.losses.events, "event");
        paragraph(out, &format!("{lost} lost: what they concern is unknown"))?;
    }
    Ok(())
}

/// What is loaded, in words for people.
pub fn image(image: Option<&str>) -> &str {
    match image {
        Some("none") => "none is loaded",
        Some("carries") => "loaded, and carries what is preserved",
        Some("carries nothing") => "loaded, and CARRIES NOTHING: what is preserved will be lost",
        Some("legacy") => "loaded by kexec_load(2): what is preserved WILL BE LOST",
        Some(other) => other,
        None => "unknown",
    }
}

fn sessions(out: &mut impl Write, status: &Status, direction: &str, title: &str) -> io::Result<()> {
    let all = || status.sessions.iter().filter(|session| session.direction == direction);
    let sessions = || all().filter(|session| !session.own);
    writeln!(out, "\n{title} sessions: {}", sessions().count())?;
    if sessions().next().is_some() {
        row(out, SESSION, &["session", "state", "files", "size", "age"], "owner")?;
        let tokens = ["  token", "state", "", "size", "age"];
        if sessions().any(|session| !session.files.is_empty()) {
            row(out, SESSION, &tokens, "handler")?;
        }
    }
    sessions().try_for_each(|session| one_session(out, session))?;
    all()
        .filter(|session| session.own)
        .try_for_each(|own| writeln!(out, "and the recorder's own session: {}", bytes(own.size())))
}

fn one_session(out: &mut impl Write, session: &Session) -> io::Result<()> {
    let files = session.files_held().to_string();
    let cells = [
        or_unknown(&session.name),
        &session.state,
        &files,
        &bytes(session.size()),
        &age(session.age_ns),
    ];
    row(out, SESSION, &cells, &owner(session))?;
    session.files.iter().try_for_each(|file| one_file(out, file))?;
    if session.pending_files > 0 {
        let files = session.pending_files.to_string();
        row(out, SESSION, &["  not asked for yet", "pending", &files, "", ""], "")?;
    }
    Ok(())
}

fn one_file(out: &mut impl Write, file: &File) -> io::Result<()> {
    let token = format!("  {}", file.token);
    let cells = [&token, file.state.as_ref(), "", &bytes(file.size), &age(file.age_ns)];
    row(out, SESSION, &cells, or_unknown(&file.handler))
}

fn global_state(out: &mut impl Write, status: &Status) -> io::Result<()> {
    if status.flbs.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    row(out, GLOBAL, &["global state", "direction", "users"], "")?;
    for flb in &status.flbs {
        let state = if flb.alive { "" } else { "gone" };
        row(out, GLOBAL, &[&flb.name, &flb.direction, &flb.users.to_string()], state)?;
    }
    Ok(())
}

fn memory(out: &mut impl Write, status: &Status) -> io::Result<()> {
    if status.memory.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    row(out, MEMORY, &["preserved, by handler", "files", "size"], "")?;
    for memory in &status.memory {
        let cells = [
            or_unknown(&memory.handler),
            &memory.files.to_string(),
            &bytes(memory.bytes),
        ];
        row(out, MEMORY, &cells, "")?;
    }
    Ok(())
}

fn operations(out: &mut impl Write, status: &Status) -> io::Result<()> {
    if status.operations.ended.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let rate = format!("{:.1} a second", status.operations.per_second);
    row(out, OPERATIONS, &["operations", "ok", "failed"], &rate)?;
    for operation in &status.operations.ended {
        let (ok, failed) = (operation.ok.to_string(), operation.failed.to_string());
        row(out, OPERATIONS, &[&operation.op, &ok, &failed], "")?;
    }
    Ok(())
}

fn promises(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(
        out,
        "\nPromises: {} held, {} violated, {} unknown",
        status.verdicts_that_are("ok"),
        status.verdicts_that_are("violated"),
        status.verdicts_that_are("unknown")
    )?;
    for verdict in status.verdicts.iter().filter(|verdict| verdict.status == "violated") {
        row(out, VERDICTS, &[&verdict.invariant, &verdict.severity], "")?;
    }
    for finding in &status.findings {
        writeln!(out)?;
        paragraph(
            out,
            &format!(
                "VIOLATED {} ({}): {}",
                finding.invariant, finding.severity, finding.object
            ),
        )?;
        paragraph(out, &format!("  expected: {}", finding.expected))?;
        paragraph(out, &format!("  seen: {}", finding.seen))?;
        paragraph(out, &format!("  {}", finding.advice))?;
    }
    Ok(())
}

/// Who holds a session: of several, the first and how many more; of none, who took it.
pub fn owner(session: &Session) -> String {
    let show = |process: &Process| format!("{}[{}]", process.comm, process.pid);
    match (session.owners.as_slice(), &session.taken_by) {
        ([], None) => String::new(),
        ([], Some(process)) => format!("({})", show(process)),
        ([one], _) => show(one),
        ([first, rest @ ..], _) => format!("{} +{}", show(first), rest.len()),
    }
}

/// An age as people read it; `-` where it is not known.
pub fn age(ns: Option<u64>) -> String {
    let Some(ns) = ns else { return "-".into() };
    let seconds = ns / 1_000_000_000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, _) => span(ns),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes:02}m"),
        (days, hours, ..) => format!("{days}d {hours:02}h"),
    }
}

/// A name, or a word for there being none.
pub fn or_unknown(name: &str) -> &str {
    if name.is_empty() { "(unknown)" } else { name }
}

/// One line of columns and what follows them.
fn row(out: &mut impl Write, columns: &[Column], cells: &[&str], last: &str) -> io::Result<()> {
    let mut line = String::new();
    for (column, cell) in columns.iter().zip(cells) {
        let padding = Padding(column.width.saturating_sub(cell.width()));
        if column.right {
            line += &format!("{padding}{cell} ");
        } else if cell.width() > column.width {
            line += &format!("{cell}\n{} ", Padding(column.width));
        } else {
            line += &format!("{cell}{padding} ");
        }
    }
    let taken = columns.iter().map(|column| column.width + 1).sum::<usize>() + 1;
    if last.width() > WIDTH.saturating_sub(taken) {
        line.truncate(line.trim_end().len());
        line += "\n   ";
    }
    line += &format!(" {last}");
    writeln!(out, "{}", line.trim_end())
}

struct Padding(usize);

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:1$}", "", self.0)
    }
}

/// Text in lines that fit, the later ones a little to the right.
fn paragraph(out: &mut impl Write, text: &str) -> io::Result<()> {
    let indent = text.len() - text.trim_start().len();
    let mut line = " ".repeat(indent);
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.width() + 1 + word.width() > WIDTH {
            writeln!(out, "{line}")?;
            line = " ".repeat(indent + 2);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    writeln!(out, "{line}")
}
