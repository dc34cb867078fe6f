//! What `luo-trace top` shows: a pure function of the state and of what the keys have chosen.

use std::borrow::Cow;
use std::cmp::Ordering;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Table, Tabs, Wrap};

use crate::policy::tell::ImageVerdict;
use crate::report::UpdateOutcome;
use crate::status::policy::Order;
use crate::status::table::{age, or_unknown, owner};
use crate::status::{File, Finding, Flb, Memory, Operation, Session, Status, Verdict};
use crate::text::units::{bytes, count, span};

/// Below this height there is no room for anything but the list.
const ROOM_FOR_FINDINGS: u16 = 14;
/// The lines that the findings take, with their title.
const FINDINGS: u16 = 6;

const HELP: &str = "\
tab, right   next list
left         list before
up, down     move; also j and k
page up, page down, home, end
s            sort by the next column
r            the other way round
ctrl-l       draw everything anew
?            this help
q, ctrl-c    quit";

/// A list that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Sessions,
    Files,
    Flbs,
    Memory,
    Operations,
    Promises,
    Findings,
}

impl Tab {
    pub(super) const ALL: [Tab; 7] = [
        Tab::Sessions,
        Tab::Files,
        Tab::Flbs,
        Tab::Memory,
        Tab::Operations,
        Tab::Promises,
        Tab::Findings,
    ];

    const fn title(self) -> &'static str {
        match self {
            Tab::Sessions => "Sessions",
            Tab::Files => "Files",
            Tab::Flbs => "Global",
            Tab::Memory => "Memory",
            Tab::Operations => "Ops",
            Tab::Promises => "Promises",
            Tab::Findings => "Findings",
        }
    }

    /// The columns' titles and widths.
    const fn columns(self) -> &'static [(&'static str, Constraint)] {
        use Constraint::{Length, Min};
        match self {
            Tab::Sessions => &[
                ("session", Min(12)),
                ("direction", Length(9)),
                ("state", Length(9)),
                ("files", Length(6)),
                ("size", Length(10)),
                ("age", Length(8)),
                ("owner", Length(18)),
            ],
            Tab::Files => &[
                ("session", Min(12)),
                ("token", Length(18)),
                ("handler", Min(12)),
                ("state", Length(9)),
                ("size", Length(10)),
                ("age", Length(8)),
            ],
            Tab::Flbs => &[
                ("global state", Min(20)),
                ("direction", Length(9)),
                ("users", Length(8)),
                ("exists", Length(6)),
            ],
            Tab::Memory => &[("handler", Min(20)), ("files", Length(10)), ("size", Length(12))],
            Tab::Operations => &[("operation", Min(20)), ("ok", Length(12)), ("failed", Length(12))],
            Tab::Promises => &[
                ("promise", Length(26)),
                ("verdict", Length(8)),
                ("severity", Length(8)),
                ("what it says", Min(20)),
            ],
            Tab::Findings => &[
                ("promise", Length(24)),
                ("severity", Length(8)),
                ("object", Min(20)),
                ("seen", Min(20)),
            ],
        }
    }
}

/// What the keys have chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) tab: Tab,
    /// The row that is marked.
    pub(super) selected: usize,
    /// The column to sort by, from 1; 0: the order in which things are told.
    pub(super) sort: usize,
    pub(super) reverse: bool,
    pub(super) help: bool,
}

impl View {
    /// Goes so many lists on, round and round.
    pub(super) fn turn(&mut self, by: usize) {
        let now = Tab::ALL.iter().position(|&tab| tab == self.tab).unwrap_or(0);
        *self = Self {
            tab: Tab::ALL[(now + by) % Tab::ALL.len()],
            ..Self::default()
        };
    }

    /// Marks another row, of so many.
    pub(super) fn move_by(&mut self, rows: isize, of: usize) {
        self.selected = self.selected.min(of.saturating_sub(1)).saturating_add_signed(rows);
        self.selected = self.selected.min(of.saturating_sub(1));
    }

    pub(super) fn sort_by_next(&mut self) {
        self.sort = (self.sort + 1) % (self.tab.columns().len() + 1);
    }
}

