//! What a made-up agent records of its policy.

use luo_trace_common::events::{POLICY_HOLD, POLICY_LOADED, PolicyChange, PolicyDecision};
use luo_trace_common::policy::{Decision, Mode, NEVER, NOT_COUNTED, Operation, RULE_HOLD, RULE_NONE, RuleName};
use luo_trace_common::text::Name;
use zerocopy::FromZeros;

use super::story::Story;
use crate::event::Body;

impl Story {
    /// A policy is in force from here on, in this mode.
    pub fn policy(&mut self, mode: Mode) -> &mut Self {
        self.change(POLICY_LOADED, mode, 0, "policy.toml")
    }

    /// An operator holds the host, until that is taken back.
    pub fn hold(&mut self, reason: &str) -> &mut Self {
        self.change(POLICY_HOLD, Mode::Enforce, NEVER, reason)
    }

    fn change(&mut self, what: u32, mode: Mode, until: u64, text: &str) -> &mut Self {
        self.push(Body::PolicyChange(Box::new(PolicyChange {
            what,
            mode: mode as u32,
            generation: 1,
            until,
            uid: 0,
            operations: 0,
            text: Name::new(text),
        })))
    }

    /// A call is refused by the rule of this name, or by the operator's hold where that is `hold`.
    pub fn refused(&mut self, operation: Operation, rule: &str) -> &mut Self {
        let number = if rule == "hold" { RULE_HOLD } else { 0 };
        self.decided(operation, Decision::Deny, number, rule)
    }

    /// A call passes, since no rule applies to it.
    pub fn passed(&mut self, operation: Operation) -> &mut Self {
        self.decided(operation, Decision::Pass, RULE_NONE, "")
    }

    fn decided(&mut self, operation: Operation, decision: Decision, rule: u32, name: &str) -> &mut Self {
        let told = PolicyDecision {
            operation: operation as u32,
            decision: decision as u32,
            rule,
            mode: Mode::Enforce as u32,
            generation: 1,
            rule_name: RuleName::new(name),
            sessions: NOT_COUNTED,
            files: NOT_COUNTED,
            ..PolicyDecision::new_zeroed()
        };
        self.push(Body::PolicyDecision(operation, decision, Box::new(told)))
    }
}
