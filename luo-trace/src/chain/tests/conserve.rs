//! Whether what left is what arrived.

use luo_trace_common::events::{VERDICT_CARRIES, VERDICT_LOSES, VERDICT_UNKNOWN};

use super::*;

const CONSERVED: Invariant = Invariant::KexecSessionsConserved;

#[test]
fn a_session_that_does_not_arrive_is_found_and_named() {
    // Given a next kernel that finds one session of two,
    let second = record(1, |s| {
        s.handover(&[("vm", &[1, 2])], &[("iommu-v1", 3)]);
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
        s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
    });
    kept(&join(&[record(0, leaves), second]), CONSERVED);
}

#[test]
fn a_session_that_has_the_address_of_one_whose_closing_is_told_late_left_all_the_same() {
    // Given a session that is closed, and another that has its address by the time that is told,
    let (old, new) = (session(1, "old"), session(1, "new"));
    let first = record(0, |s| {
        let closing = s.orderly().create(old).now();
        s.create(new).since(closing).release(old, 0, |_| ()).reboot();
    });
    // when none arrives, then the other one is lost.
    let chain = join(&[first, record(1, |s| _ = s.handover(&[], &[]))]);
    let [finding] = broken(&chain, CONSERVED) else {
        panic!("{:#?}", chain.findings)
    };
    assert_eq!(finding.object.to_string(), "outgoing session \"new\"");
}

#[test]
fn without_the_record_of_the_other_kernel_nothing_can_be_told() {
    open(&join(&[record(0, leaves)]), CONSERVED);
    open(&join(&[record(1, arrives)]), CONSERVED);
}

#[test]
fn what_is_different_in_a_session_is_one_finding_for_the_session() {
    // Given a session of a hundred files, of which one arrives under another token, and a second session as it was,
    let (big, db) = (session(1, "big"), session(2, "db"));
    let first = record(0, |s| {
        s.orderly().create(big).create(db);
        for token in 0..100 {
            s.preserve(big, token, memfd(token));
        }
        s.preserve(db, 7, memfd(200)).reboot();
    });
    let tokens: Vec<u64> = (1..=100).collect();
    let second = record(1, |s| _ = s.handover(&[("big", &tokens), ("db", &[7])], &[]));
    // then one finding says so,
    let chain = join(&[first.clone(), second]);
    let [finding] = broken(&chain, CONSERVED) else {
        panic!("{:#?}", chain.findings)
    };
    assert_eq!(
        finding.seen,
        "file 0x0 did not arrive, file 0x64 arrived and had not left"
    );
    // and where all are lost, the first of them stand for the rest.
    let second = record(1, |s| _ = s.handover(&[("big", &[]), ("db", &[7])], &[]));
    let chain = join(&[first, second]);
    let seen = &broken(&chain, CONSERVED)[0].seen;
    assert!(
        seen.ends_with("file 0x2 did not arrive, and 97 more differences"),
        "{seen}"
    );
}

#[test]
fn a_file_that_arrives_with_another_handler_is_found() {
    let mut second = record(1, |s| {
        _ = s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)])
    });
    for event in &mut second.events {
        if let Body::ArrivedFile(p) = &mut event.body
            && p.token == 2
        {
            p.handler = Compatible::new("memfd-v9");
        }
    }
    let chain = join(&[record(0, leaves), second]);
    let seen = &broken(&chain, CONSERVED)[0].seen;
    assert_eq!(
        seen,
        "file 0x2 left with the handler \"memfd-v2\" and arrived with \"memfd-v9\""
    );
}

#[test]
fn a_session_that_arrives_and_had_not_left_is_found() {
    let second = record(1, |s| {
        s.handover(&[("vm", &[1, 2]), ("db", &[7]), ("ghost", &[])], &[("iommu-v1", 3)]);
    });
    let chain = join(&[record(0, leaves), second]);
    let finding = &broken(&chain, CONSERVED)[0];
    assert_eq!(finding.object.to_string(), "incoming session \"ghost\"");
    assert_eq!(finding.seen, "it arrived, and had not left");
}

