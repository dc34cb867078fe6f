//! What a status says after a story, and how it looks.

use luo_trace_common::events::{
    FlbCall, IMAGE_FILE, IMAGE_LEGACY, Image, ImageLoad, Outcome, Plain, PolicyDecision, SNAPSHOT_INCOMING_UNREAD,
    SNAPSHOT_INCOMPLETE, SnapshotBegin, SnapshotEnd, VERDICT_CARRIES, VERDICT_LOSES, VERDICT_UNKNOWN,
};
use luo_trace_common::policy::{Decision, NEVER, Operation, RULE_NONE, RuleName, State};
use luo_trace_common::text::Comm;
use unicode_width::UnicodeWidthStr;
use zerocopy::FromZeros;

use super::*;
use crate::testing::{MEMFD, Story, memfd, session as named};

const MINUTE: u64 = 60_000_000_000;
/// A token as wide as they get.
const TOKEN: u64 = 0xffff_ffff_0000_0000;

fn status_at(now_ns: u64, owners: Owners, events: &[Event]) -> Status {
    let mut model = Model::new(&Coverage::all());
    let mut digest = Digest::default();
    let mut findings = Vec::new();
    for event in events {
        digest.observe(event);
        findings.extend(model.apply(event).iter().map(Finding::from));
    }
    let facts = Facts {
        host: "node-7".into(),
        kernel: "7.3.4".into(),
        boot_id: "b".into(),
        now_ns,
        owners,
    };
    Status {
        findings,
        ..Status::new("agent", facts, &model, &digest)
    }
}

fn status(events: &[Event]) -> Status {
    status_at(0, Owners::new(), events)
}

fn table(status: &Status) -> String {
    let mut out = Vec::new();
    table::write(&mut out, status).unwrap();
    String::from_utf8(out).unwrap()
}

fn process(pid: u32, comm: &str) -> Process {
    Process { pid, comm: comm.into() }
}

#[test]
fn sessions_come_with_their_files_ages_and_owners() {
    let vm = named(1, "vm");
    let mut story = Story::new();
    story.by(42).create(vm);
    let made = story.now();
    story.preserve(vm, 0x10, memfd(1)).preserve(vm, 2, memfd(0));
    let owners = Owners::from([(b"vm".to_vec(), vec![process(7, "luod")])]);
    let status = status_at(made + MINUTE, owners, &story.events);
    let session = &status.sessions[0];
    assert_eq!(
        (session.name.as_str(), &*session.direction, &*session.state),
        ("vm", "outgoing", "open")
    );
    assert_eq!(session.age_ns, Some(MINUTE));
    assert_eq!(session.taken_by, Some(process(42, "vmm")));
    assert_eq!(session.owners, [process(7, "luod")]);
    assert_eq!((session.files_held(), session.size()), (2, 8192 + 4096));
    let file = &session.files[0];
    assert_eq!(
        (file.token.as_str(), file.handler.as_str(), &*file.state),
        ("0x10", MEMFD, "preserved")
    );
    assert!(file.age_ns.is_some_and(|age| age < MINUTE));
    assert_eq!(
        status.memory,
        [Memory {
            handler: MEMFD.into(),
            files: 2,
            bytes: 8192 + 4096
        }]
    );
}

#[test]
fn what_was_there_before_has_no_age_and_what_is_pending_no_tokens() {
    let (old, waiting) = (named(1, "old"), named(2, "waiting"));
    let mut story = Story::new();
    story.preserve(old, 1, memfd(1)).arrive(waiting, 3);
    let status = status(&story.events);
    assert_eq!((status.sessions[0].age_ns, &status.sessions[0].taken_by), (None, &None));
    let waiting = &status.sessions[1];
    assert_eq!(
        (&*waiting.state, waiting.pending_files, waiting.files.len()),
        ("pending", 3, 0)
    );
    // What is pending is not preserved for the next kernel.
    assert_eq!(status.preserved_bytes(), 8192);
}

