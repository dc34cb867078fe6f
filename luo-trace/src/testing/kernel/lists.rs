//! What the made-up kernel's lists hold, as a walk over them finds it: all in one step, with operations under way.

use luo_trace_common::events::{
    INCOMING, OUTGOING, SnapshotBegin, SnapshotEnd, SnapshotFile, SnapshotFlb, SnapshotHandler, SnapshotLink,
    SnapshotSession,
};
use luo_trace_common::text::Compatible;

use super::super::story::{MEMFD, data, left_behind};
use super::bodies::{flb_id, flb_name};
use super::{FLBS, KSession, Kernel, NAMES, TOKENS};
use crate::event::{Body, Event};

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Sessions for the next kernel.
    pub outgoing_sessions: u64,
    /// Sessions from the previous kernel.
    pub incoming_sessions: u64,
    /// Files of either.
    pub files: u64,
    /// Their sizes together, as far as they are open.
    pub bytes: u64,
}

const HANDLER: u64 = 0x6_0000;

impl Kernel {
    /// A walk when no task can go on and time has passed.
    pub(super) fn snapshot_at_end(mut self, events: &mut Vec<Event>) -> Lists {
        if self.tasks.is_empty() {
            return Lists::default();
        }
        self.now += 1_000_000_000;
        self.snapshot(0);
        events.append(&mut self.events);
        let files = || self.sessions.values().flat_map(|kept| &kept.files);
        let sessions = |incoming| self.sessions.values().filter(|kept| kept.incoming == incoming).count() as u64;
        Lists {
            outgoing_sessions: sessions(false),
            incoming_sessions: sessions(true),
            files: files().count() as u64,
            bytes: files().filter_map(|file| file.object).map(|object| object.size).sum(),
        }
    }

    /// The first task looks through what the previous kernel left, before anybody reads it in.
    pub(super) fn handover(&mut self, incoming: &[u8]) {
        if self.tasks.is_empty() {
            return;
        }
        let tokens: Vec<u64> = (0..u64::from(TOKENS)).collect();
        let sessions: Vec<_> = (incoming.iter().take(usize::from(NAMES)).enumerate())
            .map(|(i, &count)| (format!("s{i}"), &tokens[..usize::from(count % (TOKENS + 1))]))
            .collect();
        let sessions: Vec<_> = sessions.iter().map(|(name, tokens)| (name.as_str(), *tokens)).collect();
        let users = sessions.iter().map(|(_, tokens)| tokens.len() as u64).sum();
        let names: Vec<_> = (0..FLBS).map(|flb| flb_name(flb).to_string()).collect();
        let flbs = names.iter().filter(|_| users > 0).map(|name| (name.as_str(), users));
        for body in left_behind(&sessions, &flbs.collect::<Vec<_>>()) {
            self.now += 1;
            self.tell(0, body);
        }
    }

    /// A task walks the lists.
    pub(super) fn snapshot(&mut self, task: usize) {
        self.walks += 1;
        let walk = self.walks;
        let mut records = vec![Body::SnapshotBegin(SnapshotBegin {
            walk,
            ..SnapshotBegin::default()
        })];
        let count = |incoming: bool| self.sessions.values().filter(|s| s.incoming == incoming).count() as i64;
        let end = SnapshotEnd {
            walk,
            outgoing_sessions: count(false),
            incoming_sessions: count(true),
            ..SnapshotEnd::default()
        };
        self.sessions.values().for_each(|kept| session(kept, &mut records));
        let (handler, name) = (HANDLER, Compatible::new(MEMFD));
        records.push(Body::SnapshotHandler(SnapshotHandler { handler, name }));
        for flb in 0..FLBS {
            records.push(Body::SnapshotLink(SnapshotLink {
                handler,
                flb: flb_id(flb),
            }));
            let kept = &self.flbs[flb];
            records.push(Body::SnapshotFlb(SnapshotFlb {
                flb: flb_id(flb),
                name: flb_name(flb),
                outgoing_users: kept.outgoing,
                incoming_users: kept.incoming,
                retrieve_status: kept.status,
                finished: u64::from(kept.finished),
                ..SnapshotFlb::default()
            }));
        }
        records.push(Body::SnapshotEnd(end));
        for body in records {
            self.now += 1;
            self.tell(task, body);
        }
    }
}

fn session(kept: &KSession, records: &mut Vec<Body>) {
    records.push(Body::SnapshotSession(SnapshotSession {
        session: kept.name,
        direction: if kept.incoming { INCOMING } else { OUTGOING },
        retrieved: u32::from(kept.retrieved),
        files: kept.files.len() as u64,
    }));
    for file in &kept.files {
        records.push(Body::SnapshotFile(SnapshotFile {
            session: kept.name.id,
            token: file.token,
            handler: Compatible::new(MEMFD),
            object: file.object.unwrap_or_default(),
            data: data(file.token),
            retrieve_status: if kept.incoming { file.status } else { 0 },
        }));
    }
}
