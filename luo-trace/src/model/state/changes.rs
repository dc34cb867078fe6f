//! What each event changes.

use luo_trace_common::events::{
    self as abi, FileCall, FileCallback, FileOp, FilesOp, SessionOp, SessionRef, SessionRelease,
};
use luo_trace_common::hooks::Hook;

use super::super::counts::{Direction, FileState, HandlerId};
use super::super::court::SETTLE_NS;
use super::super::index::{Holder, change};
use super::super::objects::{File, Finishing, Freezing, GivenBack, Preserving, Retrieve, Session, Task};
use super::super::pages::Pages;
use super::super::scene::{Moment, STRADDLES, TAINTED};
use super::super::tasks::comes_or_goes;
use super::{BLINK_NS, Frozen, MOST_DEPARTING, Serialized, State};
use crate::event::{Body, Event};

impl State {
    /// Notes the event's time, and gives the number of the handler it names.
    pub(in crate::model) fn meet(&mut self, event: &Event) -> HandlerId {
        self.now = self.now.max(event.header.ktime);
        if !self.departing.is_empty() {
            // Their release is overdue: it will not come.
            let overdue = |s: &mut Session| self.now >= s.left.saturating_add(2 * SETTLE_NS);
            let overdue: Vec<_> = self.departing.extract_if(.., overdue).collect();
            overdue.into_iter().for_each(|session| self.retire(session));
        }
        let handler = match &event.body {
            Body::SnapshotFile(p) => self.index.counts.handler_id(&p.handler),
            Body::ArrivedFile(p) => self.index.counts.handler_id(&p.handler),
            Body::SnapshotHandler(p) => self.index.counts.handler_id(&p.name),
            Body::FilePreserve(p) | Body::FileRetrieve(p) => self.index.counts.handler_id(&p.handler),
            Body::FileCallback(_, p) => self.index.counts.handler_id(&p.handler),
            Body::FlbPreserve(p) | Body::FlbUnpreserve(p) | Body::FlbFinish(p) => {
                self.index.counts.handler_id(&p.handler)
            }
            Body::FlbCallback(_, p) => self.index.counts.handler_id(&p.handler),
            _ => 0,
        };
        if self.walk.is_some() || matches!(event.body, Body::SnapshotBegin(_)) {
            self.walk(event, handler);
        }
        handler
    }

    /// Whether an operation succeeded on a session and does not say on which: any may have changed.
    pub(in crate::model) fn is_blank(event: &Event) -> bool {
        let ok = event.outcome().is_some_and(|o| o.is_ok());
        ok && !matches!(event.body, Body::FileCallback(..) | Body::KhoBalance(_))
            && event.body.session().is_some_and(|s| s.id == 0)
    }

    /// Events were lost: nothing that is known stays certain.
    pub(in crate::model) fn lose(&mut self, gap: &Event) {
        self.now = self.now.max(gap.header.ktime);
        self.epoch = self.epoch.saturating_add(1);
        self.blind_until = self.now.saturating_add(BLINK_NS);
        let departing = std::mem::take(&mut self.departing);
        departing.into_iter().for_each(|session| self.retire(session));
        self.tasks.forget();
        self.images.lose();
        self.walk = None;
    }

