//! What a policy would have decided in updates that were recorded.

use luo_trace_common::events::{
    IMAGE_FILE, IMAGE_LEGACY, IMAGE_NONE, Image, ImageFile, ImageLoad, Outcome, POLICY_ALLOW, POLICY_CLEAR,
    POLICY_HOLD, POLICY_LOADED, POLICY_OFF, PolicyChange, PolicyDecision, SNAPSHOT_CHANGED, SNAPSHOT_INCOMING_UNREAD,
    SnapshotEnd, VERDICT_CARRIES, VERDICT_LOSES, VERDICT_UNKNOWN,
};
use luo_trace_common::policy::{
    Aspect, CgroupPath, Condition, Decision, NEVER, NOT_COUNTED, Operation, RULE_AGENT_LOSS, RULE_HOLD, RULE_NONE,
    RuleName,
};
use luo_trace_common::text::Name;
use zerocopy::FromZeros;

use crate::event::Body;
use crate::model::Coverage;
use crate::policy::{Policy, Replay};
use crate::testing::{MEMFD, Story, memfd, session};

const LEGACY: Image = Image {
    id: 0x77,
    mode: IMAGE_LEGACY,
    load: 0,
    kho: 0,
};

/// What these rules decide of a record, as `operation decision rule`.
fn decided(policy: &str, story: &Story) -> Vec<String> {
    let policy = Policy::read(policy).unwrap_or_else(|problems| panic!("{problems}"));
    let mut replay = Replay::new(&policy, &Coverage::all());
    story.events.iter().for_each(|event| replay.apply(event));
    let shown = replay.finish().into_iter().map(|call| {
        let ruling = call
            .ruling
            .map(|(decision, rule)| format!("{} {rule}", decision.name()));
        format!(
            "{} {}",
            call.operation.name(),
            ruling.as_deref().unwrap_or("cannot-tell")
        )
    });
    shown.map(|line| line.trim_end().to_owned()).collect()
}

fn rule(lines: &str) -> String {
    format!("mode = \"enforce\"\n[[rule]]\nname = \"r\"\n{lines}\n")
}

const NO_LEGACY: &str =
    "on = [\"kexec-load\", \"kexec-reboot\"]\nwhen = { legacy-image = true, sessions-over = 0 }\naction = \"deny\"";

/// A record that begins with a snapshot of the kernel's lists, which are empty.
fn story() -> Story {
    let mut story = Story::new();
    story.snapshot(|_| {});
    story
}

/// What policy told of a call, asked about nothing.
fn decision(operation: Operation) -> PolicyDecision {
    PolicyDecision {
        operation: operation as u32,
        decision: Decision::Pass as u32,
        rule: RULE_NONE,
        sessions: NOT_COUNTED,
        files: NOT_COUNTED,
        cgroup: CgroupPath::new("/user.slice/user-0.slice"),
        ..PolicyDecision::new_zeroed()
    }
}

fn told(story: &mut Story, p: PolicyDecision) -> &mut Story {
    let operation = Operation::from_raw(p.operation).unwrap();
    let decision = Decision::from_raw(p.decision).unwrap();
    story.push(Body::PolicyDecision(operation, decision, Box::new(p)))
}

fn change(story: &mut Story, what: u32, until: u64, operations: u32) -> &mut Story {
    let change = PolicyChange {
        what,
        mode: 1,
        generation: 1,
        until,
        uid: 0,
        operations,
        text: Name::EMPTY,
    };
    story.push(Body::PolicyChange(Box::new(change)))
}

#[test]
fn a_legacy_image_is_refused_while_a_session_exists_and_at_the_reboot_as_well() {
    let mut record = story();
    record.load_image(IMAGE_LEGACY, LEGACY).create(session(1, "vm"));
    record
        .load_image(IMAGE_LEGACY, Image { id: 0x88, ..LEGACY })
        .reboot_into(LEGACY);
    let expected = ["kexec-load pass", "kexec-load deny r", "kexec-reboot deny r"];
    assert_eq!(decided(&rule(NO_LEGACY), &record), expected);
    // In audit mode the same is only told.
    let audit = rule(NO_LEGACY).replace("enforce", "audit");
    assert_eq!(decided(&audit, &record)[1], "kexec-load would-deny r");
}