#[test]
fn operations_are_counted_and_their_rate_is_that_of_the_last_seconds() {
    let vm = named(1, "vm");
    let mut story = Story::new();
    story.create(vm).failing(17).create(vm).wait(1_000_000_000);
    for token in 0..20 {
        story.preserve_with(vm, token, memfd(token), |_| ());
    }
    let busy = story.now();
    let at = |now| status_at(now, Owners::new(), &story.events).operations;
    let create = at(busy).ended.into_iter().find(|o| o.op == "session-create").unwrap();
    assert_eq!((create.ok, create.failed), (1, 1));
    // The second that has begun does not count yet; the one before that does.
    assert_eq!(at(busy).per_second, 0.2);
    assert_eq!(at(busy + 1_000_000_000).per_second, 2.2);
    assert_eq!(at(busy + MINUTE).per_second, 0.0);
}

#[test]
fn the_image_is_the_last_that_was_seen() {
    let image = |mode, kho| Image {
        id: 1,
        mode,
        kho,
        ..Image::default()
    };
    let load = |image| {
        Body::ImageLoad(ImageLoad {
            image,
            outcome: Outcome { result: 0, duration: 1 },
            ..ImageLoad::default()
        })
    };
    let mut story = Story::new();
    assert_eq!(status(&story.events).image, None);
    story.push(Body::SnapshotBegin(SnapshotBegin {
        update_number: 3,
        image: image(IMAGE_FILE, 0x1000),
        ..SnapshotBegin::default()
    }));
    assert_eq!(status(&story.events).image.as_deref(), Some("carries"));
    story.push(load(image(IMAGE_LEGACY, 0)));
    let legacy = status(&story.events);
    assert_eq!(
        (legacy.image.as_deref(), legacy.update_number),
        (Some("legacy"), Some(3))
    );
    assert!(table(&legacy).contains("WILL BE LOST"));
    // A record that cannot tell changes nothing.
    story.push(load(Image::default()));
    assert_eq!(status(&story.events).image.as_deref(), Some("legacy"));
}

#[test]
fn what_was_found_in_the_image_is_told_as_long_as_it_is_loaded() {
    // Given an image that was looked into,
    let mut story = Story::new();
    story.load("kho=on liveupdate=on");
    assert_eq!(status(&story.events).image_verdict, None);
    story.look_into(VERDICT_LOSES, VERDICT_CARRIES, "it has no handler \"nvme-v1\"");
    let told = status(&story.events);
    // then what was found shows, in one line,
    let line = "in the image: loses (it has no handler \"nvme-v1\")";
    assert!(table(&told).contains(line), "{}", table(&told));
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!(json["image_verdict"]["outcome"], "loses");
    // also what is wrong with its command line,
    story.look_into(VERDICT_CARRIES, VERDICT_UNKNOWN, "it has no kho=on");
    let verdict = status(&story.events).image_verdict.unwrap();
    assert_eq!(verdict.word(), "unknown");
    assert!(verdict.tell().contains("its command line: unknown"));
    // until another is loaded, of which nobody knows anything.
    let other = Image {
        id: 7,
        mode: IMAGE_FILE,
        kho: 1,
        ..Image::default()
    };
    story.load_image(IMAGE_FILE, other);
    assert_eq!(status(&story.events).image_verdict, None);
}

#[test]
fn a_walk_that_did_not_see_everything_says_so_until_it_is_seen() {
    let mut story = Story::new();
    story.push(Body::SnapshotBegin(SnapshotBegin {
        update_number: u64::MAX,
        ..SnapshotBegin::default()
    }));
    story.push(Body::SnapshotEnd(SnapshotEnd {
        flags: SNAPSHOT_INCOMING_UNREAD | SNAPSHOT_INCOMPLETE,
        ..SnapshotEnd::default()
    }));
    let unread = status(&story.events);
    assert_eq!(unread.update_number, None);
    assert_eq!(unread.troubles.len(), 2);
    assert!(table(&unread).contains("sessions of the previous kernel may wait"));
    story.push(Body::SessionDeserialize(Plain::default()));
    assert_eq!(
        status(&story.events).troubles,
        ["a part of LUO's lists could not be read"]
    );
}