    /// Lets an event take effect.
    pub(in crate::model) fn apply(&mut self, event: &Event, moment: Moment, handler: HandlerId) {
        let ok = event.outcome().is_some_and(|o| o.is_ok());
        if self.is_undone_by(event) {
            self.serialized = None;
        }
        if let Some(frozen) = self.frozen.as_mut().filter(|frozen| frozen.is_undone_by(event)) {
            frozen.undone = true;
        }
        // Told once: the update has failed, and what follows is a host that goes on.
        self.frozen.take_if(|frozen| frozen.is_broken_by(event));
        self.serialized.take_if(|serialized| serialized.is_broken_by(event));
        self.account(event, moment);
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
            Body::SessionSerialize(_) => self.serialize(moment, ok),
            Body::KexecEnter(_) => self.thaw(),
            Body::FilePreserve(p) => self.preserve_file(p, handler, moment, ok),
            Body::FileRetrieve(p) if ok => self.retrieve_file(p, handler, moment),
            Body::FileRetrieve(p) => self.fail_retrieve(p),
            Body::FileCallback(call, p) => self.call_back(*call, p, handler, moment, ok),
            Body::FilesUnpreserve(p) => self.unpreserve_files(p, moment),
            Body::FilesFinish(p) => self.finish_files(p, moment, ok),
            Body::FilesFreeze(p) if ok => self.set_frozen(p, moment, FileState::Frozen),
            Body::FilesFreeze(p) => {
                if let Some(session) = self.sessions.get_mut(&p.session.id) {
                    session.freezing = Freezing::Failed(moment.id);
                }
            }
            Body::FilesUnfreeze(p) => self.set_frozen(p, moment, FileState::Preserved),
            Body::FilesDeserialize(p) => self.deserialize(p, moment, ok),
            Body::FlbPreserve(_) if ok => self.flbs.user_came(handler, moment, &mut self.index.counts),
            Body::FlbUnpreserve(_) => self.flbs.user_left(handler, moment, &mut self.index.counts),
            Body::FlbFinish(_) => self.flbs.left(handler, moment),
            Body::FlbGet(p) if ok => self.flbs.reference(p, true, moment),
            Body::FlbPut(p) => self.flbs.reference(p, false, moment),
            Body::FlbCallback(call, p) => self.flbs.callback(*call, p, handler, moment, &mut self.index.counts),
            Body::LiveupdateReboot(_) if ok => {
                self.frozen = Some(Frozen {
                    at: moment.at,
                    id: moment.id,
                    tid: event.header.pid,
                    undone: false,
                });
            }
            Body::LiveupdateReboot(_) => self.aborted = Some((moment.id, moment.stamp())),
            Body::SessionDeserialize(_) => {
                self.unread = None;
                self.handover.read_in(&mut self.index.counts);
            }
            Body::ArrivedSession(_) | Body::ArrivedFile(_) | Body::Handover(_) => {
                self.handover.take(&event.body, handler, &mut self.index.counts);
            }
            _ if self.snapshot.is_some() => self.learn(moment),
            _ => {}
        }
        self.tasks.apply(event, moment, &self.flbs);
    }

    /// What does not concern single sessions and files.
    fn account(&mut self, event: &Event, moment: Moment) {
        match &event.body {
            Body::DeviceOpen(_) | Body::DeviceRelease(_) => self.device.apply(event, moment),
            Body::ImageCarrier(_)
            | Body::ImageLoad(_)
            | Body::ImageVerdict(_)
            | Body::KexecEnter(_)
            | Body::KexecReturn(_) => {
                let sessions = self.outgoing().next().is_some();
                self.images.apply(event, moment, sessions);
                if matches!(event.body, Body::ImageVerdict(_)) {
                    let in_use = self.index.counts.handlers_in_use();
                    self.images.looked_with(in_use);
                }
            }
            Body::KhoOp(..) => self.kho.apply(event, moment),
            Body::FilePreserve(_) | Body::FilesUnpreserve(_) => self.count_pages(event, moment),
            Body::SessionRelease(p) if p.direction != abi::INCOMING => {
                let known = self.released(p, moment.start).is_some_and(|s| s.epoch == moment.epoch);
                if !known || !moment.whole {
                    self.kho.doubt();
                }
            }
            Body::FlbPreserve(_) | Body::FlbUnpreserve(_) | Body::FlbFinish(_) => self.tells_errno = true,
            Body::FlbCallback(call, p) if comes_or_goes(*call, p) => self.kho.step(),
            Body::FlbPut(_) => {
                // Global state that went with a driver's last reference: what memory that gave back, no file's operation tells.
                let parts = self.tasks.parts(event);
                if parts.is_some_and(|parts| parts.took_down(moment.start.unwrap_or(0))) {
                    self.kho.doubt();
                }
            }
            _ => {}
        }
    }

    /// Adds what an operation on a session's files did to preserved memory to what the session's did, and to what all did.
    fn count_pages(&mut self, event: &Event, moment: Moment) {
        let (session, hook, ok) = match &event.body {
            Body::FilePreserve(p) => (p.session.id, Hook::FilePreserve, p.outcome.is_ok()),
            Body::FilesUnpreserve(p) => (p.session.id, Hook::FilesUnpreserve, true),
            _ => return,
        };
        let parts = self.tasks.parts(event);
        let pages = parts.and_then(|parts| parts.balance_of(hook, moment.start));
        let pages = pages.map(|(balance, _)| Pages::of(balance)).unwrap_or_default();
        let since = moment.start.unwrap_or(0);
        let steps = parts.map_or(0, |parts| parts.stepped(since));
        let session = self.sessions.get_mut(&session);
        let known = session.as_ref().is_some_and(|s| s.epoch == moment.epoch);
        if !known || !moment.whole {
            self.kho.doubt();
        }
        self.kho.count(pages, steps);
        let Some(session) = session else { return };
        if !ok {
            // It is judged by itself.
            if !parts.is_some_and(|parts| parts.is_mixed(since)) {
                self.kho.settle(pages);
            }
            return;
        }
        session.pages = session.pages.and(pages);
        session.mixed |= steps > 0;
        if hook == Hook::FilesUnpreserve && !session.mixed {
            self.kho.settle(session.pages);
            session.pages = Pages::default();
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

    pub(super) fn add(&mut self, session: &SessionRef, direction: Direction, epoch: u32, moment: Moment) {
        if session.id == 0 {
            return;
        }
        let same = |s: &Session| s.direction == direction && s.name == session.name;
        if moment.epoch == STRADDLES && self.sessions.get(&session.id).is_some_and(same) {
            // The walk that it was under way at has found it.
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
                finishing: None,
                refused: None,
                finished: None,
                broken: false,
                freezing: Freezing::Untouched,
                cursor: 0,
                pages: Pages::default(),
                mixed: false,
                missed: None,
            },
        );
    }

    /// The session of an operation; one that was not met before is taken as it is, its past unknown.
    fn adopt(&mut self, session: &SessionRef, direction: Direction, moment: Moment) -> Option<&mut Session> {
        let met = self.sessions.get(&session.id);
        if met.is_some_and(|s| s.direction != direction && s.epoch == moment.epoch) {
            // An operation that sessions of its direction do not allow makes it no other session.
            return None;
        }
        if session.id != 0 && met.is_none_or(|s| s.direction != direction) {
            self.add(session, direction, TAINTED, moment);
        }
        self.sessions.get_mut(&session.id)
    }

    fn retrieve_session(&mut self, p: &SessionOp, moment: Moment) {
        if self.adopt(&p.session, Direction::Incoming, moment).is_none() {
            return;
        }
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
    pub(super) fn retire(&mut self, mut session: Session) {
        self.index.drop_files(&mut session);
        self.index.no_longer_awaited(&mut session);
        let key = (session.direction, session.name);
        if self.names.get(&key) == Some(&(session.id, session.serial)) {
            self.names.remove(&key);
        }
        self.index.counts.session_went(session.direction);
    }

    /// No freeze is under way: what comes next is another one.
    fn thaw(&mut self) {
        for session in self.sessions.values_mut() {
            session.freezing = Freezing::Untouched;
            for file in &mut session.files {
                file.freezing = Freezing::Untouched;
            }
        }
    }

    fn serialize(&mut self, moment: Moment, ok: bool) {
        self.thaw();
        for session in self
            .sessions
            .values_mut()
            .filter(|s| ok && s.direction == Direction::Outgoing)
        {
            session.frozen = true;
            session.epoch = TAINTED;
            for file in &mut session.files {
                change(&mut self.index.counts, file, FileState::Frozen);
                file.epoch = TAINTED;
            }
        }
        if ok {
            self.flbs.serialized(moment.epoch);
            self.serialized = Some(Serialized {
                at: moment.at,
                id: moment.id,
            });
        }
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
        if moment.epoch == STRADDLES && session.held().any(|f| f.token == p.token) {
            // The walk that it was under way at has found it.
            return;
        }
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
            data: p.data,
            freezing: Freezing::Untouched,
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
                    Retrieve::Failed(p.outcome.result, moment.id)
                };
                if let Some(file) = self.asked_for(&p.session, p.token, handler, moment, retrieve) {
                    file.data = p.data;
                }
            }
            FileCall::Freeze | FileCall::Unfreeze => self.freeze_file(call, p, handler, moment, ok),
            FileCall::CanFinish | FileCall::Finish => self.finish_file(call, p, moment, ok),
            FileCall::Retrieve => {}
        }
    }

    fn freeze_file(&mut self, call: FileCall, p: &FileCallback, handler: HandlerId, moment: Moment, ok: bool) {
        let freezers = &mut self.freezers[usize::from(call == FileCall::Unfreeze)];
        if !freezers.contains(&handler) {
            freezers.push(handler);
        }
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        let Some(place) = session.find((p.file, p.data)) else {
            return;
        };
        session.cursor = place;
        session.files[place].freezing = match call {
            FileCall::Unfreeze => Freezing::Undone(moment.id),
            _ if ok => Freezing::Frozen(moment.id),
            _ => Freezing::Failed(moment.id),
        };
    }

    fn finish_file(&mut self, call: FileCall, p: &FileCallback, moment: Moment, ok: bool) {
        self.tells_errno |= p.retrieve_status < 0;
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        let called = (p.file, p.data);
        if let Some(place) = session.find(called) {
            session.cursor = place;
        }
        let finishing = session.finishing.get_or_insert_with(|| {
            Box::new(Finishing {
                epoch: moment.stamp(),
                ..Finishing::default()
            })
        });
        if call == FileCall::Finish {
            finishing.done.push((called, moment.id));
            return;
        }
        finishing.asked.push(called);
        if !ok {
            finishing.refused.get_or_insert(moment.id);
            session.refused = Some(moment.id);
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
        if p.data != 0 {
            file.data = p.data;
        }
        let after = *file;
        if let Some(state) = before.state {
            self.index
                .counts
                .files_went(before.handler, state, 1, before.object.size);
            self.index.counts.files_came(after.handler, state, 1, after.object.size);
        }
    }

    /// A retrieve that fails has asked the handler, which tells so before. Where that was not seen, be it that it was lost before a walk
    /// found the file, it is not known any more what became of the file.
    fn fail_retrieve(&mut self, p: &FileOp) {
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        let place = self.index.tokens.get(&(session.serial, p.token));
        if let Some(file) = place.and_then(|&place| session.files.get_mut(place))
            && matches!(file.retrieve, Retrieve::NotAsked)
        {
            file.asked = TAINTED;
        }
    }

    /// A process asked for an incoming file: from now on it is known by its token.
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
            Retrieve::Failed(..) => FileState::Failed,
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
            if file.state == Some(FileState::Pending) {
                change(&mut self.index.counts, file, state);
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
            data: 0,
            freezing: Freezing::Untouched,
        });
        session.files.last_mut()
    }

    fn unpreserve_files(&mut self, p: &FilesOp, moment: Moment) {
        if self.adopt(&p.session, Direction::Outgoing, moment).is_none() {
            return;
        }
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

    fn finish_files(&mut self, p: &FilesOp, moment: Moment, ok: bool) {
        if ok && self.adopt(&p.session, Direction::Incoming, moment).is_none() {
            return;
        }
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        session.finishing = None;
        if ok {
            session.finished = Some(moment.at);
            session.refused = None;
            self.index.drop_files(session);
        }
    }

    fn set_frozen(&mut self, p: &FilesOp, moment: Moment, state: FileState) {
        if self.adopt(&p.session, Direction::Outgoing, moment).is_none() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&p.session.id) {
            session.frozen = state == FileState::Frozen;
            session.freezing = match state {
                FileState::Frozen => Freezing::Frozen(moment.id),
                _ => Freezing::Undone(moment.id),
            };
            for file in &mut session.files {
                change(&mut self.index.counts, file, state);
            }
        }
    }

    fn deserialize(&mut self, p: &FilesOp, moment: Moment, ok: bool) {
        self.handover.read_in(&mut self.index.counts);
        if moment.epoch == STRADDLES && self.sessions.contains_key(&p.session.id) {
            return;
        }
        self.add(&p.session, Direction::Incoming, moment.stamp(), moment);
        let Some(session) = self.sessions.get_mut(&p.session.id) else {
            return;
        };
        // What failed to arrive whole is leaked by the kernel on purpose: no process can ask for it.
        session.pending = if ok { p.files } else { 0 };
        session.broken = !ok;
        session.awaited = true;
        self.index.counts.pending_sessions += 1;
        self.index.counts.files_came(0, FileState::Pending, session.pending, 0);
    }
}
