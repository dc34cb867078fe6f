//! Journals of several machines in one directory: none is accused, or cleared, by what another did.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::journal::Host;
use crate::testing::cases;

const CONSERVED: Invariant = Invariant::KexecSessionsConserved;

/// What a machine's journals say of it.
fn host(machine: Option<usize>, product: Option<usize>) -> Host {
    let id = |id: Option<usize>| id.map(|id| format!("{id:032x}"));
    Host {
        machine: id(machine),
        product: id(product),
        ..Host::default()
    }
}

/// The records of a machine that updates twice, begun so many seconds later than another's. In each update so many of its sessions do not
/// arrive.
fn machine(number: usize, seconds: u64, lost: [usize; 2], host: &Host) -> Vec<Record> {
    let names: Vec<String> = (0..3).map(|vm| format!("vm-{number}-{vm}")).collect();
    let leave = |s: &mut Story, names: &[String]| {
        for (id, name) in (10..).zip(names) {
            let vm = session(id, name);
            s.create(vm).preserve(vm, 1, memfd(id));
        }
        s.load("kho=on liveupdate=on").reboot();
    };
    let arrive = |s: &mut Story, names: &[String]| {
        let arrived: Vec<_> = names.iter().map(|name| (name.as_str(), &[1u64][..])).collect();
        s.handover(&arrived, &[]).snapshot(|_| ());
    };
    let [first, second] = lost;
    let tales: [&dyn Fn(&mut Story); 3] = [
        &|s| {
            s.orderly();
            leave(s, &names);
        },
        &|s| {
            arrive(s, &names[first..]);
            leave(s, &names);
        },
        &|s| arrive(s, &names[second..]),
    ];
    let records = (0u64..).zip(tales).map(|(boot, tell)| {
        let mut record = record(boot, tell);
        record.header.boot_id = format!("{number}-{boot}");
        record.header.clock.realtime_ns += seconds * SECOND;
        record.header.host = host.clone();
        record
    });
    records.collect()
}

/// What is found, with the boots that prove it.
fn found(chain: &Chain) -> BTreeSet<(Invariant, String, Vec<String>)> {
    let boot = |place: usize| chain.boots[place].boot_id.clone();
    let findings = chain.findings.iter().map(|finding| {
        let boots = finding
            .evidence
            .iter()
            .filter_map(|evidence| Some(boot(evidence.boot?)));
        (finding.invariant, finding.object.to_string(), boots.collect())
    });
    findings.collect()
}

fn join_as(records: &[Record], hosts: Hosts) -> Chain {
    Chain::join(boots_of(records), hosts)
}

#[test]
fn two_machines_that_update_four_seconds_apart_are_two_chains() {
    // Given the journals of two machines that lost nothing, in one directory,
    let records = |host: fn(usize) -> Host| {
        let machines = (0..2).flat_map(|number| machine(number, 4 * number as u64, [0, 0], &host(number)));
        machines.collect::<Vec<_>>()
    };
    // when the second boot of one and the first of the other are missing,
    let some = |mut records: Vec<Record>| {
        records.remove(3);
        records.remove(1);
        records
    };
    // then nothing is found, and it is told what is missing of which;
    let told = join(&some(records(|number| host(Some(number), None))));
    assert_eq!((found(&told).len(), told.strangers.len()), (0, 0));
    assert_eq!(
        told.doubts(),
        [
            "the journal of one boot is missing, between boots 1 and 2",
            "the journal of one boot is missing, before boot 3"
        ]
    );
    // nor where they do not say whose they are, which is told as well.
    let silent = some(records(|_| Host::default()));
    let unknown = join(&silent);
    assert_eq!(found(&unknown), BTreeSet::new());
    assert_eq!(unknown.strangers, [Stranger::Nameless(4)]);
    open(&unknown, CONSERVED);
    assert!(unknown.doubts().last().unwrap().contains("--one-host"));
    // Who says that they are one machine's has it judged so.
    assert_ne!(found(&join_as(&silent, Hosts::One)), BTreeSet::new());
}

#[test]
fn what_one_machine_lost_is_found_among_the_journals_of_others() {
    let records: Vec<_> = (0..3)
        .flat_map(|number| {
            machine(
                number,
                4 * number as u64,
                [usize::from(number == 1), 0],
                &host(Some(number), None),
            )
        })
        .collect();
    let chain = join(&records);
    let broken = broken(&chain, CONSERVED);
    assert_eq!(broken.len(), 1, "{broken:#?}");
    assert_eq!(broken[0].object.to_string(), "outgoing session \"vm-1-0\"");
    let order = ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2", "2-0", "2-1", "2-2"];
    let boots: Vec<_> = chain.boots.iter().map(|boot| boot.boot_id.as_str()).collect();
    assert_eq!(boots, order, "machine by machine");
}

