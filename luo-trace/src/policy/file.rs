//! The file of a policy, as it is written. Every key is documented in `luo-trace/policies/README.md`.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use luo_trace_common::policy::{
    Aspect, CGROUP_DEPTH, CgroupName, Condition, LIMITS, Mode, Operation, RULES, RuleName, VALUES,
};
use luo_trace_common::text::{Comm, SessionName};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Place, Places, Policy, Rule, Selection, Sessions, When, lint};
use crate::model::Severity;
use crate::text::parse::{instead_of, named, nanoseconds, session_named, shown};

/// No policy is longer, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Names of the agent's own rules, which no rule of a file has.
pub const OWN_RULES: [&str; 2] = ["hold", "agent-loss"];

/// More mistakes than this are counted only.
const TOLD: usize = 20;
/// `stale_after`, unless it is said otherwise, and its bounds, in nanoseconds.
const STALE_AFTER: u64 = 10_000_000_000;
const LEAST_STALE_AFTER: u64 = 1_000_000_000;
const MOST_STALE_AFTER: u64 = 24 * 3600 * 1_000_000_000;

const TOP: [&str; 4] = ["mode", "on_agent_loss", "stale_after", "rule"];
const OF_RULE: [&str; 7] = ["name", "on", "match", "unless", "when", "action", "unknown"];

/// A mistake in a policy, or what its author cannot have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, why, and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// The mistakes in a policy, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first of them.
    pub told: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.told.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))?;
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Where the text is none, where a rule can never apply, or where it does not fit into the kernel's tables: every mistake
    /// that was found, with its place.
    pub fn read(text: &str) -> Result<Self, Problems> {
        let mut reader = Reader::new(text);
        if text.len() as u64 > MAX_FILE {
            reader.tell(
                0..0,
                format!("a policy has at most {MAX_FILE} bytes, this text has {}", text.len()),
            );
            return Err(reader.problems());
        }
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                reader.tell(error.span().unwrap_or(0..0), format!("no TOML: {}", error.message()));
                return Err(reader.problems());
            }
        };
        let policy = reader.policy(table.get_ref());
        if reader.found.is_empty() {
            reader.of_places(lint::refuse(&policy));
            reader.fits(&policy);
        }
        match reader.found.is_empty() {
            true => Ok(policy),
            false => Err(reader.problems()),
        }
    }
}

type Written<'t> = Spanned<DeValue<'t>>;

