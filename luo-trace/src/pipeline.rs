//! The way of every event: record, decode, model, sinks. One writer.
//!
//! The kernel counts the programs that it skipped, and no record tells of them. So records are judged in batches, each only
//! when the counts were read after it was taken: whatever was missed before any of its events stands before them all, in the
//! model and in the journal. Only between the call for a kexec and its end are they not read: each of its events may be the
//! last, and goes where it outlives the kernel before anything else is asked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use luo_trace_common::events::{Header as EventHeader, Kind, SNAPSHOT_CHANGED};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::carry::{Mapping, Namesake};
use crate::decode::{self, Decoder};
use crate::event::{Body, Event};
use crate::host;
use crate::image::Formats;
use crate::journal::End;
use crate::journal::carry::Recorder;
use crate::live::Live;
use crate::model::Finding;
use crate::sink::Feed;
use crate::sink::console::{Console, Format, tell};
use crate::sink::control::{Form, Readers, Streams};
use crate::sink::journal::{JournalSink, Records};
use crate::sink::policy::{Keeper, Note};
use crate::sink::web;
use crate::target::{Look, Target};

/// How many batches may wait for a slow terminal.
const CONSOLE_QUEUE: usize = 256;
/// How many batches may wait to be written out for the readers at the socket.
const STREAMS_QUEUE: usize = 32;

/// How many findings are kept for a slow terminal.
const FINDINGS_KEPT: usize = 4096;

/// What a terminal shows.
#[derive(Clone)]
enum Line {
    Event(Event),
    Finding(Finding),
    /// There were more findings here than are kept.
    LeftOut(u64),
}

/// Lines on their way to a thread that writes them. Where there is no room for them, events are dropped and counted, while
/// findings wait, up to [`FINDINGS_KEPT`]: of more only the number is told.
struct Lines {
    feed: Feed<Arc<Vec<Line>>>,
    kept: Arc<Vec<Line>>,
    left_out: u64,
    events_dropped: u64,
}

impl Lines {
    fn new(feed: Feed<Arc<Vec<Line>>>) -> Self {
        Self {
            feed,
            kept: Arc::default(),
            left_out: 0,
            events_dropped: 0,
        }
    }

    fn send(&mut self, lines: &Arc<Vec<Line>>) {
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            self.kept = self.feed.offer(kept).err().unwrap_or_default();
        }
        if lines.is_empty() || self.kept.is_empty() && self.feed.offer(lines.clone()).is_ok() {
            return;
        }
        for line in lines.iter() {
            match line {
                Line::Event(_) => self.events_dropped += 1,
                _ => self.keep(line),
            }
        }
    }

    fn keep(&mut self, finding: &Line) {
        let kept = Arc::make_mut(&mut self.kept);
        if kept.len() < FINDINGS_KEPT {
            return kept.push(finding.clone());
        }
        self.left_out += 1;
        match kept.last_mut() {
            Some(Line::LeftOut(more)) => *more += 1,
            _ => kept.push(Line::LeftOut(1)),
        }
    }

    /// How many lines were dropped so far.
    fn dropped(&self) -> u64 {
        self.events_dropped + self.left_out
    }

    /// Waits until everything is written.
    fn finish(self) {
        self.feed.finish(self.kept);
    }
}

/// Where a pipeline's output goes.
#[derive(Default)]
pub struct Outputs {
    console: Option<Lines>,
    streams: Option<(Lines, Readers)>,
    journal: Option<JournalSink>,
    carried: Option<Recorder<Mapping>>,
}

