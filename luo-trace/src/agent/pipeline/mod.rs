//! The way of every event: record, decode, model, sinks. One writer.
//!
//! The kernel counts the programs that it skipped, and no record tells of them. So records are judged in batches, each only
//! when the counts were read after it was taken: whatever was missed before any of its events stands before them all, in the
//! model and in the journal. Only between the call for a kexec and its end are they not read: each of its events may be the
//! last, and goes where it outlives the kernel before anything else is asked.

mod outputs;

use std::sync::Arc;

use anyhow::Result;
use luo_trace_common::events::{Header as EventHeader, HooksBlind, Kind, SNAPSHOT_CHANGED};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::agent::carry::Foreign;
use crate::agent::enforcement::{Enforcement, Note};
use crate::agent::image_watch::{Look, Target};
use crate::agent::live::Live;
use crate::agent::updates::{self, Bell};
use crate::event::decode::{self, Decoder};
use crate::event::source::{Losses, Source};
use crate::event::{Body, Event};
use crate::host;
use crate::image::Formats;
use crate::journal::End;
use crate::sink::journal::{JournalSink, Records};

pub use outputs::Outputs;
use outputs::{Line, Lines};

/// How many records are judged at a time.
const BATCH: usize = 1024;

/// Decodes, judges and hands on.
pub struct Pipeline {
    decoder: Decoder,
    live: Arc<Live>,
    outputs: Outputs,
    lines: Vec<Line>,
    /// Whether the lines of the batch at hand are shown anywhere.
    shows: bool,
    last: EventHeader,
    missed: u64,
    /// The hooks that see nothing, as far as that was told.
    blind: HooksBlind,
    jump_is_near: bool,
    /// When the newest walk over LUO's lists began, and up to when losses may reach.
    walk_began: u64,
    lost_until: u64,
    picture_is_whole: bool,
    foreign: Foreign,
    policy: Option<Enforcement>,
    /// Records of the agent's own that follow the batch at hand.
    notes: Vec<Note>,
    target: Option<Target>,
    judge: Option<Bell>,
    /// The call for the judge that is still to be sent.
    call: Option<u64>,
    told: Told,
}

/// What the metrics know already of counts that only ever grow; `None`: not even that they are there.
#[derive(Default)]
struct Told {
    errors: Option<u64>,
    console: Option<u64>,
    streams: Option<u64>,
    journal: Option<u64>,
    denied: u64,
}

