//! A walk over the kernel's lists, as its records come in.

use luo_trace_common::events::{self as abi, SnapshotBegin, SnapshotEnd, SnapshotFile, SnapshotFlb, SnapshotSession};

use super::counts::{Direction, HandlerId};
use crate::event::{Body, Event, EventId};
use crate::model::HashMap;

/// A session that a walk found.
#[derive(Clone, Debug)]
pub(crate) struct ListedSession {
    pub(crate) record: SnapshotSession,
    pub(crate) direction: Direction,
    pub(crate) id: EventId,
    pub(crate) files: Vec<ListedFile>,
}

/// A file that a walk found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListedFile {
    pub(crate) record: SnapshotFile,
    pub(crate) handler: HandlerId,
    pub(crate) id: EventId,
}

/// What a walk found so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    number: u64,
    /// When it began.
    pub(crate) since: u64,
    pub(crate) sessions: Vec<ListedSession>,
    places: HashMap<u64, usize>,
    pub(crate) flbs: Vec<(SnapshotFlb, EventId)>,
    handlers: HashMap<u64, HandlerId>,
    /// Which handlers' files use which FLBs, by their addresses.
    links: HashMap<u64, Vec<HandlerId>>,
    /// The lists may have changed meanwhile.
    pub(crate) disturbed: bool,
}

/// What a walk that is over found.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) walk: Walk,
    pub(super) end: SnapshotEnd,
    pub(super) id: EventId,
    pub(super) at: u64,
    /// Whether it found the lists of sessions and files as they were at one moment, all of them.
    pub(super) certain: bool,
    /// Whether that is true of global states too, of which no count tells that one is missing.
    pub(super) whole: bool,
}

impl Walk {
    pub(crate) fn begin(p: &SnapshotBegin, at: u64) -> Self {
        Self {
            number: p.walk,
            since: at,
            ..Self::default()
        }
    }

    /// Whether this is its end.
    pub(crate) fn ends_with(&self, p: &SnapshotEnd) -> bool {
        self.number == p.walk
    }

    /// Takes a record of it, or what happens meanwhile.
    pub(crate) fn take(&mut self, event: &Event, handler: HandlerId) {
        let id = event.id();
        match &event.body {
            Body::SnapshotSession(p) => {
                let direction = match p.direction {
                    abi::OUTGOING => Direction::Outgoing,
                    abi::INCOMING => Direction::Incoming,
                    _ => return self.disturbed = true,
                };
                self.places.insert(p.session.id, self.sessions.len());
                let (record, files) = (*p, Vec::new());
                self.sessions.push(ListedSession {
                    record,
                    direction,
                    id,
                    files,
                });
            }
            Body::SnapshotFile(p) => match self.places.get(&p.session) {
                Some(&place) => self.sessions[place].files.push(ListedFile {
                    record: *p,
                    handler,
                    id,
                }),
                None => self.disturbed = true,
            },
            Body::SnapshotFlb(p) => self.flbs.push((*p, id)),
            Body::SnapshotHandler(p) => _ = self.handlers.insert(p.handler, handler),
            Body::SnapshotLink(p) => match self.handlers.get(&p.handler) {
                Some(&handler) => self.links.entry(p.flb).or_default().push(handler),
                None => self.disturbed = true,
            },
            body => self.disturbed |= changes_lists(body),
        }
    }

    /// The handlers whose files use this FLB.
    pub(crate) fn users_of(&self, flb: u64) -> &[HandlerId] {
        self.links.get(&flb).map_or(&[], Vec::as_slice)
    }

    /// All handlers.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = HandlerId> {
        self.handlers.values().copied()
    }

    /// Whether it found as many as the kernel counts, so that none of its records was lost.
    pub(crate) fn agrees(&self, end: &SnapshotEnd) -> bool {
        let files = |s: &ListedSession| s.files.len() as u64 == s.record.files;
        self.count(Direction::Outgoing) as i64 == end.outgoing_sessions
            && self.count(Direction::Incoming) as i64 == end.incoming_sessions
            && self.sessions.iter().all(files)
    }

    /// The session of this id.
    pub(crate) fn session(&self, id: u64) -> Option<&ListedSession> {
        self.sessions.get(*self.places.get(&id)?)
    }

    /// How many sessions it found of a direction.
    pub(crate) fn count(&self, direction: Direction) -> usize {
        self.sessions.iter().filter(|s| s.direction == direction).count()
    }
}

impl Snapshot {
    /// Whether incoming sessions lie in memory that no process has read in yet.
    pub(super) fn is_unread(&self) -> bool {
        self.end.flags & abi::SNAPSHOT_INCOMING_UNREAD != 0
    }

    /// Whether the walk tells what there is of this direction.
    pub(super) fn tells(&self, direction: Direction) -> bool {
        direction == Direction::Outgoing || !self.is_unread()
    }
}

/// Whether this operation may have changed a list or a count. Every kind is named, so that a new one does not compile before it is
/// decided which of both it is.
fn changes_lists(body: &Body) -> bool {
    match body {
        Body::SessionCreate(_)
        | Body::SessionRetrieve(_)
        | Body::SessionRelease(_)
        | Body::SessionDeserialize(_)
        | Body::SessionSerialize(_)
        | Body::FilePreserve(_)
        | Body::FileRetrieve(_)
        | Body::FilesUnpreserve(_)
        | Body::FilesFinish(_)
        | Body::FilesFreeze(_)
        | Body::FilesUnfreeze(_)
        | Body::FilesDeserialize(_)
        | Body::FileCallback(..)
        | Body::FlbPreserve(_)
        | Body::FlbUnpreserve(_)
        | Body::FlbFinish(_)
        | Body::FlbSerialize(_)
        | Body::FlbCallback(..)
        | Body::FlbGet(_)
        | Body::FlbPut(_)
        | Body::FlbRecord(_)
        | Body::SnapshotBegin(_)
        | Body::SnapshotSession(_)
        | Body::SnapshotFile(_)
        | Body::SnapshotFlb(_)
        | Body::SnapshotHandler(_)
        | Body::SnapshotLink(_)
        | Body::SnapshotEnd(_)
        | Body::Gap { .. } => true,
        Body::KexecEnter(_)
        | Body::KexecReturn(_)
        | Body::LiveupdateReboot(_)
        | Body::ImageLoad(_)
        | Body::ImageCarrier(_)
        | Body::ImageFile(_)
        | Body::ImageVerdict(_)
        | Body::DeviceOpen(_)
        | Body::DeviceRelease(_)
        | Body::KhoOp(..)
        | Body::KhoBalance(_)
        | Body::KhoAnomaly(_)
        | Body::ArrivedSession(_)
        | Body::ArrivedFile(_)
        | Body::ArrivedFlb(_)
        | Body::Handover(_)
        | Body::PolicyChange(_)
        | Body::HooksBlind(_)
        | Body::PolicyDecision(..) => false,
    }
}