#[test]
fn what_a_record_does_not_tell_is_left_open_only_where_it_matters() {
    // Given a record in which nobody looked what there was at its beginning,
    let mut record = Story::new();
    record.load_image(IMAGE_LEGACY, LEGACY);
    assert_eq!(decided(&rule(NO_LEGACY), &record), ["kexec-load cannot-tell"]);
    // a rule that does not count is decided,
    let any = NO_LEGACY.replace(", sessions-over = 0", "");
    assert_eq!(decided(&rule(&any), &record), ["kexec-load deny r"]);
    // and so is one that another condition keeps away.
    let mut record = Story::new();
    record.load_image(
        IMAGE_FILE,
        Image {
            mode: IMAGE_FILE,
            ..LEGACY
        },
    );
    assert_eq!(decided(&rule(NO_LEGACY), &record), ["kexec-load pass"]);
    // After a loss it is open again, until a process looks.
    let mut record = story();
    record.create(session(1, "vm")).gap().load_image(IMAGE_LEGACY, LEGACY);
    record
        .snapshot(|snapshot| _ = snapshot.outgoing(session(1, "vm"), &[]))
        .load_image(IMAGE_LEGACY, Image { id: 0x88, ..LEGACY });
    assert_eq!(
        decided(&rule(NO_LEGACY), &record),
        ["kexec-load cannot-tell", "kexec-load deny r"]
    );
}

#[test]
fn who_called_is_known_where_a_policy_was_on() {
    let by_user = rule("on = \"session-create\"\nmatch = { uid = 0, session = \"vm-*\" }\naction = \"deny\"");
    let in_group = rule("on = \"session-create\"\nunless = { cgroup = \"/user.slice\" }\naction = \"deny\"");
    // Given a record without a policy,
    let mut record = story();
    record.create(session(1, "vm-1")).create(session(2, "db"));
    assert_eq!(
        decided(&by_user, &record),
        ["session-create cannot-tell", "session-create pass"]
    );
    assert_eq!(decided(&in_group, &record), ["session-create cannot-tell"; 2]);
    // and one with another policy on, which told of every call, one that was refused among them.
    let mut record = story();
    change(&mut record, POLICY_LOADED, 0, 1);
    let asked = PolicyDecision {
        session: session(0, "vm-1"),
        ..decision(Operation::SessionCreate)
    };
    told(&mut record, asked).create(session(1, "vm-1"));
    let other = PolicyDecision {
        uid: 7,
        cgroup: CgroupPath::new("/system.slice/a.service"),
        ..asked
    };
    told(&mut record, other);
    assert_eq!(
        decided(&by_user, &record),
        ["session-create deny r", "session-create pass"]
    );
    assert_eq!(
        decided(&in_group, &record),
        ["session-create pass", "session-create deny r"]
    );
}

#[test]
fn a_load_that_policy_was_asked_about_is_decided_when_its_kind_is_told() {
    let mut record = story();
    change(&mut record, POLICY_LOADED, 0, 4);
    record.create(session(1, "vm"));
    // Given two loads at the same time, of which the one that came first ends last,
    told(record.by(1), decision(Operation::KexecLoad));
    told(record.by(2), decision(Operation::KexecLoad));
    record.by(2).load_image(
        IMAGE_FILE,
        Image {
            id: 0x99,
            mode: IMAGE_FILE,
            ..LEGACY
        },
    );
    record.by(1).load_image(IMAGE_LEGACY, LEGACY);
    // and one of which nothing more is told,
    told(record.by(3), decision(Operation::KexecLoad));
    let expected = ["kexec-load deny r", "kexec-load pass", "kexec-load cannot-tell"];
    assert_eq!(decided(&rule(NO_LEGACY), &record), expected);
    // then what was counted in the kernel comes before what is known here.
    let mut record = story();
    told(
        &mut record,
        PolicyDecision {
            sessions: 3,
            yes: 1,
            ..decision(Operation::KexecLoad)
        },
    );
    assert_eq!(decided(&rule(NO_LEGACY), &record), ["kexec-load deny r"]);
}

