//! LUO's sessions and files as far as the record tells, and what each event changes.
//!
//! Nothing is judged here. Each object carries the epoch in which all that matters about it was seen; a gap in the record
//! begins a new epoch, and with it everything that was known before is no longer certain.

use std::collections::HashMap;

use luo_trace_common::events::{
    self as abi, FileCall, FileCallback, FileOp, FilesOp, SessionOp, SessionRef, SessionRelease,
};
use luo_trace_common::text::SessionName;

use super::counts::{Counts, Direction, FileState, HandlerId};
use super::court::SETTLE_NS;
use super::flbs::Flbs;
use super::index::{Holder, Index, change};
use super::objects::{File, GivenBack, Preserving, Retrieve, Session, SessionView, Task};
use super::scene::{Moment, Scene, TAINTED, direction};
use crate::event::{Body, Event, EventId};

/// How long after a gap a record may still be incomplete, in nanoseconds. A program reads the count of losses a moment
/// after its event took its place in the record, so a loss is at times told one event early.
const BLINK_NS: u64 = 10_000_000;

/// More sessions than this are not kept to wait for the end of their release: no machine has as many CPUs to be in one.
const MOST_DEPARTING: usize = 1024;

/// A successful `liveupdate_reboot`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frozen {
    pub(super) at: u64,
    pub(super) id: EventId,
    tid: u32,
}

impl Frozen {
    /// Whether this event cannot be once everything is frozen: its task came back from the reboot, or it is the end of an
    /// operation that began later and needs a lock which is then held for good. What fails before it takes that lock, and
    /// what was under way before, is no sign.
    pub(super) fn is_broken_by(&self, event: &Event) -> bool {
        let locked = match &event.body {
            Body::KexecReturn(_) => return event.header.pid == self.tid,
            Body::SessionCreate(p) | Body::SessionRetrieve(p) => p.outcome.is_ok(),
            Body::SessionRelease(_)
            | Body::SessionSerialize(_)
            | Body::FilePreserve(_)
            | Body::FileRetrieve(_)
            | Body::FilesUnpreserve(_)
            | Body::FilesFinish(_)
            | Body::FilesFreeze(_)
            | Body::FilesUnfreeze(_)
            | Body::FileCallback(..)
            | Body::FlbPreserve(_)
            | Body::FlbUnpreserve(_)
            | Body::FlbFinish(_) => true,
            _ => false,
        };
        locked && event.start().is_some_and(|start| start > self.at)
    }
}

#[derive(Debug)]
pub(super) struct State {
    now: u64,
    epoch: u32,
    /// Before this time the record has holes.
    blind_until: u64,
    next_serial: u64,
    sessions: HashMap<u64, Session>,
    /// Sessions whose id was given to another before their release was seen to end.
    departing: Vec<Session>,
    /// Id and serial number of the newest session of each name.
    names: HashMap<(Direction, SessionName), (u64, u64)>,
    index: Index,
    pub(super) flbs: Flbs,
    pub(super) frozen: Option<Frozen>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: 0,
            epoch: TAINTED + 1,
            blind_until: 0,
            next_serial: 0,
            sessions: HashMap::new(),
            departing: Vec::new(),
            names: HashMap::new(),
            index: Index::default(),
            flbs: Flbs::default(),
            frozen: None,
        }
    }
}