impl Pipeline {
    /// A pipeline at the beginning of a record whose hooks were all attached at this time, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub fn new(live: Arc<Live>, outputs: Outputs, attached: u64) -> Self {
        Self {
            decoder: Decoder::since(attached),
            live,
            outputs,
            lines: Vec::new(),
            shows: false,
            last: EventHeader::new_zeroed(),
            missed: 0,
            blind: HooksBlind::default(),
            jump_is_near: false,
            walk_began: 0,
            lost_until: 0,
            picture_is_whole: false,
            foreign: Foreign::default(),
            policy: None,
            notes: Vec::new(),
            target: None,
            judge: None,
            call: None,
            told: Told::default(),
        }
    }

    /// Has live updates judged, from now on and at each milestone.
    pub fn judge_updates(&mut self, judge: Bell) {
        self.judge = Some(judge);
        self.ask_for_updates();
    }

    /// Has live updates judged anew: something has come that may change what is known of them.
    pub fn ask_for_updates(&mut self) {
        if self.judge.is_some() {
            self.call = Some(self.live.ask_for_updates());
        }
    }

    /// Calls the judge, once everything up to the call is written.
    fn call_the_judge(&mut self) {
        if let Some(call) = self.call
            && let Some(judge) = &self.judge
            && let Some(journal) = &mut self.outputs.journal
            && !self.jump_is_near
        {
            let judge = judge.clone();
            if journal.then(move || judge.ring(call)) {
                self.call = None;
            }
        }
    }

    /// Looks into images that are loaded, from now on.
    pub fn look_into_images(&mut self, target: Target) {
        self.target = Some(target);
    }

    /// Takes what a thread has found in an image.
    pub fn looked_into(&mut self, look: Look) {
        if let Some(target) = &mut self.target {
            target.take(look);
        }
    }

    /// Judges the image that is loaded, where that is due, and lets policy know. `formats` are those that this kernel writes for
    /// the next one. Close to a jump every record is one of the kernel's.
    pub fn judge_image(&mut self, formats: impl FnOnce() -> Formats) {
        let Some(target) = self.target.as_mut().filter(|target| target.is_ready()) else {
            return;
        };
        if self.jump_is_near {
            return;
        }
        let verdict = target.judge(&self.live.preserved(), formats);
        if let Some(policy) = &mut self.policy
            && let Some((image, verdict)) = target.for_policy()
        {
            policy.judge(image, verdict);
        }
        if let Some(verdict) = verdict {
            self.note(Kind::ImageVerdict, &verdict);
        }
    }

    /// Judges and hands on everything that `source` has now; gives how many records that were. What is sent while this goes on may
    /// be left: events can come faster than they are judged, and signals, orders and the clock are attended to between two drains.
    pub fn drain(&mut self, source: &mut impl Source) -> usize {
        let began = host::monotonic_ns();
        let (mut records, mut newest) = (0, 0);
        while newest < began {
            if let Some(policy) = &mut self.policy {
                policy.beat(host::monotonic_ns());
            }
            let mut batch = self.outputs.room();
            let taken = source.take(BATCH, |record| {
                newest = decode::sent_at(record).unwrap_or(newest);
                batch.push(record);
            });
            if taken == 0 {
                self.outputs.give_back(batch);
                break;
            }
            records += taken;
            // In this order: see the beginning of this file. Close to a jump there is no time to ask: what was missed is
            // told after, if there is an after.
            let losses = match self.jump_is_near {
                true => self.told_losses(),
                false => source.losses(),
            };
            let judged = self.judge(batch, losses);
            self.hand_on(judged);
            self.note_all();
        }
        if records > 0 && !self.jump_is_near {
            self.follow();
        }
        records
    }

    /// Keeps this host by a policy from now on; these records tell how that began.
    pub fn keep(&mut self, policy: Enforcement, notes: Vec<Note>) {
        self.policy = Some(policy);
        self.notes.extend(notes);
        self.note_all();
    }

    /// The policy that this host is kept by, where there is one.
    pub fn policy(&mut self) -> Option<&mut Enforcement> {
        self.policy.as_mut()
    }

    /// Has policy know what the model knows.
    fn follow(&mut self) {
        if let Some(policy) = &mut self.policy {
            policy.follow(host::monotonic_ns());
        }
    }

    /// Puts records of the agent's own behind everything that was judged so far.
    pub fn note_all(&mut self) {
        for note in std::mem::take(&mut self.notes) {
            self.note_one(note);
        }
    }

    /// Puts a record of the agent's own behind everything that was judged so far.
    pub fn note_one(&mut self, note: Note) {
        match note {
            Note::Change(change) => self.note(Kind::PolicyChange, &*change),
            Note::Decision(of, decision) => self.note_of(of, Kind::PolicyDecision, &*decision),
        }
    }

    /// Time passes: losses are told even where no event follows that would tell of them.
    pub fn tick(&mut self, source: &mut impl Source) {
        if let Some(policy) = &mut self.policy {
            let ended = policy.tick(host::monotonic_ns());
            self.notes.extend(ended);
        }
        if self.jump_is_near {
            // Each of its events may be the last: they go before anything is asked.
            self.drain(source);
        }
        // The count comes before the drain: what was lost by now was lost before what the drain leaves in the ring. Counted after it, a loss
        // that comes behind events which are still there would be told before them, and they would be judged as if none came after.
        let losses = source.losses();
        let records = self.judge(Records::default(), losses);
        self.hand_on(records);
        self.drain(source);
        if let Some(gap) = self.decoder.lost_is_now(losses.dropped, self.last) {
            self.event(&gap);
        }
        self.hand_on(Records::default());
        self.note_all();
        self.live.set_output_troubles(self.outputs.troubles());
        if !self.jump_is_near {
            self.follow();
        }
    }

    /// How much the journal's thread is done with, where there is a journal: see [`JournalSink::ping`].
    ///
    /// [`JournalSink::ping`]: crate::sink::journal::JournalSink::ping
    pub fn ping(&mut self) -> Option<u64> {
        self.outputs.journal.as_mut().map(|journal| journal.ping())
    }

    /// Puts a record of the agent's own behind everything that was judged so far.
    pub fn note(&mut self, kind: Kind, payload: &(impl IntoBytes + Immutable)) {
        self.note_of(EventHeader::new_zeroed(), kind, payload);
    }

    /// The same of something that a task did: `of` tells which.
    fn note_of(&mut self, of: EventHeader, kind: Kind, payload: &(impl IntoBytes + Immutable)) {
        let header = EventHeader {
            lost: self.decoder.lost(),
            ktime: host::monotonic_ns(),
            pid: of.pid,
            tgid: of.tgid,
            comm: of.comm,
            ..EventHeader::new_zeroed()
        };
        let mut records = Records::default();
        records.push(&decode::own(kind, header, payload));
        let records = self.judge(records, self.told_losses());
        self.hand_on(records);
    }

    /// The losses that were told already, where the source is not asked.
    fn told_losses(&self) -> Losses {
        Losses {
            missed: self.missed,
            blind: self.blind,
            ..Losses::default()
        }
    }

    /// Judges records; these are the losses that were read after the last of them was taken. Gives them as they are to be
    /// recorded.
    fn judge(&mut self, batch: Records, losses: Losses) -> Records {
        let mut records = batch;
        let denied = losses.denied.saturating_sub(self.told.denied);
        if denied > 0 {
            self.told.denied += denied;
            self.live.metrics.denied_loads(denied);
        }
        let header = EventHeader {
            lost: self.decoder.lost(),
            ktime: losses.at,
            ..EventHeader::new_zeroed()
        };
        let mut told = Records::default();
        let newly = losses.missed.saturating_sub(self.missed);
        if newly > 0 {
            self.missed = losses.missed;
            told.push(&decode::missed(header, newly));
        }
        let (before, after) = blindness(self.blind, losses.blind);
        if let Some(blind) = before {
            told.push(&decode::own(Kind::HooksBlind, header, &blind));
        }
        if newly > 0 || before.is_some() {
            told.append(&records);
            records = told;
        }
        if let Some(blind) = after {
            records.push(&decode::own(Kind::HooksBlind, header, &blind));
        }
        self.blind = losses.blind;
        if let Some(carried) = &mut self.outputs.carried {
            records.iter().for_each(|record| carried.record(record));
        }
        self.shows = self.outputs.show();
        for record in records.iter() {
            // One that cannot be decoded is counted.
            let Ok(event) = self.decoder.event(record) else {
                continue;
            };
            if let Some(gap) = self.decoder.gap_before(&event) {
                self.event(&gap);
            }
            self.event(&event);
        }
        records
    }

    fn event(&mut self, event: &Event) {
        self.last = event.header;
        self.foreign.observe(&event.body);
        if let Some(target) = &mut self.target {
            // First of all: the loader does not keep its file open for long.
            target.observe(event, self.jump_is_near);
        }
        match &event.body {
            Body::KexecEnter(_) => {
                self.jump_is_near = true;
                let clock = host::clock();
                if let Some(carried) = &mut self.outputs.carried {
                    carried.clock(&clock);
                }
                if let Some(journal) = &mut self.outputs.journal {
                    journal.clock(clock);
                }
            }
            Body::KexecReturn(_) => {
                self.jump_is_near = false;
                self.picture_is_whole = false;
            }
            Body::Gap { .. } | Body::HooksBlind(_) => {
                self.lost_until = event.header.ktime;
                self.picture_is_whole = false;
            }
            Body::SnapshotBegin(_) => self.walk_began = event.header.ktime,
            Body::SnapshotEnd(end) => {
                self.picture_is_whole = end.flags & SNAPSHOT_CHANGED == 0 && self.walk_began >= self.lost_until;
            }
            _ => {}
        }
        if updates::is_a_milestone(&event.body) {
            self.ask_for_updates();
        }
        let findings = self.live.apply(event);
        if let Some(policy) = &mut self.policy {
            self.notes.extend(policy.observe(event, &findings));
        }
        self.outputs.found(&findings);
        self.outputs.refused(self.live.boot_id(), event);
        if self.shows {
            if !is_an_item(&event.body) {
                self.lines.push(Line::Event(event.clone()));
            }
            self.lines.extend(findings.into_iter().map(Line::Finding));
        }
    }

    /// Hands on these records and what came of them.
    fn hand_on(&mut self, records: Records) {
        match &mut self.outputs.journal {
            Some(journal) => journal.send(records, self.jump_is_near),
            None => self.outputs.give_back(records),
        }
        self.call_the_judge();
        self.outputs.send(std::mem::take(&mut self.lines));
        self.count_losses();
    }

    fn count_losses(&mut self) {
        let live = &self.live;
        let rise = |told: &mut Option<u64>, now: u64| match told.replace(now) {
            Some(before) => Some(now.abs_diff(before)).filter(|&rise| rise > 0),
            None => Some(now),
        };
        if let Some(errors) = rise(&mut self.told.errors, self.decoder.errors()) {
            live.undecodable(errors);
        }
        let Outputs {
            console,
            streams,
            journal,
            ..
        } = &self.outputs;
        for (sink, told, dropped) in [
            ("console", &mut self.told.console, console.as_ref().map(Lines::dropped)),
            (
                "streams",
                &mut self.told.streams,
                streams.as_ref().map(|(lines, _)| lines.dropped()),
            ),
            (
                "journal",
                &mut self.told.journal,
                journal.as_ref().map(JournalSink::dropped),
            ),
        ] {
            if let Some(items) = dropped.and_then(|dropped| rise(told, dropped)) {
                live.dropped(sink, items);
            }
        }
    }

    /// Whether a kexec is under way.
    pub fn jump_is_near(&self) -> bool {
        self.jump_is_near
    }

    /// Whether LUO's lists were walked since the last event after which the model may not know them any more.
    pub fn picture_is_whole(&self) -> bool {
        self.picture_is_whole
    }

    /// What is known of a session that came over and has the name of the recorder's own.
    pub fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    /// The record ends, with what `source` still has.
    ///
    /// # Errors
    /// Where the journal's end could not be written.
    pub fn finish(mut self, reason: &str, source: &mut impl Source) -> Result<()> {
        self.tick(source);
        let last = self.live.finish();
        self.outputs.found(&last);
        if self.outputs.show() {
            self.lines.extend(last.into_iter().map(Line::Finding));
        }
        self.hand_on(Records::default());
        if let Some((streams, _)) = self.outputs.streams {
            streams.finish();
        }
        for lines in [self.outputs.console, self.outputs.log].into_iter().flatten() {
            lines.finish();
        }
        let end = End {
            reason: reason.into(),
            kernel_lost: self.decoder.lost(),
        };
        if let Some(mut carried) = self.outputs.carried {
            carried.end(&end);
        }
        if let Some(policy) = self.policy {
            policy.finish();
        }
        if let Some(journal) = self.outputs.journal {
            journal.end(end)?;
        }
        Ok(())
    }
}

/// What is told before, and what after, the events between two readings of which hooks see nothing. A hook that saw nothing at either
/// may have seen nothing in between.
fn blindness(before: HooksBlind, now: HooksBlind) -> (Option<HooksBlind>, Option<HooksBlind>) {
    let either = HooksBlind {
        hooks: before.hooks | now.hooks,
        cause: if now.hooks == 0 { before.cause } else { now.cause },
        ..now
    };
    let told = |blind: HooksBlind, known: HooksBlind| Some(blind).filter(|blind| blind.hooks != known.hooks);
    (told(either, before), told(now, either))
}

/// Whether this is one of the many things that a walk over LUO's lists found: a state to know and not an event to show.
fn is_an_item(body: &Body) -> bool {
    matches!(
        body,
        Body::SnapshotSession(_)
            | Body::SnapshotFile(_)
            | Body::SnapshotFlb(_)
            | Body::SnapshotHandler(_)
            | Body::SnapshotLink(_)
            | Body::ArrivedSession(_)
            | Body::ArrivedFile(_)
            | Body::ArrivedFlb(_)
    )
}

#[cfg(test)]
mod tests;