#[test]
fn an_agent_that_knows_less_of_its_machine_than_the_one_before_is_still_on_it() {
    // Given a kernel whose agent runs in an initramfs, where only the hardware has an id,
    let mut records = machine(0, 0, [1, 0], &host(Some(1), Some(2)));
    records[1].header.host = host(None, Some(2));
    // then what did not arrive in it is found.
    broken(&join(&records), CONSERVED);
}

#[test]
fn the_journals_in_one_serial_log_are_of_one_machine() {
    let mut boots = boots_of(&machine(0, 0, [1, 0], &Host::default()));
    assert_eq!(Chain::join(boots.clone(), Hosts::Told).findings, []);
    boots.iter_mut().for_each(|boot| boot.log = Some(0));
    broken(&Chain::join(boots, Hosts::Told), CONSERVED);
}

#[test]
fn copies_of_one_machine_are_told_apart_by_their_hardware() {
    let copies = |product: fn(usize) -> Option<usize>| {
        let copies =
            (0..2).flat_map(|number| machine(number, 3600 * number as u64, [0, 0], &host(Some(1), product(number))));
        copies.collect::<Vec<_>>()
    };
    let chain = join(&copies(Some));
    assert_eq!(
        (chain.holes.len(), chain.strangers.len(), found(&chain).len()),
        (0, 0, 0)
    );
    assert_eq!(chain.updates.len(), 4);
}

#[test]
fn machines_with_one_id_that_ran_at_the_same_time_are_not_joined() {
    // Given two machines with one id, of which one has recorded for an hour when the other begins, and no journal of what came then,
    let mut records: Vec<_> = (0..2)
        .flat_map(|number| machine(number, 0, [0, 0], &host(Some(1), None)))
        .collect();
    records.retain(|record| ["0-0", "1-1"].contains(&record.header.boot_id.as_str()));
    records[0].header.clock.realtime_ns -= 900 * SECOND;
    if let Some(last) = records[0].events.last_mut() {
        last.header.ktime += 3600 * SECOND;
    }
    let chain = join(&records);
    // then the one is not accused of what the other has not.
    assert_eq!(found(&chain), BTreeSet::new());
    assert_eq!(chain.strangers, [Stranger::Contradiction(0, 1)]);
    assert!(chain.doubts().last().unwrap().contains("boots 1 and 2"));
}

/// How much the journals of a rollout say of their machines.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// Each has an id of its own.
    Each,
    /// All have one, and hardware of their own.
    Copies,
    /// Some have none, by their number's bits.
    Some(u16),
    Nothing,
}

impl Told {
    fn of(self, number: usize) -> Host {
        match self {
            Self::Each => host(Some(number), None),
            Self::Copies => host(Some(1), Some(number)),
            Self::Some(which) if which >> number & 1 == 1 => host(Some(number), None),
            Self::Some(_) | Self::Nothing => Host::default(),
        }
    }
}

fn told() -> impl Strategy<Value = Told> {
    let some = any::<u16>().prop_map(Told::Some);
    prop_oneof![Just(Told::Each), Just(Told::Copies), some, Just(Told::Nothing)]
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_rollout_in_one_directory_gives_no_finding_that_a_machine_alone_does_not_give(
        told in told(),
        seconds in prop::collection::vec(0u64..200, 10),
        lost in prop::collection::vec((0usize..3, 0usize..3), 10),
        missing in prop::collection::vec(any::<bool>(), 30),
        order in Just((0..30).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        // Given ten machines that update twice, some of which lose sessions, and of whose journals some are missing,
        let machines: Vec<_> = (0..10)
            .map(|number| {
                let (first, second) = lost[number];
                let mut boots = (number * 3..).zip(machine(number, seconds[number], [first, second], &told.of(number)));
                let kept: Vec<_> = boots.by_ref().filter(|(place, _)| !missing[*place]).collect();
                kept
            })
            .collect();
        // when those that are left lie in one directory, in any order,
        let mut all: Vec<_> = machines.iter().flatten().cloned().collect();
        all.sort_by_key(|(place, _)| order[*place]);
        let records = |machine: &[(usize, Record)]| machine.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>();
        let together = join(&records(&all));
        // then nothing is found but what each machine's journals give by themselves, and all of that where they say whose they are.
        let alone = machines.iter().map(|machine| found(&join_as(&records(machine), Hosts::One)));
        let alone: BTreeSet<_> = alone.flatten().collect();
        match told {
            Told::Each | Told::Copies => prop_assert_eq!(found(&together), alone),
            Told::Some(_) | Told::Nothing => prop_assert!(found(&together).is_subset(&alone)),
        }
        if matches!(told, Told::Nothing) {
            prop_assert_eq!(found(&together), BTreeSet::new());
        }
    }
}
