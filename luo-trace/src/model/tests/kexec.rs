use luo_trace_common::events::{IMAGE_LEGACY, IMAGE_NONE, Image};

use super::{doubts, holds, story, violates};
use crate::model::{Invariant, Status};
use crate::testing::{IMAGE, memfd, session};

const LEGACY: Image = Image {
    mode: IMAGE_LEGACY,
    kho: 0,
    ..IMAGE
};

#[test]
fn an_image_that_kexec_load_loaded_is_found_as_soon_as_sessions_exist_and_once() {
    let a = session(1, "a");
    let finding = violates(Invariant::KexecCarrier, |s| {
        s.look(|_| ())
            .create(a)
            .load_image(IMAGE_LEGACY, LEGACY)
            .reboot_into(LEGACY);
    });
    assert!(
        finding.seen.contains("kexec_load(2), and 1 sessions exist"),
        "{finding}"
    );
    // Sessions that came after it find it at the reboot.
    violates(Invariant::KexecCarrier, |s| {
        s.load_image(IMAGE_LEGACY, LEGACY).create(a).reboot_into(LEGACY);
    });
}

#[test]
fn an_image_without_kho_or_with_luo_switched_off_is_found() {
    let a = session(1, "a");
    violates(Invariant::KexecCarrier, |s| {
        s.create(a).load_image(IMAGE.mode, Image { kho: 0, ..IMAGE });
    });
    for line in ["quiet", "kho=on liveupdate=off", "kho=0 liveupdate=1"] {
        violates(Invariant::KexecCarrier, |s| {
            s.create(a).load(line);
        });
    }
}

#[test]
fn without_sessions_any_image_will_do_and_none_is_no_matter() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.create(a).close(a, &[]).load_image(IMAGE_LEGACY, LEGACY);
        s.failing(22).reboot_into(Image {
            mode: IMAGE_NONE,
            ..LEGACY
        });
        s.load("kho=on liveupdate=on").create(a).reboot();
    });
    assert_eq!(judged.verdict(Invariant::KexecCarrier).ok, 1);
}

#[test]
fn sessions_that_are_being_given_back_are_not_lost() {
    let a = session(1, "a");
    holds(|s| {
        s.create(a).release(a, 0, |s| {
            s.unpreserve_files(a, 0, |_| ());
            s.by(101).load_image(IMAGE_LEGACY, LEGACY).by(100);
        });
    });
}

#[test]
fn an_image_that_was_not_seen_being_loaded_or_leaves_it_to_the_default_is_not_known() {
    let a = session(1, "a");
    doubts(Invariant::KexecCarrier, |s| {
        s.create(a).reboot();
    });
    doubts(Invariant::KexecCarrier, |s| {
        s.create(a).load("liveupdate=on").reboot();
    });
}

#[test]
fn incoming_sessions_that_are_left_unfinished_are_found() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let finding = violates(Invariant::IncomingFinishedFirst, |s| {
        s.arrive(a, 1).arrive(b, 1).retrieve_session(a);
        s.finish_files(a, 1, |_| ()).reboot();
    });
    assert!(finding.seen.contains("1 are unfinished, among them \"b\""), "{finding}");
    // Also those that only a walk tells of, and those that nobody read in.
    violates(Invariant::IncomingFinishedFirst, |s| {
        s.look(|look| _ = look.incoming(a, true, &[(1, memfd(1), 1)])).reboot();
    });
    violates(Invariant::IncomingFinishedFirst, |s| {
        s.look(|look| _ = look.unread()).reboot();
    });
}

#[test]
fn incoming_sessions_that_are_finished_may_stay_open() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.arrive(a, 1).retrieve_session(a).finish_files(a, 1, |_| ()).reboot();
    });
    assert_eq!(judged.verdict(Invariant::IncomingFinishedFirst).ok, 1);
}

#[test]
fn what_was_unread_and_was_then_read_in_is_no_matter() {
    let judged = story(|s| {
        s.look(|look| _ = look.unread()).open_device_with(|s| _ = s.read_in());
        s.look(|_| ()).reboot();
    });
    assert_eq!(judged.status(Invariant::IncomingFinishedFirst), Status::Ok);
}

#[test]
fn without_a_walk_there_may_be_incoming_sessions_that_nobody_knows() {
    doubts(Invariant::IncomingFinishedFirst, |s| {
        s.reboot();
    });
}