#[test]
fn what_was_given_up_before_the_freeze_is_not_missed() {
    // Given a session that was closed, one that could not be made, and a file that could not be preserved,
    let first = record(0, |s| {
        let (gone, refused, vm) = (session(1, "gone"), session(2, "refused"), session(3, "vm"));
        s.orderly()
            .create(gone)
            .preserve(gone, 1, memfd(1))
            .close(gone, &[(1, memfd(1))]);
        s.failing(12).create(refused);
        s.create(vm)
            .preserve(vm, 1, memfd(1))
            .failing(12)
            .preserve(vm, 2, memfd(2))
            .reboot();
    });
    let second = record(1, |s| _ = s.handover(&[("vm", &[1])], &[]));
    kept(&join(&[first, second]), CONSERVED);
}

#[test]
fn what_was_there_before_the_record_is_known_by_a_walk() {
    // Given a session that a walk finds when the agent comes,
    let old = session(1, "old");
    let first = record(0, |s| {
        s.snapshot(|snapshot| _ = snapshot.outgoing(old, &[(1, memfd(1))]))
            .load("kho=on liveupdate=on")
            .reboot();
    });
    // then it is missed where it does not arrive,
    let nothing = record(1, |s| _ = s.handover(&[], &[]));
    broken(&join(&[first.clone(), nothing]), CONSERVED);
    // and where nobody looked, nothing can be told.
    let blind = record(0, |s| _ = s.create(old).load("kho=on liveupdate=on").reboot());
    open(&join(&[blind, record(1, |s| _ = s.handover(&[], &[]))]), CONSERVED);
}

#[test]
fn a_session_that_is_closed_while_the_freeze_goes_on_may_have_left_or_not() {
    let vm = session(1, "vm");
    let first = record(0, |s| {
        s.orderly().create(vm);
        let before = s.now();
        s.reboot_with(IMAGE, |s| {
            s.serialize().by(200).since(before).release(vm, 0, |_| ());
            s.by(100);
        });
    });
    for arrived in [&[][..], &[("vm", &[][..])]] {
        let second = record(1, |s| _ = s.handover(arrived, &[]));
        let chain = join(&[first.clone(), second]);
        assert_eq!(chain.findings, []);
    }
}

#[test]
fn a_freeze_that_was_not_seen_from_its_beginning_proves_no_loss() {
    // Given a freeze that has an end and no beginning, and a session less in the next kernel,
    let mut first = record(0, leaves);
    for event in &mut first.events {
        if let Body::SessionSerialize(p) = &mut event.body {
            p.outcome.duration = 0;
        }
    }
    let second = record(1, |s| _ = s.handover(&[("vm", &[1, 2])], &[("iommu-v1", 3)]));
    // then the other one may have been closed while it went on.
    open(&join(&[first, second]), CONSERVED);
}

#[test]
fn after_a_loss_only_a_walk_makes_what_leaves_known_again() {
    let (vm, db) = (session(1, "vm"), session(2, "db"));
    let first = |snapshot: bool| {
        record(0, |s| {
            s.orderly().create(vm).create(db).preserve(vm, 1, memfd(1)).gap();
            if snapshot {
                // Meanwhile `db` was closed.
                s.snapshot(|snapshot| _ = snapshot.outgoing(vm, &[(1, memfd(1))]));
            }
            s.reboot();
        })
    };
    let second = |sessions: &[(&str, &[u64])]| record(1, |s| _ = s.handover(sessions, &[]));
    open(&join(&[first(false), second(&[("vm", &[1])])]), CONSERVED);
    open(&join(&[first(false), second(&[])]), CONSERVED);
    kept(&join(&[first(true), second(&[("vm", &[1])])]), CONSERVED);
    broken(&join(&[first(true), second(&[])]), CONSERVED);
}

