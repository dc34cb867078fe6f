//! Holds the sessions of an update against what is expected of them.

use std::collections::BTreeSet;

use luo_trace_common::text::SessionName;

use super::account::{self, Account, Update};
use super::compare::Comparison;
use super::file::Session;
use super::updates::{compare, exact_bytes, no_update, nothing, place, repeated, time};
use super::values::{Range, listed};
use super::{Expectations, Lines};
use crate::expect::formats::Check;
use crate::text::errno;
use crate::text::units::{bytes, count};

impl Expectations {
    /// The checks on sessions: those that are listed, and what is asked for all.
    pub(super) fn of_sessions(&self, account: &Account, lines: &Lines<'_>) -> Vec<Check> {
        let listed = self.session.iter().map(|wanted| {
            let (sum, good) = session(wanted.get_ref(), account);
            sum.check(wanted.get_ref().which.to_string(), lines.of(wanted), good)
        });
        let mut checks: Vec<_> = listed.collect();
        for (wanted, what, became) in [
            (&self.retrieved, "retrieved", retrieved as Became),
            (&self.finished, "finished", finished),
        ] {
            let Some(wanted) = wanted else { continue };
            let (all, good) = all_files(account, *wanted.get_ref(), what, became);
            let quantity = if *wanted.get_ref() { "every" } else { "no" };
            checks.push(all.check(format!("{quantity} file {what}"), lines.of(wanted), good));
        }
        checks
    }
}

/// What became of a file, in one respect.
type Became = fn(&account::File) -> Option<bool>;

fn retrieved(file: &account::File) -> Option<bool> {
    file.retrieved
}

fn finished(file: &account::File) -> Option<bool> {
    file.finished
}

fn all_files(account: &Account, wanted: bool, what: &str, became: Became) -> (Comparison, String) {
    let mut sum = Comparison::default();
    let mut files = 0;
    for update in account.updates.iter().filter(|update| update.left()) {
        for (name, session) in &update.sessions {
            let whose = format!(" of session \"{name}\"{}", place(account, update));
            each_file(&mut sum, session, wanted, what, became, &whose);
            files += session.files.len() as u64;
        }
        if !update.whole {
            sum.unknown(format!(
                "there may be more sessions{} than are known",
                place(account, update)
            ));
        }
    }
    if !account.updates.iter().any(Update::left) {
        sum.say(nothing(account), no_update(account));
    }
    (sum, count(files, "file"))
}

fn each_file(sum: &mut Comparison, session: &account::Session, wanted: bool, what: &str, became: Became, whose: &str) {
    for (token, file) in &session.files {
        let tried = file.refused.map_or(String::new(), |result| {
            format!(": its retrieve failed with {}", errno::result(result))
        });
        match became(file) {
            Some(seen) if seen == wanted => {}
            Some(true) => sum.wrong(format!("file {token:#x}{whose} was {what}")),
            Some(false) => sum.wrong(format!("file {token:#x}{whose} was never {what}{tried}")),
            None => sum.unknown(format!(
                "it cannot be told whether file {token:#x}{whose} was {what}{tried}"
            )),
        }
    }
    if !session.whole {
        sum.unknown(format!("there may be more files{whose} than are known"));
    }
}

fn session(wanted: &Session, account: &Account) -> (Comparison, String) {
    let mut sum = Comparison::default();
    let mut good = Vec::new();
    for update in account.updates.iter().filter(|update| update.left()) {
        let place = place(account, update);
        let meant: Vec<_> = update
            .sessions
            .iter()
            .filter(|(name, _)| wanted.which.mean(name))
            .collect();
        let number = wanted.count.map_or(Range { min: 1, max: u64::MAX }, |count| count.0);
        let what = format!("sessions that left{place}");
        compare(&mut sum, number, meant.len() as u64, update.whole, &what, |n| {
            n.to_string()
        });
        for (name, session) in &meant {
            let whose = match meant.len() {
                1 => place.clone(),
                _ => format!(" of session \"{name}\"{place}"),
            };
            one(&mut sum, wanted, name, session, &whose);
        }
        good.push(describe(&meant));
    }
    if good.is_empty() {
        sum.say(nothing(account), no_update(account));
    }
    (sum, repeated(good))
}

