//! Holds updates against what is expected of them as a whole.

use super::account::{Account, Took, Update};
use super::compare::Comparison;
use super::file::{Kind, Outcomes};
use super::values::{Limit, Range};
use super::{Expectations, Lines};
use crate::chain::Fate;
use crate::expect::formats::{Answer, Check};
use crate::text::units::bytes;

impl Expectations {
    /// The checks on the updates as a whole, in the order of the documentation.
    pub(super) fn of_updates(&self, account: &Account, lines: &Lines<'_>) -> Vec<Check> {
        let mut checks = Vec::new();
        if let Some(wanted) = &self.outcome {
            checks.push(outcome(wanted.get_ref(), account).check("outcome".into(), lines.of(wanted), fates(account)));
        }
        if let Some(wanted) = &self.updates {
            let mut sum = Comparison::default();
            let seen = account.updates.len() as u64;
            compare(&mut sum, wanted.get_ref().0, seen, account.whole, "updates", |n| {
                n.to_string()
            });
            checks.push(sum.check("updates".into(), lines.of(wanted), format!("{seen} tried")));
        }
        if let Some(limit) = &self.blackout {
            let took = |update: &Update| update.blackout;
            let sum = times(account, "blackout", *limit.get_ref(), took);
            checks.push(sum.check(
                format!("blackout of at most {}", limit.get_ref()),
                lines.of(limit),
                longest(account, took),
            ));
        }
        for (phase, limit) in &self.phases {
            let took = |update: &Update| {
                update
                    .phases
                    .iter()
                    .find(|(name, _)| *name == phase.0)
                    .map(|(_, took)| *took)
            };
            let sum = times(account, &phase.0, *limit.get_ref(), took);
            checks.push(sum.check(
                format!("{} of at most {}", phase.0, limit.get_ref()),
                lines.of(limit),
                longest(account, took),
            ));
        }
        checks.extend(self.of_totals(account, lines));
        checks
    }

    fn of_totals(&self, account: &Account, lines: &Lines<'_>) -> Vec<Check> {
        let mut checks = Vec::new();
        let number = |n: u64| n.to_string();
        if let Some(wanted) = &self.sessions {
            let count = |update: &Update| (update.sessions.len() as u64, update.whole);
            let (sum, good) = total(account, wanted.get_ref().0, "sessions", number, count);
            checks.push(sum.check("sessions in all".into(), lines.of(wanted), good));
        }
        if let Some(wanted) = &self.files {
            let count = |update: &Update| {
                let files = update.sessions.values().map(|session| session.files.len() as u64).sum();
                (
                    files,
                    update.whole && update.sessions.values().all(|session| session.whole),
                )
            };
            let (sum, good) = total(account, wanted.get_ref().0, "files", number, count);
            checks.push(sum.check("files in all".into(), lines.of(wanted), good));
        }
        if let Some(wanted) = &self.size {
            let count = |update: &Update| {
                let files = || update.sessions.values().flat_map(|session| session.files.values());
                let whole =
                    update.sessions.values().all(|session| session.whole) && files().all(|file| file.size.is_some());
                (files().filter_map(|file| file.size).sum(), update.whole && whole)
            };
            let (sum, good) = total(account, wanted.get_ref().0, "bytes", exact_bytes, count);
            checks.push(sum.check("size in all".into(), lines.of(wanted), good));
        }
        checks
    }
}

/// A size that can be compared: people's units, and the bytes.
pub(super) fn exact_bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        _ => format!("{} ({size} B)", bytes(size)),
    }
}

/// Compares a number with what is expected, and says so where it is not right.
pub(super) fn compare(
    sum: &mut Comparison,
    wanted: Range,
    seen: u64,
    whole: bool,
    what: &str,
    show: impl Fn(u64) -> String,
) {
    let but = if whole { "" } else { " so far as is known" };
    let wanted_is = wanted.describe(&show);
    sum.say(
        wanted.judge(seen, whole),
        format!("{what}: {} expected, {}{but}", wanted_is, show(seen)),
    );
}

/// The updates that carried something, or why there is none to look at.
fn carried<'a>(account: &'a Account, sum: &mut Comparison) -> Vec<&'a Update> {
    let updates: Vec<_> = account.updates.iter().filter(|update| update.left()).collect();
    if updates.is_empty() {
        sum.say(nothing(account), no_update(account));
    }
    updates
}

/// What it comes to that there is no update to look at.
pub(super) fn nothing(account: &Account) -> Answer {
    if account.whole {
        Answer::Fail
    } else {
        Answer::Inconclusive
    }
}

