//! Which machine a journal is of.

use serde::{Deserialize, Serialize};

/// What tells a machine from others, as far as its agent knew. The ids of the machine and of its hardware are hashed: who has the journal
/// does not have them.
///
/// A system that is not up yet knows less of its machine than later, so that two journals of one machine need not have the same ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What it is called; that tells it from no other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The id that an operator gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// Of `/etc/machine-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Of the id that the firmware tells of the hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

impl Host {
    /// The kinds of ids.
    pub const KINDS: [&str; 3] = ["given", "machine", "product"];

    /// The id of this kind; `None`: not known.
    pub fn id(&self, kind: &str) -> Option<&str> {
        match kind {
            "given" => self.given.as_deref(),
            "machine" => self.machine.as_deref(),
            "product" => self.product.as_deref(),
            _ => None,
        }
    }

    /// The id that tells it from others: one that an operator gave, else of the machine, else of its hardware.
    pub fn first_id(&self) -> Option<&str> {
        self.ids().next().map(|(_, id)| id)
    }

    /// The ids that are known, each with its kind.
    pub fn ids(&self) -> impl Iterator<Item = (&'static str, &str)> {
        Self::KINDS.into_iter().filter_map(|kind| Some((kind, self.id(kind)?)))
    }
}
