//! What an operator orders: a hold stops updates on this host until it is taken back or ends, an allowance lets everything
//! pass for a time.
//!
//! Pure: the time is handed in, and the form in which orders outlive an agent is text. All times are nanoseconds of
//! `CLOCK_MONOTONIC`, which is why another boot's orders are void.

use core::time::Duration;
use std::fmt;

use humantime::format_duration;
use luo_trace_common::events::{POLICY_ALLOW, POLICY_CLEAR, POLICY_EXPIRED, POLICY_HOLD, PolicyChange};
use luo_trace_common::policy::{Mode, NEVER};
use luo_trace_common::text::Name;
use serde::{Deserialize, Serialize};

/// How many bytes a reason may have.
pub const LONGEST_REASON: usize = 255;
/// How long a hold with an end may be, in nanoseconds: 366 days.
pub const LONGEST_HOLD: u64 = 366 * DAY;
/// How long an allowance may be, in nanoseconds: 7 days.
pub const LONGEST_ALLOWANCE: u64 = 7 * DAY;
/// More bytes than orders ever take where they are kept.
pub const LONGEST_KEPT: u64 = 1 << 16;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;
/// Version of the form in which orders are kept.
const VERSION: u32 = 1;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// No image is loaded, and none is jumped into.
    Hold {
        /// Why.
        reason: String,
        /// For how long, in nanoseconds; `None`: until it is taken back.
        for_ns: Option<u64>,
    },
    /// Everything passes.
    Allow {
        /// Why.
        reason: String,
        /// For how long, in nanoseconds.
        for_ns: u64,
    },
    /// Neither hold nor allowance any more.
    Clear,
}

impl Order {
    /// Whether it makes sense: the reason is a line of text, and the time is one that fits.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let (reason, for_ns, longest) = match self {
            Order::Hold { reason, for_ns } => (reason, *for_ns, LONGEST_HOLD),
            Order::Allow { reason, for_ns } => (reason, Some(*for_ns), LONGEST_ALLOWANCE),
            Order::Clear => return Ok(()),
        };
        if reason.trim().is_empty() {
            return Err("the reason is empty: say why, for the person who meets this order".into());
        }
        if reason.len() > LONGEST_REASON || reason.chars().any(char::is_control) {
            return Err(format!(
                "the reason must be one line of at most {LONGEST_REASON} bytes, and this one has {}",
                match reason.len() {
                    long @ 256.. => long.to_string(),
                    _ => "a control character".into(),
                }
            ));
        }
        match for_ns {
            Some(0) => Err("a time of 0 ends at once: give one such as 10m".into()),
            Some(long) if long > longest => Err(format!("{} is too long: at most {}", Span(long), Span(longest))),
            _ => Ok(()),
        }
    }
}

/// An order that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its end; null: it has none.
    pub until_ns: Option<u64>,
    /// When it was given.
    pub since_ns: u64,
    /// The operator's user id: of the login, or where no login is known the effective one; null: not known.
    pub uid: Option<u32>,
    /// Why.
    pub reason: String,
}

impl Entry {
    /// As the programs have it: [`NEVER`] where it has no end.
    pub fn until(&self) -> u64 {
        self.until_ns.unwrap_or(NEVER)
    }

    fn is_over(&self, now: u64) -> bool {
        self.until() <= now
    }

    /// An order that was found without a word of who gave it and why.
    fn nameless(until: u64, now: u64) -> Self {
        Self {
            until_ns: Some(until).filter(|&until| until != NEVER),
            since_ns: now,
            uid: None,
            reason: "given to an agent that is gone, and its reason is lost".into(),
        }
    }
}

/// `REASON (user 0)`, with what could mislead a reader escaped.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Name::<{ LONGEST_REASON + 1 }>::new(&self.reason))?;
        match self.uid {
            Some(uid) => write!(f, " (user {uid})"),
            None => Ok(()),
        }
    }
}

/// The orders that stand, and what else an agent has to know of those before it in this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The host is held.
    pub hold: Option<Entry>,
    /// Everything passes for a time.
    pub allowance: Option<Entry>,
    /// The worst severity of an invariant that was seen violated, from 1 (see [`level`]); 0: none was.
    ///
    /// [`level`]: crate::policy::level
    pub violated: u64,
}

