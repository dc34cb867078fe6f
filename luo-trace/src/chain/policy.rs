//! What policy did in one boot, and what an operator ordered.

use crate::event::{Body, Event};
use crate::status::policy::{Refusal, tell_change};

/// More than this of one boot is counted only.
const MOST: usize = 1000;

/// The changes and refusals of one boot, in their order.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The first of them.
    pub lines: Vec<PolicyLine>,
    /// How many more there are.
    pub more: u64,
}

/// A change of policy, an operator's order, or a call to which a rule said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLine {
    /// When.
    pub at: u64,
    /// `loaded`, `off`, `hold`, `allow`, `clear`, `expired` or `adopted`; of a call `deny`, `would-deny` or `allowed`.
    pub what: &'static str,
    /// The same in a sentence, escaped.
    pub text: String,
}

impl Policies {
    /// Takes in the next event.
    pub(super) fn observe(&mut self, event: &Event) {
        let at = event.header.ktime;
        let line = match &event.body {
            Body::PolicyChange(p) => tell_change(p, at).map(|(what, text)| PolicyLine { at, what, text }),
            Body::PolicyDecision(_, decision, _) => Refusal::of(event).map(|refusal| PolicyLine {
                at,
                what: decision.name(),
                text: refusal.tell(),
            }),
            _ => None,
        };
        let Some(line) = line else { return };
        match self.lines.len() {
            MOST.. => self.more += 1,
            _ => self.lines.push(line),
        }
    }
}
