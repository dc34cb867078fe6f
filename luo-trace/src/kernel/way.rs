//! The ways of attaching hooks, and which of them the running kernel has.

use super::bpf;

/// How hooks are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By links to many functions at once.
    Multi,
    /// One by one: fentry and fexit, and kprobes on callbacks.
    Each,
}

impl Way {
    /// Both, the better one first.
    pub const ALL: [Way; 2] = [Way::Multi, Way::Each];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Way::Multi => "multi",
            Way::Each => "each",
        }
    }

    /// What it is, for users.
    pub const fn what(self) -> &'static str {
        match self {
            Way::Multi => "by links to many functions at once",
            Way::Each => "one by one",
        }
    }

    /// The better one of those that the running kernel has.
    pub(super) fn best() -> Self {
        match bpf::has_links_to_many() {
            true => Way::Multi,
            false => Way::Each,
        }
    }
}
