//! What a walk over the kernel's lists teaches: sessions, files and global states from before the record, or from a hole in
//! it, are known from then on.

use luo_trace_common::events as abi;

use super::super::counts::{Direction, FileState, HandlerId};
use super::super::court::SETTLE_NS;
use super::super::flbs::Life;
use super::super::index::Holder;
use super::super::invariants::Invariant;
use super::super::objects::{File, Freezing, Retrieve, Session};
use super::super::scene::{Moment, TAINTED};
use super::super::snapshot::{ListedFile, ListedSession, Snapshot, Walk};
use super::{BLINK_NS, State};
use crate::event::{Body, Event};
use crate::model::HashMap;

impl State {
    /// Collects the records of a walk. At its end what it found is there to be judged, and then to be learned.
    pub(super) fn walk(&mut self, event: &Event, handler: HandlerId) {
        match &event.body {
            Body::SnapshotBegin(p) => self.walk = Some(Walk::begin(p, event.header.ktime)),
            Body::SnapshotEnd(p) => {
                let Some(walk) = self.walk.take().filter(|walk| walk.ends_with(p)) else {
                    return;
                };
                let changed = p.flags & (abi::SNAPSHOT_CHANGED | abi::SNAPSHOT_INCOMPLETE) != 0 || walk.disturbed;
                let clear = self.blind_until == 0 || walk.since > self.blind_until;
                // A loss may be told before it happened, by the time up to which it may have.
                let after = walk.since >= self.blind_until.saturating_sub(BLINK_NS);
                let certain = !changed && (clear || after && walk.agrees(p));
                self.snapshot = Some(Box::new(Snapshot {
                    walk,
                    end: *p,
                    id: event.id(),
                    at: event.header.ktime,
                    certain,
                    whole: certain && clear,
                }));
            }
            _ => {
                if let Some(walk) = &mut self.walk {
                    walk.take(event, handler);
                }
            }
        }
    }

    /// The session that a walk found, where it is known already.
    pub(in crate::model) fn known(&self, listed: &ListedSession) -> Option<&Session> {
        let session = self.sessions.get(&listed.record.session.id)?;
        let same = session.direction == listed.direction && session.name == listed.record.session.name;
        (same && session.epoch == self.epoch).then_some(session)
    }

    /// Whether a known session has this file.
    pub(in crate::model) fn has(&self, session: &Session, file: &ListedFile) -> bool {
        self.index.tokens.contains_key(&(session.serial, file.record.token))
    }

    /// What a walk makes known, and so opens.
    pub(in crate::model) fn openings(&self) -> Vec<Invariant> {
        let Some(snapshot) = self.snapshot.as_deref().filter(|s| s.certain) else {
            return Vec::new();
        };
        let mut open = Vec::new();
        for listed in &snapshot.walk.sessions {
            let known = self.known(listed);
            match listed.direction {
                Direction::Outgoing if known.is_none() => open.push(Invariant::SessionBalance),
                Direction::Incoming if known.is_none() && listed.record.retrieved != 0 => {
                    open.push(Invariant::SessionRetrieveOnce);
                }
                _ => {}
            }
            for file in listed.files.iter().filter(|f| known.is_none_or(|s| !self.has(s, f))) {
                match listed.direction {
                    Direction::Outgoing => open.push(Invariant::FileBalance),
                    Direction::Incoming if file.record.retrieve_status != 0 => open.push(Invariant::FileRetrieveOnce),
                    Direction::Incoming => {}
                }
            }
        }
        for (p, _) in snapshot
            .walk
            .flbs
            .iter()
            .filter(|(p, _)| snapshot.whole && p.outgoing_users > 0)
        {
            let life = self.flbs.get(p.flb).map(|(_, flb)| flb.outgoing.life(self.epoch));
            if !matches!(life, Some(Life::Alive(..))) {
                open.push(Invariant::FlbDestroyOnLast);
            }
        }
        open
    }

    /// Takes over what a walk found.
    pub(super) fn learn(&mut self, moment: Moment) {
        let Some(snapshot) = self.snapshot.take() else { return };
        if snapshot.tells(Direction::Incoming) {
            self.handover.read_in(&mut self.index.counts);
        }
        if !snapshot.certain {
            // It shows what there is, and nothing can be held against it.
            for listed in &snapshot.walk.sessions {
                if !self.sessions.contains_key(&listed.record.session.id) {
                    self.list(listed, TAINTED, moment);
                }
            }
            return;
        }
        let mut taught = self.drop_missing(&snapshot);
        for listed in &snapshot.walk.sessions {
            taught |= match self.known(listed) {
                None => {
                    self.list(listed, self.epoch, moment);
                    true
                }
                Some(_) => self.complete(listed, moment),
            };
        }
        if snapshot.whole {
            taught |= self.learn_flbs(&snapshot, moment);
        }
        self.listed = self.epoch;
        self.unread = snapshot.is_unread().then_some((snapshot.id, self.epoch));
        self.aborted = None;
        if self.outgoing().next().is_none() && self.flbs.none_outgoing() && self.kho.all(self.epoch).is_none() {
            self.kho.begin(self.epoch);
        }
        if taught {
            self.taught_at = snapshot.at;
        }
    }