/// What an operator is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What became of the order, a sentence each.
    pub told: Vec<String>,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What to say to the operator, a sentence each.
    pub told: Vec<String>,
    /// What to record of it; the mode and the generation are the caller's to fill in.
    pub change: PolicyChange,
}

impl Standing {
    /// Takes an order in, which was [checked](Order::check), while the policy has this mode.
    pub fn take(&mut self, order: &Order, uid: u32, mode: Mode, now: u64) -> Taken {
        self.expire(now);
        let entry = |reason: &str, for_ns: Option<u64>| Entry {
            until_ns: for_ns.map(|span| now.saturating_add(span)),
            since_ns: now,
            uid: Some(uid),
            reason: reason.trim().to_owned(),
        };
        match order {
            Order::Hold { reason, for_ns } => self.hold(entry(reason, *for_ns), mode, now),
            Order::Allow { reason, for_ns } => self.allow(entry(reason, Some(*for_ns)), mode, now),
            Order::Clear => self.clear(uid),
        }
    }

    fn hold(&mut self, hold: Entry, mode: Mode, now: u64) -> Taken {
        let mut told = vec![format!(
            "this host is held {}: no image may be loaded to jump into, and none may be jumped into",
            match hold.until_ns {
                Some(until) => format!("for {}", Span(until.saturating_sub(now))),
                None => "until `luo-trace policy clear`".into(),
            }
        )];
        told.extend(nothing_is_refused(mode));
        if let Some(allowance) = &self.allowance {
            let left = Span(allowance.until().saturating_sub(now));
            told.push(format!(
                "but an allowance lets everything pass for another {left}: {allowance}; `luo-trace policy clear` ends both"
            ));
        }
        if let Some(old) = &self.hold {
            told.push(format!("it takes the place of another hold: {old}"));
        }
        let change = change(POLICY_HOLD, &hold);
        self.hold = Some(hold);
        Taken { told, change }
    }

    fn allow(&mut self, allowance: Entry, mode: Mode, now: u64) -> Taken {
        let mut told = vec![format!(
            "everything passes for {}; that ends by itself, or by `luo-trace policy clear`",
            Span(allowance.until().saturating_sub(now))
        )];
        told.extend(nothing_is_refused(mode));
        if let Some(hold) = &self.hold {
            told.push(format!("for that time it lifts the hold: {hold}"));
        }
        if let Some(old) = &self.allowance {
            told.push(format!("it takes the place of another allowance: {old}"));
        }
        let change = change(POLICY_ALLOW, &allowance);
        self.allowance = Some(allowance);
        Taken { told, change }
    }

    fn clear(&mut self, uid: u32) -> Taken {
        let (hold, allowance) = (self.hold.take(), self.allowance.take());
        let hold = hold.map(|hold| format!("the hold is taken back: {hold}"));
        let allowance = allowance.map(|allowance| format!("the allowance is taken back: {allowance}"));
        let mut told: Vec<_> = hold.into_iter().chain(allowance).collect();
        let text = told.join("; ");
        if told.is_empty() {
            told.push("there is neither hold nor allowance".into());
        }
        let entry = Entry {
            uid: Some(uid),
            reason: text,
            ..Entry::default()
        };
        Taken {
            told,
            change: PolicyChange {
                until: 0,
                ..change(POLICY_CLEAR, &entry)
            },
        }
    }

    /// What to record of the orders that an agent finds when it starts.
    pub fn found(&self) -> Vec<PolicyChange> {
        let found = [(POLICY_HOLD, &self.hold), (POLICY_ALLOW, &self.allowance)];
        let note = |(what, entry): (u32, &Option<Entry>)| {
            let entry = entry.clone()?;
            let reason = format!("found at the agent's start: {}", entry.reason);
            Some(change(what, &Entry { reason, ..entry }))
        };
        found.into_iter().filter_map(note).collect()
    }

