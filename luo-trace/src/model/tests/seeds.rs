//! Legal schedules in which something was found once, as a random seed gave them and made them short.

use luo_trace_common::hooks::Hook;

use crate::event::{Body, Event};
use crate::testing::{Deed, Fault, Plan, with_losses, with_misses};

use super::{judge, judge_with};

const RETRIEVE: Deed = Deed::Retrieve {
    session: 0,
    token: 0,
    fault: Fault::None,
};
const CLOSE: Deed = Deed::Close { session: 0 };

fn by_name(name: u8) -> Deed {
    Deed::RetrieveSession { name }
}

fn preserve(token: u8, file: u8) -> Deed {
    Deed::Preserve {
        session: 0,
        token,
        file,
        fault: Fault::None,
    }
}

/// What the kernel does when these tasks take turns in this order; each incoming session brings so many files.
fn played(incoming: &[u8], tasks: &[&[Deed]], order: &[u8], snapshot: bool) -> Vec<Event> {
    let plan = Plan {
        incoming: incoming.to_vec(),
        tasks: tasks.iter().map(|deeds| deeds.to_vec()).collect(),
        order: order.to_vec(),
        snapshot,
    };
    plan.run_with_snapshot().0
}

#[test]
fn a_retrieve_that_fails_is_no_lie_of_the_kernel_where_its_callback_was_lost_before_a_walk() {
    // Given two sessions, of which one's file is asked for and its handler refuses while a walk is under way,
    let refused = Deed::Retrieve {
        session: 0,
        token: 0,
        fault: Fault::Handler,
    };
    let events = played(
        &[0, 2],
        &[&[by_name(1), refused], &[Deed::Open, CLOSE, RETRIEVE, Deed::Snapshot]],
        &[72, 89, 11, 71, 152, 49, 151, 84, 74, 20, 104, 162],
        true,
    );
    // when any one event is lost, then nothing is found.
    for lost in 0..events.len() {
        let left = with_losses(&events, |place| place == lost);
        assert_eq!(judge(&left).findings, [], "without event {lost}");
    }
}

#[test]
fn a_retrieve_by_the_name_of_a_session_that_is_being_released_proves_nothing() {
    // Given a session that is released, a walk that does not find it any more, and a retrieve by its name before the release ends,
    let events = played(
        &[0],
        &[
            &[by_name(0), CLOSE],
            &[RETRIEVE, preserve(0, 0), by_name(0), RETRIEVE, preserve(0, 0)],
            &[Deed::Snapshot, by_name(0)],
        ],
        &[81, 79, 171],
        false,
    );
    // then the session did not vanish.
    assert_eq!(judge(&events).findings, []);
}

#[test]
fn a_session_whose_release_takes_longer_than_two_walks_did_not_vanish() {
    // Given a session that two walks do not find any more before its release is seen to end,
    let order = [
        104, 104, 30, 32, 74, 187, 73, 127, 6, 43, 91, 162, 152, 8, 73, 128, 1, 104, 36, 86, 83, 50, 71, 158, 74, 74,
        187, 74, 11, 32, 2, 254, 12, 6, 20, 49, 91, 11, 35, 55, 61, 5,
    ];
    let owner = [
        RETRIEVE,
        RETRIEVE,
        Deed::Snapshot,
        Deed::Create { name: 0 },
        RETRIEVE,
        CLOSE,
    ];
    let events = played(
        &[],
        &[&owner, &[by_name(0), by_name(0), Deed::Snapshot, Deed::Snapshot]],
        &order,
        false,
    );
    // then, when it has ended and time has passed, nothing is found.
    assert_eq!(judge(&events).findings, []);
}

#[test]
fn a_device_may_be_closed_by_its_second_opener_before_the_first_close_is_seen_to_end() {
    let busy = [
        Deed::Open,
        preserve(0, 0),
        preserve(0, 0),
        RETRIEVE,
        by_name(0),
        preserve(0, 0),
        Deed::Create { name: 0 },
    ];
    let events = played(
        &[],
        &[
            &[Deed::Snapshot, Deed::Get { flb: 0 }, Deed::Shut],
            &[Deed::Open, Deed::Shut],
            &busy,
        ],
        &[215, 237, 113],
        true,
    );
    assert_eq!(judge(&events).findings, []);
}

#[test]
fn global_state_that_a_task_gave_back_before_is_no_part_of_the_session_that_it_closes() {
    // Given global state that goes with a driver's last reference, which is not watched, and a session that the same task closes then,
    let preserves = [Deed::Create { name: 1 }, preserve(0, 0), Deed::Get { flb: 1 }];
    let mut events = played(
        &[],
        &[
            &[Deed::Create { name: 0 }, CLOSE, Deed::Put { flb: 1 }, CLOSE],
            &preserves,
        ],
        &[19],
        false,
    );
    events.retain(|event| !matches!(event.body, Body::FlbGet(_) | Body::FlbPut(_)));
    // then the memory that it kept is not missed.
    let seen = Hook::ALL.iter().copied();
    let seen = seen.filter(|hook| !matches!(hook, Hook::FlbGetOutgoing | Hook::FlbPutOutgoing));
    assert_eq!(judge_with(&seen.collect(), &events).findings, []);
}

#[test]
fn a_file_that_a_walk_makes_known_again_in_the_middle_of_a_freeze_may_be_frozen() {
    // Given two files, of which one is frozen when a walk goes by, and the other's freeze then fails,
    let order = [
        0, 32, 9, 21, 31, 49, 9, 1, 1, 1, 0, 112, 55, 0, 0, 181, 65, 0, 0, 55, 91, 0, 19, 253, 61, 31, 41, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 109, 121, 97,
    ];
    let create = Deed::Create { name: 1 };
    let events = played(
        &[],
        &[
            &[create, preserve(1, 4)],
            &[
                create,
                preserve(2, 0),
                create,
                Deed::Open,
                preserve(0, 0),
                Deed::Snapshot,
            ],
            &[
                preserve(0, 0),
                preserve(0, 0),
                Deed::Open,
                preserve(2, 0),
                Deed::Reboot { fault: Fault::Handler },
            ],
        ],
        &order,
        true,
    );
    // when a program was skipped anywhere, then nothing is found.
    for lost in 0..events.len() {
        let left = with_misses(&events, &[2, 5, 4, 5, 2], |place| place == lost);
        assert_eq!(judge(&left).findings, [], "without event {lost}");
    }
}