#[test]
fn only_what_policy_would_be_asked_about_is_a_call() {
    let mut record = story();
    let every = rule("on = [\"session-create\", \"kexec-load\"]\naction = \"deny\"");
    let loaded = |call, result, image| {
        let outcome = Outcome { result, duration: 10 };
        Body::ImageLoad(ImageLoad {
            call,
            reserved: 0,
            image,
            outcome,
        })
    };
    // A load without the privilege fails before that.
    record
        .push(loaded(IMAGE_LEGACY, -1, Image::default()))
        .push(loaded(IMAGE_FILE, -1, Image::default()));
    assert_eq!(decided(&every, &record), [""; 0]);
    // That a name is taken comes out only afterwards.
    record.failing(17).create(session(1, "vm"));
    assert_eq!(decided(&every, &record), ["session-create deny r"]);
    // A broken image is asked about: its file was opened.
    record
        .push(Body::ImageFile(ImageFile::default()))
        .push(loaded(IMAGE_FILE, -8, Image::default()));
    record.push(loaded(IMAGE_LEGACY, 0, LEGACY));
    assert_eq!(decided(&every, &record).len(), 3);
    // A crash image beside it, and taking it away, are not.
    record.push(loaded(IMAGE_LEGACY, 0, LEGACY));
    record.push(loaded(
        IMAGE_LEGACY,
        0,
        Image {
            mode: IMAGE_NONE,
            ..Image::default()
        },
    ));
    assert_eq!(decided(&every, &record).len(), 3);
}

#[test]
fn orders_that_were_in_force_are_in_force_again_for_their_time() {
    let reboots = rule("on = \"kexec-reboot\"\naction = \"audit\"");
    let mut record = story();
    record.reboot_into(LEGACY);
    let until = record.now() + 1_000_000_000;
    change(&mut record, POLICY_HOLD, u64::MAX, 0).reboot_into(LEGACY);
    change(&mut record, POLICY_ALLOW, until, 0).reboot_into(LEGACY);
    record.wait(2_000_000_000).reboot_into(LEGACY);
    change(&mut record, POLICY_CLEAR, 0, 0).reboot_into(LEGACY);
    let expected = ["audit r", "deny hold", "allowed hold", "deny hold", "audit r"];
    assert_eq!(
        decided(&reboots, &record),
        expected.map(|told| format!("kexec-reboot {told}"))
    );
    // A hold that was given before the record is known by what it refused.
    let mut record = story();
    told(
        &mut record,
        PolicyDecision {
            rule: RULE_HOLD,
            ..decision(Operation::KexecReboot)
        },
    );
    assert_eq!(decided(&reboots, &record), ["kexec-reboot deny hold"]);
}

