use super::{breaks, holds, violates};
use crate::model::Invariant;
use crate::testing::{IMAGE, Story, memfd, session};

const EIO: i64 = 5;

#[test]
fn a_kexec_that_comes_back_after_everything_was_frozen_is_found() {
    let finding = violates(Invariant::FreezeNoReturn, |s| {
        s.create(session(1, "a")).reboot().kexec_returns();
    });
    assert_eq!(finding.object.to_string(), "the live update");
}

#[test]
fn userspace_that_goes_on_after_everything_was_frozen_is_found_once() {
    let a = session(1, "a");
    let findings = breaks(&[Invariant::FreezeNoReturn, Invariant::FrozenImmutable], |s| {
        s.create(a)
            .reboot()
            .by(101)
            .preserve(a, 1, memfd(1))
            .preserve(a, 2, memfd(2));
    });
    assert!(findings[0].seen.contains("by \"vmm\""), "{findings:#?}");
}

#[test]
fn a_kernel_that_undoes_the_freeze_may_come_back_and_one_that_forgets_a_session_may_not() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let frozen = |s: &mut Story| {
        s.create(a).preserve(a, 1, memfd(1)).create(b).preserve(b, 1, memfd(2));
        s.reboot_with(IMAGE, |s| {
            s.freeze_files(a, 1).freeze_files(b, 1).serialize();
        });
        s.unfreeze_with(b, 1, |_| ());
    };
    // Given a jump that fails, and everything unfrozen again, then the host goes on as before.
    holds(|s| {
        frozen(s);
        s.unfreeze_with(a, 1, |_| ()).failing(EIO).kexec_returns();
        s.by(101).create(session(3, "c"));
    });
    let finding = violates(Invariant::FreezeNoReturn, |s| {
        frozen(s);
        s.failing(EIO).kexec_returns();
    });
    assert_eq!(finding.seen, "kernel_kexec returned to its caller");
}

#[test]
fn the_jump_leaves_nothing_to_be_seen() {
    let judged = holds(|s| {
        s.create(session(1, "a")).reboot();
    });
    assert_eq!(judged.verdict(Invariant::FreezeNoReturn).ok, 1);
}

#[test]
fn what_was_under_way_may_end_and_what_fails_without_the_lock_may_fail() {
    holds(|s| {
        let begun = s.create(session(1, "a")).now();
        s.reboot().by(101).since(begun).create(session(2, "b"));
        s.failing(22).create(session(3, ""));
    });
}

#[test]
fn a_freeze_that_failed_may_come_back() {
    holds(|s| {
        s.create(session(1, "a"))
            .failing(EIO)
            .reboot()
            .failing(EIO)
            .kexec_returns();
        s.preserve(session(1, "a"), 1, memfd(1));
    });
}

#[test]
fn another_reboot_that_is_refused_does_not_count() {
    holds(|s| {
        s.reboot().by(101).failing(16).kexec_returns();
    });
}
