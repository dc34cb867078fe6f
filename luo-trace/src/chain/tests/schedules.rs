//! Random schedules up to the jump: what arrives as it left is never found broken, however much of the record is lost; what
//! does not is found wherever the record tells.

use proptest::prelude::*;

use super::*;
use crate::testing::{Deed, Fault, Left, Plan, cases, with_losses, with_misses};

const CONSERVED: Invariant = Invariant::KexecSessionsConserved;

fn deed() -> impl Strategy<Value = Deed> {
    let fault = prop_oneof![8 => Just(Fault::None), 1 => Just(Fault::Handler)];
    prop_oneof![
        4 => (0u8..3).prop_map(|name| Deed::Create { name }),
        10 => (0u8..3, 0u8..4, 0u8..6, fault)
            .prop_map(|(session, token, file, fault)| Deed::Preserve { session, token, file, fault }),
        3 => (0u8..3).prop_map(|session| Deed::Close { session }),
        1 => Just(Deed::Reboot { fault: Fault::Handler }),
        1 => Just(Deed::Snapshot),
    ]
}

/// Tasks that make sessions while one of them reboots at its end; the agent looks first. reboot(2) lets in one at a time.
fn plan() -> impl Strategy<Value = Plan> {
    let tasks = prop::collection::vec(prop::collection::vec(deed(), 0..12), 1..4);
    let order = prop::collection::vec(any::<u8>(), 1..60);
    (tasks, order).prop_map(|(mut tasks, order)| {
        for others in tasks.iter_mut().skip(1) {
            others.retain(|deed| !matches!(deed, Deed::Reboot { .. }));
        }
        tasks[0].push(Deed::Reboot { fault: Fault::None });
        Plan {
            incoming: Vec::new(),
            tasks,
            order,
            snapshot: true,
        }
    })
}

/// The record of a kernel that left, and of the next one, which finds this.
fn update(events: Vec<Event>, left: &Left) -> [Record; 2] {
    let first = Record {
        events,
        ..record(0, |_| ())
    };
    let sessions: Vec<_> = left
        .sessions
        .iter()
        .map(|(name, tokens)| (name.as_str(), &tokens[..]))
        .collect();
    let flbs: Vec<_> = left.flbs.iter().map(|(name, users)| (name.as_str(), *users)).collect();
    [first, record(1, |s| _ = s.handover(&sessions, &flbs))]
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn what_arrives_as_it_left_is_never_found_broken(
        plan in plan(),
        lost in prop::collection::vec(prop::bool::weighted(0.1), 1..80),
        sizes in prop::collection::vec(1usize..20, 1..40),
    ) {
        let (events, left) = plan.run_and_leave();
        let Some(left) = left else { return Ok(()) };
        let chain = join(&update(events.clone(), &left));
        prop_assert_eq!(&chain.findings, &[]);
        prop_assert_eq!(chain.updates.last().map(|update| update.fate), Some(Fate::Completed));
        // However much is lost, seen or unseen,
        let losses = with_losses(&events, |place| lost[place % lost.len()]);
        prop_assert_eq!(join(&update(losses, &left)).findings, &[]);
        let misses = with_misses(&events, &sizes, |place| lost[place % lost.len()]);
        prop_assert_eq!(join(&update(misses, &left)).findings, &[]);
    }

    #[test]
    fn what_does_not_arrive_is_found_wherever_it_is_known_that_it_left(plan in plan(), which in any::<prop::sample::Index>()) {
        let (events, left) = plan.run_and_leave();
        let Some(left) = left.filter(|left| !left.sessions.is_empty()) else { return Ok(()) };
        let whole = join(&update(events.clone(), &left));
        prop_assert!(changed_meanwhile(&whole.boots[0]) || status(&whole, CONSERVED) == Some(Status::Ok));
        // Given that one session of those that left is not there, or one of its files too many,
        let place = which.index(left.sessions.len());
        let mut lacking = left.clone();
        let (name, _) = lacking.sessions.remove(place);
        let mut more = left;
        more.sessions[place].1.push(999);
        for other in [lacking, more] {
            let chain = join(&update(events.clone(), &other));
            let found = chain.findings.iter().map(|finding| (finding.invariant, finding.object.to_string()));
            let found: Vec<_> = found.collect();
            // then it is found, and nothing else; unless a process changed something while the kernel froze.
            if changed_meanwhile(&chain.boots[0]) {
                prop_assert_eq!(found, []);
                prop_assert_eq!(status(&chain, CONSERVED), Some(Status::Unknown));
            } else {
                prop_assert_eq!(found, [(CONSERVED, format!("outgoing session \"{name}\""))]);
            }
        }
    }
}

/// Whether an operation on sessions or files ended after the kernel had begun to freeze.
fn changed_meanwhile(boot: &Boot) -> bool {
    let serialize = boot.attempts.last().and_then(|attempt| attempt.serialize);
    serialize.is_some_and(|span| boot.known.changed > span.start)
}
