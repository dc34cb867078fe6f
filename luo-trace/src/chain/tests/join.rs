//! Which boot followed which, and whether an update arrived.

use super::*;

const NUMBER: Invariant = Invariant::KexecNumber;
const ARRIVED: Invariant = Invariant::KexecArrived;

/// A kernel in the middle of a chain: a session of the same name comes and goes.
fn passes(s: &mut Story) {
    let (came, goes) = (session(1, "vm"), session(2, "vm"));
    s.handover(&[("vm", &[1])], &[])
        .snapshot(|snapshot| _ = snapshot.unread())
        .arrive(came, 1)
        .read_in();
    s.retrieve_session(came)
        .retrieve(came, 1, memfd(1))
        .create(goes)
        .preserve(goes, 1, memfd(1));
    s.finish_files(came, 1, |_| ()).load("kho=on liveupdate=on").reboot();
}

fn begins(s: &mut Story) {
    let vm = session(1, "vm");
    s.orderly().create(vm).preserve(vm, 1, memfd(1)).reboot();
}

fn numbers(chain: &Chain) -> Vec<(Option<u64>, Fate)> {
    chain
        .updates
        .iter()
        .map(|update| (update.number, update.fate))
        .collect()
}

fn boots(chain: &Chain) -> Vec<&str> {
    chain.boots.iter().map(|boot| boot.boot_id.as_str()).collect()
}

#[test]
fn a_chain_of_ten_updates_is_joined_whatever_the_order_of_its_records() {
    // Given eleven boots in which a session of one name goes round, and their records in disorder,
    let mut records: Vec<_> = (1..=10).map(|number| record(number, passes)).collect();
    records.insert(3, record(0, begins));
    records.reverse();
    let chain = join(&records);
    // then they are ten updates, and in each the session that came is another one than that which goes.
    assert_eq!(boots(&chain)[..2], ["boot-0", "boot-1"]);
    let mut wanted: Vec<_> = (1..=10).map(|number| (Some(number), Fate::Completed)).collect();
    wanted.push((Some(11), Fate::Departed));
    assert_eq!(numbers(&chain), wanted);
    assert_eq!(chain.holes, []);
    assert_eq!(chain.findings, []);
    let last = chain
        .verdicts
        .iter()
        .find(|verdict| verdict.invariant == NUMBER)
        .unwrap();
    assert_eq!((last.ok, last.undecidable), (10, 1));
}

#[test]
fn a_boot_without_a_record_is_a_hole_that_is_told() {
    let chain = join(&[record(0, begins), record(1, passes), record(4, passes)]);
    assert_eq!(
        chain.doubts(),
        ["the journals of 2 boots are missing, between boots 2 and 3"]
    );
    assert_eq!(
        numbers(&chain),
        [
            (Some(1), Fate::Completed),
            (Some(2), Fate::Departed),
            (Some(4), Fate::Arrived),
            (Some(5), Fate::Departed)
        ]
    );
    open(&chain, NUMBER);
    // A chain whose beginning is missing, too.
    let chain = join(&[record(2, passes), record(3, passes)]);
    assert_eq!(chain.doubts(), ["the journals of 2 boots are missing, before boot 1"]);
}

#[test]
fn what_the_wall_clock_alone_has_joined_is_no_proof() {
    // Given two kernels that say nothing of what was before them, and of which one began when the other had left, with another session,
    let silent = |mut record: Record| {
        (record.header.update_number, record.header.kexec) = (None, None);
        record
    };
    let other = |s: &mut Story| _ = s.handover(&[("other", &[1])], &[]);
    let records = [record(0, begins), record(1, other)];
    assert!(!join(&records).findings.is_empty());
    let chain = join(&records.map(silent));
    // then they may be two machines': nothing is found, and what left is in doubt.
    assert_eq!(chain.updates[0].basis, Some(Basis::Clock));
    assert_eq!(chain.findings, []);
    open(&chain, Invariant::KexecSessionsConserved);
}

#[test]
fn a_boot_that_never_tried_an_update_has_nothing_to_decide() {
    let chain = join(&[record(0, |s| _ = s.orderly().create(session(1, "vm")))]);
    assert_eq!((chain.updates, chain.holes), (vec![], vec![]));
    assert!(chain.verdicts.iter().all(|verdict| verdict.status == Status::Ok));
}

#[test]
fn a_cold_boot_begins_a_chain_anew() {
    // Given an update, then a cold boot and another one,
    let later = |record: Record| {
        let mut record = record;
        record.header.boot_id += "-later";
        record.header.clock.realtime_ns += 3600 * SECOND;
        record
    };
    let quiet = |s: &mut Story| _ = s.handover(&[("vm", &[1])], &[]);
    let records = [
        record(0, begins),
        later(record(1, quiet)),
        later(record(0, begins)),
        record(1, quiet),
    ];
    let chain = join(&records);
    // then each boot follows its own.
    assert_eq!(boots(&chain), ["boot-0", "boot-1", "boot-0-later", "boot-1-later"]);
    assert_eq!(
        numbers(&chain),
        [(Some(1), Fate::Completed), (Some(1), Fate::Completed)]
    );
    kept(&chain, NUMBER);
}