#[test]
fn what_was_found_in_the_image_counts_at_the_reboot() {
    let target = |unknown: &str| {
        rule(&format!(
            "on = \"kexec-reboot\"\nwhen = {{ target-incompatible = true }}\naction = \"deny\"\n{unknown}"
        ))
    };
    let booted = |look: &dyn Fn(&mut Story)| {
        let mut record = story();
        record.load("kho=on liveupdate=on");
        look(&mut record);
        record.reboot();
        record
    };
    let unlooked = booted(&|_| {});
    assert_eq!(decided(&target(""), &unlooked), ["kexec-reboot deny r"]);
    assert_eq!(
        decided(&target("unknown = \"passes\""), &unlooked),
        ["kexec-reboot pass"]
    );
    let carries = booted(&|record| _ = record.look_into(VERDICT_CARRIES, VERDICT_UNKNOWN, "it does"));
    assert_eq!(decided(&target(""), &carries), ["kexec-reboot pass"]);
    let loses = booted(&|record| _ = record.look_into(VERDICT_LOSES, VERDICT_UNKNOWN, "it does not"));
    assert_eq!(decided(&target(""), &loses), ["kexec-reboot deny r"]);
    // The command line is told by the image's carrier, too.
    let line = rule("on = \"kexec-reboot\"\nwhen = { cmdline-missing-liveupdate = true }\naction = \"deny\"");
    assert_eq!(decided(&line, &unlooked), ["kexec-reboot pass"]);
    let mut record = story();
    record.load("kho=on").reboot();
    assert_eq!(decided(&line, &record), ["kexec-reboot deny r"]);
}

#[test]
fn a_handler_is_judged_after_the_fact_and_at_an_image_by_what_is_preserved() {
    let mut record = story();
    record
        .create(session(1, "vm"))
        .preserve(session(1, "vm"), 1, memfd(1))
        .load_image(IMAGE_LEGACY, LEGACY);
    let after = rule(&format!(
        "on = \"file-preserve\"\nmatch = {{ handler = \"{MEMFD}\" }}\naction = \"audit\""
    ));
    assert_eq!(decided(&after, &record), ["file-preserve audit r"]);
    // The file counts itself by then, and what the agent told of it when it was recorded is not told twice.
    let counted = after.replace("action", "when = { files-over = 0 }\naction");
    let mut told_of = story();
    change(&mut told_of, POLICY_LOADED, 0, 2);
    told(&mut told_of, decision(Operation::FilePreserve));
    told_of.create(session(1, "vm")).preserve(session(1, "vm"), 1, memfd(1));
    let recorded = PolicyDecision {
        unselected: 0b110,
        ..decision(Operation::FilePreserve)
    };
    told(&mut told_of, recorded);
    assert_eq!(decided(&counted, &told_of), ["file-preserve audit r"]);
    let every = rule("on = \"file-preserve\"\naction = \"audit\"");
    assert_eq!(decided(&every, &told_of), ["file-preserve audit r"]);
    let other = after.replace(MEMFD, "vfio-v1");
    assert_eq!(decided(&other, &record), [""; 0]);
    let image = rule(&format!(
        "on = \"kexec-load\"\nmatch = {{ handler = \"{MEMFD}\", session = \"v*\" }}\naction = \"deny\""
    ));
    assert_eq!(decided(&image, &record), ["kexec-load deny r"]);
    assert_eq!(decided(&image.replace("v*", "w*"), &record), ["kexec-load pass"]);
}

#[test]
fn what_was_not_preserved_or_came_from_before_or_is_the_recorders_own_does_not_count() {
    // Given a file that could not be preserved,
    let vm = session(1, "vm");
    let after = rule(&format!(
        "on = \"file-preserve\"\nmatch = {{ handler = \"{MEMFD}\" }}\naction = \"audit\""
    ));
    let mut record = story();
    record.create(vm).failing(28).preserve(vm, 1, memfd(1));
    // then no rule about its handler applies.
    assert_eq!(decided(&after, &record), [""; 0]);
    // Given a session of the previous kernel, with a file that was brought back,
    let when = |asked: &str| {
        rule(&format!(
            "on = \"session-create\"\nwhen = {{ {asked} }}\naction = \"deny\""
        ))
    };
    let came_over = |name: &str| {
        let vm = session(1, name);
        let mut record = story();
        record.open_device_with(|s| _ = s.arrive(vm, 2).read_in());
        record
            .retrieve_session(vm)
            .retrieve(vm, 1, memfd(1))
            .create(session(2, "next"));
        record
    };
    // then it is unfinished, and its files are not what leaves with the next one;
    assert_eq!(
        decided(&when("files-over = 0"), &came_over("vm")),
        ["session-create pass"]
    );
    let unfinished = when("incoming-unfinished = true");
    assert_eq!(decided(&unfinished, &came_over("vm")), ["session-create deny r"]);
    // but where it is the recorder's own, no program is asked to finish it.
    let own = session(1, luo_trace_common::OWN_SESSION);
    let mut record = story();
    record.open_device_with(|s| _ = s.arrive(own, 1).read_in());
    record.create(session(2, "next"));
    assert_eq!(decided(&unfinished, &record), ["session-create pass"]);
}

