//! What became of each file that arrived.

use super::*;
use crate::chain::FileFate;

const ACCOUNTED: Invariant = Invariant::KexecFilesAccounted;

/// A second kernel that finds what [`leaves`] left and reads it in, and what is done there.
fn then(tell: impl FnOnce(&mut Story)) -> Record {
    let (vm, db) = (session(1, "vm"), session(2, "db"));
    record(1, |s| {
        s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
        s.snapshot(|snapshot| _ = snapshot.unread())
            .arrive(vm, 2)
            .arrive(db, 1)
            .read_in();
        tell(s);
    })
}

fn fates(chain: &Chain) -> Vec<(String, u64, FileFate)> {
    let unclaimed = chain.updates[0].unclaimed.iter();
    unclaimed
        .map(|file| (file.session.to_string(), file.token, file.fate))
        .collect()
}

#[test]
fn a_file_that_nobody_asked_for_is_told_with_its_age_and_breaks_nothing() {
    // Given one file of a session that is retrieved, and one that is finished as it is, and another session left alone,
    let vm = session(1, "vm");
    let second = then(|s| {
        s.retrieve_session(vm)
            .retrieve(vm, 1, memfd(1))
            .finish_files(vm, 2, |_| ());
        s.wait(5 * SECOND)
            .snapshot(|snapshot| _ = snapshot.incoming(session(2, "db"), false, &[(7, memfd(7), 0)]));
    });
    let chain = join(&[record(0, leaves), second]);
    // then both are told, the one that waits with its age,
    assert_eq!(
        fates(&chain),
        [
            ("db".into(), 7, FileFate::Pending),
            ("vm".into(), 2, FileFate::Unclaimed)
        ]
    );
    let age = chain.updates[0].unclaimed[0].age_ns / SECOND;
    assert_eq!(age, 5);
    let files = chain.updates[0].files;
    assert_eq!((files.finished, files.unclaimed, files.pending), (1, 1, 1));
    // and no promise is broken.
    kept(&chain, ACCOUNTED);
}

#[test]
fn a_retrieve_that_failed_is_no_retrieve() {
    let vm = session(1, "vm");
    let second = then(|s| _ = s.retrieve_session(vm).failing(5).retrieve(vm, 1, memfd(1)));
    let chain = join(&[record(0, leaves), second]);
    kept(&chain, ACCOUNTED);
    assert_eq!(chain.updates[0].files.pending, 3);
    let file = &chain.boots[1].incoming.get(&vm.name).unwrap().files[&1];
    assert_eq!((file.failures, file.refused), (1, Some(-5)));
}

#[test]
fn a_file_that_waits_when_the_next_update_leaves_is_lost() {
    // Given a kernel that leaves again while a session that came waits,
    let vm = session(1, "vm");
    let second = then(|s| {
        s.retrieve_session(vm)
            .retrieve(vm, 1, memfd(1))
            .retrieve(vm, 2, memfd(2));
        s.finish_files(vm, 2, |_| ()).load("kho=on liveupdate=on").reboot();
    });
    let third = record(2, |s| _ = s.handover(&[], &[]));
    let chain = join(&[record(0, leaves), second, third]);
    // then what waited is lost.
    let [finding] = broken(&chain, ACCOUNTED) else {
        panic!("{:#?}", chain.findings)
    };
    assert_eq!(finding.object.to_string(), "file 0x7 of session \"db\"");
    assert_eq!(fates(&chain), [("db".into(), 7, FileFate::Lost)]);
}

#[test]
fn an_update_that_was_given_up_loses_nothing() {
    let second = then(|s| {
        _ = s
            .load("kho=on liveupdate=on")
            .failing(5)
            .reboot()
            .failing(5)
            .kexec_returns()
    });
    let chain = join(&[record(0, leaves), second]);
    kept(&chain, ACCOUNTED);
    assert_eq!(chain.updates.len(), 2);
    assert_eq!(chain.updates[0].files.pending, 3);
}

#[test]
fn files_that_are_gone_though_nothing_finished_them_are_found() {
    // Given walks that do not find a session that came, long after,
    let gone = |finish: bool| {
        then(|s| {
            let (vm, db) = (session(1, "vm"), session(2, "db"));
            if finish {
                s.finish_files(db, 1, |_| ());
            }
            let snapshot = |snapshot: &mut crate::testing::Snapshot| {
                snapshot.incoming(vm, false, &[(1, memfd(1), 0), (2, memfd(2), 0)]);
            };
            s.snapshot(snapshot).wait(2 * SECOND).snapshot(snapshot);
        })
    };
    // then its files are gone, unless they were finished.
    let chain = join(&[record(0, leaves), gone(false)]);
    assert_eq!(
        broken(&chain, ACCOUNTED)[0].object.to_string(),
        "incoming session \"db\""
    );
    kept(&join(&[record(0, leaves), gone(true)]), ACCOUNTED);
}

#[test]
fn after_a_loss_what_was_not_seen_to_end_may_have_ended() {
    let second = then(|s| _ = s.gap().retrieve_session(session(1, "vm")));
    let chain = join(&[record(0, leaves), second]);
    open(&chain, ACCOUNTED);
    assert_eq!((chain.updates[0].files.unknown, fates(&chain)), (3, vec![]));
}

#[test]
fn the_files_of_an_update_whose_first_kernel_nobody_watched_are_accounted_for_all_the_same() {
    let chain = join(&[record(1, arrives)]);
    kept(&chain, ACCOUNTED);
    assert_eq!(
        (chain.updates[0].fate, chain.updates[0].files.finished),
        (Fate::Arrived, 3)
    );
}
