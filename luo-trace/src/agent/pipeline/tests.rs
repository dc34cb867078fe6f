//! What the agent and its journal say of a kernel's records, whatever is skipped, lost or noted between them.

use std::io::{self, Cursor};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use luo_trace_common::events::{FileCall, ImageFile};
use luo_trace_common::hooks::Hook;
use luo_trace_common::policy::{Aspect, ImageBits, Selected};

use super::*;
use crate::agent::enforcement::{Loaded, Lsm};
use crate::chain::case::{Judgement, judge};
use crate::event::decode::encode;
use crate::journal::{Events, Reader, Store, Writer};
use crate::policy::{Compiled, Policy};
use crate::sink::journal::JournalSink;
use crate::sink::{self, web};
use crate::status;
use crate::testing::{Deed, Fault, Flood, Plan, Story, memfd, session};

/// A kernel whose records come in these batches, and which skips programs while one of them is taken.
struct Kernel {
    batches: Vec<Vec<Event>>,
    /// The batch at which it does, from 0, and how often.
    skips: Option<(usize, u64)>,
    /// The hooks that see nothing, as it is read after each batch; none after the last that is named.
    blind: Vec<u64>,
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
        let hooks = self.taken.checked_sub(1).and_then(|batch| self.blind.get(batch));
        self.losses.blind.hooks = hooks.copied().unwrap_or_default();
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
    live: (Vec<status::Finding>, Vec<String>),
    journal: Judgement,
    picture_is_whole: bool,
    /// How often the counts were asked for before the end.
    asked: u32,
}

/// An agent on this kernel until its end.
fn told(batches: Vec<Vec<Event>>, skips: Option<(usize, u64)>) -> Told {
    told_with(batches, skips, |_| ())
}

/// The same, where these hooks see nothing, as it is read after each batch.
fn told_blindly(batches: Vec<Vec<Event>>, blind: Vec<u64>) -> Told {
    told_by(batches, None, blind, |_| ())
}

/// The same, where the agent does something after it has read all that there is.
fn told_with(batches: Vec<Vec<Event>>, skips: Option<(usize, u64)>, does: impl FnOnce(&mut Pipeline)) -> Told {
    told_by(batches, skips, Vec::new(), does)
}

