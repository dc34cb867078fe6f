//! What a host has preserved, from what is known of it: its model, or what its status tells.

use crate::image::{InUse, Preserved};
use crate::model::{Direction, Model};

use super::Status;

impl Preserved {
    /// What a model knows of. The recorder's own files count where there are others: without their handler the next kernel
    /// brings back no file of others either.
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