/// Reads on after a mistake, and remembers where it was.
struct Reader<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    found: Vec<(Place, String)>,
    more: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let cut = &text.as_bytes()[..text.len().min(MAX_FILE as usize)];
        let ends = cut.iter().enumerate().filter(|&(_, &byte)| byte == b'\n');
        Self {
            text,
            lines: [0].into_iter().chain(ends.map(|(at, _)| at + 1)).collect(),
            found: Vec::new(),
            more: 0,
        }
    }

    fn place(&self, span: Range<usize>) -> Place {
        let line = self.lines.partition_point(|&begin| begin <= span.start);
        let begin = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(begin..span.start).unwrap_or_default();
        Place {
            line,
            column: 1 + before.chars().count(),
        }
    }

    fn tell(&mut self, span: Range<usize>, what: impl Into<String>) {
        match self.found.len() < TOLD {
            true => self.found.push((self.place(span), what.into())),
            false => self.more += 1,
        }
    }

    fn of_places(&mut self, problems: Vec<Problem>) {
        self.found
            .extend(problems.into_iter().map(|problem| (problem.place, problem.text)));
    }

    fn problems(mut self) -> Problems {
        self.found.sort_by_key(|(place, _)| *place);
        let told = self.found.into_iter().map(|(place, text)| Problem { place, text });
        Problems {
            told: told.collect(),
            more: self.more,
        }
    }

    fn policy(&mut self, table: &DeTable<'_>) -> Policy {
        self.keys(table, &TOP, "a policy");
        let loss = |reader: &mut Self, value| reader.choice(value, &["open", "closed"]);
        Policy {
            mode: self
                .read(table, "mode", |reader, value| {
                    reader.named(value, Mode::ALL, Mode::name)
                })
                .unwrap_or(Mode::Audit),
            closed: self.read(table, "on_agent_loss", loss) == Some("closed"),
            stale_after: self
                .read(table, "stale_after", Self::stale_after)
                .unwrap_or(STALE_AFTER),
            rules: self.read(table, "rule", Self::rules).unwrap_or_default(),
        }
    }

    fn stale_after(&mut self, value: &Written<'_>) -> Option<u64> {
        let text = self.text_of(value, "\"10s\"")?;
        let time = self.or_tell(value, nanoseconds(text))?;
        if !(LEAST_STALE_AFTER..=MOST_STALE_AFTER).contains(&time) {
            self.tell(
                value.span(),
                "the agent shows a sign of life about once a second: stale_after is from 1s to 24h",
            );
        }
        Some(time)
    }

    fn rules(&mut self, value: &Written<'_>) -> Option<Vec<Rule>> {
        let Some(written) = value.get_ref().as_array() else {
            self.tell(
                value.span(),
                "rules are written as [[rule]], each under a heading of its own",
            );
            return None;
        };
        if let Some(first) = written.get(RULES) {
            let text = format!("a policy has at most {RULES} rules, this one has {}", written.len());
            self.tell(first.span(), text);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for value in written.iter().take(RULES) {
            let Some(table) = self.table(value, "a rule") else {
                continue;
            };
            let Some(rule) = self.rule(value, table) else { continue };
            match rules.iter().find(|other| other.name == rule.name) {
                Some(other) => {
                    let text = format!(
                        "rule {} has the name of the one in line {}",
                        rule.name, other.places.rule.line
                    );
                    self.found.push((rule.places.rule, text));
                }
                None => rules.push(rule),
            }
        }
        Some(rules)
    }

    fn rule(&mut self, value: &Written<'_>, table: &DeTable<'_>) -> Option<Rule> {
        self.keys(table, &OF_RULE, "a rule");
        for key in ["name", "on", "action"] {
            if !table.contains_key(key) {
                self.tell(value.span(), format!("this rule has no {key}: {}", example(key)));
            }
        }
        let place = |reader: &Self, key| {
            let span = table.get(key).map_or(value.span(), Spanned::span);
            reader.place(span)
        };
        let places = Places {
            rule: place(self, "name"),
            on: place(self, "on"),
            matches: place(self, "match"),
            unless: place(self, "unless"),
            when: place(self, "when"),
            unknown: place(self, "unknown"),
        };
        let name = self.read(table, "name", Self::rule_name);
        let on = self.read(table, "on", Self::operations);
        let matches = self.read(table, "match", Self::selection);
        let unless = self.read(table, "unless", Self::selection);
        let when = self.read(table, "when", Self::when);
        let action = self.read(table, "action", |reader, value| {
            reader.choice(value, &["deny", "audit"])
        });
        let unknown = self.read(table, "unknown", |reader, value| {
            reader.choice(value, &["applies", "passes"])
        });
        Some(Rule {
            name: name?,
            on: on?,
            matches: matches.unwrap_or_default(),
            unless: unless.unwrap_or_default(),
            when: when.unwrap_or_default(),
            deny: action? == "deny",
            unknown_applies: unknown.map(|unknown| unknown == "applies"),
            places,
        })
    }

    fn rule_name(&mut self, value: &Written<'_>) -> Option<RuleName> {
        let text = self.text_of(value, "\"no-legacy-image\"")?;
        if OWN_RULES.contains(&text) {
            self.tell(
                value.span(),
                format!("the name {text} is taken by the agent's own rule: call it otherwise"),
            );
        }
        self.or_tell(value, named(text.as_bytes(), "a rule"))
    }

    fn operations(&mut self, value: &Written<'_>) -> Option<Vec<Operation>> {
        let mut operations = self.one_or_more(value, Self::operation);
        operations.sort_unstable();
        operations.dedup();
        Some(operations).filter(|operations| !operations.is_empty())
    }

    fn operation(&mut self, value: &Written<'_>) -> Option<Operation> {
        let leaks = |text: &str| {
            ["retrieve", "finish", "release", "close"]
                .iter()
                .any(|word| text.contains(word))
        };
        if let Some(text) = value.get_ref().as_str().filter(|text| leaks(text)) {
            let text = format!(
                "\"{}\" is never refused: what is preserved would leak for good",
                shown(text)
            );
            self.tell(value.span(), text);
            return None;
        }
        self.named(value, Operation::ALL, Operation::name)
    }

    fn selection(&mut self, value: &Written<'_>) -> Option<Selection> {
        let table = self.table(value, "match and unless")?;
        let known: Vec<_> = Aspect::ALL.iter().map(|aspect| aspect.name()).collect();
        self.keys(table, &known, "match and unless");
        if table.is_empty() {
            self.tell(
                value.span(),
                format!("this names nothing: leave it out, or name {}", known.join(", ")),
            );
        }
        let mut selection = Selection::default();
        for aspect in Aspect::ALL {
            let Some(value) = table.get(aspect.name()) else {
                continue;
            };
            match aspect {
                Aspect::Comm => selection.comm = self.one_or_more(value, Self::comm),
                Aspect::Uid => selection.uid = self.one_or_more(value, Self::uid),
                Aspect::Cgroup => selection.cgroup = self.one_or_more(value, Self::cgroup),
                Aspect::Session => selection.session = self.one_or_more(value, Self::sessions),
                Aspect::Handler => {
                    selection.handler = self.one_or_more(value, |reader, value| {
                        let text = reader.text_of(value, "\"memfd-v2\"")?;
                        reader.or_tell(value, named(text.as_bytes(), "a handler"))
                    })
                }
            }
        }
        Some(selection)
    }

    fn comm(&mut self, value: &Written<'_>) -> Option<Comm> {
        let text = self.text_of(value, "\"kexec\"")?;
        let kept = Comm::new(text);
        if text.len() > kept.as_bytes().len() && !text.contains('\0') {
            let text = format!(
                "the kernel keeps 15 bytes of a thread's name: of {} it is \"{kept}\"",
                shown(text)
            );
            self.tell(value.span(), text);
            return None;
        }
        self.or_tell(value, named(text.as_bytes(), "a thread"))
    }

    fn uid(&mut self, value: &Written<'_>) -> Option<u32> {
        let number = self.number(value, "a user id such as 0; names of users are not known in the kernel")?;
        let uid = u32::try_from(number).map_err(|_| format!("{number} is no user id: those end at {}", u32::MAX));
        self.or_tell(value, uid)
    }

    fn cgroup(&mut self, value: &Written<'_>) -> Option<Vec<CgroupName>> {
        let text = self.text_of(value, "\"/system.slice/luod.service\"")?;
        let path = cgroup(text).map_err(|why| format!("\"{}\" is no control group: {why}", shown(text)));
        self.or_tell(value, path)
    }

    fn sessions(&mut self, value: &Written<'_>) -> Option<Sessions> {
        let text = self.text_of(value, "\"vm-1\" or \"vm-*\"")?;
        let sessions = match text.strip_suffix('*') {
            None => session_named(text).map(Sessions::Named),
            Some("") => Ok(Sessions::Beginning(SessionName::EMPTY)),
            Some(beginning) => session_named(beginning).map(Sessions::Beginning),
        };
        self.or_tell(value, sessions)
    }

    fn when(&mut self, value: &Written<'_>) -> Option<When> {
        let table = self.table(value, "when")?;
        let known: Vec<_> = Condition::ALL.iter().map(|condition| condition.name()).collect();
        self.keys(table, &known, "when");
        if table.is_empty() {
            self.tell(
                value.span(),
                "this asks for nothing: leave it out, so that the rule always applies",
            );
        }
        let mut when = When::default();
        for &condition in Condition::ALL {
            let Some(value) = table.get(condition.name()) else {
                continue;
            };
            match condition {
                Condition::SessionsOver => when.sessions_over = self.number(value, "a number of sessions"),
                Condition::FilesOver => when.files_over = self.number(value, "a number of files"),
                Condition::InvariantViolated => {
                    let all = [Severity::Warning, Severity::Error, Severity::Critical];
                    when.violated = self.named(value, &all, Severity::name);
                }
                simple => match value.get_ref().as_bool() {
                    Some(true) => when.simple.push(simple),
                    _ => self.tell(
                        value.span(),
                        format!(
                            "write {} = true, or leave it out: its opposite cannot be asked for",
                            simple.name()
                        ),
                    ),
                },
            }
        }
        Some(when)
    }

    /// What does not fit into the tables and maps.
    fn fits(&mut self, policy: &Policy) {
        let compiled = policy.compile();
        let place = policy.rules.first().map_or(Place::default(), |rule| rule.places.rule);
        let rules = || policy.rules.iter();
        let handlers = rules().flat_map(|rule| rule.matches.handler.iter().chain(&rule.unless.handler));
        let many = |what: &str, has: usize, most: usize| {
            let text = format!("the rules name {has} different {what}, and there is room for {most}: name fewer");
            (has > most).then_some((place, text))
        };
        let over =
            |over: fn(&When) -> Option<u64>| rules().filter_map(|rule| over(&rule.when)).collect::<BTreeSet<_>>();
        let told = [
            many("thread names", compiled.comms.len(), VALUES),
            many("users", compiled.uids.len(), VALUES),
            many("control groups, with those above them,", compiled.cgroups.len(), VALUES),
            many("session names", compiled.sessions.len(), VALUES),
            many("handlers", handlers.collect::<BTreeSet<_>>().len(), VALUES),
            many(
                "numbers for sessions-over",
                over(|when| when.sessions_over).len(),
                LIMITS,
            ),
            many("numbers for files-over", over(|when| when.files_over).len(), LIMITS),
        ];
        self.found.extend(told.into_iter().flatten());
    }
}