/// What a row is about.
#[derive(Clone, Copy)]
enum Item<'a> {
    Session(&'a Session),
    File(&'a Session, &'a File),
    Flb(&'a Flb),
    Memory(&'a Memory),
    Operation(&'a Operation),
    Verdict(&'a Verdict),
    Finding(&'a Finding),
}

/// What a cell is sorted by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Number(u64),
    Text(Cow<'a, str>),
}

impl<'a> Item<'a> {
    fn cell(self, column: usize) -> Cow<'a, str> {
        let number = |number: u64| Cow::Owned(number.to_string());
        let text = |text: &'a str| Cow::Borrowed(text);
        match (self, column) {
            (Item::Session(s) | Item::File(s, _), 0) => text(or_unknown(&s.name)),
            (Item::Session(s), 1) => text(&s.direction),
            (Item::Session(s), 2) => text(&s.state),
            (Item::Session(s), 3) => number(s.files_held()),
            (Item::Session(s), 4) => bytes(s.size()).into(),
            (Item::Session(s), 5) => age(s.age_ns).into(),
            (Item::Session(s), 6) => owner(s).into(),
            (Item::File(_, f), 1) => text(&f.token),
            (Item::File(_, f), 2) => text(or_unknown(&f.handler)),
            (Item::File(_, f), 3) => text(&f.state),
            (Item::File(_, f), 4) => bytes(f.size).into(),
            (Item::File(_, f), 5) => age(f.age_ns).into(),
            (Item::Flb(f), 0) => text(or_unknown(&f.name)),
            (Item::Flb(f), 1) => text(&f.direction),
            (Item::Flb(f), 2) => number(f.users),
            (Item::Flb(f), 3) => text(if f.alive { "yes" } else { "no" }),
            (Item::Memory(m), 0) => text(or_unknown(&m.handler)),
            (Item::Memory(m), 1) => number(m.files),
            (Item::Memory(m), 2) => bytes(m.bytes).into(),
            (Item::Operation(o), 0) => text(&o.op),
            (Item::Operation(o), 1) => number(o.ok),
            (Item::Operation(o), 2) => number(o.failed),
            (Item::Verdict(v), 0) => text(&v.invariant),
            (Item::Verdict(v), 1) => text(&v.status),
            (Item::Verdict(v), 2) => text(&v.severity),
            (Item::Verdict(v), 3) => text(&v.statement),
            (Item::Finding(f), 0) => text(&f.invariant),
            (Item::Finding(f), 1) => text(&f.severity),
            (Item::Finding(f), 2) => text(&f.object),
            (Item::Finding(f), 3) => text(&f.seen),
            _ => text(""),
        }
    }

    fn key(self, column: usize) -> Key<'a> {
        let token = |token: &str| u64::from_str_radix(token.trim_start_matches("0x"), 16).unwrap_or(0);
        Key::Number(match (self, column) {
            (Item::Session(s), 3) => s.files_held(),
            (Item::Session(s), 4) => s.size(),
            // What is older than the record comes last.
            (Item::Session(s), 5) => s.age_ns.unwrap_or(u64::MAX),
            (Item::File(_, f), 1) => token(&f.token),
            (Item::File(_, f), 4) => f.size,
            (Item::File(_, f), 5) => f.age_ns.unwrap_or(u64::MAX),
            (Item::Flb(f), 2) => f.users,
            (Item::Memory(m), 1) => m.files,
            (Item::Memory(m), 2) => m.bytes,
            (Item::Operation(o), 1) => o.ok,
            (Item::Operation(o), 2) => o.failed,
            _ => return Key::Text(self.cell(column)),
        })
    }

    fn style(self) -> Style {
        let of = |word: &str| match word {
            "violated" | "failed" | "stranded" => Style::new().fg(Color::Red),
            "unknown" => Style::new().fg(Color::Yellow),
            _ => Style::new(),
        };
        match self {
            Item::Session(s) => of(&s.state),
            Item::File(_, f) => of(&f.state),
            Item::Verdict(v) => of(&v.status),
            Item::Finding(_) => Style::new().fg(Color::Red),
            Item::Flb(_) | Item::Memory(_) | Item::Operation(_) => Style::new(),
        }
    }
}

/// How many rows a list has.
pub(super) fn rows(status: &Status, tab: Tab) -> usize {
    match tab {
        Tab::Sessions => status.sessions.len(),
        Tab::Files => status.sessions.iter().map(|session| session.files.len()).sum(),
        Tab::Flbs => status.flbs.len(),
        Tab::Memory => status.memory.len(),
        Tab::Operations => status.operations.ended.len(),
        Tab::Promises => status.verdicts.len(),
        Tab::Findings => status.findings.len(),
    }
}

fn items<'a>(status: &'a Status, view: &View) -> Vec<Item<'a>> {
    let mut items: Vec<Item> = match view.tab {
        Tab::Sessions => status.sessions.iter().map(Item::Session).collect(),
        Tab::Files => {
            let files = |session: &'a Session| session.files.iter().map(move |file| Item::File(session, file));
            status.sessions.iter().flat_map(files).collect()
        }
        Tab::Flbs => status.flbs.iter().map(Item::Flb).collect(),
        Tab::Memory => status.memory.iter().map(Item::Memory).collect(),
        Tab::Operations => status.operations.ended.iter().map(Item::Operation).collect(),
        Tab::Promises => status.verdicts.iter().map(Item::Verdict).collect(),
        Tab::Findings => status.findings.iter().map(Item::Finding).collect(),
    };
    if let Some(column) = view.sort.checked_sub(1) {
        items.sort_by(|a, b| compare(*a, *b, column));
    }
    if view.reverse {
        items.reverse();
    }
    items
}

fn compare(a: Item, b: Item, column: usize) -> Ordering {
    a.key(column).cmp(&b.key(column))
}

/// Draws everything. `trouble` says why the state may be old.
pub(super) fn draw(frame: &mut Frame, status: &Status, trouble: Option<&str>, view: &View) {
    let area = frame.area();
    let findings = if area.height >= ROOM_FOR_FINDINGS { FINDINGS } else { 0 };
    let areas: [Rect; 5] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(findings),
        Constraint::Length(1),
    ])
    .areas(area);
    let [head, tabs, list, findings, keys] = areas;
    draw_head(frame, head, status, trouble);
    draw_tabs(frame, tabs, status, view);
    draw_list(frame, list, status, view);
    draw_findings(frame, findings, status, view);
    let line = "q quit  tab next list  ↑↓ move  s sort  r reverse  ? help";
    frame.render_widget(Line::from(line).dim(), keys);
    if view.help {
        draw_help(frame, area);
    }
}

