//! What finds files by other names than their place in a session, and counts them.

use super::counts::{Counts, FileState};
use super::objects::{File, Session};
use crate::model::HashMap;

/// Who holds an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) id: u64,
    pub(super) serial: u64,
    pub(super) place: usize,
}

/// The files of all sessions.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By serial number of the session and token: their places in the session.
    pub(super) tokens: HashMap<(u64, u64), usize>,
    /// Outgoing objects, by identity.
    pub(super) objects: HashMap<u64, Holder>,
    pub(super) counts: Counts,
}

impl Index {
    /// Drops the file at this place of a session; later ones keep their places.
    pub(super) fn drop_file(&mut self, session: &mut Session, place: usize) {
        let Some(file) = session.files.get_mut(place) else {
            return;
        };
        if let Some(state) = file.state.take() {
            self.counts.files_went(file.handler, state, 1, file.object.size);
            self.counts.retired += 1;
            let key = (session.serial, file.token);
            if self.tokens.get(&key) == Some(&place) {
                self.tokens.remove(&key);
            }
            let identity = file.object.identity;
            let held_here = |holder: &Holder| (holder.serial, holder.place) == (session.serial, place);
            if identity != 0 && self.objects.get(&identity).is_some_and(held_here) {
                self.objects.remove(&identity);
            }
        }
        while session.files.last().is_some_and(|f| f.state.is_none()) {
            session.files.pop();
        }
    }

    pub(super) fn drop_files(&mut self, session: &mut Session) {
        while let Some(last) = session.files.len().checked_sub(1) {
            self.drop_file(session, last);
        }
        let pending = std::mem::take(&mut session.pending);
        self.counts.files_went(0, FileState::Pending, pending, 0);
        self.counts.retired = self.counts.retired.saturating_add(pending);
    }

    pub(super) fn no_longer_awaited(&mut self, session: &mut Session) {
        if std::mem::take(&mut session.awaited) {
            self.counts.pending_sessions -= 1;
        }
    }
}

/// A file's state changes.
pub(super) fn change(counts: &mut Counts, file: &mut File, state: FileState) {
    if let Some(before) = file.state.filter(|&s| s != state) {
        counts.files_went(file.handler, before, 1, file.object.size);
        counts.files_came(file.handler, state, 1, file.object.size);
        file.state = Some(state);
    }
}