// What all values are read by.
impl Reader<'_> {
    /// Tells of keys that mean nothing.
    fn keys(&mut self, table: &DeTable<'_>, known: &[&str], of: &str) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let (word, instead) = (shown(key.get_ref()), instead_of(key.get_ref(), known));
            self.tell(key.span(), format!("{of} has no key {word}: {instead}"));
        }
    }

    /// What is written under a key, if anything is.
    fn read<'t, 'v, T>(
        &mut self,
        table: &'v DeTable<'t>,
        key: &str,
        read: impl FnOnce(&mut Self, &'v Written<'t>) -> Option<T>,
    ) -> Option<T> {
        table.get(key).and_then(|value| read(self, value))
    }

    /// One value, or every value of a list. More than fit into the maps are not read.
    fn one_or_more<'t, 'v, T>(
        &mut self,
        value: &'v Written<'t>,
        mut read: impl FnMut(&mut Self, &'v Written<'t>) -> Option<T>,
    ) -> Vec<T> {
        let Some(values) = value.get_ref().as_array() else {
            return read(self, value).into_iter().collect();
        };
        match values.len() {
            0 => self.tell(value.span(), "this list is empty: name a value, or leave the key out"),
            1..=VALUES => {}
            many => self.tell(
                value.span(),
                format!("a list has at most {VALUES} values, this one has {many}"),
            ),
        }
        let values = values.iter().take(VALUES);
        values.filter_map(|value| read(self, value)).collect()
    }

    fn table<'t, 'v>(&mut self, value: &'v Written<'t>, what: &str) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let kind = value.get_ref().type_str();
            self.tell(
                value.span(),
                format!("{what} is a table, such as {{ key = value }}, and this is: {kind}"),
            );
        }
        table
    }

    fn text_of<'v>(&mut self, value: &'v Written<'_>, example: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            let kind = value.get_ref().type_str();
            self.tell(
                value.span(),
                format!("here belongs a text, such as {example}, and this is: {kind}"),
            );
        }
        text
    }

    fn number(&mut self, value: &Written<'_>, what: &str) -> Option<u64> {
        // The largest means "not counted" in the kernel, and TOML ends at half of it.
        let most = i64::MAX as u64;
        let integer = value.get_ref().as_integer();
        let number = integer.and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
        let number = number.filter(|&number| number <= most);
        if number.is_none() {
            self.tell(value.span(), format!("here belongs a whole number, from 0 on: {what}"));
        }
        number
    }

    fn choice<'k>(&mut self, value: &Written<'_>, known: &[&'k str]) -> Option<&'k str> {
        let text = self.text_of(value, &format!("\"{}\"", known[0]))?;
        let choice = known.iter().copied().find(|&name| name == text);
        if choice.is_none() {
            self.tell(
                value.span(),
                format!("\"{}\" is unknown here: {}", shown(text), instead_of(text, known)),
            );
        }
        choice
    }

    /// One of several things by its name.
    fn named<T: Copy>(&mut self, value: &Written<'_>, all: &[T], name: fn(T) -> &'static str) -> Option<T> {
        let names: Vec<_> = all.iter().map(|&one| name(one)).collect();
        let choice = self.choice(value, &names)?;
        all.iter().copied().find(|&one| name(one) == choice)
    }

    fn or_tell<T>(&mut self, value: &Written<'_>, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.tell(value.span(), why)).ok()
    }
}

