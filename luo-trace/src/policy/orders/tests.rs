//! Stories of holds and allowances.

use super::*;

const MINUTE: u64 = 60 * SECOND;

fn hold(reason: &str, for_ns: Option<u64>) -> Order {
    Order::Hold {
        reason: reason.into(),
        for_ns,
    }
}

fn allow(reason: &str, for_ns: u64) -> Order {
    Order::Allow {
        reason: reason.into(),
        for_ns,
    }
}

#[test]
fn a_reason_is_one_line_that_says_something_and_a_time_is_one_that_fits() {
    for (order, why) in [
        (hold("", None), "empty"),
        (hold(" \t", None), "empty"),
        (allow(&"x".repeat(LONGEST_REASON + 1), MINUTE), "256"),
        (hold("two\nlines", None), "control character"),
        (hold("x", Some(0)), "ends at once"),
        (allow("x", LONGEST_ALLOWANCE + 1), "at most 7days"),
        (hold("x", Some(LONGEST_HOLD + 1)), "at most 1year"),
    ] {
        let error = order.check().unwrap_err();
        assert!(error.contains(why), "{order:?}: {error}");
    }
    for order in [
        hold("é", None),
        allow(&"x".repeat(LONGEST_REASON), LONGEST_ALLOWANCE),
        hold("x", Some(LONGEST_HOLD)),
        Order::Clear,
    ] {
        assert_eq!(order.check(), Ok(()), "{order:?}");
    }
}

#[test]
fn a_hold_stands_until_it_is_taken_back_and_says_so() {
    // Given a host that an operator holds,
    let mut standing = Standing::default();
    let taken = standing.take(&hold(" disk swap ", None), 1000, Mode::Enforce, 5);
    assert_eq!(taken.told.len(), 1);
    assert!(taken.told[0].contains("until `luo-trace policy clear`"), "{taken:?}");
    let PolicyChange {
        what, until, uid, text, ..
    } = taken.change;
    assert_eq!(
        (what, until, uid, text),
        (POLICY_HOLD, NEVER, 1000, Name::new("disk swap"))
    );
    // when any time passes, then it stands;
    assert_eq!(standing.expire(u64::MAX - 1), []);
    // when it is taken back, then that says whose it was.
    let taken = standing.take(&Order::Clear, 0, Mode::Enforce, 6);
    assert_eq!(taken.told, ["the hold is taken back: disk swap (user 1000)"]);
    assert_eq!((taken.change.what, taken.change.until), (POLICY_CLEAR, 0));
    assert_eq!(standing, Standing::default());
    let taken = standing.take(&Order::Clear, 0, Mode::Enforce, 7);
    assert_eq!(taken.told, ["there is neither hold nor allowance"]);
}

#[test]
fn where_nothing_is_refused_a_hold_says_so() {
    for (mode, says) in [(Mode::Audit, "nothing is refused, only told"), (Mode::Off, "nor told")] {
        let taken = Standing::default().take(&hold("x", Some(MINUTE)), 0, mode, 0);
        assert!(
            taken.told[0].contains("for 1m") && taken.told[1].contains(says),
            "{taken:?}"
        );
    }
}

