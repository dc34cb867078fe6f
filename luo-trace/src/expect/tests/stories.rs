//! Two kernels and a file of expectations, from the journals on a disk to the line that says what is wrong.

use std::path::PathBuf;

use super::*;
use crate::chain::Hosts;
use crate::chain::case::Case;
use crate::event::decode::encode;
use crate::event::{Body, Event};
use crate::journal::{End, Writer};
use crate::testing::{IMAGE, Story, header, memfd, session, with_losses};

/// What everything has to be like.
const WANTED: &str = r#"
outcome = "completed"
updates = 1
blackout = "90 s"
retrieved = true
finished = true

[[session]]
name = "vm"
files = 2
tokens = [1, 2]
size = { min = 1 }

[[session]]
name = "db"
files = 1
blackout = "90 s"
"#;

/// The journals of one update, and where they lie.
struct Disk {
    dir: tempfile::TempDir,
    journals: Vec<PathBuf>,
}

impl Disk {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            journals: Vec::new(),
        }
    }

    /// The journal of the boot of this number: 0 is a cold boot. A minute lies between two boots.
    fn record(&mut self, number: u64, tell: impl FnOnce(&mut Story)) -> &mut Self {
        let mut story = Story::new();
        tell(&mut story);
        self.events(number, &story.events)
    }

    fn events(&mut self, number: u64, events: &[Event]) -> &mut Self {
        self.later(0, number, events)
    }

    /// The same, and it began so many seconds later by the wall clock.
    fn later(&mut self, seconds: u64, number: u64, events: &[Event]) -> &mut Self {
        let mut header = header(number);
        header.clock.realtime_ns += seconds * 1_000_000_000;
        let (mut writer, path) = Writer::open(self.dir.path(), &header).unwrap();
        for event in events.iter().filter(|event| event.body.kind().is_some()) {
            writer.append([&encode(event)[..]]).unwrap();
        }
        if number > 0 {
            let lost = |event: &Event| match event.body {
                Body::Gap { lost } => lost,
                _ => 0,
            };
            let end = End {
                kernel_lost: events.iter().map(lost).sum(),
                ..End::default()
            };
            writer.end(&end).unwrap();
        }
        self.journals.push(path);
        self
    }

    /// What comes of checking the journals, in the wrong order, and all that is not right.
    fn check(&self, text: &str) -> (Conclusion, String) {
        let journals: Vec<_> = self.journals.iter().rev().collect();
        let case = Case::of(&journals, Hosts::Told).unwrap();
        let checks = Expectations::parse(text).unwrap().check(&case, TODAY, text);
        let told = checks
            .iter()
            .filter(|check| check.answer > Answer::Skip)
            .map(|check| format!("{}: {}\n", check.name, check.message))
            .collect();
        (formats::outcome(&checks), told)
    }

    #[track_caller]
    fn is(&self, outcome: Conclusion, lines: &[&str]) {
        let (seen, told) = self.check(WANTED);
        assert_eq!(seen, outcome, "{told}");
        for line in lines {
            assert!(told.contains(line), "{line:?} is not in:\n{told}");
        }
    }
}

/// A kernel that preserves `vm` with two files and `db` with one, and leaves.
fn leaves(s: &mut Story) {
    leaves_with(s, IMAGE);
}

fn leaves_with(s: &mut Story, image: luo_trace_common::events::Image) {
    let (vm, db) = (session(1, "vm"), session(2, "db"));
    s.orderly()
        .create(vm)
        .preserve(vm, 1, memfd(1))
        .preserve(vm, 2, memfd(2));
    s.create(db).preserve(db, 7, memfd(3));
    s.reboot_with(image, |s| {
        s.freeze_files(vm, 2).freeze_files(db, 1).serialize();
    });
}

/// A kernel that finds what was left, and whose VMMs do this to it.
fn arrives(s: &mut Story, owners: impl FnOnce(&mut Story)) {
    s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[]);
    s.snapshot(|snapshot| _ = snapshot.unread());
    s.arrive(session(1, "vm"), 2).arrive(session(2, "db"), 1).read_in();
    owners(s);
}

/// All is asked for and finished, but for these files of `vm`.
fn all_but(s: &mut Story, left: &[u64]) {
    for (session, tokens) in [(session(1, "vm"), &[1, 2][..]), (session(2, "db"), &[7])] {
        s.retrieve_session(session);
        for &token in tokens.iter().filter(|token| !left.contains(token)) {
            s.retrieve(session, token, memfd(token));
        }
        s.finish_files(session, tokens.len() as u64, |_| ());
    }
}

