use luo_trace_common::events::FileCall;

use super::{LONG, doubts, holds, story, violates};
use crate::model::{Invariant, Status};
use crate::testing::{memfd, session};

const EEXIST: i64 = 17;
const EINVAL: i64 = 22;
const ENOMEM: i64 = 12;
const EBUSY: i64 = 16;
const EIO: i64 = 5;

#[test]
fn two_live_sessions_of_one_name_are_found_when_the_first_is_used_again() {
    let (first, second) = (session(1, "vm"), session(2, "vm"));
    let finding = violates(Invariant::SessionNameUnique, |s| {
        s.create(first).create(second).preserve(first, 1, memfd(1));
        s.close(first, &[(1, memfd(1))]).close(second, &[]);
    });
    assert_eq!(finding.object.to_string(), "outgoing session \"vm\"");
    assert_eq!(finding.evidence.len(), 3);
}

#[test]
fn two_live_sessions_of_one_name_are_found_in_time() {
    violates(Invariant::SessionNameUnique, |s| {
        s.create(session(1, "vm"))
            .create(session(2, "vm"))
            .wait(LONG)
            .create(session(3, "other"));
    });
}

#[test]
fn two_live_sessions_of_one_name_are_found_when_both_are_frozen() {
    let (first, second) = (session(1, "vm"), session(2, "vm"));
    violates(Invariant::SessionNameUnique, |s| {
        s.create(first)
            .create(second)
            .freeze_files(first, 0)
            .freeze_files(second, 0);
    });
}

