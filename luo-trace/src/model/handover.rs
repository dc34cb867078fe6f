//! What the previous kernel sent and no process has read in yet. It is there to be shown and counted: LUO knows nothing of it
//! so far, and no promise hangs on it.

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::HANDOVER_TOO_LATE;
use luo_trace_common::text::SessionName;

use super::counts::{Counts, Direction, FileState, HandlerId};
use super::objects::FileView;
use crate::event::Body;

/// A session as the previous kernel wrote it.
#[derive(Debug)]
struct Arrived {
    name: SessionName,
    /// Tokens and handlers, in the order they were preserved.
    files: Vec<(u64, HandlerId)>,
}

impl Arrived {
    /// Whether it carries the recorder's own journal. It is shown, and left out of the counts.
    fn is_own(&self) -> bool {
        self.name.as_bytes() == OWN_SESSION.as_bytes()
    }
}

/// The sessions that arrived, as far as the record tells.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Those of a walk that is not over.
    coming: Vec<Arrived>,
    /// Those that wait to be read in.
    waiting: Vec<Arrived>,
    /// A process has begun to read them in.
    read_in: bool,
}

impl Handover {
    /// Takes a record of the walk.
    pub(super) fn take(&mut self, body: &Body, handler: HandlerId, counts: &mut Counts) {
        match body {
            Body::ArrivedSession(p) => self.coming.push(Arrived {
                name: p.name,
                files: Vec::new(),
            }),
            Body::ArrivedFile(p) => {
                if let Some(session) = self.coming.last_mut().filter(|session| session.name == p.session) {
                    session.files.push((p.token, handler));
                }
            }
            Body::Handover(p) => {
                let coming = std::mem::take(&mut self.coming);
                self.clear(counts);
                if !self.read_in && p.flags & HANDOVER_TOO_LATE == 0 {
                    self.settle(coming, counts);
                }
            }
            _ => {}
        }
    }

    /// A process reads them in: from now on LUO tells of them itself.
    pub(super) fn read_in(&mut self, counts: &mut Counts) {
        self.read_in = true;
        self.clear(counts);
    }

    fn settle(&mut self, mut coming: Vec<Arrived>, counts: &mut Counts) {
        coming.sort_by_key(|session| session.name);
        for session in coming.iter().filter(|session| !session.is_own()) {
            counts.session_came(Direction::Incoming);
            counts.pending_sessions += 1;
            for &(_, handler) in &session.files {
                counts.files_came(handler, FileState::Pending, 1, 0);
            }
        }
        self.waiting = coming;
    }

    fn clear(&mut self, counts: &mut Counts) {
        for session in self.waiting.drain(..).filter(|session| !session.is_own()) {
            counts.incoming_sessions = counts.incoming_sessions.saturating_sub(1);
            counts.pending_sessions = counts.pending_sessions.saturating_sub(1);
            for (_, handler) in session.files {
                counts.files_went(handler, FileState::Pending, 1, 0);
            }
        }
    }

    /// Those that wait, by name.
    pub(super) fn waiting<'a>(&'a self, counts: &'a Counts) -> impl Iterator<Item = WaitingView<'a>> {
        self.waiting.iter().map(move |session| WaitingView { session, counts })
    }
}

/// A session that waits to be read in, for listing.
#[derive(Clone, Copy, Debug)]
pub struct WaitingView<'a> {
    session: &'a Arrived,
    counts: &'a Counts,
}

impl<'a> WaitingView<'a> {
    /// Its name.
    pub fn name(&self) -> SessionName {
        self.session.name
    }

    /// Whether it carries the recorder's own journal.
    pub fn is_own(&self) -> bool {
        self.session.is_own()
    }

    /// Its files, in the order they were preserved. Their sizes are not known.
    pub fn files(&self) -> impl ExactSizeIterator<Item = FileView> + 'a {
        let counts = self.counts;
        self.session.files.iter().map(move |&(token, handler)| FileView {
            token,
            handler: counts.handler(handler),
            size: 0,
            state: FileState::Pending,
            since: None,
        })
    }
}
