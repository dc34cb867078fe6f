//! Live updates over kernels: which boot followed which, what left, what arrived.
//!
//! One boot's promises are the model's to judge; those that a live update makes from one kernel to the next are judged
//! here, over [`Boot`]s, each gathered from one record. Pure: whatever is known of files and clocks came with the records.

mod boot;

pub use boot::{Boot, FileLine, FlbLine, SessionLine, Span};

use crate::model::{Finding, Verdict};

/// Boots in the order they ran, and the live updates between them.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The boots, in the order they ran.
    pub boots: Vec<Boot>,
    /// The live updates that were tried, in their order.
    pub updates: Vec<Update>,
    /// What was found over the updates; what one boot proves is in its own judgement.
    pub findings: Vec<Finding>,
    /// The verdicts on the invariants that take a chain.
    pub verdicts: Vec<Verdict>,
}

/// One live update: a kernel that left, or tried to, and the one that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// LUO's number of it, which is that of the kernel that arrives; `None`: not known.
    pub number: Option<u64>,
    /// The boot that left, as its place in [`Chain::boots`]; `None`: there is no record of it.
    pub from: Option<usize>,
    /// The boot that arrived, as its place in [`Chain::boots`]; `None`: there is no record of it.
    pub to: Option<usize>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a live update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The next kernel took over.
    Completed,
    /// The kernel that tried it went on: the freeze failed, or the jump did.
    Aborted,
    /// It departed, and there is no record of its arrival.
    Departed,
    /// It arrived, and there is no record of its departure.
    Arrived,
}

impl Chain {
    /// Joins the records of boots, given in any order.
    pub fn join(mut boots: Vec<Boot>) -> Self {
        boots.sort_by(Boot::order);
        let updates = boots
            .windows(2)
            .enumerate()
            .map(|(from, pair)| Update {
                number: pair[1].update_number,
                from: Some(from),
                to: Some(from + 1),
                fate: Fate::Completed,
            })
            .collect();
        Self {
            boots,
            updates,
            ..Self::default()
        }
    }
}