impl Outputs {
    /// Prints events and findings to stdout.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn print(&mut self, format: Format) -> Result<()> {
        let mut console = Console::new(io::stdout(), format);
        let consume = move |lines: Arc<Vec<Line>>| {
            let result = lines.iter().try_for_each(|line| match line {
                Line::Event(event) => console.event(event),
                Line::Finding(finding) => console.finding(finding),
                Line::LeftOut(findings) => console.left_out(*findings),
            });
            if let Err(error) = result.and_then(|()| console.flush()) {
                tell(format_args!("stdout failed ({error}); going on without it"));
            }
        };
        self.console = Some(Lines::new(Feed::start("console", CONSOLE_QUEUE, consume)?));
        Ok(())
    }

    /// Sends events and findings to whoever reads the streams; while nobody does, it costs nothing.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn stream(&mut self, mut streams: Streams) -> Result<()> {
        let readers = streams.readers();
        let consume = move |lines: Arc<Vec<Line>>| {
            for form in Form::ALL
                .into_iter()
                .filter(|&form| streams.is_read(form))
                .collect::<Vec<_>>()
            {
                let text = write_out(&lines, form);
                streams.send(form, text, lines.len() as u64);
            }
        };
        self.streams = Some((Lines::new(Feed::start("streams", STREAMS_QUEUE, consume)?), readers));
        Ok(())
    }

    /// Records everything.
    pub fn record(&mut self, journal: JournalSink) {
        self.journal = Some(journal);
    }

    /// Keeps the end of the record in memory that outlives the kernel, as soon as it is known and before anything else.
    pub fn carry(&mut self, recorder: Recorder<Mapping>) {
        self.carried = Some(recorder);
    }
}

fn write_out(lines: &[Line], form: Form) -> String {
    let format = match form {
        Form::Json => Format::Json,
        Form::Text => Format::Text { colour: false },
        Form::Colour => Format::Text { colour: true },
    };
    let mut text = String::new();
    for line in lines {
        match line {
            Line::Event(event) => format.event(&mut text, event),
            Line::Finding(finding) => format.finding(&mut text, finding),
            Line::LeftOut(findings) => format.left_out(&mut text, *findings),
        }
    }
    text
}

/// Serves what is known at an address, in the background. An address that cannot be had is told, and nothing else suffers.
pub async fn serve(live: Arc<Live>, address: SocketAddr) {
    match web::bind(address).await {
        Ok(listener) => {
            tokio::spawn(web::serve(listener, live, std::future::pending()));
        }
        Err(error) => tell(format_args!("{error:#}; going on without the port")),
    }
}

/// How many records are judged at a time.
const BATCH: usize = 1024;

/// Where records come from, in their order.
pub trait Source {
    /// Gives every record there is now to `consume`, at most `limit`; returns how many there were.
    fn take(&mut self, limit: usize, consume: impl FnMut(&[u8])) -> usize;

    /// What was lost until now.
    fn losses(&mut self) -> Losses;
}

/// What never became a record, since the source began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events for which there was no room: later records tell of them, too.
    pub dropped: u64,
    /// Programs that the kernel skipped: no record tells of them.
    pub missed: u64,
    /// When this was read, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
}

/// Decodes, judges and hands on.
pub struct Pipeline {
    decoder: Decoder,
    live: Arc<Live>,
    outputs: Outputs,
    lines: Vec<Line>,
    last: EventHeader,
    missed: u64,
    jump_is_near: bool,
    /// When the newest walk over LUO's lists began, and up to when losses may reach.
    walk_began: u64,
    lost_until: u64,
    picture_is_whole: bool,
    namesake: Namesake,
    policy: Option<Keeper>,
    /// Records of the agent's own that follow the batch at hand.
    notes: Vec<Note>,
    target: Option<Target>,
    told: Told,
}

