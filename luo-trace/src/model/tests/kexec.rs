use luo_trace_common::events::{
    IMAGE_LEGACY, IMAGE_NONE, Image, VERDICT_CARRIES, VERDICT_LOSES, VERDICT_PANICS, VERDICT_UNKNOWN,
};

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
        s.snapshot(|_| ())
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
            s.look_into(VERDICT_CARRIES, VERDICT_LOSES, "");
        });
    }
}

#[test]
fn what_a_command_line_lacks_may_be_built_into_the_image() {
    let a = session(1, "a");
    let line = "quiet";
    // Given a line that does not switch LUO on, and an image whose own does,
    holds(|s| {
        s.create(a).load(line);
        s.look_into(VERDICT_CARRIES, VERDICT_CARRIES, "").reboot();
    });
    // or one that could not be looked into: then it is not known.
    doubts(Invariant::KexecCarrier, |s| {
        s.create(a).load(line);
        s.look_into(VERDICT_UNKNOWN, VERDICT_UNKNOWN, "the loader was gone")
            .reboot();
    });
    doubts(Invariant::KexecCarrier, |s| {
        s.create(a).load(line).reboot();
    });
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
        s.snapshot(|snapshot| _ = snapshot.incoming(a, true, &[(1, memfd(1), 1)]))
            .reboot();
    });
    violates(Invariant::IncomingFinishedFirst, |s| {
        s.snapshot(|snapshot| _ = snapshot.unread()).reboot();
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
fn an_open_session_without_files_may_be_a_finished_one() {
    let a = session(1, "a");
    // Given a finished session that is known from before a gap, when a walk finds it open and empty,
    let judged = story(|s| {
        s.arrive(a, 1).retrieve_session(a).finish_files(a, 1, |_| ()).gap();
        s.snapshot(|snapshot| _ = snapshot.incoming(a, true, &[])).reboot();
    });
    // then nothing of it waits to be finished; an empty one that no process retrieved waits for that.
    assert_eq!(judged.findings, []);
    violates(Invariant::IncomingFinishedFirst, |s| {
        s.snapshot(|snapshot| _ = snapshot.incoming(a, false, &[])).reboot();
    });
}

#[test]
fn what_was_unread_and_was_then_read_in_is_no_matter() {
    let judged = story(|s| {
        s.snapshot(|snapshot| _ = snapshot.unread())
            .open_device_with(|s| _ = s.read_in());
        s.snapshot(|_| ()).reboot();
    });
    assert_eq!(judged.status(Invariant::IncomingFinishedFirst), Status::Ok);
}

#[test]
fn without_a_walk_there_may_be_incoming_sessions_that_nobody_knows() {
    doubts(Invariant::IncomingFinishedFirst, |s| {
        s.reboot();
    });
}

mod target {

    use super::*;
    use crate::model::tests::{Judged, breaks};

    const TARGET: Invariant = Invariant::TargetCompatible;
    const WHY: &str = "it has no handler \"nvme-v1\"";

    /// Whether anything is told of it at all.
    fn is_told(judged: &Judged) -> bool {
        judged.verdicts.iter().any(|verdict| verdict.invariant == TARGET)
    }

    #[test]
    fn an_image_that_loses_or_panics_is_found_as_soon_as_it_was_looked_into_and_once() {
        let a = session(1, "a");
        for outcome in [VERDICT_LOSES, VERDICT_PANICS] {
            let finding = violates(TARGET, |s| {
                s.orderly().create(a).look_into(outcome, VERDICT_CARRIES, WHY);
                // The agent judges anew when what is preserved changes.
                s.look_into(outcome, VERDICT_CARRIES, WHY).reboot();
            });
            assert_eq!(finding.seen, format!("{WHY}, and 1 sessions exist"));
            // What proves it is the load: the look is no event of the kernel's.
            assert_eq!(finding.evidence.len(), 1, "{finding}");
        }
    }

    #[test]
    fn sessions_that_come_after_the_look_find_it_at_the_reboot() {
        let a = session(1, "a");
        let finding = violates(TARGET, |s| {
            s.orderly()
                .look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY)
                .create(a)
                .reboot();
        });
        assert!(finding.seen.starts_with(WHY), "{finding}");
    }

    #[test]
    fn an_image_that_carries_keeps_the_promise_and_so_does_any_without_sessions() {
        let a = session(1, "a");
        let judged = holds(|s| {
            s.create(a).look_into(VERDICT_CARRIES, VERDICT_CARRIES, "").reboot();
        });
        assert_eq!(judged.verdict(TARGET).ok, 1);
        let judged = holds(|s| {
            s.look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY).reboot();
        });
        assert_eq!(judged.verdict(TARGET).ok, 1);
    }

    #[test]
    fn what_the_agent_cannot_tell_is_unknown_and_what_nobody_looked_into_is_no_doubt() {
        let a = session(1, "a");
        doubts(TARGET, |s| {
            s.orderly()
                .create(a)
                .look_into(VERDICT_UNKNOWN, VERDICT_UNKNOWN, "the loader was gone")
                .reboot();
        });
        let judged = holds(|s| {
            s.create(a).reboot();
        });
        assert!(!is_told(&judged));
    }

    #[test]
    fn a_handler_that_came_into_use_after_the_look_is_not_known_to_be_there() {
        let a = session(1, "a");
        let judged = holds(|s| {
            s.create(a).look_into(VERDICT_CARRIES, VERDICT_CARRIES, "");
            s.preserve(a, 1, memfd(1)).reboot();
        });
        assert!(!is_told(&judged));
        let judged = holds(|s| {
            s.create(a).preserve(a, 1, memfd(1));
            s.look_into(VERDICT_CARRIES, VERDICT_CARRIES, "")
                .preserve(a, 2, memfd(2))
                .reboot();
        });
        assert_eq!(judged.verdict(TARGET).ok, 1);
    }

    #[test]
    fn a_handler_that_is_in_use_no_more_clears_an_image_and_one_that_comes_back_is_told_again() {
        let a = session(1, "a");
        let findings = breaks(&[TARGET, TARGET], |s| {
            s.orderly().create(a).look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY);
            s.look_into(VERDICT_CARRIES, VERDICT_CARRIES, "");
            s.look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY);
        });
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn another_image_is_another_matter_and_a_crash_image_is_none() {
        let a = session(1, "a");
        // Given an image that loses, and a better one that is loaded before anybody jumps, which nobody looked into,
        let other = Image {
            id: IMAGE.id + 1,
            ..IMAGE
        };
        let judged = story(|s| {
            s.orderly().look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY).create(a);
            s.load_image(IMAGE.mode, other).reboot_into(other);
        });
        // then nothing is told of that;
        assert_eq!(judged.findings, []);
        assert!(!is_told(&judged));
        // and where the kernel says that the image is still the same, it was one for a crash.
        violates(TARGET, |s| {
            s.orderly().look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY).create(a);
            s.load_image(IMAGE.mode, IMAGE).reboot();
        });
    }

    #[test]
    fn after_a_loss_another_image_may_lie_where_the_one_was_that_was_looked_into() {
        let a = session(1, "a");
        let judged = story(|s| {
            s.orderly().look_into(VERDICT_LOSES, VERDICT_CARRIES, WHY).gap();
            s.snapshot(|_| ()).create(a).reboot();
        });
        assert_eq!(judged.findings, []);
        assert_ne!(judged.status(Invariant::KexecCarrier), Status::Violated);
    }

    #[test]
    fn what_kexec_load_loaded_is_told_once() {
        let a = session(1, "a");
        violates(Invariant::KexecCarrier, |s| {
            s.snapshot(|_| ()).create(a).load_image(IMAGE_LEGACY, LEGACY);
            s.look_into(VERDICT_LOSES, VERDICT_UNKNOWN, "it was loaded by kexec_load(2)")
                .reboot_into(LEGACY);
        });
    }

    #[test]
    fn the_kernel_in_the_image_decides_what_its_command_line_leaves_to_it() {
        let a = session(1, "a");
        // Given a command line that leaves it to the kernel whether KHO is on,
        let judged = story(|s| {
            s.snapshot(|_| ()).load("liveupdate=on").create(a);
            s.look_into(VERDICT_CARRIES, VERDICT_CARRIES, "").reboot();
        });
        assert_eq!(judged.findings, []);
        assert_eq!(judged.status(Invariant::KexecCarrier), Status::Ok);
        // then one that has it off loses everything: at once where sessions exist, else at the reboot.
        let finding = violates(Invariant::KexecCarrier, |s| {
            s.snapshot(|_| ()).load("liveupdate=on").create(a);
            s.look_into(VERDICT_CARRIES, VERDICT_LOSES, "").reboot();
        });
        assert!(finding.seen.starts_with("its command line"), "{finding}");
        violates(Invariant::KexecCarrier, |s| {
            s.snapshot(|_| ()).load("liveupdate=on");
            s.look_into(VERDICT_CARRIES, VERDICT_LOSES, "").create(a).reboot();
        });
        // A command line that says no is told of once, and a kernel that cannot take the sessions is another cause.
        breaks(&[Invariant::KexecCarrier, TARGET], |s| {
            s.snapshot(|_| ()).create(a).load("quiet");
            s.look_into(VERDICT_LOSES, VERDICT_LOSES, WHY).reboot();
        });
    }
}