fn describe(sessions: &[(&SessionName, &account::Session)]) -> String {
    let files = || sessions.iter().flat_map(|(_, session)| session.files.values());
    let size = files().filter_map(|file| file.size).sum();
    let counted = count(files().count() as u64, "file");
    match sessions.len() {
        1 => format!("{counted}, {}", bytes(size)),
        number => format!("{}, {counted}, {}", count(number as u64, "session"), bytes(size)),
    }
}

/// Holds one session against what is expected of it.
fn one(sum: &mut Comparison, wanted: &Session, name: &SessionName, session: &account::Session, whose: &str) {
    let number = |n: u64| n.to_string();
    if session.arrived == Some(false) {
        return sum.wrong(format!("session \"{name}\" left and did not arrive"));
    }
    if session.arrived.is_none() {
        sum.unknown(format!("it cannot be told whether session \"{name}\" arrived"));
    }
    if let Some(files) = wanted.files {
        compare(
            sum,
            files.0,
            session.files.len() as u64,
            session.whole,
            &format!("files{whose}"),
            number,
        );
    }
    tokens_and_handlers(sum, wanted, session, whose);
    sizes(sum, wanted, session, whose);
    for (wanted, what, became) in [
        (wanted.retrieved, "retrieved", retrieved as Became),
        (wanted.finished, "finished", finished),
    ] {
        if let Some(wanted) = wanted {
            each_file(sum, session, wanted, what, became, whose);
        }
    }
    if let Some(limit) = wanted.blackout {
        time(sum, &format!("blackout{whose}"), limit, session.blackout);
    }
}

fn sizes(sum: &mut Comparison, wanted: &Session, session: &account::Session, whose: &str) {
    if let Some(size) = wanted.size {
        let whole = session.whole && session.files.values().all(|file| file.size.is_some());
        let bytes = session.files.values().filter_map(|file| file.size).sum();
        compare(sum, size.0, bytes, whole, &format!("size{whose}"), exact_bytes);
    }
    let Some(size) = wanted.file_size else { return };
    for (token, file) in &session.files {
        match file.size {
            Some(bytes) => compare(
                sum,
                size.0,
                bytes,
                true,
                &format!("size of file {token:#x}{whose}"),
                exact_bytes,
            ),
            None => sum.unknown(format!("the size of file {token:#x}{whose} is not known")),
        }
    }
}

fn tokens_and_handlers(sum: &mut Comparison, wanted: &Session, session: &account::Session, whose: &str) {
    if let Some(tokens) = &wanted.tokens {
        let wanted = tokens.iter().map(|token| token.0).collect();
        let seen = session.files.keys().copied().collect();
        sets(sum, &format!("tokens{whose}"), &wanted, &seen, session.whole, |token| {
            format!("{token:#x}")
        });
    }
    if let Some(handlers) = &wanted.handlers {
        let wanted = handlers.iter().map(|handler| handler.0).collect();
        let seen = session.files.values().filter_map(|file| file.handler).collect();
        let whole = session.whole && session.files.values().all(|file| file.handler.is_some());
        sets(
            sum,
            &format!("handlers{whose}"),
            &wanted,
            &seen,
            whole,
            ToString::to_string,
        );
    }
}

/// Compares two sets: what is seen and not expected is wrong, what is expected and not seen may just be unknown.
fn sets<T: Ord>(
    sum: &mut Comparison,
    what: &str,
    wanted: &BTreeSet<T>,
    seen: &BTreeSet<T>,
    whole: bool,
    show: impl Fn(&T) -> String,
) {
    let show = |set: &BTreeSet<T>| listed(&set.iter().map(&show).collect());
    if wanted == seen && whole {
        return;
    }
    let why = format!("{what}: {} expected, {}", show(wanted), show(seen));
    if whole || !seen.is_subset(wanted) {
        sum.wrong(why);
    } else {
        sum.unknown(format!("{why} so far as is known"));
    }
}