fn draw_head(frame: &mut Frame, area: Rect, status: &Status, trouble: Option<&str>) {
    let update = status.update_number.map_or("?".into(), |number| number.to_string());
    let image = status.image.as_deref().unwrap_or("unknown");
    let loses = matches!(image, "legacy" | "carries nothing") && status.preserved_bytes() > 0;
    let verdict = status.image_verdict.as_ref().map(ImageVerdict::word);
    let loses = loses || matches!(verdict, Some("loses" | "panics")) && status.preserved_bytes() > 0;
    // An image that could carry may hold a kernel that does not.
    let image = Span::from(match (image, verdict) {
        ("carries", Some(verdict)) => format!("image {verdict}"),
        _ => format!("image {image}"),
    });
    let first = Line::from(vec![
        Span::from(or_unknown(&status.host)).bold(),
        Span::from(format!("  Linux {}  update {update}  ", status.kernel)),
        last_update(status),
        if loses { image.red().bold() } else { image },
    ]);
    let first = Line::from_iter(first.spans.into_iter().chain(policy(status).spans));
    let second = match trouble.or(status.troubles.first().map(String::as_str)) {
        Some(trouble) => Line::from(trouble.to_owned()).yellow(),
        None => Line::from(sums(status)),
    };
    frame.render_widget(Paragraph::new(vec![first, second]), area);
}

/// What the last live update came to; nothing, where there was none.
fn last_update(status: &Status) -> Span<'static> {
    let Some(update) = status.updates.first() else {
        return Span::default();
    };
    let blackout = update
        .blackout_ns
        .map_or(String::new(), |ns| format!(", blackout {}", span(ns)));
    let said = Span::from(format!("{}{blackout}  ", update.outcome));
    match [UpdateOutcome::Completed, UpdateOutcome::Waiting]
        .iter()
        .any(|good| good.name() == update.outcome)
    {
        true => said,
        false => said.red().bold(),
    }
}

/// What policy does at all, and what an operator ordered.
fn policy(status: &Status) -> Line<'static> {
    let Some(policy) = &status.policy else {
        return Line::default();
    };
    let mode = Span::from(format!("  policy {}", policy.mode));
    let hold = policy.hold.as_ref().map(|_| Span::from(" HELD").red().bold());
    let allowed = |order: &Order| Span::from(format!(" ALLOWED {}", order.end(status.time_ns))).yellow();
    let orders = hold.into_iter().chain(policy.allowance.as_ref().map(allowed));
    Line::from_iter([mode].into_iter().chain(orders))
}