#[test]
fn a_call_that_was_decided_is_one_call_whatever_else_tells_of_it() {
    // Given a policy that is asked about every session, and a loss between the question and what came of it,
    let every = rule("on = [\"session-create\", \"kexec-reboot\"]\naction = \"audit\"");
    let mut record = story();
    change(&mut record, POLICY_LOADED, 0, 1 << Operation::SessionCreate as u32);
    told(&mut record, decision(Operation::SessionCreate))
        .gap()
        .create(session(1, "vm"));
    assert_eq!(decided(&every, &record), ["session-create audit r"]);
    // and a jump that only the agent's own rule was asked about: then each is told once.
    let mut record = story();
    change(&mut record, POLICY_LOADED, 0, 0);
    let asked = PolicyDecision {
        rule: RULE_HOLD,
        decision: Decision::Allowed as u32,
        ..decision(Operation::KexecReboot)
    };
    told(&mut record, asked).reboot_into(LEGACY);
    assert_eq!(decided(&every, &record), ["kexec-reboot allowed hold"]);
}

#[test]
fn a_gap_takes_away_what_may_have_changed_meanwhile() {
    // Given an image that was looked into before a loss, then nobody knows whether it is that one which is jumped into.
    let target = rule("on = \"kexec-reboot\"\nwhen = { target-incompatible = true }\naction = \"deny\"");
    let mut record = story();
    record.load("kho=on liveupdate=on");
    record
        .look_into(VERDICT_CARRIES, VERDICT_CARRIES, "it does")
        .gap()
        .reboot();
    assert_eq!(decided(&target, &record), ["kexec-reboot cannot-tell"]);
    // Given a decision whose call was lost, then the next call of that thread is another one.
    let every = rule("on = \"kexec-reboot\"\naction = \"audit\"");
    let mut record = story();
    let asked = PolicyDecision {
        rule: RULE_HOLD,
        ..decision(Operation::KexecReboot)
    };
    told(&mut record, asked).gap().reboot_into(LEGACY);
    let expected = ["kexec-reboot deny hold", "kexec-reboot audit r"];
    assert_eq!(decided(&every, &record), expected);
}

#[test]
fn a_walk_counts_when_nothing_changed_under_it_and_tells_what_waits_to_be_read_in() {
    let walked = |flags: u32, more: &dyn Fn(&mut Story)| {
        let mut record = Story::new();
        let mut end = SnapshotEnd::new_zeroed();
        end.flags = flags;
        record.push(Body::SnapshotEnd(end));
        more(&mut record);
        record.create(session(1, "vm"));
        record
    };
    let when = |asked: &str| {
        rule(&format!(
            "on = \"session-create\"\nwhen = {{ {asked} }}\naction = \"deny\""
        ))
    };
    let crowded = when("sessions-over = 0");
    assert_eq!(decided(&crowded, &walked(0, &|_| {})), ["session-create pass"]);
    let changed = walked(SNAPSHOT_CHANGED, &|_| {});
    assert_eq!(decided(&crowded, &changed), ["session-create cannot-tell"]);
    // What waits is unfinished, until it is read in and turns out to be nothing.
    let unfinished = when("incoming-unfinished = true");
    let unread = walked(SNAPSHOT_INCOMING_UNREAD, &|_| {});
    assert_eq!(decided(&unfinished, &unread), ["session-create deny r"]);
    let read = walked(SNAPSHOT_INCOMING_UNREAD, &|record| {
        record.open_device_with(|s| _ = s.read_in());
    });
    assert_eq!(decided(&unfinished, &read), ["session-create pass"]);
}

