use luo_trace_common::events::{FileCall, SessionRef};

use super::{breaks, holds, violates};
use crate::model::Invariant;
use crate::testing::{Story, memfd, session};

const EIO: i64 = 5;

fn call(s: &mut Story, call: FileCall, a: SessionRef, file: u64) -> &mut Story {
    s.call(call, a, None, memfd(file).file)
}

/// Two sessions of two files; then a reboot that fails at the second file of the second, with what undoes it.
fn failing(s: &mut Story, undo: impl FnOnce(&mut Story, SessionRef, SessionRef)) {
    let (a, b) = (session(1, "a"), session(2, "b"));
    s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
    s.create(b).preserve(b, 3, memfd(3)).preserve(b, 4, memfd(4));
    s.freeze_with(a, 2, |s| {
        call(call(s, FileCall::Freeze, a, 1), FileCall::Freeze, a, 2);
    });
    s.failing(EIO).freeze_with(b, 2, |s| {
        call(s, FileCall::Freeze, b, 3);
        call(s.failing(EIO), FileCall::Freeze, b, 4);
        call(s, FileCall::Unfreeze, b, 3);
    });
    undo(s, a, b);
    s.failing(EIO).serialize();
}

fn unfreeze(s: &mut Story, a: SessionRef, files: &[u64]) {
    s.unfreeze_with(a, 2, |s| {
        for &file in files {
            call(s, FileCall::Unfreeze, a, file);
        }
    });
}

#[test]
fn a_freeze_that_fails_and_is_undone_is_well() {
    let judged = holds(|s| {
        for _ in 0..2 {
            failing(s, |s, a, _| unfreeze(s, a, &[1, 2]));
            s.close(session(2, "b"), &[(3, memfd(3)), (4, memfd(4))]);
            s.close(session(1, "a"), &[(1, memfd(1)), (2, memfd(2))]);
        }
    });
    assert_eq!(judged.verdict(Invariant::FreezeRollback).ok, 2);
}

#[test]
fn a_session_that_stays_frozen_is_found() {
    let finding = violates(Invariant::FreezeRollback, |s| failing(s, |_, _, _| ()));
    assert_eq!(finding.object.to_string(), "outgoing session \"a\"");
}

#[test]
fn a_file_that_stays_frozen_is_found() {
    let finding = violates(Invariant::FreezeRollback, |s| {
        failing(s, |s, a, _| unfreeze(s, a, &[1]))
    });
    assert_eq!(finding.object.to_string(), "file 0x2 of session \"a\"");
}

#[test]
fn a_file_that_is_unfrozen_twice_is_found() {
    violates(Invariant::FreezeRollback, |s| {
        failing(s, |s, a, _| unfreeze(s, a, &[1, 2, 2]))
    });
}

#[test]
fn a_file_that_is_unfrozen_though_its_freeze_failed_is_found() {
    let finding = violates(Invariant::FreezeRollback, |s| {
        failing(s, |s, a, b| {
            call(s, FileCall::Unfreeze, b, 4);
            unfreeze(s, a, &[1, 2]);
        });
    });
    assert_eq!(finding.object.to_string(), "file 0x4 of session \"b\"");
}

#[test]
fn a_session_that_is_unfrozen_and_was_not_frozen_is_found() {
    let a = session(1, "a");
    violates(Invariant::FreezeRollback, |s| {
        s.create(a).preserve(a, 1, memfd(1)).unfreeze_with(a, 1, |_| ());
    });
}

#[test]
fn a_handler_need_not_have_both_a_freeze_and_an_unfreeze() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    holds(|s| {
        s.create(a).preserve(a, 1, memfd(1)).create(b).preserve(b, 2, memfd(2));
        // Given a handler with a freeze alone, and then one with an unfreeze alone,
        for freeze in [true, false] {
            s.freeze_with(a, 1, |s| {
                if freeze {
                    call(s, FileCall::Freeze, a, 1);
                }
            });
            s.failing(EIO).freeze_with(b, 1, |_| ());
            s.unfreeze_with(a, 1, |_| ());
            s.failing(EIO).serialize();
            // (another record)
            if freeze {
                *s = Story::new();
                s.orderly()
                    .create(a)
                    .preserve(a, 1, memfd(1))
                    .create(b)
                    .preserve(b, 2, memfd(2));
            }
        }
    });
}

#[test]
fn what_comes_or_goes_after_the_serialization_is_found() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    violates(Invariant::FrozenImmutable, |s| {
        s.create(a).serialize().create(b);
    });
    violates(Invariant::FrozenImmutable, |s| {
        s.create(a)
            .serialize()
            .preserve(a, 1, memfd(1))
            .preserve(a, 2, memfd(2));
    });
    violates(Invariant::FrozenImmutable, |s| {
        s.create(a).preserve(a, 1, memfd(1)).serialize();
        s.unpreserve_files(a, 1, |_| ());
    });
    // After the whole reboot it is also a return.
    breaks(&[Invariant::FrozenImmutable, Invariant::FreezeNoReturn], |s| {
        s.create(a).load("kho=on liveupdate=on").reboot().by(101).create(b);
    });
}

#[test]
fn a_create_that_was_under_way_when_everything_was_serialized_may_be_seen_to_end_later() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = holds(|s| {
        s.create(a);
        let begun = s.now();
        s.by(101).reboot().by(100).since(begun).create(b);
        s.failing(EIO).create(session(3, "c"));
    });
    assert_eq!(judged.verdict(Invariant::FrozenImmutable).ok, 1);
}