// What is asked.
impl State {
    /// Time of the newest event.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.index.counts
    }

    /// Whether no file can be on its way into a session: none is open, and none can be open that was not seen.
    pub(super) fn is_idle(&self) -> bool {
        self.index.counts.outgoing_sessions == 0 && self.blind_until == 0
    }

    /// The session that has this id now.
    pub(super) fn session(&self, id: u64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// The session that has this name now.
    pub(super) fn named(&self, direction: Direction, name: SessionName) -> Option<&Session> {
        let &(id, serial) = self.names.get(&(direction, name))?;
        self.sessions.get(&id).filter(|s| s.serial == serial)
    }

    pub(super) fn file<'a>(&self, session: &'a Session, token: u64) -> Option<&'a File> {
        let &i = self.index.tokens.get(&(session.serial, token))?;
        session.files.get(i)
    }

    /// The session and file that hold this object.
    pub(super) fn holder(&self, identity: u64) -> Option<(&Session, &File)> {
        let holder = self.index.objects.get(&identity)?;
        let session = self.sessions.get(&holder.id).filter(|s| s.serial == holder.serial)?;
        Some((session, session.files.get(holder.place)?))
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.departing.len() + self.names.len() + self.index.tokens.len() + self.index.objects.len()
    }

    pub(super) fn list_sessions(&self) -> Vec<SessionView<'_>> {
        let mut sessions: Vec<_> = self.sessions.values().collect();
        sessions.sort_by_key(|s| (s.direction, s.name, s.serial));
        let counts = &self.index.counts;
        sessions
            .into_iter()
            .map(|session| SessionView { session, counts })
            .collect()
    }

    /// The event with what it is about.
    pub(super) fn scene<'a>(&'a self, event: &'a Event, handler: HandlerId) -> Scene<'a> {
        let start = event.start();
        let moment = Moment {
            at: event.header.ktime,
            start,
            id: event.id(),
            epoch: self.epoch,
            clear: event.header.ktime > self.blind_until || self.blind_until == 0,
        };
        let session = match &event.body {
            Body::SessionCreate(_) | Body::FilesDeserialize(_) => None,
            Body::SessionRelease(p) => self.released(p, start),
            body => body.session().and_then(|session| {
                let direction = direction(body)?;
                match session.id {
                    0 => self.named(direction, session.name),
                    id => self.session(id).filter(|s| s.direction == direction),
                }
            }),
        };
        Scene {
            event,
            moment,
            session,
            handler,
        }
    }

    /// The session that a release is about: of two that had the id, the older one if the release began before the younger.
    fn released(&self, p: &SessionRelease, start: Option<u64>) -> Option<&Session> {
        match self.departing_at(p, start) {
            Some(i) => self.departing.get(i),
            None => self
                .session(p.session.id)
                .filter(|s| s.goes(p) && start.is_none_or(|start| start >= s.born)),
        }
    }

    fn departing_at(&self, p: &SessionRelease, start: Option<u64>) -> Option<usize> {
        let before = |session: &Session| start.is_none_or(|start| start <= session.left);
        self.departing
            .iter()
            .position(|s| s.id == p.session.id && s.goes(p) && before(s))
    }
}

// What changes.
impl State {
    /// Notes the event's time, and gives the number of the handler it names.
    pub(super) fn meet(&mut self, event: &Event) -> HandlerId {
        self.now = self.now.max(event.header.ktime);
        if !self.departing.is_empty() {
            let now = self.now;
            // Their release is overdue: it will not come.
            self.departing.retain(|s| now < s.left.saturating_add(2 * SETTLE_NS));
        }
        match &event.body {
            Body::FilePreserve(p) | Body::FileRetrieve(p) => self.index.counts.handler_id(&p.handler),
            Body::FileCallback(_, p) => self.index.counts.handler_id(&p.handler),
            Body::FlbPreserve(p) | Body::FlbUnpreserve(p) | Body::FlbFinish(p) => {
                self.index.counts.handler_id(&p.handler)
            }
            Body::FlbCallback(_, p) => self.index.counts.handler_id(&p.handler),
            _ => 0,
        }
    }

    /// Whether an operation succeeded on a session and does not say on which: any may have changed.
    pub(super) fn is_blank(event: &Event) -> bool {
        let ok = event.outcome().is_some_and(|o| o.is_ok());
        ok && !matches!(event.body, Body::FileCallback(..) | Body::KhoBalance(_))
            && event.body.session().is_some_and(|s| s.id == 0)
    }

    /// Events were lost: nothing that is known stays certain.
    pub(super) fn lose(&mut self, gap: &Event) {
        self.now = self.now.max(gap.header.ktime);
        self.epoch = self.epoch.saturating_add(1);
        self.blind_until = self.now.saturating_add(BLINK_NS);
        self.departing.clear();
    }