#[test]
fn what_is_known_of_an_image_is_of_that_image_and_both_sources_tell_of_its_line() {
    let asked = |what: &str| {
        rule(&format!(
            "on = \"kexec-reboot\"\nwhen = {{ {what} = true }}\naction = \"deny\""
        ))
    };
    // Given a look into an image that another one has taken the place of,
    let other = Image {
        id: 0x99,
        mode: IMAGE_FILE,
        ..LEGACY
    };
    let mut record = story();
    record.load("kho=on liveupdate=on").load_image(IMAGE_FILE, other);
    record
        .look_into(VERDICT_CARRIES, VERDICT_CARRIES, "it does")
        .reboot_into(other);
    assert_eq!(decided(&asked("target-incompatible"), &record), ["kexec-reboot deny r"]);
    // and one that tells nothing of a command line, which the load has told.
    let mut record = story();
    record.load("kho=on");
    record.look_into(VERDICT_CARRIES, VERDICT_UNKNOWN, "it does").reboot();
    assert_eq!(
        decided(&asked("cmdline-missing-liveupdate"), &record),
        ["kexec-reboot deny r"]
    );
}

#[test]
fn what_policy_knew_of_a_call_and_what_it_did_not_know_is_so_again() {
    let one = |policy: &str, p: PolicyDecision| {
        let mut record = story();
        told(&mut record, p);
        decided(policy, &record).remove(0)
    };
    let on = |operation: &str, asked: &str| rule(&format!("on = \"{operation}\"\n{asked}\naction = \"deny\""));
    let reboot = decision(Operation::KexecReboot);
    // The agent was lost,
    let closed = "on_agent_loss = \"closed\"\n".to_owned() + &on("session-create", "");
    let lost = PolicyDecision {
        rule: RULE_AGENT_LOSS,
        ..reboot
    };
    assert_eq!(one(&closed, lost), "kexec-reboot deny agent-loss");
    // sessions were not counted, so that the record's own number counts,
    let crowded = on("session-create", "when = { sessions-over = 0 }");
    assert_eq!(one(&crowded, decision(Operation::SessionCreate)), "session-create pass");
    // no process had looked into the image,
    let target = on("kexec-reboot", "when = { target-incompatible = true }");
    let unlooked = PolicyDecision {
        unknown: 1 << Condition::TargetIncompatible as u32,
        ..reboot
    };
    assert_eq!(one(&target, unlooked), "kexec-reboot deny r");
    // the control group was not known, or is not told,
    let group = on("kexec-reboot", "match = { cgroup = \"/a\" }");
    let no_group = PolicyDecision {
        cgroup: CgroupPath::EMPTY,
        ..reboot
    };
    assert_eq!(one(&group, no_group), "kexec-reboot cannot-tell");
    let unknown_group = PolicyDecision {
        unselected: 1 << Aspect::Cgroup as u32,
        ..no_group
    };
    assert_eq!(one(&group, unknown_group), "kexec-reboot deny r");
    // and a session without a name is not one that is surely not excepted.
    let but_vm = on("file-preserve", "unless = { session = \"vm\" }");
    assert_eq!(one(&but_vm, decision(Operation::FilePreserve)), "file-preserve pass");
}

#[test]
fn a_promise_that_was_broken_stays_broken_and_a_policy_that_is_off_tells_of_no_call() {
    let broken = rule("on = \"session-create\"\nwhen = { invariant-violated = \"warning\" }\naction = \"deny\"");
    let (vm, next) = (session(1, "vm"), session(2, "next"));
    let mut record = story();
    change(&mut record, POLICY_LOADED, 0, 1 << Operation::SessionCreate as u32);
    change(&mut record, POLICY_OFF, 0, 0);
    // A file that is not given back,
    record.create(vm).preserve(vm, 1, memfd(1)).preserve(vm, 2, memfd(2));
    record
        .close(vm, &[(1, memfd(1))])
        .create(next)
        .create(session(3, "later"));
    let expected = ["session-create pass", "session-create deny r", "session-create deny r"];
    assert_eq!(decided(&broken, &record), expected);
}