pub(super) fn no_update(account: &Account) -> String {
    let what = if account.updates.is_empty() {
        "tried"
    } else {
        "completed"
    };
    let but = if account.whole { "" } else { ", as far as is known" };
    format!("no live update was {what}{but}")
}

fn total(
    account: &Account,
    wanted: Range,
    what: &str,
    show: impl Fn(u64) -> String,
    count: impl Fn(&Update) -> (u64, bool),
) -> (Comparison, String) {
    let mut sum = Comparison::default();
    let mut good = Vec::new();
    for update in carried(account, &mut sum) {
        let (seen, whole) = count(update);
        let what = format!("{what}{}", place(account, update));
        compare(&mut sum, wanted, seen, whole, &what, &show);
        good.push(show(seen));
    }
    (sum, repeated(good))
}

/// A list for a person, where many of its texts are often the same.
pub(super) fn repeated(texts: Vec<String>) -> String {
    let runs = texts.chunk_by(|a, b| a == b).map(|run| match run {
        [text] => text.clone(),
        run => format!("{} × {}", run.len(), run[0]),
    });
    runs.collect::<Vec<_>>().join("; ")
}

/// Compares a time with its limit.
pub(super) fn time(sum: &mut Comparison, what: &str, limit: Limit, took: Option<Took>) {
    match took {
        Some(took) => sum.say(took.within(limit), format!("{what}: at most {limit} expected, {took}")),
        None => sum.unknown(format!("{what} is not known: its beginning or its end is in no record")),
    }
}

fn times(account: &Account, what: &str, limit: Limit, took: impl Fn(&Update) -> Option<Took>) -> Comparison {
    let mut sum = Comparison::default();
    for update in carried(account, &mut sum) {
        let what = format!("{what}{}", place(account, update));
        time(&mut sum, &what, limit, took(update));
    }
    sum
}

fn longest(account: &Account, took: impl Fn(&Update) -> Option<Took>) -> String {
    let longest = account.updates.iter().filter_map(took).max_by_key(|took| took.ns);
    longest.map(|took| took.to_string()).unwrap_or_default()
}

/// Which update something is about, where there are several.
pub(super) fn place(account: &Account, update: &Update) -> String {
    if account.updates.len() < 2 {
        return String::new();
    }
    match update.number {
        Some(number) => format!(" of update {number}"),
        None => {
            let at = account.updates.iter().position(|other| std::ptr::eq(other, update));
            at.map_or(String::new(), |at| format!(" of the update in place {}", at + 1))
        }
    }
}

fn fates(account: &Account) -> String {
    let fates = account.updates.iter().map(|update| fate(update.fate).to_owned());
    Some(repeated(fates.collect()))
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "none".into())
}

fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Completed | Fate::Arrived => Kind::Completed.name(),
        Fate::Aborted => Kind::Aborted.name(),
        Fate::Departed => "departed",
    }
}

fn outcome(wanted: &Outcomes, account: &Account) -> Comparison {
    let mut sum = Comparison::default();
    let updates = &account.updates;
    match wanted {
        Outcomes::None if !updates.is_empty() => sum.wrong(format!("no update expected, {}", fates(account))),
        Outcomes::None if !account.whole => sum.unknown("none seen, and events are missing that could tell".into()),
        Outcomes::None => {}
        Outcomes::Each(_) if updates.is_empty() => sum.say(nothing(account), no_update(account)),
        Outcomes::Each(kind) => updates.iter().for_each(|update| one(&mut sum, account, update, *kind)),
        Outcomes::InOrder(kinds) => {
            compare(
                &mut sum,
                Range::exactly(kinds.len() as u64),
                updates.len() as u64,
                account.whole,
                "updates",
                |n| n.to_string(),
            );
            let pairs = updates.iter().zip(kinds);
            pairs.for_each(|(update, kind)| one(&mut sum, account, update, *kind));
        }
    }
    sum
}

fn one(sum: &mut Comparison, account: &Account, update: &Update, wanted: Kind) {
    let place = place(account, update);
    let answer = match (update.fate, wanted) {
        (Fate::Completed | Fate::Arrived, Kind::Completed) | (Fate::Aborted, Kind::Aborted) => Answer::Pass,
        (Fate::Departed, Kind::Completed) => {
            let why =
                format!("the outcome{place} is not known: it departed, and no record of the next kernel is given");
            return sum.unknown(why);
        }
        _ => Answer::Fail,
    };
    let (wanted, seen) = (wanted.name(), fate(update.fate));
    sum.say(answer, format!("the outcome{place}: {wanted} expected, {seen}"));
}