#[test]
fn what_waits_to_be_read_in_is_shown_and_then_is_no_trouble() {
    let snapshot = |partly: bool| {
        let mut story = Story::new();
        story.handover(&[("vm", &[TOKEN])], &[]);
        if let Some(Body::Handover(p)) = story.events.last_mut().map(|event| &mut event.body) {
            p.flags = if partly { 0 } else { p.flags };
        }
        story.snapshot(|snapshot| _ = snapshot.unread());
        Status::of_snapshot(Facts::default(), &story.events)
    };
    let all = snapshot(false);
    let [vm] = &all.sessions[..] else { panic!("{all:?}") };
    assert_eq!((&*vm.name, &*vm.direction, &*vm.state), ("vm", "incoming", "pending"));
    assert_eq!((vm.files_held(), &*vm.files[0].state), (1, "pending"));
    assert!(table(&all).contains("Incoming sessions: 1\n"));
    assert_eq!(all.troubles, Vec::<String>::new());
    // Where there may be more, that is told.
    assert_eq!(snapshot(true).troubles.len(), 1);
}

#[test]
fn the_last_live_update_is_told_first_of_all() {
    let status = Status {
        updates: vec![Row {
            number: Some(3),
            time_unix_ns: Some(1_795_000_000_000_000_000),
            from: Some("7.3.3".into()),
            to: Some("7.3.4".into()),
            outcome: "lost".into(),
            fate: "completed".into(),
            blackout_ns: Some(6_370_000_000),
            lost_sessions: 2,
            ..Row::default()
        }],
        ..status(&[])
    };
    let shown = table(&status);
    let told = shown.lines().skip(1).take(3).collect::<Vec<_>>().join(" ");
    for text in [
        "live update 3, 7.3.3 → 7.3.4: lost (blackout 6.37 s, sessions lost: 2)",
        "2026-11-18T",
    ] {
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(text), "{shown}");
    }
    // A client reads what the agent has written.
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
}

#[test]
fn a_violation_is_shown_with_what_to_do_and_a_loss_is_told() {
    let (a, b) = (named(1, "a"), named(2, "a"));
    let mut story = Story::new();
    story
        .create(a)
        .create(b)
        .wait(2_000_000_000)
        .by(3)
        .create(named(3, "c"))
        .gap();
    let status = status(&story.events);
    assert_eq!(status.findings[0].invariant, "session-name-unique");
    assert_eq!(status.verdicts_that_are("violated"), 1);
    assert_eq!(status.losses.events, 1);
    let table = table(&status);
    assert!(
        table.contains("VIOLATED session-name-unique (error): outgoing session \"a\"\n"),
        "{table}"
    );
    assert!(table.contains("Close one of the two sessions"), "{table}");
    assert!(table.contains("1 event lost"), "{table}");
}