/// A kernel that finds nothing but `db`.
fn only_db(s: &mut Story) {
    let db = session(2, "db");
    s.handover(&[("db", &[7])], &[]);
    s.snapshot(|snapshot| _ = snapshot.unread());
    s.arrive(db, 1).read_in();
    s.retrieve_session(db)
        .retrieve(db, 7, memfd(7))
        .finish_files(db, 1, |_| ());
}

fn good() -> Disk {
    let mut disk = Disk::new();
    disk.record(0, leaves).record(1, |s| arrives(s, |s| all_but(s, &[])));
    disk
}

#[test]
fn two_journals_of_an_update_as_it_should_be_pass() {
    good().is(Conclusion::Held, &[]);
}

#[test]
fn the_recorders_own_session_is_not_one_of_those_that_are_expected() {
    // Given an update that carried the recorder's own session beside another,
    let (vm, own) = (session(1, "vm"), session(2, "luo-trace"));
    let mut disk = Disk::new();
    disk.record(0, |s| {
        s.orderly().create(vm).preserve(vm, 1, memfd(1));
        s.create(own).preserve(own, 9, memfd(2));
        s.reboot_with(IMAGE, |s| {
            s.freeze_files(vm, 1).freeze_files(own, 1).serialize();
        });
    });
    disk.record(1, |s| {
        s.handover(&[("vm", &[1]), ("luo-trace", &[9])], &[]);
        s.snapshot(|snapshot| _ = snapshot.unread());
        s.arrive(vm, 1).arrive(own, 1).read_in();
        for (session, token) in [(vm, 1), (own, 9)] {
            s.retrieve_session(session).retrieve(session, token, memfd(token));
            s.finish_files(session, 1, |_| ());
        }
    });
    // when all sessions are counted, then it is not.
    let (outcome, told) = disk.check("outcome = \"completed\"\n[[session]]\nmatch = \"*\"\ncount = 1\n");
    assert_eq!(outcome, Conclusion::Held, "{told}");
}

#[test]
fn sessions_that_an_image_of_the_legacy_call_does_not_carry_are_lost() {
    let mut disk = Disk::new();
    let legacy = luo_trace_common::events::Image {
        mode: luo_trace_common::events::IMAGE_LEGACY,
        kho: 0,
        ..IMAGE
    };
    disk.record(0, |s| leaves_with(s, legacy));
    disk.is(
        Conclusion::Violated,
        &[
            "session \"vm\": session \"vm\" left and did not arrive",
            "session \"db\"",
        ],
    );
}

#[test]
fn a_session_that_does_not_arrive_is_lost() {
    let mut disk = Disk::new();
    disk.record(0, leaves).record(1, only_db);
    disk.is(
        Conclusion::Violated,
        &[
            "session \"vm\" left and did not arrive",
            "kexec-sessions-conserved",
            "every file retrieved: file 0x1 of session \"vm\" was never retrieved",
        ],
    );
}

#[test]
fn where_the_freeze_was_not_seen_from_its_beginning_what_did_not_arrive_may_have_been_closed_before() {
    // Given a kernel whose freeze has an end and no beginning, and one that finds a session less than there were,
    let mut story = Story::new();
    leaves(&mut story);
    for event in &mut story.events {
        if let Body::SessionSerialize(p) = &mut event.body {
            p.outcome.duration = 0;
        }
    }
    let mut disk = Disk::new();
    disk.events(0, &story.events).record(1, only_db);
    // then no process can tell whether the other one is lost.
    let whether = "it cannot be told whether session \"vm\" arrived";
    disk.is(Conclusion::Inconclusive, &[whether]);
}

#[test]
fn a_boot_that_began_hours_later_may_be_another_than_the_next() {
    let mut story = Story::new();
    only_db(&mut story);
    let mut disk = Disk::new();
    disk.record(0, leaves).later(7200, 1, &story.events);
    let (outcome, told) = disk.check("[[session]]\nname = \"vm\"\nretrieved = true\n");
    assert_eq!(outcome, Conclusion::Inconclusive, "{told}");
}