#[test]
fn a_record_of_an_audit_gives_the_same_again() {
    let policy = Policy::read(include_str!("../../../policies/safe-defaults.toml")).unwrap();
    let mut record = story();
    change(&mut record, POLICY_LOADED, 0, 0b1101);
    let live = |operation, decision, rule: &str, yes| PolicyDecision {
        operation: operation as u32,
        decision: decision as u32,
        rule_name: RuleName::new(rule),
        session: session(0, "vm"),
        sessions: u64::from(operation != Operation::SessionCreate),
        yes,
        ..self::decision(operation)
    };
    told(
        &mut record,
        live(Operation::SessionCreate, Decision::Audit, "every-update", 0),
    )
    .create(session(1, "vm"));
    told(
        &mut record,
        live(Operation::KexecLoad, Decision::Deny, "no-legacy-image", 1),
    )
    .failing(1)
    .load_image(IMAGE_LEGACY, LEGACY);
    let lines = story_of(&record);
    assert_eq!(decided_by(&policy, &record), lines);
    assert_eq!(lines.len(), 2);
}

/// What the record itself says was decided.
fn story_of(story: &Story) -> Vec<(Operation, Option<(Decision, RuleName)>)> {
    let told = story.events.iter().filter_map(|event| match &event.body {
        Body::PolicyDecision(operation, decision, p) => Some((*operation, Some((*decision, p.rule_name)))),
        _ => None,
    });
    told.collect()
}

fn decided_by(policy: &Policy, story: &Story) -> Vec<(Operation, Option<(Decision, RuleName)>)> {
    let mut replay = Replay::new(policy, &Coverage::all());
    story.events.iter().for_each(|event| replay.apply(event));
    replay
        .finish()
        .into_iter()
        .map(|call| (call.operation, call.ruling))
        .collect()
}

#[test]
fn orders_that_an_agent_found_at_its_start_count_and_those_it_did_not_find_are_over() {
    // Given a policy under which a hold counts for sessions, too, and a record of an agent that was held,
    let when_held = rule("on = \"session-create\"\nwhen = { held = true }\naction = \"deny\"");
    let policy = Policy::read(&when_held).unwrap();
    let mut replay = Replay::new(&policy, &Coverage::all());
    let mut first = story();
    change(&mut first, POLICY_LOADED, 0, 0);
    change(&mut first, POLICY_HOLD, NEVER, 0).create(session(1, "first"));
    first.events.iter().for_each(|event| replay.apply(event));
    // when the next agent finds that hold, and one after it none, since it was cleared when no agent ran,
    let mut run = |name: &str, orders: &[u32]| {
        replay.run(&Coverage::all());
        let mut next = story();
        next.create(session(2, &format!("early-{name}")));
        change(&mut next, POLICY_LOADED, 0, 0);
        orders.iter().for_each(|&what| _ = change(&mut next, what, NEVER, 0));
        next.create(session(3, name));
        next.events.iter().for_each(|event| replay.apply(event));
    };
    run("found", &[POLICY_HOLD]);
    run("lifted", &[POLICY_HOLD, POLICY_ALLOW]);
    run("none", &[]);
    // then each counts as long as it stands: until an agent tells what it found, it is what the one before had.
    let decided = replay.finish();
    let decided: Vec<String> = decided
        .iter()
        .map(|call| format!("{} {}", call.session, call.ruling.unwrap().0.name()))
        .collect();
    assert_eq!(
        decided,
        [
            "first deny",
            "early-found deny",
            "found deny",
            "early-lifted deny",
            "lifted allowed",
            "early-none allowed",
            "none pass"
        ]
    );
}