#[test]
fn a_name_may_be_used_again_before_the_end_of_the_release_is_seen() {
    let (first, second) = (session(1, "vm"), session(2, "vm"));
    holds(|s| {
        // Given a release that is under way and has unlinked its session,
        s.create(first);
        let begun = s.now();
        s.unpreserve_files(first, 0, |_| ());
        // when another thread creates one of the same name before the release returns,
        s.by(101).create(second).by(100);
        // then that is legal.
        s.since(begun)
            .release(first, 0, |_| ())
            .close(second, &[])
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn the_same_name_in_the_other_direction_is_another_session() {
    holds(|s| {
        s.arrive(session(1, "vm"), 0)
            .create(session(2, "vm"))
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn a_refused_name_proves_that_names_are_unique() {
    let judged = holds(|s| {
        s.create(session(1, "vm"))
            .failing(EEXIST)
            .create(session(0, "vm"))
            .wait(LONG)
            .create(session(3, "x"));
    });
    assert_eq!(judged.verdict(Invariant::SessionNameUnique).ok, 3);
}

#[test]
fn a_create_that_failed_leaves_no_session() {
    holds(|s| {
        s.failing(ENOMEM)
            .create(session(1, "vm"))
            .create(session(1, "vm"))
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn a_suspicion_that_the_record_ends_on_is_neither_ok_nor_an_alarm() {
    doubts(Invariant::SessionNameUnique, |s| {
        s.create(session(1, "vm")).create(session(2, "vm"));
    });
}

#[test]
fn a_release_that_does_not_give_back_its_files_is_found() {
    let a = session(1, "a");
    let judged = story(|s| {
        s.create(a).preserve(a, 1, memfd(1)).release(a, 1, |_| ());
    });
    assert_eq!(judged.status(Invariant::SessionBalance), Status::Violated);
    assert_eq!(judged.status(Invariant::FileBalance), Status::Violated);
}

#[test]
fn a_release_that_gives_back_fewer_files_than_were_preserved_is_found() {
    let a = session(1, "a");
    violates(Invariant::SessionBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
        s.release(a, 2, |s| {
            s.unpreserve_files(a, 1, |s| {
                s.unpreserve(a, memfd(2)).unpreserve(a, memfd(1));
            });
        });
    });
}

#[test]
fn a_session_whose_memory_is_used_again_without_a_release_is_found() {
    violates(Invariant::SessionBalance, |s| {
        s.create(session(1, "a"))
            .create(session(1, "b"))
            .wait(LONG)
            .create(session(2, "c"));
    });
}

#[test]
fn the_memory_of_a_session_may_be_used_again_before_the_end_of_its_release_is_seen() {
    let (old, new) = (session(1, "a"), session(1, "a"));
    let judged = holds(|s| {
        s.create(old).preserve(old, 1, memfd(1));
        let begun = s.now();
        s.unpreserve_files(old, 1, |s| {
            s.unpreserve(old, memfd(1));
        });
        s.by(101).create(new).preserve(new, 1, memfd(1)).by(100);
        s.since(begun).release(old, 1, |_| ());
        s.close(new, &[(1, memfd(1))]).wait(LONG).create(session(3, "x"));
    });
    assert_eq!(judged.verdict(Invariant::SessionBalance).ok, 2);
}

#[test]
fn sessions_end_well_by_release_by_serialization_or_alive() {
    let (a, b, c) = (session(1, "a"), session(2, "b"), session(3, "c"));
    let judged = holds(|s| {
        s.create(a).create(b).preserve(b, 7, memfd(1)).close(a, &[]).create(c);
    });
    let verdict = judged.verdict(Invariant::SessionBalance);
    assert_eq!((verdict.ok, verdict.open), (1, 2));
    let judged = holds(|s| {
        s.create(c).reboot();
    });
    assert_eq!(judged.verdict(Invariant::SessionBalance).ok, 1);
}

#[test]
fn a_session_from_before_the_record_is_no_alarm() {
    let old = session(1, "old");
    doubts(Invariant::SessionBalance, |s| {
        s.release(old, 3, |s| {
            s.unpreserve_files(old, 3, |s| {
                s.unpreserve(old, memfd(2))
                    .unpreserve(old, memfd(1))
                    .unpreserve(old, memfd(0));
            });
        });
    });
}

#[test]
fn a_session_that_is_retrieved_twice_is_found() {
    let a = session(1, "a");
    violates(Invariant::SessionRetrieveOnce, |s| {
        s.arrive(a, 1).retrieve_session(a).retrieve_session(a);
    });
}

#[test]
fn a_refused_second_retrieve_proves_that_sessions_are_retrieved_once() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.arrive(a, 0)
            .retrieve_session(a)
            .failing(EINVAL)
            .retrieve_session(session(0, "a"));
        s.release_incoming(a, 0, |s| {
            s.finish_files(a, 0, |_| ());
        });
    });
    assert_eq!(judged.verdict(Invariant::SessionRetrieveOnce).ok, 2);
}

#[test]
fn a_session_that_was_closed_does_not_count_against_a_later_one() {
    let (a, b) = (session(1, "a"), session(1, "b"));
    holds(|s| {
        s.arrive(a, 0).retrieve_session(a).release_incoming(a, 0, |_| ());
        s.arrive(b, 0).retrieve_session(b);
    });
}

#[test]
fn a_release_that_does_not_say_of_what_leaves_everything_in_doubt() {
    doubts(Invariant::SessionNameUnique, |s| {
        s.create(session(1, "a")).release(session(0, ""), 0, |_| ());
        // session(0, ..) has an id; the real blank has none.
        s.release(Default::default(), 0, |_| ())
            .create(session(2, "a"))
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn a_file_that_is_preserved_into_an_incoming_session_is_found() {
    let a = session(1, "a");
    let finding = violates(Invariant::SessionDirection, |s| {
        s.arrive(a, 0).retrieve_session(a).preserve(a, 1, memfd(1));
    });
    assert_eq!(finding.object.to_string(), "incoming session \"a\"");
}

#[test]
fn an_outgoing_session_that_is_retrieved_from_or_finished_is_found() {
    let a = session(1, "a");
    violates(Invariant::SessionDirection, |s| {
        s.create(a).retrieve_again(a, 1, memfd(1));
    });
    violates(Invariant::SessionDirection, |s| {
        s.create(a).finish_files(a, 0, |_| ());
    });
}

#[test]
fn the_memory_of_a_finished_session_may_be_that_of_an_outgoing_one() {
    let (old, new) = (session(1, "a"), session(1, "b"));
    let judged = holds(|s| {
        s.arrive(old, 0).retrieve_session(old);
        s.release_incoming(old, 0, |s| {
            s.finish_files(old, 0, |_| ());
        });
        s.create(new).preserve(new, 1, memfd(1));
    });
    assert_eq!(judged.verdict(Invariant::SessionDirection).ok, 2);
}

#[test]
fn a_session_that_is_stranded_by_its_close_is_found_with_who_refused() {
    let a = session(1, "a");
    let finding = violates(Invariant::SessionReleaseFinishes, |s| {
        s.arrive(a, 2).retrieve_session(a).retrieve(a, 7, memfd(1));
        s.failing(EBUSY).release_incoming(a, 2, |s| {
            s.failing(EBUSY).finish_files(a, 2, |s| {
                s.told(1)
                    .failing(EBUSY)
                    .call(FileCall::CanFinish, a, None, memfd(1).file);
            });
        });
    });
    assert!(finding.seen.contains("stranded with 2 files (0x7, ...)"), "{finding}");
    assert_eq!(finding.evidence.len(), 2, "the refusal, and the release");
}

#[test]
fn a_session_that_is_closed_without_being_finished_is_found() {
    let a = session(1, "a");
    violates(Invariant::SessionReleaseFinishes, |s| {
        s.arrive(a, 2).retrieve_session(a).release_incoming(a, 2, |_| ());
    });
}

#[test]
fn a_session_may_be_finished_before_it_is_closed_or_while_it_is() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = holds(|s| {
        s.arrive(a, 2).arrive(b, 1).retrieve_session(a).retrieve_session(b);
        s.failing(EBUSY).finish_files(a, 2, |_| ());
        s.finish_files(a, 2, |_| ()).release_incoming(a, 0, |s| {
            s.finish_files(a, 0, |_| ());
        });
        s.release_incoming(b, 1, |s| {
            s.finish_files(b, 1, |_| ());
        });
    });
    assert_eq!(judged.verdict(Invariant::SessionReleaseFinishes).ok, 2);
}

#[test]
fn a_loss_during_the_close_may_have_been_its_finish() {
    let a = session(1, "a");
    doubts(Invariant::SessionReleaseFinishes, |s| {
        s.arrive(a, 2).retrieve_session(a).release_incoming(a, 2, |s| {
            s.gap();
        });
    });
}

#[test]
fn a_session_that_has_taken_the_name_of_systemds_own_is_found_when_systemd_comes_to_it() {
    let systemd = session(1, "systemd");
    let finding = violates(Invariant::SessionOfSystemd, |s| {
        s.create(systemd).by(1).failing(EEXIST).create(session(0, "systemd"));
    });
    assert_eq!(finding.object.to_string(), "outgoing session \"systemd\"");
    // Another process that comes too late has lost nothing, and systemd itself finds it free.
    let judged = holds(|s| {
        s.by(1)
            .create(systemd)
            .by(100)
            .failing(EEXIST)
            .create(session(0, "systemd"));
    });
    assert_eq!(judged.verdict(Invariant::SessionOfSystemd).ok, 1);
}

#[test]
fn a_second_opener_of_the_device_is_found() {
    let finding = violates(Invariant::DeviceExclusive, |s| {
        s.open_device().by(101).open_device().wait(LONG).create(session(1, "a"));
    });
    assert_eq!(finding.object.to_string(), "/dev/liveupdate");
    // In time, or as soon as both are seen to close it later.
    violates(Invariant::DeviceExclusive, |s| {
        s.open_device().by(101).open_device().close_device();
        s.by(100).close_device();
    });
}

#[test]
fn a_second_opener_that_closes_the_device_before_the_end_of_the_first_close_is_seen_is_none() {
    holds(|s| {
        s.open_device();
        let begun = s.now();
        s.wait(10).by(101).open_device().close_device();
        s.by(100).since(begun).close_device();
        s.wait(LONG).create(session(1, "a"));
    });
}

#[test]
fn the_device_may_be_opened_again_before_the_end_of_its_close_is_seen() {
    let judged = holds(|s| {
        s.open_device();
        let begun = s.now();
        s.wait(10).by(101).open_device().by(100).since(begun).close_device();
        s.by(101).close_device().open_device();
        s.failing(EBUSY).open_device();
    });
    assert_eq!(judged.verdict(Invariant::DeviceExclusive).ok, 4);
}

#[test]
fn an_open_that_hides_that_sessions_were_not_read_in_is_found() {
    violates(Invariant::DeviceExclusive, |s| {
        s.open_device_with(|s| {
            s.failing(ENOMEM).read_in();
        });
    });
    holds(|s| {
        s.failing(EIO).open_device_with(|s| {
            s.failing(ENOMEM).read_in();
        });
    });
}