#[test]
fn an_allowance_says_whose_hold_it_lifts_and_ends_by_itself() {
    let mut standing = Standing::default();
    standing.take(&hold("disk swap", None), 7, Mode::Enforce, 0);
    // When a process is let through while the host is held,
    let taken = standing.take(&allow("the fix", 10 * MINUTE), 8, Mode::Enforce, 0);
    // then they are told whose hold that lifts, and for how long;
    assert!(taken.told[0].contains("for 10m"), "{taken:?}");
    assert_eq!(taken.told[1], "for that time it lifts the hold: disk swap (user 7)");
    assert_eq!((taken.change.what, taken.change.until), (POLICY_ALLOW, 10 * MINUTE));
    // whoever holds it again meanwhile learns that this does not help yet;
    let again = standing.take(&hold("no, wait", None), 9, Mode::Enforce, MINUTE);
    assert!(
        again
            .told
            .iter()
            .any(|told| told.contains("pass for another 9m: the fix (user 8)")),
        "{again:?}"
    );
    assert!(
        again
            .told
            .iter()
            .any(|told| told.contains("place of another hold: disk swap")),
        "{again:?}"
    );
    // it stands to its last moment, and the end of it is told once.
    assert_eq!(standing.expire(10 * MINUTE - 1), []);
    let ended = standing.expire(10 * MINUTE);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].told, ["the allowance has come to its end: the fix (user 8)"]);
    assert_eq!(ended[0].change.what, POLICY_EXPIRED);
    assert_eq!(ended[0].change.text, Name::new("allowance: the fix"));
    assert_eq!(standing.expire(u64::MAX - 1), []);
    assert!(standing.hold.is_some());
}

#[test]
fn what_was_kept_is_known_to_the_next_agent_of_this_boot_only() {
    let mut standing = Standing::default();
    standing.take(&hold("disk swap", None), 7, Mode::Audit, 3);
    standing.take(&allow("the fix", MINUTE), 8, Mode::Audit, 4);
    let kept = standing.keep("this-boot");
    assert!((kept.len() as u64) < LONGEST_KEPT);
    assert_eq!(Standing::kept(kept.as_bytes(), "this-boot", 5), Ok(standing.clone()));
    // What has come to its end meanwhile is no more;
    let later = Standing::kept(kept.as_bytes(), "this-boot", 4 + MINUTE).unwrap();
    assert_eq!((later.hold, later.allowance), (standing.hold, None));
    // and the times of another boot mean nothing in this one.
    assert_eq!(Standing::kept(kept.as_bytes(), "next-boot", 5), Ok(Standing::default()));
}

#[test]
fn orders_that_cannot_be_read_are_a_hold() {
    let whole = Standing::default().keep("this-boot");
    for damaged in [
        "",
        "{",
        &whole[..whole.len() / 2],
        "[]",
        &whole.replace("\"version\":1", "\"version\":2"),
    ] {
        let why = Standing::kept(damaged.as_bytes(), "this-boot", 5).unwrap_err();
        let standing = Standing::of_damage(&why, 5);
        let hold = standing.hold.unwrap();
        assert_eq!(hold.until(), NEVER);
        assert!(hold.reason.contains("cannot be read"), "{hold}");
    }
}

#[test]
fn what_a_lost_agent_left_in_the_kernel_is_in_force_and_what_was_kept_tells_who_wanted_it() {
    let kept = |text: &str, until_ns| Entry {
        until_ns,
        since_ns: 1,
        uid: Some(7),
        reason: text.into(),
    };
    let both = Standing {
        hold: Some(kept("disk swap", None)),
        allowance: Some(kept("the fix", Some(100))),
        violated: 3,
    };
    // Both know both.
    assert_eq!(both.clone().joined(NEVER, 100, 10), both);
    // A hold that only one of them knows counts.
    assert_eq!(both.clone().joined(0, 100, 10).hold, both.hold);
    let joined = Standing::default().joined(NEVER, 0, 10);
    assert!(
        joined
            .hold
            .is_some_and(|hold| hold.until() == NEVER && hold.uid.is_none())
    );
    // An allowance that the kernel does not know any more, or that is over, is none.
    assert_eq!(both.clone().joined(NEVER, 0, 10).allowance, None);
    assert_eq!(both.joined(NEVER, 100, 100).allowance, None);
}

#[test]
fn a_reason_that_could_mislead_a_terminal_is_shown_escaped() {
    let entry = Entry {
        reason: "a\u{202e}b".into(),
        uid: Some(0),
        ..Entry::default()
    };
    assert_eq!(entry.to_string(), "a\\u{202e}b (user 0)");
}
