//! What the author of a policy cannot have meant.

use super::{Policy, Problem};

impl Policy {
    /// What its author should look at again, in the order of the file.
    pub fn warnings(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// What is refused.
pub(super) fn refuse(_policy: &Policy) -> Vec<Problem> {
    Vec::new()
}