fn sums(status: &Status) -> String {
    let files: u64 = status.memory.iter().map(|memory| memory.files).sum();
    let lost = match status.losses.events {
        0 => "nothing lost".into(),
        lost => format!("{} lost", count(lost, "event")),
    };
    format!(
        "{} preserved in {}  {:.1} ops/s  {lost}",
        bytes(status.preserved_bytes()),
        count(files, "file"),
        status.operations.per_second
    )
}

fn draw_tabs(frame: &mut Frame, area: Rect, status: &Status, view: &View) {
    let titles = Tab::ALL.map(|tab| match rows(status, tab) {
        0 => tab.title().to_owned(),
        rows => format!("{} {rows}", tab.title()),
    });
    let selected = Tab::ALL.iter().position(|&tab| tab == view.tab);
    let tabs = Tabs::new(titles)
        .select(selected)
        .padding("", "")
        .divider("  ")
        .highlight_style(Style::new().reversed());
    frame.render_widget(tabs, area);
}

fn draw_list(frame: &mut Frame, area: Rect, status: &Status, view: &View) {
    let items = items(status, view);
    let room = usize::from(area.height.saturating_sub(1));
    let selected = view.selected.min(items.len().saturating_sub(1));
    // Only what fits is made into rows: a list may have a hundred thousand.
    let first = selected.saturating_sub(room / 2).min(items.len().saturating_sub(room));
    let columns = view.tab.columns();
    let shown = items.iter().enumerate().skip(first).take(room).map(|(i, item)| {
        let row = Row::new((0..columns.len()).map(|column| item.cell(column)));
        let style = item.style();
        row.style(if i == selected { style.reversed() } else { style })
    });
    let titles = columns.iter().enumerate().map(|(i, (title, _))| {
        let arrow = match (view.sort == i + 1, view.reverse) {
            (false, _) => "",
            (true, false) => "↑",
            (true, true) => "↓",
        };
        format!("{title}{arrow}")
    });
    let table = Table::new(shown, columns.iter().map(|(_, width)| *width))
        .header(Row::new(titles).bold())
        .column_spacing(1);
    frame.render_widget(table, area);
    if items.is_empty() && area.height > 1 {
        let below = Rect {
            y: area.y + 1,
            height: 1,
            ..area
        };
        frame.render_widget(Line::from("none").dim(), below);
    }
}

/// The last findings, or all about the one that is marked.
fn draw_findings(frame: &mut Frame, area: Rect, status: &Status, view: &View) {
    let (ok, violated, unknown) = (
        status.verdicts_that_are("ok"),
        status.verdicts_that_are("violated"),
        status.verdicts_that_are("unknown"),
    );
    let title = format!(" promises: {ok} held, {violated} violated, {unknown} unknown ");
    let block = Block::new().borders(Borders::TOP).title(title);
    let of_one = |finding: &Finding| {
        vec![
            Line::from(format!("{}: {}", finding.invariant, finding.object)).red(),
            Line::from(format!("expected: {}; seen: {}", finding.expected, finding.seen)),
            Line::from(finding.advice.to_string()),
        ]
    };
    let lines = match items(status, view).get(view.selected) {
        Some(Item::Finding(finding)) => of_one(finding),
        _ if status.findings.is_empty() => vec![Line::from("no findings").dim()],
        _ => {
            let line = |f: &Finding| Line::from(format!("{}: {}: {}", f.invariant, f.object, f.seen)).red();
            status.findings.iter().take(usize::from(FINDINGS)).map(line).collect()
        }
    };
    let wrap = view.tab == Tab::Findings;
    let paragraph = Paragraph::new(lines).block(block);
    let paragraph = if wrap {
        paragraph.wrap(Wrap { trim: true })
    } else {
        paragraph
    };
    frame.render_widget(paragraph, area);
}

fn draw_help(frame: &mut Frame, area: Rect) {
    let (width, height) = (44, HELP.lines().count() as u16 + 2);
    let popup = area.centered(Constraint::Max(width), Constraint::Max(height));
    frame.render_widget(Clear, popup);
    let block = Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(HELP).block(block), popup);
}

#[cfg(test)]
mod tests;