#[test]
fn an_image_that_carries_nothing_loses_all_sessions_and_no_second_record_is_needed_to_tell() {
    // Given sessions, and an image loaded by kexec_load(2),
    let legacy = Image {
        id: 1,
        mode: IMAGE_LEGACY,
        ..Image::default()
    };
    let first = record(0, |s| {
        s.orderly().create(session(1, "vm")).create(session(2, "db"));
        s.load_image(IMAGE_LEGACY, legacy).reboot_into(legacy);
    });
    // then each session is lost,
    let chain = join(std::slice::from_ref(&first));
    let lost: Vec<_> = broken(&chain, CONSERVED)
        .iter()
        .map(|finding| finding.object.to_string())
        .collect();
    assert_eq!(lost, ["outgoing session \"db\"", "outgoing session \"vm\""]);
    // also where the next kernel came up and says that it came from nowhere.
    let mut second = record(0, |s| _ = s.snapshot(|_| ()));
    second.header.boot_id = "next".into();
    second.header.clock.realtime_ns += 60 * SECOND;
    let chain = join(&[second, first]);
    assert_eq!(
        (chain.updates[0].fate, chain.updates[0].basis),
        (Fate::Completed, Some(Basis::Clock))
    );
    assert_eq!(status(&chain, CONSERVED), Some(Status::Violated));
}

#[test]
fn more_sessions_than_anybody_reads_are_counted() {
    let first = record(0, |s| {
        s.orderly();
        for number in 0..100 {
            s.create(session(number, &format!("s{number}")));
        }
        s.reboot();
    });
    let chain = join(&[first, record(1, |s| _ = s.handover(&[], &[]))]);
    assert_eq!(broken(&chain, CONSERVED).len(), 64);
    let verdict = chain
        .verdicts
        .iter()
        .find(|verdict| verdict.invariant == CONSERVED)
        .unwrap();
    assert_eq!(verdict.violated, 100);
}

#[test]
fn sessions_that_cannot_be_read_in_are_lost_and_a_handler_that_is_not_there_is_named() {
    // Given a next kernel that has no handler for memfds, and fails to read in what came,
    let mut second = record(1, |s| {
        s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
        s.snapshot(|snapshot| _ = snapshot.unread()).failing(2).read_in();
    });
    let chain = join(&[record(0, leaves), second.clone()]);
    // then the sessions are lost, and the next kernel is not what the update needed.
    let found: Vec<_> = chain.findings.iter().map(|finding| finding.invariant).collect();
    assert_eq!(found, [CONSERVED, Invariant::TargetCompatible], "{:#?}", chain.findings);
    assert!(chain.findings[1].expected.contains("memfd-v2"), "{}", chain.findings[1]);
    // Where it has the handler, or failed for another reason, it is only that they are lost.
    let has = Body::SnapshotHandler(SnapshotHandler {
        handler: 1,
        name: Compatible::new(MEMFD),
    });
    let end = second
        .events
        .iter()
        .position(|event| matches!(event.body, Body::SnapshotEnd(_)));
    let mut handler = second.events[end.unwrap()].clone();
    handler.body = has;
    second.events.insert(end.unwrap(), handler);
    broken(&join(&[record(0, leaves), second]), CONSERVED);
}

#[test]
fn what_was_told_of_the_image_before_the_jump_is_not_told_again_after_it() {
    const TARGET: Invariant = Invariant::TargetCompatible;
    // Given an agent that looked into the image, in which there is no handler for memfds,
    let leaves = |outcome: u32| {
        record(0, |s| {
            let vm = session(1, "vm");
            s.orderly().create(vm).preserve(vm, 1, memfd(1));
            s.look_into(outcome, VERDICT_CARRIES, "it has no handler \"memfd-v2\"")
                .reboot();
        })
    };
    let second = record(1, |s| {
        s.handover(&[("vm", &[1])], &[]);
        s.snapshot(|snapshot| _ = snapshot.unread()).failing(2).read_in();
    });
    // then what the next kernel shows is only what came of it,
    let chain = join(&[leaves(VERDICT_LOSES), second.clone()]);
    broken(&chain, CONSERVED);
    assert_eq!(status(&chain, TARGET), None);
    // unless the agent said that it carries, or could not tell.
    for outcome in [VERDICT_CARRIES, VERDICT_UNKNOWN] {
        let chain = join(&[leaves(outcome), second.clone()]);
        assert_eq!(status(&chain, TARGET), Some(Status::Violated), "{:#?}", chain.verdicts);
    }
}

