//! Sessions and files, as far as the record tells.

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::{self as abi, SessionRelease};
use luo_trace_common::text::{Comm, Compatible, SessionName};
use serde::Serialize;

use super::counts::{Counts, Direction, FileState, HandlerId};
use super::finding::Subject;
use super::pages::Pages;
use crate::event::EventId;

/// What became of asking a handler for a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retrieve {
    #[default]
    NotAsked,
    /// It gave this file (0: not known which).
    Gave(u64, EventId),
    /// It failed with this errno, as a negative number.
    Failed(i64, EventId),
}

impl Retrieve {
    pub(super) fn event(self) -> Option<EventId> {
        match self {
            Retrieve::NotAsked => None,
            Retrieve::Gave(_, id) | Retrieve::Failed(_, id) => Some(id),
        }
    }
}

/// A file of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    pub(super) token: u64,
    pub(super) handler: HandlerId,
    pub(super) object: abi::Object,
    /// Where it stands; `None`: it was unpreserved out of order, and its place is kept.
    pub(super) state: Option<FileState>,
    pub(super) epoch: u32,
    /// The event that made it known.
    pub(super) origin: EventId,
    /// Whether its handler's callbacks are seen.
    pub(super) called_back: bool,
    pub(super) retrieve: Retrieve,
    /// The epoch of what is known of that.
    pub(super) asked: u32,
    /// When it was preserved, or asked for; 0: before the record.
    pub(super) since: u64,
    /// The handler's serialized data; 0: not known or none.
    pub(super) data: u64,
    pub(super) freezing: Freezing,
}

/// What the freeze that is under way did so far to a file, or to a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Freezing {
    /// A walk told of it, and a freeze may have been under way.
    Unknown,
    #[default]
    Untouched,
    Frozen(EventId),
    Failed(EventId),
    Undone(EventId),
}

/// A file as a callback names it: the open file and the serialized data, of which either may be missing.
pub(super) type Called = (u64, u64);

/// `luo_file_finish` is under way on a session.
#[derive(Debug, Default)]
pub(super) struct Finishing {
    /// Files whose handler was asked, in the order of the session's list.
    pub(super) asked: Vec<Called>,
    /// The first refusal.
    pub(super) refused: Option<EventId>,
    /// Files that were finished, in their order.
    pub(super) done: Vec<(Called, EventId)>,
    /// The epoch in which it began.
    pub(super) epoch: u32,
}

/// A handler's preserve that succeeded, while the operation around it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preserving {
    pub(super) file: u64,
    pub(super) id: EventId,
    pub(super) epoch: u32,
}

/// `luo_file_unpreserve_files` was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenBack {
    pub(super) id: EventId,
    /// How many files the kernel says it gave back.
    pub(super) files: u64,
    /// How many files the session had by this record.
    pub(super) expected: u64,
}

/// A session. Mirrors `struct luo_session` in `kernel/liveupdate/luo_internal.h` (7.3).
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    /// Its number in the order the model met them, which tells it from a later one with the same id.
    pub(super) serial: u64,
    pub(super) name: SessionName,
    pub(super) direction: Direction,
    pub(super) epoch: u32,
    /// The event that made it known.
    pub(super) origin: EventId,
    pub(super) files: Vec<File>,
    /// Incoming files that no process has asked for: only their number is known.
    pub(super) pending: u64,
    /// The event that retrieved it, and its epoch.
    pub(super) retrieved: Option<(EventId, u32)>,
    pub(super) preserving: Option<Preserving>,
    /// How many of its files the handlers were seen to unpreserve.
    pub(super) unpreserved: u64,
    pub(super) given_back: Option<GivenBack>,
    /// Incoming, and no process has retrieved it yet.
    pub(super) awaited: bool,
    pub(super) stranded: bool,
    pub(super) frozen: bool,
    /// When it was seen to be made; 0: before the record, or the gap.
    pub(super) born: u64,
    /// When another session took its id, so that its release must be about to end.
    pub(super) left: u64,
    /// Who made or retrieved it, where that was seen.
    pub(super) taken_by: Option<Task>,
    pub(super) finishing: Option<Box<Finishing>>,
    /// The newest refusal to finish one of its files.
    pub(super) refused: Option<EventId>,
    /// When all its files were finished.
    pub(super) finished: Option<u64>,
    /// Incoming, and its files did not arrive whole: the kernel leaks them, and no process can finish them.
    pub(super) broken: bool,
    pub(super) freezing: Freezing,
    /// The place of the file that was looked up last: the kernel goes through them in one order or the other.
    pub(super) cursor: usize,
    /// What the operations on its files did to preserved memory.
    pub(super) pages: Pages,
    /// Other files have a part in that: global state came or went with one of its own.
    pub(super) mixed: bool,
    /// When the walk was over that was the first not to find it, of those since which none has.
    pub(super) missed: Option<u64>,
}

/// A process, as it was when it did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Its process id.
    pub pid: u32,
    /// Its command name.
    pub comm: Comm,
}

impl Session {
    pub(super) fn subject(&self) -> Subject {
        Subject::Session {
            direction: self.direction,
            name: self.name,
        }
    }

