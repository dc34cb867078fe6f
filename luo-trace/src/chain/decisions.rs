//! What policy did in one boot, what an operator ordered, and what was found in images.

use crate::event::{Body, Event, change_name};

/// More than this of one boot is counted only.
const MOST: usize = 1000;

/// The changes and refusals of one boot, and the looks into images, in their order. [`crate::policy::tell`] has the words for them.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The first of them: each a change of policy, an operator's order, a call to which a rule said no, or a look into the image that
    /// is loaded.
    pub events: Vec<Event>,
    /// How many more there are.
    pub more: u64,
}

impl Policies {
    /// Takes in the next event.
    pub(super) fn observe(&mut self, event: &Event) {
        let tells = match &event.body {
            Body::PolicyChange(p) => change_name(p.what).is_some(),
            Body::PolicyDecision(_, decision, _) => decision.is_no(),
            Body::ImageVerdict(_) => true,
            _ => false,
        };
        match self.events.len() {
            _ if !tells => {}
            MOST.. => self.more += 1,
            _ => self.events.push(event.clone()),
        }
    }
}
