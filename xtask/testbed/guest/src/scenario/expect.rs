//! What the journals of a scenario must show.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{PolicyFile, Size};

/// What must be found in a scenario's journals, and what must not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Events that must be there.
    #[serde(default)]
    pub events: Vec<EventPattern>,
    /// Events that must come in this order, each list for itself; others may come between them.
    #[serde(default)]
    pub sequences: Vec<Vec<EventPattern>>,
    /// Events that must not be there. Here and in `sequences`, `count` and `at_least` mean nothing.
    #[serde(default)]
    pub absent: Vec<EventPattern>,
    /// Texts that must be in one line of what the agent wrote to its standard output or error, and in no other.
    #[serde(default)]
    pub agent_says: Vec<String>,
    /// The invariants that must have findings, each of them; any other finding fails the scenario.
    #[serde(default)]
    pub findings: Vec<String>,
    /// The verdicts that invariants must have; one that is not named may be ok or unknown.
    #[serde(default)]
    pub verdicts: BTreeMap<String, Verdict>,
    /// What the live updates came to that the agent of the last kernel tells of at its end, the newest first; whatever stands here, it is what
    /// `luo-trace updates` says of the journals.
    #[serde(default)]
    pub outcomes: Vec<String>,
    /// Whether the collector has got all that the journals tell: each finding and each update, by their ids, and nothing else.
    #[serde(default)]
    pub pushed: bool,
    /// How far, in milliseconds, each blackout that luo-trace tells may be from the one by the host's clock.
    #[serde(default)]
    pub blackout_within_ms: Option<u32>,
    /// How large the files of the journals may be, all together.
    #[serde(default)]
    pub journals_at_most: Option<Size>,
    /// What `luo-trace check` must say of the journals.
    #[serde(default)]
    pub check: Vec<Check>,
    /// How many rules the steps `product` try, each where its condition holds and where it does not.
    #[serde(default)]
    pub rules_tried: usize,
    /// What `luo-trace policy test` must say of the journals: what was decided.
    #[serde(default)]
    pub policy_test: Vec<PolicyTest>,
}

/// One call of `luo-trace policy test` for each journal. It must tell the decisions that are recorded there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTest {
    /// The policy. Its mode may be another than that of the recorded ones.
    pub policy: PolicyFile,
    /// How often the recorded decisions come: 2 where the same was done without a policy before, or afterwards.
    #[serde(default = "once")]
    pub times: usize,
}

fn once() -> usize {
    1
}

/// One call of `luo-trace check`, and what must come of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The kernels whose journals it gets; all of them when left out.
    #[serde(default)]
    pub journals: Vec<u32>,
    /// The file of expectations that it gets, in the directory `expect` beside the scenarios.
    #[serde(default)]
    pub expect: Option<String>,
    /// The exit status it must have.
    pub exits: i32,
    /// Texts that its output must have.
    #[serde(default)]
    pub says: Vec<String>,
}

/// Events of one name in one kernel, by their fields as the agent's `--format json` shows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventPattern {
    /// The kernel: 1 before the kexec, 2 after it; either when left out.
    #[serde(default)]
    pub boot: Option<u32>,
    /// The event's name, such as `file-preserve`.
    pub event: String,
    /// Fields it has, with their values.
    #[serde(default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// How many there are, exactly.
    #[serde(default)]
    pub count: Option<u64>,
    /// How many there are, at least; 1 when neither this nor `count` is given.
    #[serde(default)]
    pub at_least: Option<u64>,
}

/// An invariant's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It held.
    Ok,
    /// It did not.
    Violated,
    /// What was seen does not decide it.
    Unknown,
}
