//! The sessions of one direction in one boot, with their files.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::{Header, SessionRef};
use luo_trace_common::text::{Comm, Compatible, SessionName};

use crate::event::EventId;

/// More sessions than this in one direction are not followed, and counted instead: no kernel has a hundredth of them.
const MOST_SESSIONS: usize = 1 << 16;
/// More files than this in one direction are not followed, and counted instead.
const MOST_FILES: usize = 1 << 20;
/// How many sessions that were closed before any jump are kept, the first of them; the rest are only counted.
const ABANDONED_KEPT: usize = 64;

/// How many callers and errors are told apart of one session's refused files; the rest are only counted.
const REFUSED_KEPT: usize = 16;

/// A stretch of one boot's `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// Whether what it is of succeeded.
    pub ok: bool,
}

impl Span {
    /// How long it took, in nanoseconds.
    pub fn duration(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// What happened to one session in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLine {
    /// Its name; empty: not known.
    pub name: SessionName,
    /// When it was created here.
    pub created: Option<u64>,
    /// It was found in what the previous kernel left, before anybody read it in.
    pub arrived: bool,
    /// How many files it has by the kernel's own word, where that was told.
    pub says: Option<u64>,
    /// Whether [`SessionLine::files`] are all of its files. Before a walk lists them, files of an incoming session are known
    /// only once they are asked for.
    pub listed: bool,
    /// When it was asked for and handed out here.
    pub retrieved: Option<u64>,
    /// Its files were frozen for the jump, the last time that was tried.
    pub frozen: Option<Span>,
    /// When it was closed before any jump.
    pub abandoned: Option<u64>,
    /// When its files were finished.
    pub finished: Option<u64>,
    /// When a walk over the kernel's lists first missed it, though nothing that was seen had ended it.
    pub missed: Option<u64>,
    /// Operations on files that are not among its files, which failed.
    pub refusals: u32,
    /// The files among these that were to be preserved.
    pub refused: Vec<Refused>,
    /// Its files by token.
    pub files: BTreeMap<u64, FileLine>,
    /// The event that it was first known by.
    pub evidence: Option<EventId>,
}

impl SessionLine {
    /// Whether it has the name of the recorder's own, which is no session of a guest.
    pub fn is_own(&self) -> bool {
        self.name.as_bytes() == OWN_SESSION.as_bytes()
    }

    /// The kernel refused to preserve a file in it.
    pub(super) fn refuse(&mut self, by: &Header, result: i64) {
        self.refusals += 1;
        let alike = |refused: &&mut Refused| (refused.tgid, refused.result) == (by.tgid, result);
        if let Some(refused) = self.refused.iter_mut().find(alike) {
            refused.files += 1;
        } else if self.refused.len() < REFUSED_KEPT {
            self.refused.push(Refused {
                tgid: by.tgid,
                comm: by.comm,
                result,
                files: 1,
            });
        }
    }
}

/// Files that the kernel refused to preserve: they do not go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Process id of the caller.
    pub tgid: u32,
    /// Its name.
    pub comm: Comm,
    /// The errno, negative.
    pub result: i64,
    /// How many there were.
    pub files: u32,
}

/// What happened to one file in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLine {
    /// The handler's compatible string; empty: not known.
    pub handler: Compatible,
    /// Size in bytes.
    pub size: u64,
    /// The handler's serialized data, as the kernel keeps it; 0: not known or none.
    pub data: u64,
    /// Its preserve.
    pub preserve: Option<Span>,
    /// Its handler's freeze, the last time that was tried.
    pub freeze: Option<Span>,
    /// The first retrieve that gave the file back.
    pub retrieve: Option<Span>,
    /// Its handler's finish.
    pub finish: Option<Span>,
    /// Operations on it that failed.
    pub failures: u32,
    /// The errno of the first retrieve that failed, negative.
    pub refused: Option<i64>,
}

/// How an incoming file ends in its boot's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileFate {
    /// Retrieved and finished: as it should be.
    Finished,
    /// Retrieved, and not finished when the record ends.
    Retrieved,
    /// Finished, and no process had retrieved it: what it held is gone.
    Unclaimed,
    /// Neither retrieved nor finished when the record ends.
    Pending,
    /// Neither retrieved nor finished when its kernel left by another live update, which does not carry it.
    Lost,
}

impl FileFate {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Retrieved => "retrieved",
            Self::Unclaimed => "unclaimed",
            Self::Pending => "pending",
            Self::Lost => "lost",
        }
    }
}

/// The sessions of one direction in one boot: of those that go, all that are there at the end of the record; of those that
/// came, all.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    lines: Vec<SessionLine>,
    /// Places of lines that are not in use.
    free: Vec<usize>,
    by_id: HashMap<u64, usize>,
    /// Only those that were named before their id was known.
    by_name: HashMap<SessionName, usize>,
    files: usize,
    /// The first sessions that were closed before any jump.
    pub abandoned: Vec<SessionLine>,
    /// How many sessions were closed before any jump.
    pub closed: u64,
    /// How many sessions and files were not followed, because there are too many.
    pub dropped: u64,
}

impl Sessions {
    /// The sessions, by name.
    pub fn sorted(&self) -> Vec<&SessionLine> {
        let mut lines: Vec<_> = self.iter().collect();
        lines.sort_by_key(|line| line.name);
        lines
    }