#[test]
fn a_status_survives_its_json_form_and_reads_what_an_older_agent_leaves_out() {
    let vm = named(1, "vm\u{202e}\n");
    let mut story = Story::new();
    story.create(vm).preserve_with(vm, 1, memfd(1), |s| {
        s.flb_preserve(MEMFD, |s| {
            s.flb_call(FlbCall::Preserve, "iommu-v1", MEMFD, 0);
        });
    });
    let status = status_at(MINUTE, Owners::new(), &story.events);
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    assert_eq!(status.flbs[0].name, "iommu-v1");
    let old: Status = serde_json::from_str(r#"{"host":"h","sessions":[{"name":"x"}],"new":1}"#).unwrap();
    assert_eq!((old.host.as_str(), old.sessions[0].name.as_str()), ("h", "x"));
}

#[test]
fn one_snapshot_tells_what_the_lists_hold_and_judges_nothing_it_did_not_see() {
    let vm = named(1, "vm");
    let mut story = Story::new();
    story.create(vm).preserve(vm, 1, memfd(1));
    let status = Status::of_snapshot(Facts::default(), &story.events);
    assert_eq!((&*status.source, status.sessions.len()), ("snapshot", 1));
    assert_eq!(status.verdicts_that_are("violated"), 0);
    assert!(table(&status).contains("no agent runs"));
}

#[test]
fn the_table_fits_80_columns_and_leaves_nothing_out() {
    let mut story = Story::new();
    let long = "n".repeat(63);
    let (a, b) = (named(1, "vm-web"), named(2, &long));
    story.create(a).create(b);
    for token in 0..3 {
        story.preserve_with(a, TOKEN - token, memfd(token), |_| ());
    }
    story
        .arrive(named(3, "\x1b[31mevil"), 2)
        .retrieve_session(named(3, "\x1b[31mevil"));
    let owners = Owners::from([
        (
            b"vm-web".to_vec(),
            vec![process(4_194_304, "fifteen-letters"), process(2, "x")],
        ),
        (long.clone().into_bytes(), vec![process(1, "luod")]),
    ]);
    let table = table(&status_at(100 * MINUTE, owners, &story.events));
    for line in table.lines() {
        assert!(line.width() <= 80, "{} columns: {line:?}", line.width());
    }
    for text in [
        &long,
        "0xffffffff00000000",
        "\\u{1b}[31mevil",
        "fifteen-letters[4194304] +1",
        "1h 39m",
    ] {
        assert!(table.contains(text), "{text} is missing in\n{table}");
    }
    assert!(!table.contains('\x1b'));
    // The columns stand where they are.
    let lines: Vec<&str> = table.lines().filter(|line| line.contains("preserved ")).collect();
    assert_eq!(
        lines[0], "  0xffffffff00000000   preserved           4.0 KiB   1h 39m  memfd-v2",
        "{table}"
    );
}

#[test]
fn the_recorders_own_session_is_marked_and_left_out_of_the_counts() {
    // Given a session of the recorder's own beside another,
    let (vm, own) = (named(1, "vm"), named(2, "luo-trace"));
    let mut story = Story::new();
    story.create(vm).preserve(vm, 1, memfd(1));
    let before = story.events.len();
    story.create(own).preserve(own, 9, memfd(2));
    for event in &mut story.events[before..] {
        event.header.comm = Comm::new("luo-trace");
    }
    // when its state is asked for,
    let status = status(&story.events);
    // then it is told apart,
    let is_own: Vec<_> = status.sessions.iter().map(|s| (s.name.as_str(), s.own)).collect();
    assert_eq!(is_own, [("luo-trace", true), ("vm", false)]);
    assert_eq!(status.memory.iter().map(|memory| memory.files).sum::<u64>(), 1);
    let table = table(&status);
    assert!(table.contains("Outgoing sessions: 1\n"), "{table}");
    assert!(table.contains("\nand the recorder's own session: "), "{table}");
}

#[test]
fn a_session_of_that_name_that_somebody_else_made_counts_like_any_other() {
    let theirs = named(1, "luo-trace");
    let mut story = Story::new();
    story.create(theirs).preserve(theirs, 1, memfd(1));
    let status = status(&story.events);
    assert!(!status.sessions[0].own);
    assert_eq!(status.memory.iter().map(|memory| memory.files).sum::<u64>(), 1);
}

#[test]
fn policy_is_told_with_its_orders_and_its_last_refusals() {
    // Given an agent with a policy, an operator's hold, and a flood of refusals after one call that passed,
    let mut story = Story::new();
    let mut decide = |decision: Decision, rule: &str| {
        let mut payload = PolicyDecision::new_zeroed();
        payload.rule_name = RuleName::new(rule);
        payload.rule = if rule.is_empty() { RULE_NONE } else { 0 };
        story.push(Body::PolicyDecision(Operation::KexecLoad, decision, Box::new(payload)));
    };
    decide(Decision::Pass, "");
    (0..100).for_each(|_| decide(Decision::Deny, "legacy"));
    decide(Decision::Allowed, "hold");
    let mut digest = Digest::default();
    story.events.iter().for_each(|event| digest.observe(event));
    let policy = policy::Policy {
        mode: "enforce".into(),
        file: "p.toml".into(),
        rules: 1,
        on_agent_loss: "open".into(),
        hold: Some(policy::Order {
            until_ns: None,
            uid: Some(7),
            reason: "disk swap".into(),
            ..policy::Order::default()
        }),
        ..policy::Policy::default()
    };
    let status = Status {
        policy: Some(digest.policy(policy)),
        ..Status::default()
    };
    // then each is counted by what decided it,
    let policy = status.policy.as_ref().unwrap();
    let counts: Vec<_> = policy
        .decisions
        .iter()
        .map(|of| (&*of.rule, &*of.decision, of.count))
        .collect();
    assert_eq!(
        counts,
        [("", "pass", 1), ("hold", "allowed", 1), ("legacy", "deny", 100)]
    );
    // some of them are told, the latest first, and no call that passed is among them,
    assert!(policy.refusals.len() < 50 && policy.refusals[0].decision == "allowed");
    assert!(policy.refusals.iter().all(|refusal| refusal.decision != "pass"));
    // and people read it in sentences.
    let table = table(&status);
    for line in [
        "policy: mode enforce: 1 rule of p.toml, open on agent loss",
        "policy: HELD until `luo-trace policy clear`: disk swap (user 7)",
        "policy: decisions: 100 deny, 0 would-deny, 1 allowed, 0 audit, 1 pass",
        "refused by the rule \"legacy\"",
    ] {
        assert!(table.contains(line), "{line} is missing in\n{table}");
    }
    // What is new in the stable form comes last, and is null where there is none.
    let json = serde_json::to_string(&status).unwrap();
    assert!(json.find("\"policy\":").unwrap() > json.find("\"hooks\":").unwrap());
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    assert!(
        serde_json::to_string(&Status::default())
            .unwrap()
            .contains("\"policy\":null")
    );
}

#[test]
fn a_policy_that_another_agent_left_in_force_is_told_with_what_to_do() {
    const SECOND: u64 = 1_000_000_000;
    let told = |state: Result<&State, String>| {
        let (policy, standing) = policy::Policy::left_in_force("/sys/fs/bpf/luo-trace/0/1", state, 100 * SECOND);
        policy.with(&standing).lines(100 * SECOND)
    };
    // Given pinned programs of an agent that was killed 40 s ago, on a host that is held,
    let lost = State {
        heartbeat: 60 * SECOND,
        held_until: NEVER,
        ..State::default()
    };
    let lines = told(Ok(&lost));
    assert_eq!(lines[0], "no agent that runs has one");
    let rest = "refuses images and reboots, unless its mode is audit. `luo-trace policy clear` removes it";
    for part in ["pinned in /sys/fs/bpf/luo-trace/0/1", "no sign of life for 40s", rest] {
        assert!(lines[1].contains(part), "{part} is missing in {lines:?}");
    }
    assert!(lines[2].starts_with("HELD until `luo-trace policy clear`"), "{lines:?}");
    // of one that ended in order,
    let ended = State {
        heartbeat: NEVER,
        ..State::default()
    };
    let lines = told(Ok(&ended));
    assert!(
        lines[1].contains("that agent ended in order") && lines.len() == 2,
        "{lines:?}"
    );
    // and of one of another version, then each is told as what it is.
    let lines = told(Err("another version of luo-trace left it".into()));
    assert!(
        lines[1].contains("is not known, since another version") && lines[1].contains("policy clear"),
        "{lines:?}"
    );
}