    /// Lets an event take effect.
    pub(super) fn apply(&mut self, event: &Event, moment: Moment, handler: HandlerId) {
        let ok = event.outcome().is_some_and(|o| o.is_ok());
        // Told once: the update has failed, and what follows is a host that goes on.
        self.frozen = self.frozen.filter(|frozen| !frozen.is_broken_by(event));
        match &event.body {
            Body::SessionCreate(p) if ok => {
                self.insert(p, Direction::Outgoing, moment);
                self.take(p.session.id, event);
            }
            Body::SessionRetrieve(p) if ok => {
                self.retrieve_session(p, moment);
                self.take(p.session.id, event);
            }
            Body::SessionRelease(p) => self.release(p, moment, ok),
            Body::SessionSerialize(_) if ok => self.serialize(),
            Body::FilePreserve(p) => self.preserve_file(p, handler, moment, ok),
            Body::FileRetrieve(p) if ok => self.retrieve_file(p, handler, moment),
            Body::FileCallback(call, p) => self.call_back(*call, p, handler, moment, ok),
            Body::FilesUnpreserve(p) => self.unpreserve_files(p, moment),
            Body::FilesFinish(p) if ok => self.finish_files(p, moment),
            Body::FilesFreeze(p) if ok => self.set_frozen(p, moment, FileState::Frozen),
            Body::FilesUnfreeze(p) => self.set_frozen(p, moment, FileState::Preserved),
            Body::FilesDeserialize(p) => self.deserialize(p, moment, ok),
            Body::FlbPreserve(_) if ok => self.flbs.user_came(handler, moment, &mut self.index.counts),
            Body::FlbUnpreserve(_) => self.flbs.user_left(handler, moment, &mut self.index.counts),
            Body::FlbCallback(call, p) => self.flbs.callback(*call, p, handler, moment, &mut self.index.counts),
            Body::LiveupdateReboot(_) if ok => {
                self.frozen = Some(Frozen {
                    at: moment.at,
                    id: moment.id,
                    tid: event.header.pid,
                });
            }
            _ => {}
        }
    }

    fn insert(&mut self, p: &SessionOp, direction: Direction, moment: Moment) {
        self.add(&p.session, direction, moment.stamp(), moment);
    }

