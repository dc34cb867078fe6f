//! What a kernel finds of what was there before: left by the previous kernel, or listed by a walk over its own lists.

use std::collections::{BTreeSet, HashSet};

use luo_trace_common::events::{
    HANDOVER_NOTHING, HANDOVER_WHOLE, SNAPSHOT_CHANGED, SNAPSHOT_INCOMING_UNREAD, SNAPSHOT_INCOMPLETE, SessionRef,
    SnapshotEnd,
};
use luo_trace_common::text::SessionName;

use super::boot::{Boot, Pages};
use super::lines::Span;
use crate::event::{Body, Event};
use crate::model::{BLINK_NS, Direction, Walk};

/// More global states than this are not kept. No kernel has ten.
const MOST_FLBS: usize = 256;

impl Boot {
    /// A record of what the previous kernel left.
    pub(super) fn arrive(&mut self, event: &Event) {
        // The first reading that found all of it tells: a later one would find what was given back.
        match &self.handover {
            Some(handover) if handover.whole => return,
            Some(handover) if handover.is_over() => {
                self.handover = None;
                self.incoming.iter_mut().for_each(|line| line.arrived = false);
            }
            _ => {}
        }
        let id = event.id();
        let handover = self.handover.get_or_insert_default();
        handover.holes |= event.header.ktime <= self.blind_until;
        match &event.body {
            Body::ArrivedSession(p) => {
                handover.sessions += 1;
                if let Some(line) = self.incoming.meet(&by_name(p.name), id) {
                    line.arrived = true;
                    line.says = Some(p.files);
                    line.listed = true;
                }
            }
            Body::ArrivedFile(p) => {
                handover.files += 1;
                if let Some(file) = self.incoming.file(&by_name(p.session), p.token, id) {
                    file.learn(&p.handler, 0, p.data);
                }
            }
            Body::ArrivedFlb(p) if handover.flbs.len() < MOST_FLBS => handover.flbs.push(*p),
            Body::Handover(p) => {
                self.update_number = self.update_number.or(p.known_update_number());
                let found = (handover.sessions, handover.files, handover.flbs.len() as u64);
                let all = found == (p.sessions, p.files, p.flbs) && !handover.holes;
                handover.at = Some(event.header.ktime);
                handover.evidence = Some(id);
                handover.nothing = p.flags & HANDOVER_NOTHING != 0;
                handover.whole = all && (p.flags & HANDOVER_WHOLE != 0 || handover.nothing);
                if !handover.whole {
                    self.incoming.iter_mut().for_each(|line| line.listed = false);
                }
            }
            _ => {}
        }
    }

    /// Collects the records of a walk over the kernel's lists. Where nothing disturbed it, it tells all that there is.
    pub(super) fn walk(&mut self, event: &Event) {
        match &event.body {
            Body::SnapshotBegin(p) => self.walk = Some(Walk::begin(p, event.header.ktime)),
            Body::SnapshotEnd(p) => {
                let sure = p.flags & (SNAPSHOT_CHANGED | SNAPSHOT_INCOMPLETE) == 0;
                let walk = self.walk.take().filter(|walk| sure && walk.ends_with(p));
                // A loss may be told a moment early, and by the time up to which it may have been.
                let clear = |walk: &Walk| self.blind_until == 0 || walk.since > self.blind_until + BLINK_NS;
                let counted = |walk: &Walk| walk.since >= self.blind_until && walk.agrees(p);
                let sees = |walk: &Walk| !walk.disturbed && (clear(walk) || counted(walk));
                if let Some(walk) = walk.filter(sees) {
                    self.learn(&walk, p, event);
                }
            }
            body => {
                if let Body::SnapshotFlb(p) = body
                    && p.retrieve_status > 0
                    && self.flb_data.len() < MOST_FLBS
                {
                    self.flb_data.entry(p.name).or_insert(p.incoming_data);
                }
                if let Some(walk) = &mut self.walk {
                    walk.take(event, 0);
                    if let Body::SnapshotHandler(p) = body
                        && !self.handlers.contains(&p.name)
                        && self.handlers.len() < MOST_FLBS
                    {
                        self.handlers.push(p.name);
                    }
                }
            }
        }
    }

    fn learn(&mut self, walk: &Walk, end: &SnapshotEnd, event: &Event) {
        self.known.handlers = true;
        if !self.known.outgoing {
            self.learn_outgoing(walk);
        }
        if end.flags & SNAPSHOT_INCOMING_UNREAD != 0 {
            self.known.unread = self.known.gapless;
        } else {
            self.learn_incoming(walk, event.header.ktime);
        }
    }

    /// The walk found all outgoing sessions: others that were believed to be there are gone.
    fn learn_outgoing(&mut self, walk: &Walk) {
        self.outgoing.retain(|id, line| {
            let walked = walk
                .session(id)
                .filter(|walked| walked.record.session.name == line.name);
            let Some(walked) = walked else { return false };
            let tokens: BTreeSet<_> = walked.files.iter().map(|file| file.record.token).collect();
            line.files.retain(|token, _| tokens.contains(token));
            true
        });
        for walked in walk.sessions.iter().filter(|w| w.direction == Direction::Outgoing) {
            self.outgoing.meet(&walked.record.session, walked.id);
            for file in &walked.files {
                let line = self.outgoing.file(&walked.record.session, file.record.token, file.id);
                if let Some(line) = line {
                    line.learn(&file.record.handler, file.record.object.size, file.record.data);
                }
            }
        }
        self.known.outgoing = true;
        self.known.pages = self.outgoing.is_empty() && self.known.gapless && self.pages == Pages::default();
    }

    /// The walk found all incoming sessions, with the files that are not finished yet.
    fn learn_incoming(&mut self, walk: &Walk, now: u64) {
        let span = Span {
            start: now,
            end: now,
            ok: true,
        };
        let incoming = || walk.sessions.iter().filter(|w| w.direction == Direction::Incoming);
        for walked in incoming() {
            let session = &walked.record.session;
            for file in &walked.files {
                let Some(line) = self.incoming.file(session, file.record.token, file.id) else {
                    continue;
                };
                line.learn(&file.record.handler, file.record.object.size, file.record.data);
                if file.record.retrieve_status > 0 {
                    line.retrieve.get_or_insert(span);
                }
            }
            if let Some(line) = self.incoming.meet(session, walked.id) {
                let files = *line.says.get_or_insert(walked.record.files);
                line.listed |= files == walked.record.files;
            }
        }
        let there: HashSet<_> = incoming()
            .filter(|walked| !walked.files.is_empty())
            .map(|walked| walked.record.session.name)
            .collect();
        for line in self.incoming.iter_mut() {
            // One without files has nothing that could be missed.
            if line.finished.is_none() && !line.files.is_empty() && !there.contains(&line.name) {
                line.missed.get_or_insert(now);
            }
        }
        self.known.fates = true;
    }
}

/// A session of which only its name is known.
fn by_name(name: SessionName) -> SessionRef {
    SessionRef { id: 0, name }
}