/// The components of a control group's path.
fn cgroup(text: &str) -> Result<Vec<CgroupName>, String> {
    let Some(path) = text.strip_prefix('/') else {
        return Err("its path begins with /, such as /system.slice/luod.service".into());
    };
    if path.is_empty() {
        return Err("every process is in it; leave the key out".into());
    }
    if let Some(path) = path.strip_prefix("sys/fs/cgroup") {
        return Err(format!(
            "a path begins at the root of the hierarchy, not where it is mounted: {}",
            shown(path)
        ));
    }
    let components: Vec<_> = path.split('/').collect();
    if components.len() > CGROUP_DEPTH {
        return Err(format!(
            "it lies {} deep, and at most {CGROUP_DEPTH} are looked at",
            components.len()
        ));
    }
    if components.iter().any(|name| matches!(*name, "" | "." | "..")) {
        return Err("write its path without // and without . or .. in it, and without / at its end".into());
    }
    components
        .iter()
        .map(|name| named(name.as_bytes(), "a control group"))
        .collect()
}

fn example(key: &str) -> &'static str {
    match key {
        "name" => "name = \"no-legacy-image\"",
        "on" => "on = [\"kexec-load\", \"kexec-reboot\"]",
        _ => "action = \"deny\", or \"audit\"",
    }
}
