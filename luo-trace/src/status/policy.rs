//! What policy did, and what it is: for those who ask a host.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use luo_trace_common::policy::{Decision, Mode, NEVER, Operation, State};
use luo_trace_common::text::Name;
use serde::{Deserialize, Serialize};

use crate::event::{Body, Event};
use crate::policy::orders::{Span, Standing};
use crate::policy::tell::{Refusal, rule_name};
use crate::text::units::count;

/// How many refusals are remembered.
const LAST: usize = 20;
/// More rules than this are not told apart: those of one policy, the agent's own, and what a policy before had.
const NAMES: usize = 256;

/// The policy of a host's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// `off`, `audit` or `enforce`.
    pub mode: Cow<'static, str>,
    /// The file it was read from, escaped; empty: no agent that runs has one, and `troubles` tells what is in force all the same.
    pub file: String,
    /// How many rules it has.
    pub rules: u64,
    /// What becomes of updates when the agent is lost: `open` or `closed`.
    pub on_agent_loss: Cow<'static, str>,
    /// Which policy of this agent it is, from 1; 0: none is in force.
    pub generation: u64,
    /// What stands of an operator's orders.
    pub hold: Option<Order>,
    /// The same of an allowance.
    pub allowance: Option<Order>,
    /// What was decided since the agent was started, by rule, operation and decision.
    pub decisions: Vec<Decisions>,
    /// The last calls to which a rule said no, latest first.
    pub refusals: Vec<Refusal>,
    /// Why not everything is as the file says, in sentences; empty: it is.
    pub troubles: Vec<String>,
}

/// An operator's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    /// When it ends, in nanoseconds of `CLOCK_MONOTONIC`; null: when it is taken back.
    pub until_ns: Option<u64>,
    /// When it was given.
    pub since_ns: u64,
    /// The operator's user id: of the login, or where no login is known the effective one; null: not known.
    pub uid: Option<u32>,
    /// Why, escaped.
    pub reason: String,
}

/// How often one thing was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// The rule's name, escaped; empty: none applied.
    pub rule: String,
    /// `session-create`, `file-preserve`, `kexec-load` or `kexec-reboot`.
    pub op: Cow<'static, str>,
    /// `pass`, `audit`, `would-deny`, `deny` or `allowed`.
    pub decision: Cow<'static, str>,
    /// How often.
    pub count: u64,
}

impl Policy {
    /// The same with the orders that stand.
    #[must_use]
    pub fn with(self, standing: &Standing) -> Self {
        let order = |entry: &crate::policy::orders::Entry| Order {
            until_ns: entry.until_ns,
            since_ns: entry.since_ns,
            uid: entry.uid,
            reason: Name::<256>::new(&entry.reason).to_string(),
        };
        Self {
            hold: standing.hold.as_ref().map(order),
            allowance: standing.allowance.as_ref().map(order),
            ..self
        }
    }
}

impl Policy {
    /// What another agent's policy, whose programs are pinned at `place`, comes to on a host of whose agents none that runs has
    /// one. `state` is what the programs go by, or why that cannot be read.
    pub fn left_in_force(place: &str, state: Result<&State, String>, now_ns: u64) -> (Self, Standing) {
        let (how, standing) = match state {
            Ok(state) => (
                match state.heartbeat {
                    NEVER => "that agent ended in order, and it decides on by its rules".into(),
                    beat => format!(
                        "that agent has shown no sign of life for {}, so it refuses images and reboots, unless its mode is audit",
                        Span(now_ns.saturating_sub(beat))
                    ),
                },
                Standing::default().joined(state.held_until, state.allowed_until, now_ns),
            ),
            Err(why) => (format!("what it does is not known, since {why}"), Standing::default()),
        };
        let trouble = format!(
            "another agent's policy is in force, pinned in {place}: {how}. `luo-trace policy clear` removes it, and an agent \
             with --policy FILE takes its place"
        );
        let policy = Self {
            mode: Mode::Off.name().into(),
            on_agent_loss: "closed".into(),
            troubles: vec![trouble],
            ..Self::default()
        };
        (policy, standing)
    }

    /// The policy in sentences, at this time in nanoseconds of `CLOCK_MONOTONIC`: what it is, what an operator ordered, and the
    /// last refusals, latest first.
    pub fn lines(&self, now_ns: u64) -> Vec<String> {
        let Self {
            mode,
            file,
            on_agent_loss,
            ..
        } = self;
        let rules = count(self.rules, "rule");
        let mut lines = vec![match file.as_str() {
            "" => "no agent that runs has one".to_owned(),
            file => format!("mode {mode}: {rules} of {file}, {on_agent_loss} on agent loss"),
        }];
        lines.extend(self.troubles.iter().cloned());
        let order = |what: &str, order: &Option<Order>| {
            let order = order.as_ref()?;
            Some(format!("{what} {}: {order}", order.end(now_ns)))
        };
        lines.extend(order("HELD", &self.hold));
        lines.extend(order("everything is ALLOWED", &self.allowance));
        let sum = |decision: &str| {
            let of = self.decisions.iter().filter(|one| one.decision == decision);
            of.map(|one| one.count).sum::<u64>()
        };
        if !self.decisions.is_empty() {
            let counts = ["deny", "would-deny", "allowed", "audit", "pass"].map(|name| format!("{} {name}", sum(name)));
            lines.push(format!("decisions: {}", counts.join(", ")));
        }
        lines.extend(self.refusals.iter().map(Refusal::tell));
        lines
    }
}

impl Order {
    /// `for another 9m`, or how it ends otherwise.
    pub fn end(&self, now_ns: u64) -> String {
        match self.until_ns {
            Some(until) => format!("for another {}", Span(until.saturating_sub(now_ns))),
            None => "until `luo-trace policy clear`".into(),
        }
    }
}

/// `REASON (user 0)`.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match self.uid {
            Some(uid) => write!(f, " (user {uid})"),
            None => Ok(()),
        }
    }
}

/// What the events tell of decisions.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: BTreeMap<(String, Operation, Decision), u64>,
    refusals: VecDeque<Refusal>,
}

impl Tally {
    /// Takes in the next event.
    pub fn observe(&mut self, event: &Event) {
        let Body::PolicyDecision(operation, decision, p) = &event.body else {
            return;
        };
        let key = (rule_name(p), *operation, *decision);
        let most = NAMES * Operation::COUNT * Decision::COUNT;
        if self.counts.len() < most || self.counts.contains_key(&key) {
            *self.counts.entry(key).or_default() += 1;
        }
        if let Some(refusal) = Refusal::of(event) {
            self.refusals.truncate(LAST - 1);
            self.refusals.push_front(refusal);
        }
    }

    /// The policy with what it decided.
    pub fn tell(&self, policy: Policy) -> Policy {
        let decisions = self
            .counts
            .iter()
            .map(|((rule, operation, decision), &count)| Decisions {
                rule: rule.clone(),
                op: operation.name().into(),
                decision: decision.name().into(),
                count,
            });
        Policy {
            decisions: decisions.collect(),
            refusals: self.refusals.iter().cloned().collect(),
            ..policy
        }
    }
}
