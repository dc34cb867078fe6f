//! A walk over the kernel's lists, told list by list.

use luo_trace_common::events::{
    INCOMING, OUTGOING, Object, SNAPSHOT_INCOMING_UNREAD, SessionRef, SnapshotBegin, SnapshotEnd, SnapshotFile,
    SnapshotFlb, SnapshotHandler, SnapshotLink, SnapshotSession,
};
use luo_trace_common::text::Compatible;

use super::story::{MEMFD, Story, data, flb_id};
use crate::event::Body;

/// What a walk finds. Its counts are those of what it lists, unless they are told otherwise.
#[derive(Debug)]
pub struct Snapshot {
    records: Vec<Body>,
    end: SnapshotEnd,
    handler: bool,
}

impl Story {
    /// A walk over the kernel's lists, told by a closure.
    pub fn snapshot(&mut self, tell: impl FnOnce(&mut Snapshot)) -> &mut Self {
        self.walks += 1;
        let mut snapshot = Snapshot::new(self.walks);
        tell(&mut snapshot);
        for body in snapshot.into_records() {
            self.now += 1;
            self.push(body);
        }
        self
    }
}

impl Snapshot {
    /// The walk of this number, which finds nothing.
    pub fn new(walk: u64) -> Self {
        let begin = SnapshotBegin {
            walk,
            // It is in the header of the record.
            update_number: u64::MAX,
            ..SnapshotBegin::default()
        };
        Self {
            records: vec![Body::SnapshotBegin(begin)],
            end: SnapshotEnd {
                walk,
                ..SnapshotEnd::default()
            },
            handler: false,
        }
    }

    /// It finds an outgoing session with these tokens and files.
    pub fn outgoing(&mut self, session: SessionRef, files: &[(u64, Object)]) -> &mut Self {
        self.end.outgoing_sessions += 1;
        self.session(session, OUTGOING, 0, files.len() as u64);
        for &(token, object) in files {
            self.file(session, token, object, 0);
        }
        self
    }

    /// It finds an incoming session with these tokens, files and retrieve statuses.
    pub fn incoming(&mut self, session: SessionRef, retrieved: bool, files: &[(u64, Object, i64)]) -> &mut Self {
        self.end.incoming_sessions += 1;
        self.session(session, INCOMING, u32::from(retrieved), files.len() as u64);
        for &(token, object, status) in files {
            self.file(session, token, object, status);
        }
        self
    }

    fn session(&mut self, session: SessionRef, direction: u32, retrieved: u32, files: u64) {
        self.records.push(Body::SnapshotSession(SnapshotSession {
            session,
            direction,
            retrieved,
            files,
        }));
    }

    fn file(&mut self, session: SessionRef, token: u64, object: Object, retrieve_status: i64) {
        self.records.push(Body::SnapshotFile(SnapshotFile {
            session: session.id,
            token,
            handler: Compatible::new(MEMFD),
            object,
            data: data(token),
            retrieve_status,
        }));
    }

    /// It finds an FLB that the memfd handler's files use, with so many users and this retrieve status.
    pub fn flb(&mut self, name: &str, outgoing_users: i64, retrieve_status: i64) -> &mut Self {
        if !std::mem::replace(&mut self.handler, true) {
            let name = Compatible::new(MEMFD);
            self.records
                .push(Body::SnapshotHandler(SnapshotHandler { handler: HANDLER, name }));
        }
        let flb = flb_id(name);
        self.records
            .push(Body::SnapshotLink(SnapshotLink { handler: HANDLER, flb }));
        self.flb_record(SnapshotFlb {
            flb,
            name: Compatible::new(name),
            outgoing_users,
            retrieve_status,
            ..SnapshotFlb::default()
        })
    }

    /// It finds an FLB as this record tells.
    pub fn flb_record(&mut self, record: SnapshotFlb) -> &mut Self {
        self.records.push(Body::SnapshotFlb(record));
        self
    }

    /// The kernel's own counts are other ones by this much.
    pub fn miscounts(&mut self, sessions: i64, files: i64) -> &mut Self {
        self.end.outgoing_sessions += sessions;
        for record in &mut self.records {
            if let Body::SnapshotSession(p) = record {
                p.files = p.files.saturating_add_signed(files);
            }
        }
        self
    }

    /// The previous kernel's sessions lie in memory that no process has read in.
    pub fn unread(&mut self) -> &mut Self {
        self.flags(SNAPSHOT_INCOMING_UNREAD)
    }

    /// The walk ends with these flags.
    pub fn flags(&mut self, flags: u32) -> &mut Self {
        self.end.flags |= flags;
        self
    }

    /// The records, in their order.
    pub fn into_records(mut self) -> Vec<Body> {
        self.records.push(Body::SnapshotEnd(self.end));
        self.records
    }
}

/// What the kernel knows the memfd handler by.
const HANDLER: u64 = 0x6_0000;