    /// The sessions, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &SessionLine> {
        // A line that is not in use is known by nothing.
        self.lines.iter().filter(|line| line.evidence.is_some())
    }

    /// The session of this name.
    pub fn get(&self, name: &SessionName) -> Option<&SessionLine> {
        self.iter().find(|line| line.name == *name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The session that an operation is about, where it is known.
    pub(super) fn find(&mut self, session: &SessionRef) -> Option<&mut SessionLine> {
        let place = self.place(session)?;
        self.lines.get_mut(place)
    }

    /// The session that an operation is about, which from this event on is known if it was not.
    pub(super) fn meet(&mut self, session: &SessionRef, evidence: EventId) -> Option<&mut SessionLine> {
        let place = self.place_for(session, evidence)?;
        self.lines.get_mut(place)
    }

    fn place(&mut self, session: &SessionRef) -> Option<usize> {
        if let Some(&place) = self.by_id.get(&session.id) {
            let line = &mut self.lines[place];
            if line.name.is_empty() {
                line.name = session.name;
            }
            let same = session.name.is_empty() || line.name == session.name;
            // The end of the one that had this id was not seen.
            return if same {
                Some(place)
            } else {
                self.forget(place, session.id)
            };
        }
        if self.by_name.is_empty() {
            return None;
        }
        let place = *self.by_name.get(&session.name)?;
        if session.id != 0 {
            self.by_id.insert(session.id, place);
        }
        Some(place)
    }

    fn forget<T>(&mut self, place: usize, id: u64) -> Option<T> {
        self.by_id.remove(&id);
        self.take(place);
        None
    }

    fn take(&mut self, place: usize) -> SessionLine {
        self.free.push(place);
        let line = std::mem::take(&mut self.lines[place]);
        self.files -= line.files.len();
        line
    }

    fn place_for(&mut self, session: &SessionRef, evidence: EventId) -> Option<usize> {
        if let Some(place) = self.place(session) {
            return Some(place);
        }
        if session.id == 0 && session.name.is_empty() {
            return None;
        }
        if self.len() >= MOST_SESSIONS {
            self.dropped += 1;
            return None;
        }
        let line = SessionLine {
            name: session.name,
            evidence: Some(evidence),
            ..SessionLine::default()
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.lines[place] = line;
                place
            }
            None => {
                self.lines.push(line);
                self.lines.len() - 1
            }
        };
        match session.id {
            0 => self.by_name.insert(session.name, place),
            id => self.by_id.insert(id, place),
        };
        Some(place)
    }

    /// A session begins: what was known by this id before is gone.
    pub(super) fn begin(&mut self, session: &SessionRef, evidence: EventId) -> Option<&mut SessionLine> {
        self.remove(session);
        self.meet(session, evidence)
    }

    /// A session is gone.
    pub(super) fn remove(&mut self, session: &SessionRef) -> Option<SessionLine> {
        let place = self.place(session)?;
        self.by_id.remove(&session.id);
        self.by_name.remove(&session.name);
        Some(self.take(place))
    }

    /// A session was closed before any jump. Another may have its address already when that is told: it stays.
    pub(super) fn abandon(&mut self, session: &SessionRef, closed: Span) {
        self.closed += 1;
        let here = self.by_id.get(&session.id).map(|&place| &self.lines[place]);
        if here.is_some_and(|line| line.created > Some(closed.start)) {
            return;
        }
        if let Some(mut line) = self.remove(session)
            && self.abandoned.len() < ABANDONED_KEPT
        {
            line.abandoned = Some(closed.end);
            self.abandoned.push(line);
        }
    }

    /// A session's files were given back.
    pub(super) fn clear(&mut self, session: &SessionRef) {
        if let Some(place) = self.place(session) {
            self.files -= std::mem::take(&mut self.lines[place].files).len();
        }
    }

    /// The session's file of this token, which from this event on is known if it was not.
    pub(super) fn file(&mut self, session: &SessionRef, token: u64, evidence: EventId) -> Option<&mut FileLine> {
        let place = self.place_for(session, evidence)?;
        let full = self.files >= MOST_FILES;
        match self.lines[place].files.entry(token) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(_) if full => {
                self.dropped += 1;
                None
            }
            Entry::Vacant(entry) => {
                self.files += 1;
                Some(entry.insert(FileLine::default()))
            }
        }
    }

    /// The session's file of this token, where it is known.
    pub(super) fn known_file(&mut self, session: &SessionRef, token: u64) -> Option<&mut FileLine> {
        self.find(session)?.files.get_mut(&token)
    }

    /// Every session, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut SessionLine> {
        self.lines.iter_mut().filter(|line| line.evidence.is_some())
    }

    /// Keeps only the sessions, by their ids, and of them only the files, for which `keep` says so.
    pub(super) fn retain(&mut self, keep: impl Fn(u64, &mut SessionLine) -> bool) {
        let Self { lines, free, by_id, .. } = self;
        by_id.retain(|&id, &mut place| {
            let kept = keep(id, &mut lines[place]);
            if !kept {
                lines[place] = SessionLine::default();
                free.push(place);
            }
            kept
        });
        self.files = lines.iter().map(|line| line.files.len()).sum();
    }
}

impl FileLine {
    /// Takes what an operation on it tells of it.
    pub(super) fn learn(&mut self, handler: &Compatible, size: u64, data: u64) {
        if !handler.is_empty() {
            self.handler = *handler;
        }
        self.size = self.size.max(size);
        if data != 0 {
            self.data = data;
        }
    }
}
