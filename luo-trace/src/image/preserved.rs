//! What the next kernel has to take, and in which formats.

use serde::Serialize;

/// Files of one handler, or users of one global state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InUse {
    /// The compatible string; empty: not known.
    pub name: String,
    /// How many; 0: not known.
    pub count: u64,
}

/// What is preserved, without what the recorder preserves for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preserved {
    /// How many sessions.
    pub sessions: u64,
    /// The handlers of their files.
    pub handlers: Vec<InUse>,
    /// Global state.
    pub flbs: Vec<InUse>,
    /// Why there may be more; `None`: there is not.
    pub incomplete: Option<String>,
}

impl Preserved {
    /// Whether there is nothing that could be lost.
    pub fn is_empty(&self) -> bool {
        let Self {
            sessions,
            handlers,
            flbs,
            incomplete,
        } = self;
        *sessions == 0 && handlers.is_empty() && flbs.is_empty() && incomplete.is_none()
    }
}

/// The formats that the running kernel writes; `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Formats {
    /// LUO's: `luo-v5`.
    pub luo: Option<String>,
    /// KHO's: `kho-v4`.
    pub kho: Option<String>,
}