    /// The task of this event has the session from now on.
    fn take(&mut self, id: u64, event: &Event) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let (pid, comm) = (event.header.tgid, event.header.comm);
            session.taken_by = Some(Task { pid, comm });
        }
    }

    fn add(&mut self, session: &SessionRef, direction: Direction, epoch: u32, moment: Moment) {
        if session.id == 0 {
            return;
        }
        if let Some(mut old) = self.sessions.remove(&session.id) {
            if old.epoch == self.epoch {
                // Its memory is in use again, so it is gone: only the end of its release is still to come.
                old.left = moment.at;
                self.departing.push(old);
                if self.departing.len() > MOST_DEPARTING {
                    let oldest = self.departing.remove(0);
                    self.retire(oldest);
                }
            } else {
                self.retire(old);
            }
        }
        self.next_serial += 1;
        self.names
            .insert((direction, session.name), (session.id, self.next_serial));
        self.index.counts.session_came(direction);
        self.sessions.insert(
            session.id,
            Session {
                id: session.id,
                serial: self.next_serial,
                name: session.name,
                direction,
                epoch,
                origin: moment.id,
                files: Vec::new(),
                pending: 0,
                retrieved: None,
                preserving: None,
                unpreserved: 0,
                given_back: None,
                awaited: false,
                stranded: false,
                frozen: false,
                born: if epoch == TAINTED { 0 } else { moment.at },
                left: 0,
                taken_by: None,
            },
        );
    }

    /// The session of an operation; one that was not met before is taken as it is, its past unknown.
    fn adopt(&mut self, session: &SessionRef, direction: Direction, moment: Moment) -> Option<&mut Session> {
        let met = self.sessions.get(&session.id).is_some_and(|s| s.direction == direction);
        if session.id != 0 && !met {
            self.add(session, direction, TAINTED, moment);
        }
        self.sessions.get_mut(&session.id)
    }

    fn retrieve_session(&mut self, p: &SessionOp, moment: Moment) {
        self.adopt(&p.session, Direction::Incoming, moment);
        if let Some(session) = self.sessions.get_mut(&p.session.id) {
            session.retrieved = Some((moment.id, moment.stamp()));
            self.index.no_longer_awaited(session);
        }
    }

    fn release(&mut self, p: &SessionRelease, moment: Moment, ok: bool) {
        let id = p.session.id;
        if let Some(i) = self.departing_at(p, moment.start) {
            let session = self.departing.swap_remove(i);
            self.retire(session);
        } else if self.released(p, moment.start).is_none() {
            // It was never met, or was forgotten when its id went to another.
        } else if !ok {
            self.sessions.entry(id).and_modify(|s| s.stranded = true);
        } else if let Some(session) = self.sessions.remove(&id) {
            self.retire(session);
        }
    }

    /// A session is no more: drops it and all that led to it.
    fn retire(&mut self, mut session: Session) {
        self.index.drop_files(&mut session);
        self.index.no_longer_awaited(&mut session);
        let key = (session.direction, session.name);
        if self.names.get(&key) == Some(&(session.id, session.serial)) {
            self.names.remove(&key);
        }
        self.index.counts.session_went(session.direction);
    }

    fn serialize(&mut self) {
        for session in self
            .sessions
            .values_mut()
            .filter(|s| s.direction == Direction::Outgoing)
        {
            session.frozen = true;
            session.epoch = TAINTED;
            for file in &mut session.files {
                change(&mut self.index.counts, file, FileState::Frozen);
                file.epoch = TAINTED;
            }
        }
        self.flbs.serialized();
    }

    fn preserve_file(&mut self, p: &FileOp, handler: HandlerId, moment: Moment, ok: bool) {
        let Some(session) = self.adopt(&p.session, Direction::Outgoing, moment) else {
            return;
        };
        let preserving = session.preserving.take();
        if !ok {
            return;
        }
        let called_back = preserving.is_some_and(|c| c.file != 0 && c.file == p.object.file && c.epoch == moment.epoch);
        let (serial, index) = (session.serial, session.files.len());
        session.files.push(File {
            token: p.token,
            handler,
            object: p.object,
            state: Some(FileState::Preserved),
            epoch: moment.stamp(),
            origin: moment.id,
            called_back,
            retrieve: Retrieve::NotAsked,
            asked: TAINTED,
            since: moment.at,
        });
        self.index
            .counts
            .files_came(handler, FileState::Preserved, 1, p.object.size);
        self.index.tokens.insert((serial, p.token), index);
        if p.object.identity != 0 {
            let (id, place) = (p.session.id, index);
            self.index
                .objects
                .insert(p.object.identity, Holder { id, serial, place });
        }
    }

    fn call_back(&mut self, call: FileCall, p: &FileCallback, handler: HandlerId, moment: Moment, ok: bool) {
        match call {
            FileCall::Preserve => {
                if let Some(session) = self.sessions.get_mut(&p.session.id) {
                    session.preserving = ok.then_some(Preserving {
                        file: p.file,
                        id: moment.id,
                        epoch: moment.stamp(),
                    });
                }
            }
            FileCall::Unpreserve => {
                let Some(session) = self.sessions.get_mut(&p.session.id) else {
                    return;
                };
                if p.file == 0 {
                    // It was one of these.
                    session.files.iter_mut().for_each(|f| f.epoch = TAINTED);
                } else if session.preserving.is_some_and(|c| c.file == p.file) {
                    session.preserving = None;
                } else if let Some(place) = session.position(p.file) {
                    self.index.drop_file(session, place);
                    session.unpreserved += 1;
                }
            }
            FileCall::Retrieve if p.flags & abi::TOKEN_KNOWN != 0 && self.sessions.contains_key(&p.session.id) => {
                let retrieve = if ok {
                    Retrieve::Gave(p.file, moment.id)
                } else {
                    Retrieve::Failed(moment.id)
                };
                self.asked_for(&p.session, p.token, handler, moment, retrieve);
            }
            _ => {}
        }
    }

    fn retrieve_file(&mut self, p: &FileOp, handler: HandlerId, moment: Moment) {
        let gave = Retrieve::Gave(p.object.file, moment.id);
        let Some(file) = self.asked_for(&p.session, p.token, handler, moment, gave) else {
            return;
        };
        let before = *file;
        if p.object.file != 0 {
            file.object = p.object;
        }
        if handler != 0 {
            file.handler = handler;
        }
        let after = *file;
        if let Some(state) = before.state {
            self.index
                .counts
                .files_went(before.handler, state, 1, before.object.size);
            self.index.counts.files_came(after.handler, state, 1, after.object.size);
        }
    }

    /// Somebody asked for an incoming file: from now on it is known by its token.
    fn asked_for(
        &mut self,
        p: &SessionRef,
        token: u64,
        handler: HandlerId,
        moment: Moment,
        retrieve: Retrieve,
    ) -> Option<&mut File> {
        let serial = self.adopt(p, Direction::Incoming, moment)?.serial;
        let session = self.sessions.get_mut(&p.id)?;
        let state = match retrieve {
            Retrieve::Failed(_) => FileState::Failed,
            _ => FileState::Retrieved,
        };
        if let Some(&i) = self.index.tokens.get(&(serial, token)) {
            let file = session.files.get_mut(i)?;
            // A handler's answer stays; of the file it gave, the first is what later ones are compared with.
            match (file.retrieve, retrieve) {
                (Retrieve::Gave(0, id), Retrieve::Gave(given, _)) => file.retrieve = Retrieve::Gave(given, id),
                (Retrieve::NotAsked, _) => file.retrieve = retrieve,
                _ => {}
            }
            // What is not certain any more is learned anew.
            if file.asked != moment.epoch {
                (file.retrieve, file.asked) = (retrieve, moment.stamp());
            }
            return Some(file);
        }
        let taken = session.pending.min(1);
        session.pending -= taken;
        self.index.counts.files_went(0, FileState::Pending, taken, 0);
        self.index.counts.files_came(handler, state, 1, 0);
        self.index.tokens.insert((serial, token), session.files.len());
        session.files.push(File {
            token,
            handler,
            object: abi::Object::default(),
            state: Some(state),
            // Whether it was asked for before is known only where the session was seen to arrive.
            epoch: if moment.clear { session.epoch } else { TAINTED },
            origin: moment.id,
            called_back: false,
            retrieve,
            asked: moment.stamp(),
            since: moment.at,
        });
        session.files.last_mut()
    }

    fn unpreserve_files(&mut self, p: &FilesOp, moment: Moment) {
        self.adopt(&p.session, Direction::Outgoing, moment);
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        session.given_back = Some(GivenBack {
            id: moment.id,
            files: p.files,
            expected: session.unpreserved + session.held().count() as u64,
        });
        self.index.drop_files(session);
    }

    fn finish_files(&mut self, p: &FilesOp, moment: Moment) {
        self.adopt(&p.session, Direction::Incoming, moment);
        if let Some(session) = self.sessions.get_mut(&p.session.id) {
            self.index.drop_files(session);
        }
    }

    fn set_frozen(&mut self, p: &FilesOp, moment: Moment, state: FileState) {
        if self.adopt(&p.session, Direction::Outgoing, moment).is_none() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&p.session.id) {
            session.frozen = state == FileState::Frozen;
            for file in &mut session.files {
                change(&mut self.index.counts, file, state);
            }
        }
    }

    fn deserialize(&mut self, p: &FilesOp, moment: Moment, ok: bool) {
        self.add(&p.session, Direction::Incoming, moment.stamp(), moment);
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        // What failed to arrive whole is leaked by the kernel on purpose: nobody can ask for it.
        session.pending = if ok { p.files } else { 0 };
        session.awaited = true;
        self.index.counts.pending_sessions += 1;
        self.index.counts.files_came(0, FileState::Pending, session.pending, 0);
    }
}
