//! What policy did in one boot, what an operator ordered, and what was found in images.

use crate::event::{Body, Event};
use crate::status::policy::{Refusal, tell_change};
use crate::status::{ImageVerdict, table};

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

/// A change of policy, an operator's order, a call to which a rule said no, or a look into the image that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLine {
    /// When.
    pub at: u64,
    /// `loaded`, `off`, `hold`, `allow`, `clear`, `expired` or `adopted`; of a call `deny`, `would-deny` or `allowed`; of an image
    /// `carries`, `loses`, `panics` or `unknown`.
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
            Body::ImageVerdict(p) => {
                let verdict = ImageVerdict::from(&**p);
                Some(PolicyLine {
                    at,
                    what: verdict.word(),
                    text: table::looked_into(&verdict),
                })
            }
            _ => None,
        };
        let Some(line) = line else { return };
        match self.lines.len() {
            MOST.. => self.more += 1,
            _ => self.lines.push(line),
        }
    }
}
