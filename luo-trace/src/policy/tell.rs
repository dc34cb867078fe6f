//! What policy did, what an operator ordered and what was found in an image, in words. Each sentence stands here once, for a host that
//! is asked and for a report.

use std::borrow::Cow;

use luo_trace_common::events::{
    self as abi, POLICY_ADOPTED, POLICY_ALLOW, POLICY_CLEAR, POLICY_EXPIRED, POLICY_HOLD, POLICY_LOADED, POLICY_OFF,
    PolicyChange, PolicyDecision,
};
use luo_trace_common::policy::{Mode, NEVER, RULE_NONE};
use serde::{Deserialize, Serialize};

use super::orders::Span;
use crate::event::{Body, Event, change_name, verdict_name};

/// What an event of policy is called, and the same in a sentence, escaped; `None` where it tells of no change, refusal or image.
///
/// A change is `loaded`, `off`, `hold`, `allow`, `clear`, `expired` or `adopted`; a call `deny`, `would-deny` or `allowed`; an image
/// `carries`, `loses`, `panics` or `unknown`.
pub fn line(event: &Event) -> Option<(&'static str, String)> {
    match &event.body {
        Body::PolicyChange(p) => change(p, event.header.ktime),
        Body::PolicyDecision(_, decision, _) => Some((decision.name(), Refusal::of(event)?.tell())),
        Body::ImageVerdict(p) => {
            let verdict = ImageVerdict::from(&**p);
            Some((verdict.word(), verdict.tell()))
        }
        _ => None,
    }
}

/// What a change is called, and the same in a sentence; `None` of what a newer version knows.
fn change(p: &PolicyChange, at: u64) -> Option<(&'static str, String)> {
    let PolicyChange { text, uid, .. } = p;
    let mode = Mode::from_raw(p.mode).map_or("unknown", Mode::name);
    let end = match p.until {
        NEVER => "until it is taken back".to_owned(),
        until => format!("for {}", Span(until.saturating_sub(at))),
    };
    let sentence = match p.what {
        POLICY_LOADED => format!("policy in force, mode {mode}: {text}"),
        POLICY_OFF => format!("no policy in force any more: {text}"),
        POLICY_HOLD => format!("held by user {uid} {end}, mode {mode}: {text}"),
        POLICY_ALLOW => format!("everything allowed by user {uid} {end}, mode {mode}: {text}"),
        POLICY_CLEAR => format!("orders taken back by user {uid}: {text}"),
        POLICY_EXPIRED => format!("an order came to its end: {text}"),
        POLICY_ADOPTED => format!("taken over: {text}"),
        _ => return None,
    };
    Some((change_name(p.what)?, sentence))
}

/// A call to which a rule said no.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// `session-create`, `file-preserve`, `kexec-load` or `kexec-reboot`.
    pub op: Cow<'static, str>,
    /// `would-deny`, `deny` or `allowed`.
    pub decision: Cow<'static, str>,
    /// The rule's name, escaped.
    pub rule: String,
    /// The caller's process id.
    pub pid: u32,
    /// Its command name, escaped.
    pub comm: String,
    /// Its real user id.
    pub uid: u32,
    /// The session, where it is about one, escaped; else empty.
    pub session: String,
}

impl Refusal {
    /// The refusal that an event tells of, if it tells of one.
    pub fn of(event: &Event) -> Option<Self> {
        let Body::PolicyDecision(operation, decision, p) = &event.body else {
            return None;
        };
        decision.is_no().then(|| Self {
            time_ns: event.header.ktime,
            op: operation.name().into(),
            decision: decision.name().into(),
            rule: p.rule_name.to_string(),
            pid: event.header.tgid,
            comm: event.header.comm.to_string(),
            uid: p.uid,
            session: p.session.name.to_string(),
        })
    }

    /// What happened, in a sentence: `kexec-load by kexec[71] (user 0) refused by the rule "legacy"`.
    pub fn tell(&self) -> String {
        let what = match self.decision.as_ref() {
            "deny" => "refused",
            "allowed" => "let through by an allowance, against",
            _ => "passed, and in mode enforce would be refused",
        };
        let by = if self.decision == "allowed" { "" } else { " by" };
        let about = match self.session.as_str() {
            "" => String::new(),
            session => format!(" for the session {session:?}"),
        };
        let Self {
            op,
            pid,
            comm,
            uid,
            rule,
            ..
        } = self;
        format!("{op}{about} by {comm}[{pid}] (user {uid}) {what}{by} the rule {rule:?}")
    }
}

/// What the agent found when it looked into an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageVerdict {
    /// What the kernel in it does with what is preserved: `carries`, `loses`, `panics` or `unknown`.
    pub outcome: Cow<'static, str>,
    /// What its command line does: `carries`, `loses` or `unknown`.
    pub command_line: Cow<'static, str>,
    /// Why, in a sentence.
    pub reason: String,
}

impl ImageVerdict {
    /// All in all, in a word.
    pub fn word(&self) -> &'static str {
        let all = [self.outcome.as_ref(), self.command_line.as_ref()];
        let worst = ["panics", "loses", "unknown"]
            .into_iter()
            .find(|word| all.contains(word));
        worst.unwrap_or("carries")
    }

    /// What was found in the image, in a line.
    pub fn tell(&self) -> String {
        let Self {
            outcome,
            command_line,
            reason,
        } = self;
        let line = match command_line.as_ref() {
            "carries" => String::new(),
            other => format!(", its command line: {other}"),
        };
        format!("in the image: {outcome}{line} ({reason})")
    }
}

impl From<&abi::ImageVerdict> for ImageVerdict {
    fn from(p: &abi::ImageVerdict) -> Self {
        Self {
            outcome: verdict_name(p.outcome).into(),
            command_line: verdict_name(p.command_line).into(),
            reason: p.reason.to_string(),
        }
    }
}

/// The name of the rule that decided; empty: none applied.
pub fn rule_name(p: &PolicyDecision) -> String {
    match p.rule {
        RULE_NONE => String::new(),
        _ => p.rule_name.to_string(),
    }
}