#[test]
fn attempts_that_were_given_up_are_updates_of_their_own() {
    let first = record(0, |s| {
        let vm = session(1, "vm");
        s.orderly().create(vm).preserve(vm, 1, memfd(1));
        for _ in 0..2 {
            s.failing(16).reboot().failing(16).kexec_returns();
        }
        s.reboot();
    });
    let chain = join(&[first, record(1, |s| _ = s.handover(&[("vm", &[1])], &[]))]);
    let fates: Vec<_> = chain.updates.iter().map(|update| update.fate).collect();
    assert_eq!(fates, [Fate::Aborted, Fate::Aborted, Fate::Completed]);
    kept(&chain, Invariant::KexecSessionsConserved);
}

#[test]
fn a_kernel_of_another_release_than_the_next_one_names_is_not_the_one_before() {
    let mut second = record(1, passes);
    second.header.kexec.as_mut().unwrap().previous_release = Some("7.2.13".into());
    let chain = join(&[record(0, begins), second]);
    assert_eq!(chain.updates[1].fate, Fate::Arrived);
    assert_eq!(
        chain.doubts(),
        ["the journal of at least one boot is missing, between boots 1 and 2"]
    );
}

/// A record from before LUO's number was written down.
fn old(mut record: Record) -> Record {
    record.header.update_number = None;
    for event in &mut record.events {
        if let Body::SnapshotBegin(p) = &mut event.body {
            p.update_number = u64::MAX;
        }
    }
    record
}

#[test]
fn old_journals_are_joined_by_the_count_of_kexecs_or_else_by_the_clock_and_that_is_told() {
    let (first, second) = (old(record(0, begins)), old(record(1, passes)));
    let chain = join(&[second.clone(), first.clone()]);
    assert_eq!(chain.updates[0].basis, Some(Basis::Count));
    kept(
        &join(&[first.clone(), old(record(1, |s| _ = s.handover(&[("vm", &[1])], &[])))]),
        NUMBER,
    );
    let mut silent = second;
    silent.header.kexec = None;
    let chain = join(&[silent, first]);
    assert_eq!(
        (chain.updates[0].fate, chain.updates[0].basis),
        (Fate::Completed, Some(Basis::Clock))
    );
    open(&chain, NUMBER);
}

#[test]
fn a_number_that_does_not_go_up_by_one_is_found() {
    // Given a kernel that a kexec brought up with memory handed over, and that counts from 0,
    let mut second = record(1, |s| _ = s.handover(&[], &[]));
    second.header.update_number = Some(0);
    let chain = join(&[record(0, |s| _ = s.orderly().reboot()), second]);
    assert_eq!(broken(&chain, NUMBER)[0].seen, "it is number 0");
}

#[test]
fn a_number_that_leaves_one_out_where_no_kexec_is_missing_is_found() {
    let mut second = record(1, |s| _ = s.handover(&[("vm", &[1])], &[]));
    second.header.update_number = Some(2);
    let chain = join(&[record(0, begins), second]);
    assert_eq!(chain.updates[0].basis, Some(Basis::Count));
    assert_eq!(broken(&chain, NUMBER)[0].seen, "it is number 2");
}

#[test]
fn a_boot_that_would_be_next_by_its_number_and_began_much_later_may_belong_to_another_chain() {
    // Given the second boot of a chain whose first boot has no record, hours after the first boot of another one,
    let mut second = record(1, |s| _ = s.handover(&[("other", &[5])], &[]));
    second.header.clock.realtime_ns += 7200 * SECOND;
    let chain = join(&[record(0, begins), second]);
    // then that it brought other sessions proves nothing.
    open(&chain, Invariant::KexecSessionsConserved);
}

mod cold {
    use super::*;

    /// A cold boot, so many seconds after [`begins`] has departed.
    fn boot(seconds: u64) -> Record {
        let mut cold = record(0, |s| _ = s.snapshot(|_| ()));
        cold.header.boot_id = "cold".into();
        cold.header.clock.realtime_ns += seconds * SECOND;
        cold
    }

    #[test]
    fn a_machine_that_boots_cold_soon_after_it_departed_did_not_arrive() {
        let chain = join(&[record(0, begins), boot(90)]);
        assert_eq!(numbers(&chain), [(Some(1), Fate::Departed)]);
        assert!(broken(&chain, ARRIVED)[0].seen.contains("booted cold"));
    }

    #[test]
    fn a_cold_boot_much_later_may_have_followed_a_kernel_that_nobody_watched() {
        open(&join(&[record(0, begins), boot(7200)]), ARRIVED);
        open(&join(&[record(0, begins)]), ARRIVED);
    }

    #[test]
    fn a_cold_boot_after_an_update_that_was_given_up_is_no_failure_to_arrive() {
        let gave_up = record(0, |s| _ = s.orderly().failing(5).reboot().failing(5).kexec_returns());
        kept(&join(&[gave_up, boot(90)]), ARRIVED);
    }
}