    /// Lets go of what has come to its end, and gives what to record of that, and to say.
    pub fn expire(&mut self, now: u64) -> Vec<Taken> {
        let over = |order: &mut Option<Entry>| order.take_if(|order| order.is_over(now));
        let ended = [("hold", over(&mut self.hold)), ("allowance", over(&mut self.allowance))];
        let tell = |(what, entry): (&str, Option<Entry>)| {
            let entry = entry?;
            let told = format!("the {what} has come to its end: {entry}");
            let reason = format!("{what}: {}", entry.reason);
            let change = change(POLICY_EXPIRED, &Entry { reason, ..entry });
            Some(Taken {
                told: vec![told],
                change,
            })
        };
        ended.into_iter().filter_map(tell).collect()
    }

    /// Joins what a lost agent left in the kernel with what was kept of it. What stands in the kernel is in force; what was kept
    /// tells who wanted it. A hold that only one of them knows counts.
    #[must_use]
    pub fn joined(mut self, held_until: u64, allowed_until: u64, now: u64) -> Self {
        let stands = |until: u64| Some(until).filter(|&until| until > now);
        let join = |until: u64, kept: Option<Entry>| match kept {
            Some(kept) => Entry {
                until_ns: Some(until).filter(|&until| until != NEVER),
                ..kept
            },
            None => Entry::nameless(until, now),
        };
        if let Some(until) = stands(held_until) {
            self.hold = Some(join(until, self.hold));
        }
        self.allowance = stands(allowed_until).map(|until| join(until, self.allowance));
        self
    }

    /// The form in which they outlive an agent.
    pub fn keep(&self, boot_id: &str) -> String {
        let kept = Kept {
            version: VERSION,
            boot_id: boot_id.into(),
            hold: self.hold.clone(),
            allowance: self.allowance.clone(),
            violated: self.violated,
        };
        // Numbers and text under keys of text: nothing in it has no JSON form.
        serde_json::to_string(&kept).unwrap_or_default() + "\n"
    }

    /// What was kept, as far as it is this boot's and has not come to its end.
    ///
    /// # Errors
    /// Why it cannot be read. There may have been a hold then: see [`Standing::of_damage`].
    pub fn kept(text: &[u8], boot_id: &str, now: u64) -> Result<Self, String> {
        let kept: Kept = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if kept.version != VERSION {
            return Err(format!(
                "it is of version {}, and this is version {VERSION}",
                kept.version
            ));
        }
        if kept.boot_id != boot_id {
            return Ok(Self::default());
        }
        let stands = |order: Option<Entry>| order.filter(|order| !order.is_over(now));
        Ok(Self {
            hold: stands(kept.hold),
            allowance: stands(kept.allowance),
            violated: kept.violated,
        })
    }

    /// What to take for orders that cannot be read: a hold that vanishes may cost a host its guests, and one too many costs
    /// an operator a word.
    pub fn of_damage(why: &str, now: u64) -> Self {
        let hold = Entry {
            until_ns: None,
            since_ns: now,
            uid: None,
            reason: Name::<{ LONGEST_REASON + 1 }>::new(format!("the orders that were kept cannot be read: {why}"))
                .to_string(),
        };
        Self {
            hold: Some(hold),
            ..Self::default()
        }
    }
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    boot_id: String,
    hold: Option<Entry>,
    allowance: Option<Entry>,
    #[serde(default)]
    violated: u64,
}

fn nothing_is_refused(mode: Mode) -> Option<String> {
    match mode {
        Mode::Enforce => None,
        Mode::Audit => Some("the policy's mode is audit: nothing is refused, only told".into()),
        Mode::Off => Some("the policy's mode is off: nothing is refused, nor told".into()),
    }
}

/// What to record of an order.
fn change(what: u32, entry: &Entry) -> PolicyChange {
    PolicyChange {
        what,
        mode: Mode::Off as u32,
        generation: 0,
        until: entry.until(),
        uid: entry.uid.unwrap_or(0),
        operations: 0,
        text: Name::new(&entry.reason),
    }
}

/// A time in words: `2h 30m`.
pub struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = Duration::from_nanos(self.0);
        // What is left of a time is told in seconds.
        let seconds = Duration::from_secs(self.0.div_ceil(SECOND));
        let shown = if exact.as_secs() == 0 { exact } else { seconds };
        format_duration(shown).fmt(f)
    }
}

#[cfg(test)]
mod tests;
