//! Whether what left is what arrived.

use super::*;

const CONSERVED: Invariant = Invariant::KexecSessionsConserved;

#[test]
fn a_session_that_does_not_arrive_is_found_and_named() {
    // Given a next kernel that finds one session of two,
    let second = record(1, |s| {
        s.arrival(&[("vm", &[1, 2])], &[("iommu-v1", 3)]);
    });
    // then the other one is lost, and the finding names it and the events of both boots.
    let chain = join(&[record(0, leaves), second]);
    let [finding] = broken(&chain, CONSERVED) else {
        panic!("{:#?}", chain.findings)
    };
    assert_eq!(finding.object.to_string(), "outgoing session \"db\"");
    let boots: Vec<_> = finding.evidence.iter().map(|evidence| evidence.boot).collect();
    assert_eq!(boots, [Some(0), Some(0), Some(1)], "{finding}");
    assert!(finding.to_string().contains("events 1/0:"), "{finding}");
}

#[test]
fn sessions_that_arrive_are_conserved_whatever_becomes_of_them_after() {
    let second = record(1, |s| {
        s.arrival(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
    });
    kept(&join(&[record(0, leaves), second]), CONSERVED);
}

#[test]
fn without_the_record_of_the_other_kernel_nothing_can_be_told() {
    open(&join(&[record(0, leaves)]), CONSERVED);
    open(&join(&[record(1, arrives)]), CONSERVED);
}
