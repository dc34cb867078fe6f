//! How many there are of what, kept up to date event by event: what gauges show.

use std::fmt;

use luo_trace_common::text::Compatible;
use serde::Serialize;

use super::HashMap;
use super::objects::Session;

/// Which way a session or global state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the next kernel.
    Outgoing,
    /// From the previous kernel.
    Incoming,
}

impl Direction {
    /// Both, in the order they are shown.
    pub const ALL: [Direction; 2] = [Direction::Outgoing, Direction::Incoming];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Outgoing => "outgoing",
            Direction::Incoming => "incoming",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Outgoing: its state is saved.
    Preserved,
    /// Outgoing: frozen and written for the next kernel.
    Frozen,
    /// Incoming: not asked for yet.
    Pending,
    /// Incoming: it is a file again.
    Retrieved,
    /// Incoming: its handler could not bring it back.
    Failed,
}

impl FileState {
    /// Every state, in the order they are shown.
    pub const ALL: [FileState; 5] = [
        FileState::Preserved,
        FileState::Frozen,
        FileState::Pending,
        FileState::Retrieved,
        FileState::Failed,
    ];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            FileState::Preserved => "preserved",
            FileState::Frozen => "frozen",
            FileState::Pending => "pending",
            FileState::Retrieved => "retrieved",
            FileState::Failed => "failed",
        }
    }

    /// Which way files in this state go.
    pub const fn direction(self) -> Direction {
        match self {
            FileState::Preserved | FileState::Frozen => Direction::Outgoing,
            FileState::Pending | FileState::Retrieved | FileState::Failed => Direction::Incoming,
        }
    }
}

/// Number of a handler's name in a [`Counts`]; 0 is the empty name, "not known".
pub(super) type HandlerId = u16;

/// More handlers than this in one record are not told apart. No kernel has ten.
const MOST_HANDLERS: usize = 1024;

/// Files of one handler in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    files: u64,
    bytes: u64,
}

/// How many files of one handler are in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCount {
    /// The handler's compatible string; empty: not known, as for files that no process has asked for yet.
    pub handler: Compatible,
    /// Where they stand; it tells the direction too.
    pub state: FileState,
    /// How many.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// One direction of a global state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlbCount {
    /// Its compatible string.
    pub name: Compatible,
    /// Which way it goes.
    pub direction: Direction,
    /// Files that are known to use it.
    pub users: u64,
    /// Whether it exists.
    pub alive: bool,
}

/// What there is now, as far as the record tells. Cheap to clone: its size depends on the number of handlers and FLBs only.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Live sessions on their way to the next kernel.
    pub outgoing_sessions: u64,
    /// Live sessions from the previous kernel.
    pub incoming_sessions: u64,
    /// Incoming sessions that no process has retrieved yet.
    pub pending_sessions: u64,
    /// Objects that came to their end and were dropped.
    pub retired: u64,
    pub(super) flbs: Vec<FlbCount>,
    handlers: Vec<Compatible>,
    ids: HashMap<Compatible, HandlerId>,
    files: Vec<[Tally; FileState::ALL.len()]>,
}

impl Counts {
    /// Live sessions of one direction.
    pub fn sessions(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Outgoing => self.outgoing_sessions,
            Direction::Incoming => self.incoming_sessions,
        }
    }

    /// Live files by handler and state, every state of every handler seen so far, zeros too.
    pub fn files(&self) -> impl Iterator<Item = FileCount> + '_ {
        self.handlers.iter().zip(&self.files).flat_map(|(&handler, tallies)| {
            FileState::ALL
                .iter()
                .zip(tallies)
                .map(move |(&state, tally)| FileCount {
                    handler,
                    state,
                    files: tally.files,
                    bytes: tally.bytes,
                })
        })
    }

    /// The handlers of outgoing files.
    pub(super) fn handlers_in_use(&self) -> impl Iterator<Item = Compatible> + '_ {
        let outgoing = |count: &FileCount| count.files > 0 && count.state.direction() == Direction::Outgoing;
        self.files().filter(outgoing).map(|count| count.handler)
    }

    /// Incoming files that no process has retrieved yet.
    pub fn pending_files(&self) -> u64 {
        self.files.iter().map(|t| t[FileState::Pending as usize].files).sum()
    }

    /// The global states seen so far, in the order they were first seen, each direction that was.
    pub fn flbs(&self) -> &[FlbCount] {
        &self.flbs
    }

    pub(super) fn handler(&self, id: HandlerId) -> Compatible {
        self.handlers.get(usize::from(id)).copied().unwrap_or_default()
    }

    /// The number of a name. A record that names more handlers than fit gets "not known" for the rest.
    pub(super) fn handler_id(&mut self, name: &Compatible) -> HandlerId {
        if self.handlers.is_empty() {
            self.handlers.push(Compatible::EMPTY);
            self.files.push(Default::default());
        }
        if name.is_empty() {
            return 0;
        }
        // Most hosts have one handler or two.
        if let Some(i) = self.handlers.iter().take(4).position(|h| h == name) {
            return i as HandlerId;
        }
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        if self.handlers.len() >= MOST_HANDLERS {
            return 0;
        }
        let id = self.handlers.len() as HandlerId;
        self.handlers.push(*name);
        self.files.push(Default::default());
        self.ids.insert(*name, id);
        id
    }

    pub(super) fn session_came(&mut self, direction: Direction) {
        match direction {
            Direction::Outgoing => self.outgoing_sessions += 1,
            Direction::Incoming => self.incoming_sessions += 1,
        }
    }

    pub(super) fn session_went(&mut self, direction: Direction) {
        let sessions = match direction {
            Direction::Outgoing => &mut self.outgoing_sessions,
            Direction::Incoming => &mut self.incoming_sessions,
        };
        *sessions = sessions.saturating_sub(1);
        self.retired += 1;
    }

    /// Counts as if this session were not there.
    pub(super) fn leave_out(&mut self, session: &Session) {
        let retired = self.retired;
        self.session_went(session.direction);
        self.retired = retired;
        self.pending_sessions -= u64::from(session.awaited).min(self.pending_sessions);
        self.files_went(0, FileState::Pending, session.pending, 0);
        for file in session.held() {
            if let Some(state) = file.state {
                self.files_went(file.handler, state, 1, file.object.size);
            }
        }
    }

    pub(super) fn files_came(&mut self, handler: HandlerId, state: FileState, files: u64, bytes: u64) {
        if self.files.is_empty() {
            self.handler_id(&Compatible::EMPTY);
        }
        if let Some(tallies) = self.files.get_mut(usize::from(handler)) {
            let tally = &mut tallies[state as usize];
            tally.files = tally.files.saturating_add(files);
            tally.bytes = tally.bytes.saturating_add(bytes);
        }
    }

    pub(super) fn files_went(&mut self, handler: HandlerId, state: FileState, files: u64, bytes: u64) {
        if let Some(tallies) = self.files.get_mut(usize::from(handler)) {
            let tally = &mut tallies[state as usize];
            tally.files = tally.files.saturating_sub(files);
            tally.bytes = tally.bytes.saturating_sub(bytes);
        }
    }
}