    pub(super) fn file_subject(&self, token: Option<u64>) -> Subject {
        Subject::File {
            session: self.name,
            token,
        }
    }

    /// The last file, of those still held, that is this open file.
    pub(super) fn position(&self, file: u64) -> Option<usize> {
        self.files
            .iter()
            .rposition(|f| f.object.file == file && f.state.is_some())
    }

    /// The file, of those still held, that is this open file or, where no file is open, the only one with this data.
    pub(super) fn find(&self, (file, data): Called) -> Option<usize> {
        if file == 0 {
            let same = |f: &File| f.state.is_some() && f.object.file == 0 && f.data == data;
            let mut places = (0..self.files.len()).filter(|&i| data != 0 && same(&self.files[i]));
            return places.next().filter(|_| places.next().is_none());
        }
        let is = |&i: &usize| {
            self.files
                .get(i)
                .is_some_and(|f| f.object.file == file && f.state.is_some())
        };
        let near = [self.cursor.wrapping_add(1), self.cursor.wrapping_sub(1), self.cursor];
        near.into_iter().find(is).or_else(|| self.position(file))
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|f| f.state.is_some())
    }

    /// Incoming, and it waits to be retrieved or has files that wait to be finished. An open one without files has nothing
    /// to finish, and a walk cannot tell whether it was.
    pub(super) fn is_unfinished(&self) -> bool {
        self.awaited || self.pending > 0 || self.held().next().is_some()
    }

    /// Whether a release of this direction can be its own.
    pub(super) fn goes(&self, p: &SessionRelease) -> bool {
        match self.direction {
            Direction::Outgoing => p.direction != abi::INCOMING,
            Direction::Incoming => p.direction != abi::OUTGOING,
        }
    }

    /// Whether it is the recorder's own, as far as is known: another program may give a session its name.
    pub(super) fn is_own(&self) -> bool {
        let named = |name: &[u8]| name == OWN_SESSION.as_bytes();
        // The agent's command has the same name.
        named(self.name.as_bytes()) && self.taken_by.is_none_or(|task| named(task.comm.as_bytes()))
    }

    /// Whether another session has its id already.
    pub(super) fn is_departing(&self) -> bool {
        self.left > 0
    }

    fn state(&self) -> SessionState {
        match self.direction {
            Direction::Outgoing if self.frozen => SessionState::Frozen,
            Direction::Outgoing => SessionState::Open,
            Direction::Incoming if self.stranded => SessionState::Stranded,
            Direction::Incoming if self.awaited => SessionState::Pending,
            Direction::Incoming => SessionState::Retrieved,
        }
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// Outgoing: files can be preserved into it.
    Open,
    /// Outgoing: serialized for the next kernel.
    Frozen,
    /// Incoming: no process has retrieved it yet.
    Pending,
    /// Incoming: a process holds it.
    Retrieved,
    /// Incoming: it was closed while a file could not be finished, and no process can reach it any more.
    Stranded,
}

impl SessionState {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            SessionState::Open => "open",
            SessionState::Frozen => "frozen",
            SessionState::Pending => "pending",
            SessionState::Retrieved => "retrieved",
            SessionState::Stranded => "stranded",
        }
    }
}

/// A live session, for listing.
#[derive(Clone, Copy, Debug)]
pub struct SessionView<'a> {
    pub(super) session: &'a Session,
    pub(super) counts: &'a Counts,
}

impl<'a> SessionView<'a> {
    /// Its name; empty: not known.
    pub fn name(&self) -> SessionName {
        self.session.name
    }

    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        self.session.direction
    }

    /// Where it stands.
    pub fn state(&self) -> SessionState {
        self.session.state()
    }

    /// Whether it is the session in which the recorder has itself carried over a kexec.
    pub fn is_own(&self) -> bool {
        self.session.is_own()
    }

    /// When it was made, or read in from the previous kernel, in nanoseconds of `CLOCK_MONOTONIC`; `None`: not known.
    pub fn born(&self) -> Option<u64> {
        Some(self.session.born).filter(|&time| time > 0)
    }

    /// Who made it or, for one from the previous kernel, retrieved it; `None`: no process yet, or not known.
    pub fn taken_by(&self) -> Option<Task> {
        self.session.taken_by
    }

    /// How many files no process has asked for yet; their tokens and handlers are not known.
    pub fn pending_files(&self) -> u64 {
        self.session.pending
    }

    /// Its other files, in the order they were preserved or asked for.
    pub fn files(&self) -> impl Iterator<Item = FileView> + 'a {
        let counts = self.counts;
        self.session.files.iter().filter_map(move |file| {
            Some(FileView {
                token: file.token,
                handler: counts.handler(file.handler),
                size: file.object.size,
                state: file.state?,
                since: Some(file.since).filter(|&time| time > 0),
            })
        })
    }
}

/// A live file, for listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileView {
    /// Its token.
    pub token: u64,
    /// Its handler's compatible string; empty: not known.
    pub handler: Compatible,
    /// Its size in bytes; 0 for files without one.
    pub size: u64,
    /// Where it stands.
    pub state: FileState,
    /// When it was preserved, or first asked for, in nanoseconds of `CLOCK_MONOTONIC`; `None`: not known.
    pub since: Option<u64>,
}
