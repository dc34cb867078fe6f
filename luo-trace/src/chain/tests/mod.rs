//! Stories of live updates, told by the records of the kernels on both sides.

use luo_trace_common::events::{FlbCall, IMAGE_LEGACY, Image, SnapshotHandler};
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::Compatible;

use super::{Basis, Boot, Chain, Fate, Hosts, Stranger};
use crate::event::{Body, Event};
use crate::journal::Header;
use crate::model::{Finding, Invariant, Status};
use crate::testing::{IMAGE, MEMFD, Story, header, memfd, session};

mod account;
mod conserve;
mod hosts;
mod join;
mod loss;
mod schedules;

const SECOND: u64 = 1_000_000_000;

/// The record of one boot: what its header says, and its events.
#[derive(Clone, Debug)]
struct Record {
    header: Header,
    events: Vec<Event>,
}

/// The record of the boot of this number in a chain of live updates: 0 is a cold boot. A minute lies between two boots.
fn record(number: u64, tell: impl FnOnce(&mut Story)) -> Record {
    let mut story = Story::new();
    tell(&mut story);
    Record {
        header: header(number),
        events: story.events,
    }
}

/// What the records prove together.
fn join(records: &[Record]) -> Chain {
    Chain::join(boots_of(records), Hosts::Told)
}

fn boots_of(records: &[Record]) -> Vec<Boot> {
    let boots = records.iter().map(|record| {
        let mut boot = Boot::new(&record.header);
        record.events.iter().for_each(|event| boot.apply(event));
        boot
    });
    boots.collect()
}

fn status(chain: &Chain, invariant: Invariant) -> Option<Status> {
    let verdict = chain.verdicts.iter().find(|verdict| verdict.invariant == invariant);
    verdict.map(|verdict| verdict.status)
}

/// Asserts that this invariant, and no other, is found broken, and gives the findings.
#[track_caller]
fn broken(chain: &Chain, invariant: Invariant) -> &[Finding] {
    let others: Vec<_> = chain
        .findings
        .iter()
        .filter(|finding| finding.invariant != invariant)
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(
        status(chain, invariant),
        Some(Status::Violated),
        "{:#?}",
        chain.verdicts
    );
    &chain.findings
}

/// Asserts that nothing is found broken, and that of this invariant it is known.
#[track_caller]
fn kept(chain: &Chain, invariant: Invariant) {
    assert_eq!(chain.findings, []);
    assert_eq!(status(chain, invariant), Some(Status::Ok), "{:#?}", chain.verdicts);
}

/// Asserts that nothing is found broken, and that of this invariant it is not known.
#[track_caller]
fn open(chain: &Chain, invariant: Invariant) {
    assert_eq!(chain.findings, []);
    assert_eq!(status(chain, invariant), Some(Status::Unknown), "{:#?}", chain.verdicts);
}

/// A kernel that preserves two sessions, `vm` with two files and `db` with one, and leaves.
fn leaves(s: &mut Story) {
    let (vm, db) = (session(1, "vm"), session(2, "db"));
    s.orderly()
        .create(vm)
        .preserve(vm, 1, memfd(1))
        .preserve(vm, 2, memfd(2));
    s.create(db).preserve(db, 7, memfd(3));
    s.reboot_with(IMAGE, |s| {
        s.freeze_files(vm, 2)
            .freeze_files(db, 1)
            .flb_record("iommu-v1", 3)
            .serialize();
    });
}

/// A kernel that finds these sessions, and whose orchestrator retrieves and finishes all of it.
fn arrives(s: &mut Story) {
    let (vm, db) = (session(1, "vm"), session(2, "db"));
    s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
    s.snapshot(|snapshot| _ = snapshot.unread());
    s.arrive(vm, 2).arrive(db, 1).read_in();
    for (vm, tokens) in [(vm, &[1, 2][..]), (db, &[7])] {
        s.retrieve_session(vm);
        for &token in tokens {
            s.retrieve(vm, token, memfd(token));
        }
        s.finish_files(vm, tokens.len() as u64, |_| ());
    }
}

#[test]
fn an_update_that_brings_everything_over_keeps_every_promise() {
    // Given a kernel that leaves with two sessions, and one that finds them and whose owners finish them,
    let chain = join(&[record(0, leaves), record(1, arrives)]);
    // then it is one update, complete, and nothing about it is in doubt but what was not watched.
    let [update] = &chain.updates[..] else {
        panic!("{:#?}", chain.updates)
    };
    assert_eq!(
        (update.number, update.fate, update.files.finished),
        (Some(1), Fate::Completed, 3)
    );
    assert_eq!((update.from, update.to), (Some(0), Some(1)));
    assert_eq!(chain.findings, []);
    assert_eq!(chain.doubts(), Vec::<String>::new());
    let doubted = chain.verdicts.iter().filter(|verdict| verdict.status != Status::Ok);
    assert_eq!(doubted.map(|verdict| verdict.invariant).collect::<Vec<_>>(), []);
}
