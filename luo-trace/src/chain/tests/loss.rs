//! A record with losses never says more than the whole one.

use std::collections::BTreeSet;

use super::*;
use crate::testing::with_losses;

/// What is found broken, of what.
fn found(chain: &Chain) -> BTreeSet<(Invariant, String)> {
    let findings = chain.findings.iter();
    findings
        .map(|finding| (finding.invariant, finding.object.to_string()))
        .collect()
}

/// Asserts that whichever event of either record is lost, nothing is found that is not found with it.
#[track_caller]
fn says_no_more(records: &[Record]) {
    let whole = found(&join(records));
    for boot in 0..records.len() {
        for place in 0..records[boot].events.len() {
            let mut lossy = records.to_vec();
            lossy[boot].events = with_losses(&records[boot].events, |event| event == place);
            let left = found(&join(&lossy));
            let lost = &records[boot].events[place];
            assert!(
                left.is_subset(&whole),
                "without {} of boot {boot}: {left:#?}",
                lost.name()
            );
        }
    }
}

#[test]
fn a_loss_never_makes_a_good_update_look_broken() {
    says_no_more(&[record(0, leaves), record(1, arrives)]);
}

#[test]
fn a_loss_never_makes_a_broken_update_look_more_broken() {
    let second = record(1, |s| {
        s.handover(&[("vm", &[1, 9])], &[("iommu-v1", 4)]);
        s.snapshot(|snapshot| _ = snapshot.unread())
            .arrive(session(1, "vm"), 2)
            .read_in();
        s.load("kho=on liveupdate=on").reboot();
    });
    let third = record(2, |s| _ = s.handover(&[], &[]));
    says_no_more(&[record(0, leaves), second, third]);
}

#[test]
fn a_record_that_stops_anywhere_says_no_more() {
    let records = [record(0, leaves), record(1, arrives)];
    for boot in 0..2 {
        for end in 0..records[boot].events.len() {
            let mut cut = records.to_vec();
            cut[boot].events.truncate(end);
            assert_eq!(found(&join(&cut)), BTreeSet::new(), "boot {boot} stops at {end}");
        }
    }
}