#[test]
fn where_nobody_looked_before_the_device_was_opened_what_was_read_in_tells() {
    // Given a next kernel in which a walk found that no process had read in what came, and then a process did,
    let (vm, db) = (session(1, "vm"), session(2, "db"));
    let second = |files: u64| {
        record(1, |s| {
            s.snapshot(|snapshot| _ = snapshot.unread())
                .arrive(vm, files)
                .arrive(db, 1)
                .read_in();
            s.snapshot(|snapshot| {
                let listed: Vec<_> = (1..=files).map(|token| (token, memfd(token), 0)).collect();
                snapshot
                    .incoming(vm, false, &listed)
                    .incoming(db, false, &[(7, memfd(7), 0)]);
            });
        })
    };
    // then that is what arrived.
    kept(&join(&[record(0, leaves), second(2)]), CONSERVED);
    let chain = join(&[record(0, leaves), second(1)]);
    assert_eq!(broken(&chain, CONSERVED)[0].seen, "file 0x2 did not arrive");
    // A record that begins after it was read in shows only what is left of it.
    let late = record(1, |s| {
        _ = s
            .snapshot(|snapshot| _ = snapshot.incoming(db, false, &[(7, memfd(7), 0)]))
            .read_in()
    });
    open(&join(&[record(0, leaves), late]), CONSERVED);
}

#[test]
fn where_the_last_events_are_missing_what_arrives_as_it_was_is_well_and_anything_else_is_open() {
    // Given a record that ends before the freeze,
    let first = record(0, |s| {
        _ = s
            .orderly()
            .create(session(1, "vm"))
            .preserve(session(1, "vm"), 1, memfd(1))
    });
    // then the next kernel proves that it left,
    let second = |sessions: &[(&str, &[u64])]| record(1, |s| _ = s.handover(sessions, &[]));
    let chain = join(&[first.clone(), second(&[("vm", &[1])])]);
    assert_eq!(chain.updates[0].fate, Fate::Completed);
    // and what arrives is what was there; or that changed in the part that is missing.
    kept(&chain, CONSERVED);
    open(&join(&[first.clone(), second(&[])]), CONSERVED);
    open(&join(&[first, second(&[("vm", &[1]), ("later", &[])])]), CONSERVED);
}

#[test]
fn a_missing_hook_leaves_it_open_and_is_named() {
    let mut first = record(0, leaves);
    first.header.hooks.retain(|hook| hook.id != Hook::FilePreserve.id());
    let chain = join(&[first, record(1, |s| _ = s.handover(&[], &[("iommu-v1", 3)]))]);
    open(&chain, CONSERVED);
    let verdict = chain
        .verdicts
        .iter()
        .find(|verdict| verdict.invariant == CONSERVED)
        .unwrap();
    assert_eq!(verdict.missing_hooks, ["file-preserve"]);
}

mod flbs {
    use super::*;

    const DATA: Invariant = Invariant::KexecFlbData;

    fn second(flbs: &[(&str, u64)]) -> Record {
        record(1, |s| _ = s.handover(&[("vm", &[1, 2]), ("db", &[7])], flbs))
    }

