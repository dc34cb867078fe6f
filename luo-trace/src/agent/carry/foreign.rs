//! A session of our name that another program made: it is not retrieved, since its owner could not have it then.

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::INCOMING;
use luo_trace_common::text::SessionName;

use super::TOKEN;
use crate::event::Body;

/// What the walks over LUO's lists, and over what the previous kernel left, tell of the session of our name.
#[derive(Debug, Default)]
pub struct Foreign {
    /// LUO's session of this name, where it is read in already; 0: not met.
    id: u64,
    ours: bool,
    others: bool,
}

impl Foreign {
    /// Takes in the next event.
    pub fn observe(&mut self, body: &Body) {
        match body {
            Body::ArrivedFile(file) if is_ours(&file.session) => self.file(file.token),
            Body::SnapshotSession(session) if session.direction == INCOMING && is_ours(&session.session.name) => {
                self.id = session.session.id;
            }
            Body::SnapshotFile(file) if file.session == self.id && self.id != 0 => self.file(file.token),
            _ => {}
        }
    }

    fn file(&mut self, token: u64) {
        match token {
            TOKEN => self.ours = true,
            _ => self.others = true,
        }
    }

    /// Whether what is in it is known to be another program's.
    pub fn is_theirs(&self) -> bool {
        self.others && !self.ours
    }
}

fn is_ours(name: &SessionName) -> bool {
    name.as_bytes() == OWN_SESSION.as_bytes()
}

#[cfg(test)]
mod tests {
    use luo_trace_common::events::{ArrivedFile, OUTGOING, SessionRef, SnapshotFile, SnapshotSession};

    use super::*;

    fn arrived(name: &str, token: u64) -> Body {
        Body::ArrivedFile(ArrivedFile {
            session: SessionName::new(name),
            token,
            ..ArrivedFile::default()
        })
    }

    fn listed(id: u64, direction: u32) -> Body {
        Body::SnapshotSession(SnapshotSession {
            session: SessionRef {
                id,
                name: SessionName::new(OWN_SESSION),
            },
            direction,
            ..SnapshotSession::default()
        })
    }

    fn file(session: u64, token: u64) -> Body {
        Body::SnapshotFile(SnapshotFile {
            session,
            token,
            ..SnapshotFile::default()
        })
    }

    fn is_theirs(bodies: &[Body]) -> bool {
        let mut foreign = Foreign::default();
        bodies.iter().for_each(|body| foreign.observe(body));
        foreign.is_theirs()
    }

    #[test]
    fn a_session_of_our_name_is_theirs_when_it_has_files_and_none_is_ours() {
        assert!(is_theirs(&[arrived(OWN_SESSION, 1)]));
        assert!(is_theirs(&[listed(7, INCOMING), file(7, 1)]));
        assert!(!is_theirs(&[arrived(OWN_SESSION, TOKEN)]));
        assert!(!is_theirs(&[
            arrived(OWN_SESSION, 1),
            listed(7, INCOMING),
            file(7, TOKEN)
        ]));
    }

    #[test]
    fn other_sessions_say_nothing_of_it() {
        assert!(!is_theirs(&[]));
        assert!(!is_theirs(&[arrived("vm", 1), file(7, 1)]));
        assert!(!is_theirs(&[
            listed(7, OUTGOING),
            file(7, 1),
            listed(8, INCOMING),
            file(9, 1)
        ]));
    }
}