fn told_by(
    batches: Vec<Vec<Event>>,
    skips: Option<(usize, u64)>,
    blind: Vec<u64>,
    does: impl FnOnce(&mut Pipeline),
) -> Told {
    let header = Flood::header();
    let memory = Memory::default();
    let writer = Writer::begin(memory.clone(), &header).unwrap();
    let mut outputs = Outputs::default();
    outputs.record(JournalSink::start(writer, 8, 1 << 10, |_| ()).unwrap());
    let live = Arc::new(Live::new(&header).unwrap());
    let mut kernel = Kernel {
        batches,
        skips,
        blind,
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
    let status = sink::StatusSource::status(&*live);
    let bytes = memory.0.lock().unwrap().clone();
    Told {
        live: (
            status.findings,
            status
                .verdicts
                .iter()
                .map(|v| format!("{} {}", v.invariant, v.status))
                .collect(),
        ),
        journal: judge(Events::new(Reader::new(Cursor::new(bytes)).unwrap()), |_| {}),
        picture_is_whole,
        asked,
    }
}

fn in_journal(told: &Told) -> (Vec<status::Finding>, Vec<String>) {
    let findings = told.journal.findings.iter().rev().map(status::Finding::from).collect();
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
        ..ImageFile::default()
    }));
    story.load("kho=on liveupdate=on");
    let (sender, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let told = told_with(vec![], None, |pipeline| {
        pipeline.look_into_images(Target::new(sender, false));
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
    assert_eq!(
        (&*finding.invariant, &*finding.severity),
        ("target-compatible", "critical")
    );
    assert!(finding.seen.contains("KHO is not built in"), "{finding:?}");
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
        assert_eq!(told.live.0, []);
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
fn hooks_that_are_found_blind_after_a_batch_saw_nothing_of_it_and_none_of_the_one_in_which_they_see_again() {
    // Given callbacks that are not seen from some moment of the first batch on to some moment of the last,
    let callback = |event: &Event| matches!(event.body, Body::FileCallback(FileCall::Unpreserve, _));
    let events: Vec<_> = unbalanced().into_iter().filter(|event| !callback(event)).collect();
    let (begin, end) = events.split_at(events.len() / 2);
    let batches = || vec![begin.to_vec(), end.to_vec()];
    assert_ne!(told(batches(), None).live.0, []);
    let bit = 1 << Hook::FileCallback as u32;
    for blind in [vec![bit, bit], vec![bit, 0], vec![0, bit]] {
        let told = told_blindly(batches(), blind.clone());
        // then nothing is found, live or in the journal, and nothing is certain.
        assert_eq!(told.live.0, [], "{blind:?}");
        let certain = told.live.1.iter().find(|verdict| !verdict.ends_with("unknown"));
        assert_eq!(certain, None, "{blind:?}");
        assert_eq!(told.live, in_journal(&told));
        // What was seen is all told.
        assert_eq!(told.journal.summary.lost, 0);
    }
}

#[test]
fn blindness_is_told_before_what_may_be_missing_and_sight_after_it() {
    let all = |hooks: u64| HooksBlind {
        hooks,
        ..HooksBlind::default()
    };
    assert_eq!(blindness(all(0), all(0)), (None, None));
    assert_eq!(blindness(all(0), all(2)), (Some(all(2)), None));
    assert_eq!(blindness(all(2), all(2)), (None, None));
    assert_eq!(blindness(all(2), all(0)), (None, Some(all(0))));
    assert_eq!(blindness(all(2), all(4)), (Some(all(6)), Some(all(4))));
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
        Deed::Snapshot,
    ];
    let plan = Plan {
        tasks: vec![deeds.to_vec()],
        ..Plan::default()
    };
    // then the picture is whole, but not if something may have been missed by the time the walk was over.
    assert!(told(vec![plan.run()], None).picture_is_whole);
    assert!(!told(vec![plan.run()], Some((0, 1))).picture_is_whole);
}

/// Programs that refuse, which counts how often it is told that the agent lives.
#[derive(Clone, Default)]
struct Pulse(Arc<Mutex<u32>>);

impl Lsm for Pulse {
    fn enforce(&mut self, _policy: &Compiled) -> Result<u64> {
        Ok(1)
    }
    fn release(&mut self) -> Result<()> {
        Ok(())
    }
    fn outlive(&mut self, _outlives: bool) -> Result<()> {
        Ok(())
    }
    fn lapsed(&self) -> Option<String> {
        None
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
    fn judge(&mut self, _image: u64, _bits: ImageBits) {}
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
    let boxed: Box<dyn Lsm> = Box::new(pulse.clone());
    let begun = Enforcement::begin(loaded, Ok(boxed), None, None, live.clone(), "boot".into(), 1);
    let (enforcement, notes) = begun.unwrap();
    pipeline.keep(enforcement, notes);
    // when there is more in the ring than it empties in a second,
    let before = *pulse.0.lock().unwrap();
    let mut kernel = Kernel {
        batches: vec![unbalanced(); 100],
        skips: None,
        blind: Vec::new(),
        taken: 0,
        losses: Losses::default(),
        asked: 0,
    };
    pipeline.drain(&mut kernel);
    // then it tells so with every batch.
    assert!(*pulse.0.lock().unwrap() >= before + 100);
    // What it did is part of what it saw.
    let metrics = web::PageSource::metrics(&*live);
    assert!(
        metrics.contains("luo_trace_events_total{kind=\"policy-change\"} 1"),
        "{metrics}"
    );
}

/// A kernel in which a burst overflows the ring between the agent's last look at it and its look at the counts.
struct Overflow {
    /// What the ring holds, and what comes with the burst.
    ring: Vec<Event>,
    burst: Vec<Event>,
    /// Whether the ring was empty when it was last looked at.
    empty: bool,
    losses: Losses,
}

impl Source for Overflow {
    fn take(&mut self, _limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
        self.empty = self.ring.is_empty();
        let taken = std::mem::take(&mut self.ring);
        taken.iter().for_each(|event| consume(&encode(event)));
        taken.len()
    }

    fn losses(&mut self) -> Losses {
        if self.empty && !self.burst.is_empty() {
            self.ring = std::mem::take(&mut self.burst);
            self.losses.dropped = self.ring.last().map_or(0, |event| event.header.lost);
        }
        self.losses
    }
}

#[test]
fn what_is_lost_behind_events_that_wait_is_told_behind_them() {
    // Given a burst in which a session is made and gets a file: that this one is given back is lost before the release has room,
    let (mut story, a) = (Story::new(), session(2, "a"));
    story.create(session(1, "before"));
    let before = story.events.len();
    story.create(a).preserve(a, 1, memfd(1));
    let kept = story.events.len();
    story.release(a, 1, |_| ());
    story.events[kept..].iter_mut().for_each(|event| event.header.lost = 3);
    let released = story.events.last().map(|event| event.header.ktime);
    let burst = story.events.split_off(before);
    let mut source = Overflow {
        ring: story.events,
        burst,
        empty: false,
        losses: Losses::default(),
    };
    let live = Arc::new(Live::new(&Flood::header()).unwrap());
    let mut pipeline = Pipeline::new(live.clone(), Outputs::default(), 0);
    // when the burst comes between two looks,
    (0..3).for_each(|_| pipeline.tick(&mut source));
    assert!(source.burst.is_empty() && source.ring.is_empty());
    // then the loss is told where the release is, which is judged after it, and no kernel is accused.
    assert_eq!(Some(pipeline.lost_until), released);
    let status = sink::StatusSource::status(&*live);
    assert_eq!(status.losses.events, 3);
    assert_eq!(status.findings, []);
}

/// A kernel in which events come faster than they are judged.
struct Deluge {
    /// How often the ring may be looked at.
    patience: u32,
}

impl Source for Deluge {
    fn take(&mut self, limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
        self.patience = self.patience.checked_sub(1).expect("the ring is read for ever");
        let mut event = unbalanced().remove(0);
        event.header.ktime = host::monotonic_ns();
        (0..limit).for_each(|_| consume(&encode(&event)));
        limit
    }

    fn losses(&mut self) -> Losses {
        Losses::default()
    }
}

#[test]
fn events_that_come_faster_than_they_are_judged_keep_the_agent_from_nothing_else() {
    // Given a kernel whose ring is never empty,
    let live = Arc::new(Live::new(&Flood::header()).unwrap());
    let mut pipeline = Pipeline::new(live.clone(), Outputs::default(), 0);
    let mut deluge = Deluge { patience: 100 };
    // then each time the agent judges what was there when it began, and is free for orders and signals.
    assert!(pipeline.drain(&mut deluge) > 0);
    pipeline.tick(&mut deluge);
    pipeline.finish("it was told to end", &mut deluge).unwrap();
    let metrics = web::PageSource::metrics(&*live);
    assert!(metrics.contains("luo_trace_events_total"), "{metrics}");
}