    #[test]
    fn global_state_that_arrives_with_other_data_or_users_or_not_at_all_is_found() {
        kept(&join(&[record(0, leaves), second(&[("iommu-v1", 3)])]), DATA);
        let seen = |second: Record| {
            let chain = join(&[record(0, leaves), second]);
            broken(&chain, DATA)
                .iter()
                .map(|finding| finding.seen.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(seen(second(&[("iommu-v1", 2)])), ["data 0x1 and 2 users"]);
        assert_eq!(seen(second(&[])), ["it did not"]);
        let ghost = [("iommu-v1", 3), ("pci-v1", 1)];
        assert_eq!(seen(second(&ghost)), ["it arrived, and had not left"]);
        let mut other = second(&[("iommu-v1", 3)]);
        for event in &mut other.events {
            if let Body::ArrivedFlb(p) = &mut event.body {
                p.data = 2;
            }
        }
        assert_eq!(seen(other), ["data 0x2 and 3 users"]);
    }

    #[test]
    fn what_was_written_in_an_attempt_that_failed_is_not_what_left() {
        let first = record(0, |s| {
            let vm = session(1, "vm");
            s.orderly().create(vm).preserve(vm, 1, memfd(1));
            s.reboot_with(IMAGE, |s| _ = s.flb_record("iommu-v1", 9).serialize().failing(5));
            s.failing(5).kexec_returns();
            s.reboot_with(IMAGE, |s| _ = s.flb_record("iommu-v1", 1).serialize());
        });
        let second = record(1, |s| _ = s.handover(&[("vm", &[1])], &[("iommu-v1", 1)]));
        let chain = join(&[first, second]);
        kept(&chain, DATA);
        let fates: Vec<_> = chain.updates.iter().map(|update| update.fate).collect();
        assert_eq!(fates, [Fate::Aborted, Fate::Completed]);
    }

    #[test]
    fn where_nobody_looked_what_it_is_brought_back_from_tells() {
        let second = |data: u64| {
            record(1, |s| {
                s.flb_call(FlbCall::Retrieve, "iommu-v1", MEMFD, 0);
                if let Some(Event {
                    body: Body::FlbCallback(_, p),
                    ..
                }) = s.events.last_mut()
                {
                    p.data = data;
                }
            })
        };
        kept(&join(&[record(0, leaves), second(1)]), DATA);
        open(&join(&[record(0, leaves), second(2)]), DATA);
    }
}

mod memory {
    use super::*;

    const MEMORY: Invariant = Invariant::KexecMemoryConserved;

    fn first(s: &mut Story) {
        let vm = session(1, "vm");
        s.orderly().pages(Hook::SessionCreate, vm, &[1], &[]).create(vm);
        s.pages(Hook::FilePreserve, vm, &[2, 3], &[])
            .preserve(vm, 1, memfd(1))
            .reboot();
    }

    fn second(restored: &[u64]) -> Record {
        let vm = session(1, "vm");
        record(1, |s| {
            s.handover(&[("vm", &[1])], &[])
                .arrive(vm, 1)
                .read_in()
                .retrieve_session(vm);
            s.restored(Hook::FileRetrieve, vm, restored).retrieve(vm, 1, memfd(1));
            s.finish_files(vm, 1, |_| ());
        })
    }

    #[test]
    fn pages_that_are_all_brought_back_are_conserved() {
        kept(&join(&[record(0, first), second(&[3, 1, 2])]), MEMORY);
    }

    #[test]
    fn pages_that_others_may_bring_back_are_no_alarm() {
        open(&join(&[record(0, first), second(&[1, 2])]), MEMORY);
        open(&join(&[record(0, first), second(&[1, 2, 4])]), MEMORY);
    }

    #[test]
    fn what_nobody_asked_to_be_watched_is_not_in_doubt() {
        let unwatched = |record: Record| {
            let mut record = record;
            for hook in record
                .header
                .hooks
                .iter_mut()
                .filter(|hook| hook.id == Hook::KhoKeyAdd.id())
            {
                (hook.attached, hook.switched_off) = (false, true);
            }
            record
        };
        let chain = join(&[unwatched(record(0, first)), unwatched(second(&[]))]);
        let verdict = chain
            .verdicts
            .iter()
            .find(|verdict| verdict.invariant == MEMORY)
            .unwrap();
        assert!(verdict.is_unwatched(), "{verdict:#?}");
    }
}

#[test]
fn a_look_that_did_not_find_everything_is_made_up_for_by_the_next() {
    // Given a first reading that lost a record, and a second one that found all,
    let mut second = record(1, |s| {
        s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
        s.handover(&[("vm", &[1, 2]), ("db", &[7])], &[("iommu-v1", 3)]);
    });
    second.events.remove(3);
    // then the second one counts; and a third, of what was given back by then, does not.
    kept(&join(&[record(0, leaves), second.clone()]), CONSERVED);
    second.events.extend(record(1, |s| _ = s.handover(&[], &[])).events);
    kept(&join(&[record(0, leaves), second]), CONSERVED);
}