/// What the metrics know already of counts that only ever grow.
#[derive(Default)]
struct Told {
    errors: u64,
    console: u64,
    streams: u64,
    journal: u64,
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
            last: EventHeader::new_zeroed(),
            missed: 0,
            jump_is_near: false,
            walk_began: 0,
            lost_until: 0,
            picture_is_whole: false,
            namesake: Namesake::default(),
            policy: None,
            notes: Vec::new(),
            target: None,
            told: Told::default(),
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
        if let Some(policy) = &mut self.policy {
            if let Some(loads) = policy.loads() {
                target.policy_counts(loads);
            }
            if let Some(verdict) = target.for_policy() {
                policy.judge(verdict);
            }
        }
        if let Some(verdict) = verdict {
            self.note(Kind::ImageVerdict, &verdict);
        }
    }

    /// Judges and hands on everything that `source` has now; gives whether there was anything.
    pub fn drain(&mut self, source: &mut impl Source) -> bool {
        let mut any = false;
        loop {
            if let Some(policy) = &mut self.policy {
                policy.beat(host::monotonic_ns());
            }
            let mut batch = Records::default();
            if source.take(BATCH, |record| batch.push(record)) == 0 {
                if any && !self.jump_is_near {
                    self.follow();
                }
                return any;
            }
            any = true;
            // In this order: see the beginning of this file. Close to a jump there is no time to ask: what was missed is
            // told after, if there is an after.
            let losses = match self.jump_is_near {
                true => Losses {
                    missed: self.missed,
                    ..Losses::default()
                },
                false => source.losses(),
            };
            let records = self.judge(batch, losses);
            self.hand_on(records);
            self.note_all();
        }
    }

    /// Keeps this host by a policy from now on; these records tell how that began.
    pub fn keep(&mut self, policy: Keeper, notes: Vec<Note>) {
        self.policy = Some(policy);
        self.notes.extend(notes);
        self.note_all();
    }

    /// The policy that this host is kept by, where there is one.
    pub fn policy(&mut self) -> Option<&mut Keeper> {
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
        self.drain(source);
        let losses = source.losses();
        let records = self.judge(Records::default(), losses);
        if let Some(gap) = self.decoder.lost_is_now(losses.dropped, self.last) {
            self.event(gap);
        }
        self.hand_on(records);
        self.note_all();
        if !self.jump_is_near {
            self.follow();
        }
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
        let losses = Losses {
            missed: self.missed,
            ..Losses::default()
        };
        let records = self.judge(records, losses);
        self.hand_on(records);
    }

    /// Judges records; these are the losses that were read after the last of them was taken. Gives them as they are to be
    /// recorded.
    fn judge(&mut self, batch: Records, losses: Losses) -> Records {
        let mut records = batch;
        let newly = losses.missed.saturating_sub(self.missed);
        if newly > 0 {
            self.missed = losses.missed;
            let header = EventHeader {
                lost: self.decoder.lost(),
                ktime: losses.at,
                ..EventHeader::new_zeroed()
            };
            let mut told = Records::default();
            told.push(&decode::missed(header, newly));
            told.append(&records);
            records = told;
        }
        if let Some(carried) = &mut self.outputs.carried {
            records.iter().for_each(|record| carried.record(record));
        }
        for record in records.iter() {
            let (gap, event) = self.decoder.decode(record);
            for event in gap.into_iter().chain(event) {
                self.event(event);
            }
        }
        records
    }

    fn event(&mut self, event: Event) {
        self.last = event.header;
        self.namesake.observe(&event.body);
        if let Some(target) = &mut self.target {
            // First of all: the loader does not keep its file open for long.
            target.observe(&event, self.jump_is_near);
        }
        match event.body {
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
            Body::Gap { .. } => {
                self.lost_until = event.header.ktime;
                self.picture_is_whole = false;
            }
            Body::SnapshotBegin(_) => self.walk_began = event.header.ktime,
            Body::SnapshotEnd(end) => {
                self.picture_is_whole = end.flags & SNAPSHOT_CHANGED == 0 && self.walk_began >= self.lost_until;
            }
            _ => {}
        }
        let findings = self.live.apply(&event);
        if let Some(policy) = &mut self.policy {
            self.notes.extend(policy.observe(&event, &findings));
        }
        if !is_an_item(&event.body) {
            self.lines.push(Line::Event(event));
        }
        self.lines.extend(findings.into_iter().map(Line::Finding));
    }

    /// Hands on these records and what came of them.
    fn hand_on(&mut self, records: Records) {
        let lines = std::mem::take(&mut self.lines);
        if let Some(journal) = &mut self.outputs.journal {
            journal.send(records, self.jump_is_near);
        }
        let lines = Arc::new(lines);
        if let Some((streams, readers)) = &mut self.outputs.streams
            && readers.any()
        {
            streams.send(&lines);
        }
        if let Some(console) = &mut self.outputs.console {
            console.send(&lines);
        }
        self.count_losses();
    }

    fn count_losses(&mut self) {
        let live = &self.live;
        let rise = |told: &mut u64, now: u64| std::mem::replace(told, now).abs_diff(now);
        live.undecodable(rise(&mut self.told.errors, self.decoder.errors()));
        if let Some(console) = &self.outputs.console {
            live.dropped("console", rise(&mut self.told.console, console.dropped()));
        }
        if let Some((streams, _)) = &self.outputs.streams {
            live.dropped("streams", rise(&mut self.told.streams, streams.dropped()));
        }
        if let Some(journal) = &self.outputs.journal {
            live.dropped("journal", rise(&mut self.told.journal, journal.dropped()));
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
    pub fn namesake(&self) -> &Namesake {
        &self.namesake
    }

    /// The record ends, with what `source` still has.
    ///
    /// # Errors
    /// Where the journal's end could not be written.
    pub fn finish(mut self, reason: &str, source: &mut impl Source) -> Result<()> {
        self.tick(source);
        let last = self.live.finish();
        self.lines.extend(last.into_iter().map(Line::Finding));
        self.hand_on(Records::default());
        if let Some((streams, _)) = self.outputs.streams {
            streams.finish();
        }
        if let Some(console) = self.outputs.console {
            console.finish();
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
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::MetadataExt;
    use std::sync::{Mutex, mpsc};

    use luo_trace_common::events::FileCall;
    use luo_trace_common::policy::{Aspect, ImageFile, Selected, Verdict};

    use super::*;
    use crate::decode::encode;
    use crate::journal::{Events, Reader, Store, Writer};
    use crate::judge::{Judgement, judge};
    use crate::policy::{Compiled, Policy};
    use crate::sink::policy::{Brake, Loaded};
    use crate::testing::{Deed, Fault, Flood, Plan, Story, memfd, session};

    /// A kernel whose records come in these batches, and which skips programs while one of them is taken.
    struct Kernel {
        batches: Vec<Vec<Event>>,
        /// The batch at which it does, from 0, and how often.
        skips: Option<(usize, u64)>,
        taken: usize,
        losses: Losses,
        /// How often the counts were asked for.
        asked: u32,
    }

    impl Source for Kernel {
        fn take(&mut self, _limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
            let Some(batch) = self.batches.get(self.taken) else {
                return 0;
            };
            batch.iter().for_each(|event| consume(&encode(event)));
            self.losses.at = batch.last().map_or(0, |event| event.header.ktime);
            if let Some((at, missed)) = self.skips
                && at == self.taken
            {
                self.losses.missed += missed;
            }
            self.taken += 1;
            batch.len()
        }

        fn losses(&mut self) -> Losses {
            self.asked += 1;
            self.losses
        }
    }

    /// A journal in memory.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Store for Memory {
        fn cut(&mut self, len: u64) -> io::Result<()> {
            self.0.lock().unwrap().truncate(len as usize);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the agent and its journal say.
    struct Told {
        /// Findings, and the verdict on each invariant.
        live: (Vec<String>, Vec<String>),
        journal: Judgement,
        picture_is_whole: bool,
        /// How often the counts were asked for before the end.
        asked: u32,
    }

    /// An agent on this kernel until its end.
    fn told(batches: Vec<Vec<Event>>, skips: Option<(usize, u64)>) -> Told {
        told_with(batches, skips, |_| ())
    }

    /// The same, where the agent does something after it has read all that there is.
    fn told_with(batches: Vec<Vec<Event>>, skips: Option<(usize, u64)>, does: impl FnOnce(&mut Pipeline)) -> Told {
        let header = Flood::header();
        let memory = Memory::default();
        let writer = Writer::begin(memory.clone(), &header).unwrap();
        let mut outputs = Outputs::default();
        outputs.record(JournalSink::start(writer, 8, 1 << 10, |_| ()).unwrap());
        let live = Arc::new(Live::new(&header).unwrap());
        let mut kernel = Kernel {
            batches,
            skips,
            taken: 0,
            losses: Losses::default(),
            asked: 0,
        };
        let mut pipeline = Pipeline::new(live.clone(), outputs, 0);
        pipeline.drain(&mut kernel);
        does(&mut pipeline);
        let asked = kernel.asked;
        let picture_is_whole = pipeline.picture_is_whole();
        pipeline.finish("the test is over", &mut kernel).unwrap();
        let page = web::Source::page(&*live);
        let bytes = memory.0.lock().unwrap().clone();
        Told {
            live: (
                page.findings,
                page.verdicts
                    .iter()
                    .map(|v| format!("{} {}", v.invariant, v.status))
                    .collect(),
            ),
            journal: judge(Events::new(Reader::new(Cursor::new(bytes)).unwrap()), |_| {}),
            picture_is_whole,
            asked,
        }
    }

    fn in_journal(told: &Told) -> (Vec<String>, Vec<String>) {
        let findings = told.journal.findings.iter().rev().map(Finding::to_string).collect();
        let verdicts = told.journal.verdicts.iter();
        let verdict = |v: &crate::model::Verdict| format!("{} {}", v.invariant.id(), v.status.name());
        (findings, verdicts.map(verdict).collect())
    }

    /// A session that is made, gets two files, and goes; no event tells that the second one was given back.
    fn unbalanced() -> Vec<Event> {
        let mut story = Story::new();
        let a = session(1, "a");
        story
            .create(a)
            .preserve(a, 1, memfd(1))
            .preserve(a, 2, memfd(2))
            .close(a, &[(1, memfd(1))]);
        story.events
    }

    #[test]
    fn what_a_look_into_the_image_finds_is_found_live_and_replayed() {
        // Given a session, and an image that a thread has read, of a kernel without LUO,
        let image = crate::testing::image::Kernel::plain().bzimage();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image).unwrap();
        let of = file.as_file().metadata().unwrap();
        let mut story = Story::new();
        story.by(std::process::id()).create(session(1, "a"));
        story.push(Body::ImageFile(ImageFile {
            inode: of.ino(),
            device: u64::from(libc::major(of.dev())) << 20 | u64::from(libc::minor(of.dev())),
            size: of.len(),
            descriptor: -1,
            reserved: 0,
        }));
        story.load("kho=on liveupdate=on");
        let (sender, mut looks) = tokio::sync::mpsc::unbounded_channel();
        let told = told_with(vec![], None, |pipeline| {
            pipeline.look_into_images(Target::new(sender));
            let records: Vec<_> = story.events.iter().map(encode).collect();
            let mut batch = Records::default();
            records.iter().for_each(|record| batch.push(record));
            let judged = pipeline.judge(batch, Losses::default());
            pipeline.hand_on(judged);
            pipeline.judge_image(Formats::default);
            // when the thread has answered,
            pipeline.looked_into(looks.blocking_recv().unwrap());
            pipeline.judge_image(Formats::default);
        });
        // then it is found that the session would be lost, and whoever reads the journal finds the same.
        let [finding] = &told.live.0[..] else {
            panic!("{:?}", told.live.0)
        };
        assert!(finding.starts_with("target-compatible (critical)"), "{finding}");
        assert!(finding.contains("KHO is not built in"), "{finding}");
        assert_eq!(told.live, in_journal(&told));
    }

    #[test]
    fn what_no_program_was_skipped_for_is_found() {
        let told = told(vec![unbalanced()], None);
        assert!(!told.live.0.is_empty());
        assert_eq!(told.live, in_journal(&told));
    }

    #[test]
    fn a_program_that_was_skipped_while_a_batch_came_is_no_finding_live_or_replayed() {
        // Given a program that was skipped while its batch was taken from the ring, be it the whole record,
        let whole = told(vec![unbalanced()], Some((0, 2)));
        // or the session's end only,
        let mut events = unbalanced();
        let back = |event: &Event| matches!(event.body, Body::FileCallback(FileCall::Unpreserve, _));
        let end = events.split_off(events.iter().position(back).unwrap());
        let parted = told(vec![events, end], Some((1, 2)));
        for told in [whole, parted] {
            // then nothing is found, nothing is certain,
            assert_eq!(told.live.0, [""; 0]);
            assert!(
                told.live.1.iter().all(|verdict| verdict.ends_with("unknown")),
                "{:?}",
                told.live.1
            );
            // and the journal says the same.
            assert_eq!(told.live, in_journal(&told));
            assert_eq!(told.journal.summary.lost, 2);
            assert_eq!(told.journal.summary.events, unbalanced().len() as u64);
        }
    }

    #[test]
    fn nothing_is_asked_between_the_call_for_a_kexec_and_its_end() {
        // Given a kexec that is called for, a freeze, and, after a while, its coming back,
        let mut story = Story::new();
        story.reboot().kexec_returns().create(session(1, "a"));
        let batches: Vec<_> = story.events.into_iter().map(|event| vec![event]).collect();
        let after = batches.iter().position(|b| matches!(b[0].body, Body::KexecReturn(_)));
        let number = batches.len() as u32;
        // then the counts are read for the batch that calls for it and for those that come after it came back.
        let near = after.unwrap() as u32;
        assert_eq!(told(batches, None).asked, number - near);
    }

    #[test]
    fn a_walk_during_which_a_program_was_skipped_gives_no_whole_picture() {
        // Given a session, and a walk over the lists,
        let deeds = [
            Deed::Create { name: 0 },
            Deed::Preserve {
                session: 0,
                token: 0,
                file: 0,
                fault: Fault::None,
            },
            Deed::Look,
        ];
        let plan = Plan {
            tasks: vec![deeds.to_vec()],
            ..Plan::default()
        };
        // then the picture is whole, but not if something may have been missed by the time the walk was over.
        assert!(told(vec![plan.run()], None).picture_is_whole);
        assert!(!told(vec![plan.run()], Some((0, 1))).picture_is_whole);
    }

    /// A brake that counts how often it is told that the agent lives.
    #[derive(Clone, Default)]
    struct Pulse(Arc<Mutex<u32>>);

    impl Brake for Pulse {
        fn enforce(&mut self, _policy: &Compiled) -> Result<u64> {
            Ok(1)
        }
        fn release(&mut self) -> Result<()> {
            Ok(())
        }
        fn outlive(&mut self, _outlives: bool) -> Result<()> {
            Ok(())
        }
        fn retire_others(&mut self) -> Result<()> {
            Ok(())
        }
        fn beat(&mut self, _now: u64) {
            *self.0.lock().unwrap() += 1;
        }
        fn order(&mut self, _held_until: u64, _allowed_until: u64) {}
        fn violated(&mut self, _severity: u64) {}
        fn preserved(&mut self, _selected: [Selected; Aspect::COUNT]) {}
        fn judge(&mut self, _verdict: Verdict) {}
        fn loads(&self) -> u64 {
            0
        }
    }

    #[test]
    fn an_agent_that_is_busy_for_long_still_shows_that_it_lives() {
        // Given an agent that keeps a host by a policy,
        let header = Flood::header();
        let live = Arc::new(Live::new(&header).unwrap());
        let mut pipeline = Pipeline::new(live.clone(), Outputs::default(), 0);
        let pulse = Pulse::default();
        let loaded = Loaded {
            policy: Policy::read("").unwrap(),
            file: "policy.toml".into(),
        };
        let boxed: Box<dyn Brake> = Box::new(pulse.clone());
        let begun = Keeper::begin(loaded, Ok(boxed), None, None, live.clone(), "boot".into(), 1);
        let (keeper, notes) = begun.unwrap();
        pipeline.keep(keeper, notes);
        // when there is more in the ring than it empties in a second,
        let before = *pulse.0.lock().unwrap();
        let mut kernel = Kernel {
            batches: vec![unbalanced(); 100],
            skips: None,
            taken: 0,
            losses: Losses::default(),
            asked: 0,
        };
        pipeline.drain(&mut kernel);
        // then it tells so with every batch.
        assert!(*pulse.0.lock().unwrap() >= before + 100);
        // What it did is part of what it saw.
        let metrics = web::Source::metrics(&*live);
        assert!(
            metrics.contains("luo_trace_events_total{kind=\"policy-change\"} 1"),
            "{metrics}"
        );
    }

    /// A terminal that hangs with its first batch, an empty one, until it is let go.
    fn stuck(shown: &Arc<Mutex<Vec<Line>>>) -> (Lines, mpsc::Sender<()>) {
        let (taken, wait_taken) = mpsc::channel();
        let (let_go, held) = mpsc::channel::<()>();
        let shown = shown.clone();
        let consume = move |lines: Arc<Vec<Line>>| {
            _ = taken.send(());
            _ = held.recv();
            shown.lock().unwrap().extend(lines.iter().cloned());
        };
        let mut feed = Feed::start("stuck", 1, consume).unwrap();
        assert!(feed.offer(Arc::default()).is_ok());
        wait_taken.recv().unwrap();
        (Lines::new(feed), let_go)
    }

    /// A batch of one event and one finding.
    fn batch(finding: &Finding, number: u64) -> Arc<Vec<Line>> {
        let mut event = unbalanced().remove(0);
        event.header.seq = number;
        let finding = Finding {
            time_ns: number,
            ..finding.clone()
        };
        Arc::new(vec![Line::Event(event), Line::Finding(finding)])
    }

    #[test]
    fn a_slow_terminal_costs_events_and_no_finding() {
        // Given a terminal that hangs,
        let shown = Arc::default();
        let (mut lines, let_go) = stuck(&shown);
        let finding = told(vec![unbalanced()], None).journal.findings.remove(0);
        // when many more findings come than its queue holds,
        let many = FINDINGS_KEPT as u64;
        (1..=many).for_each(|number| lines.send(&batch(&finding, number)));
        drop(let_go);
        let dropped = lines.dropped();
        lines.finish();
        // then all are shown in their order, and the events that are not are counted.
        let shown = shown.lock().unwrap();
        let numbers = shown.iter().filter_map(|line| match line {
            Line::Finding(finding) => Some(finding.time_ns),
            _ => None,
        });
        assert!(numbers.eq(1..=many));
        let events = shown.iter().filter(|line| matches!(line, Line::Event(_))).count() as u64;
        assert_eq!((events, dropped), (1, many - 1));
    }

    #[test]
    fn of_more_findings_than_are_kept_the_number_is_told() {
        let shown = Arc::default();
        let (mut lines, let_go) = stuck(&shown);
        let finding = told(vec![unbalanced()], None).journal.findings.remove(0);
        let many = FINDINGS_KEPT as u64 + 100;
        (1..=many).for_each(|number| lines.send(&batch(&finding, number)));
        drop(let_go);
        lines.finish();
        let shown = shown.lock().unwrap();
        let findings = shown.iter().filter(|line| matches!(line, Line::Finding(_))).count() as u64;
        assert!(
            matches!(shown.last(), Some(Line::LeftOut(99))),
            "nothing tells of what is missing"
        );
        assert_eq!(findings + 99, many);
    }
}
