//! LUO's sessions and files as far as the record tells, and what each event changes.
//!
//! Nothing is judged here. Each object carries the epoch in which all that matters about it was seen; a gap in the record
//! begins a new epoch, and with it everything that was known before is no longer certain.

use luo_trace_common::events::{FileCall, SessionRelease};
use luo_trace_common::text::SessionName;

use super::counts::{Counts, Direction, HandlerId};
use super::device::Device;
use super::flbs::Flbs;
use super::handover::{Handover, WaitingView};
use super::images::Images;
use super::index::Index;
use super::objects::{File, Session, SessionView};
use super::pages::Kho;
use super::scene::{Moment, STRADDLES, Scene, TAINTED, direction};
use super::snapshot::{Snapshot, Walk};
use super::tasks::Tasks;
use crate::event::{Body, Event, EventId};
use crate::model::HashMap;

mod changes;
mod lists;

/// How long after a gap a record may still be incomplete, in nanoseconds. A program reads the count of losses a moment
/// after its event took its place in the record, so a loss is at times told one event early. (Skipped programs are told
/// with the time up to which that may have been.)
pub(crate) const BLINK_NS: u64 = 10_000_000;

/// More sessions than this are not kept to wait for the end of their release: no machine has as many CPUs to be in one.
const MOST_DEPARTING: usize = 1024;

/// A successful `liveupdate_reboot`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frozen {
    pub(super) at: u64,
    pub(super) id: EventId,
    tid: u32,
    /// Its task unfroze something since: no kernel up to 7.3 does, and one that does may come back.
    undone: bool,
}

impl Frozen {
    /// Whether this event is a part of undoing the freeze.
    fn is_undone_by(&self, event: &Event) -> bool {
        let undoes = matches!(
            event.body,
            Body::FilesUnfreeze(_) | Body::FileCallback(FileCall::Unfreeze, _)
        );
        undoes && event.header.pid == self.tid && event.start().is_some_and(|start| start > self.at)
    }

    /// Whether this event cannot be once everything is frozen: its task came back from the reboot, or it is the end of an
    /// operation that began later and needs a lock which is then held for good. What fails before it takes that lock, and
    /// what was under way before, is no sign.
    pub(super) fn is_broken_by(&self, event: &Event) -> bool {
        if self.is_undone_by(event) {
            return false;
        }
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

/// Everything was serialized.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serialized {
    pub(super) at: u64,
    pub(super) id: EventId,
}

impl Serialized {
    /// Whether this event tells of something that came, or went, and is not in what was serialized. What holds LUO's lock
    /// had to end before; what takes the lock itself had to begin before.
    pub(super) fn is_broken_by(&self, event: &Event) -> bool {
        match &event.body {
            Body::SessionCreate(p) => p.outcome.is_ok() && event.start().is_some_and(|start| start > self.at),
            Body::FilePreserve(p) => p.outcome.is_ok() && event.header.ktime > self.at,
            Body::FilesUnpreserve(p) => p.files > 0 && event.header.ktime > self.at,
            _ => false,
        }
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
    handover: Handover,
    pub(super) flbs: Flbs,
    pub(super) frozen: Option<Frozen>,
    pub(super) serialized: Option<Serialized>,
    pub(super) device: Device,
    pub(super) tasks: Tasks,
    pub(super) images: Images,
    pub(super) kho: Kho,
    /// Handlers that have a freeze, and an unfreeze, as far as they were called.
    pub(super) freezers: [Vec<HandlerId>; 2],
    /// Whether the kernel tells handlers the errno of a failed retrieve: 7.0 and later.
    pub(super) tells_errno: bool,
    /// A walk over the kernel's lists that is under way.
    walk: Option<Walk>,
    /// What the walk that ends with this event found.
    pub(super) snapshot: Option<Box<Snapshot>>,
    /// The end of the newest walk that taught anything: operations that began before it may be in what it found.
    taught_at: u64,
    /// The epoch in which a walk listed every session, both ways.
    listed: u32,
    /// The walk that found incoming sessions which no process had read in, and its epoch.
    pub(super) unread: Option<(EventId, u32)>,
    /// The newest reboot that failed, and its epoch.
    pub(super) aborted: Option<(EventId, u32)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: 0,
            epoch: TAINTED + 1,
            blind_until: 0,
            next_serial: 0,
            sessions: HashMap::default(),
            departing: Vec::new(),
            names: HashMap::default(),
            index: Index::default(),
            handover: Handover::default(),
            flbs: Flbs::default(),
            frozen: None,
            serialized: None,
            device: Device::default(),
            tasks: Tasks::default(),
            images: Images::default(),
            kho: Kho::new(TAINTED + 1),
            freezers: Default::default(),
            tells_errno: false,
            walk: None,
            snapshot: None,
            taught_at: 0,
            listed: TAINTED,
            unread: None,
            aborted: None,
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
        self.index.counts.outgoing_sessions == 0 && (self.blind_until == 0 || self.is_listed())
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

    pub(super) fn waiting(&self) -> impl Iterator<Item = WaitingView<'_>> {
        self.handover.waiting(&self.index.counts)
    }

    /// The event with what it is about.
    pub(super) fn scene<'a>(&'a self, event: &'a Event, handler: HandlerId) -> Scene<'a> {
        let start = event.start();
        let straddles = self.straddles(event);
        let sees = |time: u64| !straddles && (time > self.blind_until || self.blind_until == 0);
        let moment = Moment {
            at: event.header.ktime,
            start,
            id: event.id(),
            epoch: if straddles { STRADDLES } else { self.epoch },
            clear: sees(event.header.ktime),
            whole: start.is_some_and(sees),
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

    /// Whether this is an operation that was under way when a walk taught what it found, and may have been part of it.
    fn straddles(&self, event: &Event) -> bool {
        let moment = matches!(event.body, Body::KexecEnter(_) | Body::KhoAnomaly(_)) || event.outcome().is_none();
        self.taught_at > 0 && !moment && event.start().unwrap_or(0) <= self.taught_at
    }

    /// Whether every session was listed by a walk, and none can have come or gone unseen since.
    pub(super) fn is_listed(&self) -> bool {
        self.listed == self.epoch
    }

    /// Outgoing sessions that certainly exist: known, and not being given back.
    pub(super) fn outgoing(&self) -> impl Iterator<Item = &Session> {
        let exists =
            |s: &&Session| s.direction == Direction::Outgoing && s.epoch == self.epoch && s.given_back.is_none();
        self.sessions.values().filter(exists)
    }

    /// Whether this event ends a reboot whose freeze was undone as a whole: everything is as it was before.
    pub(super) fn is_undone_by(&self, event: &Event) -> bool {
        let returns = matches!(event.body, Body::KexecReturn(_));
        let undone = |frozen: Frozen| frozen.undone && frozen.tid == event.header.pid;
        returns && self.frozen.is_some_and(undone) && !self.sessions.values().any(|session| session.frozen)
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
