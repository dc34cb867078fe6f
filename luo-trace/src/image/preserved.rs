//! What the next kernel has to take, and in which formats.

use serde::Serialize;

use crate::model::{Direction, Model};
use crate::status::Status;

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
    /// What a model knows of. The recorder's own files count where there are others: without their handler the next kernel
    /// brings back nobody's.
    pub fn of_model(model: &Model) -> Self {
        let sessions = model.counts_of_others().outgoing_sessions;
        if sessions == 0 {
            return Self::default();
        }
        let counts = model.counts();
        let outgoing = counts
            .files()
            .filter(|count| count.state.direction() == Direction::Outgoing);
        let flbs = counts.flbs().iter();
        let flbs = flbs.filter(|flb| flb.direction == Direction::Outgoing && flb.alive);
        Self {
            sessions,
            handlers: in_use(outgoing.map(|count| (count.handler.to_string(), count.files))),
            flbs: in_use(flbs.map(|flb| (flb.name.to_string(), flb.users.max(1)))),
            incomplete: None,
        }
    }

    /// What a host's status tells, in the same way.
    pub fn of_status(status: &Status) -> Self {
        let lost = status.losses.events;
        let incomplete = (lost > 0).then(|| format!("{lost} events were lost"));
        let is_outgoing = |direction: &str| direction == Direction::Outgoing.name();
        let outgoing = || status.sessions.iter().filter(|session| is_outgoing(&session.direction));
        let sessions = outgoing().filter(|session| !session.own).count() as u64;
        if sessions == 0 {
            return Self {
                incomplete,
                ..Self::default()
            };
        }
        let files = outgoing().flat_map(|session| &session.files);
        let flbs = status
            .flbs
            .iter()
            .filter(|flb| is_outgoing(&flb.direction) && flb.alive);
        Self {
            sessions,
            handlers: in_use(files.map(|file| (file.handler.clone(), 1))),
            flbs: in_use(flbs.map(|flb| (flb.name.clone(), flb.users.max(1)))),
            incomplete,
        }
    }

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

/// What has these names, each once, with its number, where that is not 0.
fn in_use(names: impl Iterator<Item = (String, u64)>) -> Vec<InUse> {
    let mut used: Vec<InUse> = Vec::new();
    for (name, count) in names.filter(|(_, count)| *count > 0) {
        match used.iter_mut().find(|one| one.name == name) {
            Some(one) => one.count = one.count.saturating_add(count),
            None => used.push(InUse { name, count }),
        }
    }
    used
}