#[test]
fn a_file_that_nobody_asks_for_fails_though_the_kernel_kept_every_promise() {
    let mut disk = Disk::new();
    disk.record(0, leaves).record(1, |s| arrives(s, |s| all_but(s, &[2])));
    let (_, told) = disk.check(WANTED);
    assert_eq!(
        told,
        "every file retrieved: file 0x2 of session \"vm\" was never retrieved\n"
    );
    disk.is(Conclusion::Violated, &[]);
}

#[test]
fn a_retrieve_that_fails_is_told_with_its_errno() {
    let mut disk = Disk::new();
    disk.record(0, leaves).record(1, |s| {
        arrives(s, |s| {
            let vm = session(1, "vm");
            s.retrieve_session(vm).retrieve(vm, 1, memfd(1));
            s.failing(12).retrieve(vm, 2, memfd(2));
        });
    });
    disk.is(
        Conclusion::Violated,
        &["file 0x2 of session \"vm\" was never retrieved: its retrieve failed with ENOMEM"],
    );
}

#[test]
fn another_number_of_files_fails() {
    let (seen, told) = good().check(&WANTED.replace("files = 2", "files = 3"));
    assert_eq!(
        (seen, told.as_str()),
        (Conclusion::Violated, "session \"vm\": files: 3 expected, 2\n")
    );
}

#[test]
fn a_blackout_over_the_limit_fails_and_one_too_near_to_tell_does_not() {
    let (seen, told) = good().check(&WANTED.replace("90 s", "50 s"));
    assert_eq!(seen, Conclusion::Violated, "{told}");
    assert!(
        told.starts_with("blackout of at most 50.0 s: blackout: at most 50.0 s expected, 60.0 s ± "),
        "{told}"
    );
    let (seen, told) = good().check(&WANTED.replace("90 s", "60 s"));
    assert_eq!(seen, Conclusion::Inconclusive, "{told}");
}

#[test]
fn without_either_journal_it_is_inconclusive() {
    for lost in [0, 1] {
        let mut disk = good();
        disk.journals.remove(lost);
        disk.is(Conclusion::Inconclusive, &["blackout is not known"]);
    }
}

#[test]
fn without_the_first_journal_what_arrived_is_known_all_the_same() {
    let mut disk = good();
    disk.journals.remove(0);
    let (_, told) = disk.check("retrieved = true\nsessions = 2\nfiles = 3\noutcome = \"completed\"");
    for line in ["every file", "in all:", "outcome"] {
        assert!(!told.contains(line), "{told}");
    }
}

#[test]
fn with_any_event_lost_nothing_fails_that_is_as_it_should_be() {
    let mut stories = [Story::new(), Story::new()];
    leaves(&mut stories[0]);
    arrives(&mut stories[1], |s| all_but(s, &[]));
    for (number, story) in stories.iter().enumerate() {
        for lost in 0..story.events.len() {
            let mut events = [stories[0].events.clone(), stories[1].events.clone()];
            events[number] = with_losses(&story.events, |place| place == lost);
            let mut disk = Disk::new();
            disk.events(0, &events[0]).events(1, &events[1]);
            let (seen, told) = disk.check(WANTED);
            let what = story.events[lost].body.kind();
            assert_ne!(
                seen,
                Conclusion::Violated,
                "{what:?}, event {lost} of boot {number}, is lost:\n{told}"
            );
        }
    }
}

#[test]
fn events_that_are_lost_make_it_inconclusive() {
    let mut story = Story::new();
    arrives(&mut story, |s| all_but(s, &[]));
    // The last retrieve and all that follows.
    let from = story.events.len() - 3;
    let mut disk = Disk::new();
    disk.record(0, leaves)
        .events(1, &with_losses(&story.events, |place| place == from));
    disk.is(Conclusion::Inconclusive, &["record of boot 2 is whole: events lost: 1"]);
}

#[test]
fn without_expectations_the_checks_come_to_what_the_case_does() {
    let mut one = good();
    one.journals.remove(1);
    let mut lost = Disk::new();
    lost.record(0, leaves).record(1, |s| _ = s.snapshot(|_| ()).read_in());
    for disk in [good(), one, lost] {
        let case = Case::of(&disk.journals, Hosts::Told).unwrap();
        let checks = Expectations::default().check(&case, TODAY, "");
        assert_eq!(formats::outcome(&checks), case.conclusion());
    }
}