    /// Drops sessions that are not there. One that is known for certain is kept until a walk misses it for so long that its release
    /// cannot be under way any more.
    fn drop_missing(&mut self, snapshot: &Snapshot) -> bool {
        let epoch = self.epoch;
        let settled = snapshot.at.saturating_sub(SETTLE_NS);
        let mut gone = Vec::new();
        for session in self.sessions.values_mut().filter(|s| snapshot.tells(s.direction)) {
            let listed = snapshot.walk.session(session.id);
            let there =
                listed.is_some_and(|w| w.direction == session.direction && w.record.session.name == session.name);
            let since = session.missed.unwrap_or(snapshot.at);
            let certain = session.epoch == epoch && since > settled;
            session.missed = (!there).then_some(since);
            if !there && !certain {
                gone.push(session.id);
            }
        }
        for id in &gone {
            if let Some(session) = self.sessions.remove(id) {
                self.retire(session);
            }
        }
        !gone.is_empty()
    }

    /// Makes a session known as a walk found it.
    fn list(&mut self, listed: &ListedSession, epoch: u32, moment: Moment) {
        let p = &listed.record;
        if let Some(old) = self.sessions.remove(&p.session.id) {
            self.retire(old);
        }
        self.add(&p.session, listed.direction, epoch, moment);
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        (session.origin, session.born) = (listed.id, 0);
        session.freezing = Freezing::Unknown;
        // What its files keep in memory was not seen to be preserved.
        session.mixed = true;
        if listed.direction == Direction::Outgoing {
            self.kho.doubt();
        }
        if listed.direction == Direction::Incoming {
            if p.retrieved != 0 {
                session.retrieved = Some((listed.id, epoch));
            } else {
                session.awaited = true;
                self.index.counts.pending_sessions += 1;
            }
        }
        for file in &listed.files {
            self.list_file(p.session.id, file, epoch);
        }
    }

    fn list_file(&mut self, id: u64, file: &ListedFile, epoch: u32) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let p = &file.record;
        let (state, retrieve) = match (session.direction, p.retrieve_status) {
            (Direction::Outgoing, _) => (FileState::Preserved, Retrieve::NotAsked),
            (Direction::Incoming, 0) => (FileState::Pending, Retrieve::NotAsked),
            (Direction::Incoming, 1..) => (FileState::Retrieved, Retrieve::Gave(p.object.file, file.id)),
            (Direction::Incoming, errno) => (FileState::Failed, Retrieve::Failed(errno, file.id)),
        };
        let (serial, place) = (session.serial, session.files.len());
        session.files.push(File {
            token: p.token,
            handler: file.handler,
            object: p.object,
            state: Some(state),
            epoch,
            origin: file.id,
            called_back: false,
            retrieve,
            asked: epoch,
            since: 0,
            data: p.data,
            freezing: Freezing::Unknown,
        });
        let index = &mut self.index;
        index.counts.files_came(file.handler, state, 1, p.object.size);
        index.tokens.insert((serial, p.token), place);
        if session.direction == Direction::Outgoing && p.object.identity != 0 {
            index.objects.insert(p.object.identity, Holder { id, serial, place });
        }
    }

    /// Adds what a walk tells of a known session, and drops what it does not find: tokens of files that no process asked for,
    /// and what was not seen to come or go.
    fn complete(&mut self, listed: &ListedSession, moment: Moment) -> bool {
        let id = listed.record.session.id;
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let mut taught = false;
        if listed.record.retrieved != 0 && session.retrieved.is_none() {
            session.retrieved = Some((listed.id, moment.stamp()));
            self.index.no_longer_awaited(session);
            taught = true;
        }
        let pending = std::mem::take(&mut session.pending);
        self.index.counts.files_went(0, FileState::Pending, pending, 0);
        taught |= pending > 0;
        let tokens: HashMap<u64, ()> = listed.files.iter().map(|f| (f.record.token, ())).collect();
        for place in (0..session.files.len()).rev() {
            if session
                .files
                .get(place)
                .is_some_and(|f| f.state.is_some() && !tokens.contains_key(&f.token))
            {
                self.index.drop_file(session, place);
                taught = true;
            }
        }
        let serial = session.serial;
        for file in &listed.files {
            if !self.index.tokens.contains_key(&(serial, file.record.token)) {
                self.sessions.entry(id).and_modify(|s| s.mixed = true);
                if listed.direction == Direction::Outgoing {
                    self.kho.doubt();
                }
                self.list_file(id, file, self.epoch);
                taught = true;
            }
        }
        taught
    }

    fn learn_flbs(&mut self, snapshot: &Snapshot, moment: Moment) -> bool {
        let mut files: HashMap<HandlerId, u64> = HashMap::default();
        for listed in snapshot
            .walk
            .sessions
            .iter()
            .filter(|w| w.direction == Direction::Outgoing)
        {
            listed
                .files
                .iter()
                .for_each(|f| *files.entry(f.handler).or_default() += 1);
        }
        let mut taught = false;
        for (p, id) in &snapshot.walk.flbs {
            let users = snapshot.walk.users_of(p.flb);
            let of = |handler: HandlerId| {
                users
                    .contains(&handler)
                    .then(|| files.get(&handler).copied().unwrap_or(0))
            };
            let handlers: Vec<_> = snapshot.walk.handlers().map(|handler| (handler, of(handler))).collect();
            let moment = Moment { id: *id, ..moment };
            taught |= self.flbs.learn(p, &handlers, moment, &mut self.index.counts);
        }
        taught
    }
}
