//! What a recorded agent's metrics said of policy: as far as its journal tells which there was, and what an operator ordered.

use std::collections::BTreeSet;

use luo_trace_common::events::{
    POLICY_ADOPTED, POLICY_ALLOW, POLICY_CLEAR, POLICY_EXPIRED, POLICY_HOLD, POLICY_LOADED, POLICY_OFF, PolicyChange,
};
use luo_trace_common::policy::{Decision, Mode, Operation};

use crate::event::{Body, Event};
use crate::policy::tell::rule_name;
use crate::sink::metrics::Metrics;

/// The policy in force.
#[derive(Debug)]
pub(super) struct Rules {
    mode: Mode,
    /// The rules that have decided something: a journal names no other.
    known: BTreeSet<(String, Operation, Decision)>,
    /// Until when the host is held, and until when everything passes, in nanoseconds of `CLOCK_MONOTONIC`.
    held: u64,
    allowed: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            known: BTreeSet::new(),
            held: 0,
            allowed: 0,
        }
    }
}

impl Rules {
    /// Takes in an event, before it is counted.
    pub(super) fn takes(&mut self, metrics: &Metrics, event: &Event) {
        match &event.body {
            Body::PolicyChange(p) => self.changes(metrics, p),
            Body::PolicyDecision(operation, decision, p) => {
                let rule = rule_name(p);
                if !rule.is_empty() && self.known.insert((rule, *operation, *decision)) {
                    self.show(metrics);
                }
            }
            _ => {}
        }
    }

    /// Shows how orders stand at this time.
    pub(super) fn are_at(&self, metrics: &Metrics, now: u64) {
        metrics.set_orders(self.held > now, self.allowed.saturating_sub(now));
    }

    fn changes(&mut self, metrics: &Metrics, p: &PolicyChange) {
        match p.what {
            POLICY_HOLD => self.held = p.until,
            POLICY_ALLOW => self.allowed = p.until,
            POLICY_CLEAR => (self.held, self.allowed) = (0, 0),
            // It ended at its time, which is known.
            POLICY_EXPIRED => {}
            POLICY_LOADED | POLICY_ADOPTED | POLICY_OFF => {
                self.mode = Mode::from_raw(p.mode).unwrap_or(Mode::Off);
                if p.what == POLICY_OFF {
                    *self = Self::default();
                }
                self.show(metrics);
            }
            // What a newer version knows.
            _ => {}
        }
    }

    fn show(&self, metrics: &Metrics) {
        let known: Vec<_> = self.known.iter().cloned().collect();
        metrics.set_policy(self.mode, &known);
    }
}
