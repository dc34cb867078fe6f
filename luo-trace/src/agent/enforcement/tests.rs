//! Stories of a host that is kept by a policy.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use luo_trace_common::events::{POLICY_ALLOW, POLICY_CLEAR, POLICY_EXPIRED, POLICY_HOLD};

use super::*;
use crate::testing::{Story, header, memfd, session};

const SECOND: u64 = 1_000_000_000;

/// What the programs were told.
#[derive(Default)]
struct Told {
    calls: Vec<String>,
    preserved: [Selected; Aspect::COUNT],
    severity: u64,
    beat: u64,
    /// The next call to enforce fails.
    fails: bool,
    /// Another process has removed the pins.
    lapsed: bool,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Told>>);

impl Fake {
    fn say(&self, call: impl Into<String>) -> Result<()> {
        self.0.borrow_mut().calls.push(call.into());
        Ok(())
    }

    /// What was told since this was last asked.
    fn calls(&self) -> Vec<String> {
        mem::take(&mut self.0.borrow_mut().calls)
    }
}

impl Lsm for Fake {
    fn enforce(&mut self, policy: &Compiled) -> Result<u64> {
        if mem::take(&mut self.0.borrow_mut().fails) {
            bail!("the maps are full");
        }
        self.0.borrow_mut().preserved = policy.table.preserved;
        self.say(format!("enforce {}", policy.names.len()))?;
        Ok(self.0.borrow().calls.len() as u64)
    }

    fn release(&mut self) -> Result<()> {
        self.say("release")
    }

    fn outlive(&mut self, outlives: bool) -> Result<()> {
        self.0.borrow_mut().lapsed = false;
        self.say(if outlives { "outlive" } else { "end with the agent" })
    }

    fn lapsed(&self) -> Option<String> {
        self.0.borrow().lapsed.then(|| "the pins are gone".into())
    }

    fn retire_others(&mut self) -> Result<()> {
        self.say("alone")
    }

    fn beat(&mut self, now: u64) {
        self.0.borrow_mut().beat = now;
    }

    fn order(&mut self, held_until: u64, allowed_until: u64) {
        let end = |until: u64| match until {
            NEVER => "never".to_owned(),
            until => (until / SECOND).to_string(),
        };
        _ = self.say(format!("held {} allowed {}", end(held_until), end(allowed_until)));
    }

    fn violated(&mut self, severity: u64) {
        self.0.borrow_mut().severity = severity;
    }

    fn preserved(&mut self, selected: [Selected; Aspect::COUNT]) {
        self.0.borrow_mut().preserved = selected;
    }

    fn judge(&mut self, _image: u64, verdict: ImageBits) {
        _ = self.say(format!("verdict {}", verdict.load()));
    }
}

fn loaded(text: &str) -> Loaded {
    Loaded {
        policy: Policy::read(text).unwrap(),
        file: "/etc/luo-trace/policy.toml".into(),
    }
}

/// A policy with this mode and one rule.
fn policy(mode: &str, more: &str) -> Loaded {
    loaded(&format!(
        "mode = \"{mode}\"\n{more}\n[[rule]]\nname = \"legacy\"\non = \"kexec-load\"\nwhen = {{ legacy-image = true }}\naction = \"deny\"\n"
    ))
}

fn hold(for_ns: Option<u64>) -> Order {
    Order::Hold {
        reason: "disk swap".into(),
        for_ns,
    }
}

fn live() -> Arc<Live> {
    Arc::new(Live::new(&header(0)).unwrap())
}

/// A host with its agent.
struct Host {
    lsm: Fake,
    live: Arc<Live>,
    enforcement: Enforcement,
    notes: Vec<Note>,
}

fn begin(loaded: Loaded, adopted: Option<(u64, u64)>, dir: &Path) -> Host {
    let adopted = adopted.map(|(held_until, allowed_until)| Adopted {
        held_until,
        allowed_until,
        violated: 0,
    });
    begin_after(loaded, adopted, dir)
}

fn begin_after(loaded: Loaded, adopted: Option<Adopted>, dir: &Path) -> Host {
    let (lsm, live) = (Fake::default(), live());
    let store = Store::beside(&dir.join("agent.sock"));
    let boxed: Box<dyn Lsm> = Box::new(lsm.clone());
    let begun = Enforcement::begin(
        loaded,
        Ok(boxed),
        adopted,
        Some(store),
        live.clone(),
        "boot".into(),
        SECOND,
    );
    let (enforcement, notes) = begun.unwrap();
    Host {
        lsm,
        live,
        enforcement,
        notes,
    }
}

fn shown(live: &Live) -> Shown {
    live.policy().unwrap()
}

fn change(note: &Note) -> &PolicyChange {
    match note {
        Note::Change(change) => change,
        Note::Decision(..) => panic!("{note:?}"),
    }
}

#[test]
fn the_orders_that_stand_are_in_force_before_the_policy_is() {
    // Given a host that was held, with an agent that was killed,
    let dir = tempfile::tempdir().unwrap();
    let mut before = begin(policy("enforce", ""), None, dir.path());
    before.enforcement.take(&hold(None), 7, 2 * SECOND).unwrap();
    drop(before);
    // when the next one starts,
    let host = begin(policy("enforce", ""), None, dir.path());
    // then no decision was ever made without the hold,
    assert_eq!(
        host.lsm.calls(),
        ["held never allowed 0", "enforce 1", "end with the agent", "alone"]
    );
    // and whoever asks is told whose it is.
    let shown = shown(&host.live);
    assert_eq!(
        (&*shown.mode, shown.rules, &*shown.on_agent_loss),
        ("enforce", 1, "open")
    );
    let hold = shown.hold.unwrap();
    assert_eq!((hold.uid, &*hold.reason, hold.until_ns), (Some(7), "disk swap", None));
    let loaded = change(&host.notes[0]);
    assert_eq!((loaded.what, loaded.mode), (POLICY_LOADED, Mode::Enforce as u32));
    assert_eq!(loaded.operations, 1 << Operation::KexecLoad as u32);
    assert_eq!(loaded.text, Name::new("/etc/luo-trace/policy.toml"));
    // The record tells of it, too, so that what it refuses can be told without the agent before.
    let held = change(&host.notes[1]);
    assert_eq!((held.what, held.until, held.uid), (POLICY_HOLD, NEVER, 7));
    assert_eq!((held.mode, held.generation), (loaded.mode, loaded.generation));
    assert_eq!(held.text, Name::new("found at the agent's start: disk swap"));
    assert_eq!(host.notes.len(), 2);
}

#[test]
fn what_a_lost_agent_left_in_the_kernel_stays_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let host = begin(
        policy("enforce", "on_agent_loss = \"closed\""),
        Some((NEVER, 90 * SECOND)),
        dir.path(),
    );
    assert_eq!(
        host.lsm.calls(),
        ["held never allowed 90", "outlive", "enforce 1", "alone"]
    );
    assert_eq!(change(&host.notes[0]).what, POLICY_ADOPTED);
    assert_eq!(change(&host.notes[1]).what, POLICY_LOADED);
    assert_eq!(
        (change(&host.notes[2]).what, change(&host.notes[2]).until),
        (POLICY_HOLD, NEVER)
    );
    let allowed = change(&host.notes[3]);
    assert_eq!((allowed.what, allowed.until), (POLICY_ALLOW, 90 * SECOND));
    // It is kept from now on, so that nothing of it is lost again.
    let next = begin(policy("enforce", ""), None, dir.path());
    assert_eq!(next.lsm.calls()[0], "held never allowed 90");
}

#[test]
fn orders_that_cannot_be_read_are_a_hold_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("agent.orders"), "{\"version\":1,\"bo").unwrap();
    let host = begin(policy("enforce", ""), None, dir.path());
    assert_eq!(host.lsm.calls()[0], "held never allowed 0");
    let hold = shown(&host.live).hold.unwrap();
    assert!(hold.reason.contains("cannot be read"), "{hold:?}");
}

#[test]
fn a_policy_that_cannot_be_enforced_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = begin(policy("audit", ""), None, dir.path());
    host.lsm.calls();
    // When another one does not fit,
    host.lsm.0.borrow_mut().fails = true;
    let error = host.enforcement.swap(policy("enforce", "")).unwrap_err();
    host.enforcement.refuse(&error.to_string());
    // then nothing was let go of, and whoever asks is told.
    assert_eq!(host.lsm.calls(), [""; 0]);
    let now = shown(&host.live);
    assert_eq!(now.mode, "audit");
    assert!(
        now.troubles[0].contains("stays in force") && now.troubles[0].contains("the maps are full"),
        "{now:?}"
    );
    // When one does, then that is over.
    let note = host.enforcement.swap(policy("enforce", "")).unwrap();
    assert_eq!(change(&note).what, POLICY_LOADED);
    assert_eq!(host.lsm.calls(), ["enforce 1", "end with the agent"]);
    let now = shown(&host.live);
    assert_eq!((&*now.mode, now.troubles.len()), ("enforce", 0));
}

#[test]
fn a_policy_that_is_switched_off_asks_nobody_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = begin(policy("enforce", "on_agent_loss = \"closed\""), None, dir.path());
    host.lsm.calls();
    let note = host
        .enforcement
        .swap(policy("off", "on_agent_loss = \"closed\""))
        .unwrap();
    assert_eq!((change(&note).what, change(&note).generation), (POLICY_OFF, 0));
    assert_eq!(host.lsm.calls(), ["release", "end with the agent"]);
    // A hold is taken all the same, and says that nothing comes of it.
    let (answer, _) = host.enforcement.take(&hold(None), 0, SECOND).unwrap();
    assert!(answer.told[1].contains("nothing is refused"), "{answer:?}");
    // The end of the agent is no end of a policy then, and nothing stays.
    host.lsm.calls();
    assert_eq!(host.enforcement.end().unwrap(), None);
    assert_eq!(host.lsm.calls(), ["release", "end with the agent"]);
    assert_ne!(host.lsm.0.borrow().beat, NEVER);
}

#[test]
fn a_closed_policy_outlives_an_agent_that_ends_in_order_and_an_open_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut closed = begin(policy("enforce", "on_agent_loss = \"closed\""), None, dir.path());
    closed.lsm.calls();
    assert_eq!(closed.enforcement.end().unwrap(), None);
    assert_eq!(closed.lsm.calls(), [""; 0]);
    // What is still done until the end shows no sign of life: it would grow stale.
    closed.enforcement.follow(9 * SECOND);
    closed.enforcement.tick(9 * SECOND);
    assert_eq!(closed.lsm.0.borrow().beat, NEVER);

    let mut open = begin(policy("enforce", ""), None, dir.path());
    open.lsm.calls();
    let note = open.enforcement.end().unwrap();
    assert_eq!(note.map(|note| change(&note).what), Some(POLICY_OFF));
    assert_eq!(open.lsm.calls(), ["release", "end with the agent"]);
    assert_ne!(open.lsm.0.borrow().beat, NEVER);
}

#[test]
fn pins_that_another_process_removed_are_a_trouble_until_the_policy_is_pinned_anew() {
    // Given a closed policy whose pins are removed,
    let dir = tempfile::tempdir().unwrap();
    let closed = || policy("enforce", "on_agent_loss = \"closed\"");
    let mut host = begin(closed(), None, dir.path());
    host.enforcement.tick(2 * SECOND);
    assert_eq!(shown(&host.live).troubles, [] as [String; 0]);
    host.lsm.0.borrow_mut().lapsed = true;
    // then that is told within a second,
    host.enforcement.tick(3 * SECOND);
    assert_eq!(shown(&host.live).troubles, ["the pins are gone"]);
    // and is over when the file is read again.
    host.enforcement.swap(closed()).unwrap();
    assert_eq!(shown(&host.live).troubles, [] as [String; 0]);
}

#[test]
fn an_order_is_in_force_kept_recorded_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = begin(policy("enforce", ""), None, dir.path());
    host.lsm.calls();
    let (_, note) = host.enforcement.take(&hold(Some(60 * SECOND)), 7, 2 * SECOND).unwrap();
    let held = change(&note);
    assert_eq!((held.what, held.until, held.uid), (POLICY_HOLD, 62 * SECOND, 7));
    assert_eq!((held.mode, held.text), (Mode::Enforce as u32, Name::new("disk swap")));
    let order = Order::Allow {
        reason: "the fix".into(),
        for_ns: 10 * SECOND,
    };
    let (answer, note) = host.enforcement.take(&order, 8, 2 * SECOND).unwrap();
    assert_eq!((change(&note).what, change(&note).until), (POLICY_ALLOW, 12 * SECOND));
    assert!(
        answer
            .told
            .iter()
            .any(|told| told.contains("lifts the hold: disk swap (user 7)")),
        "{answer:?}"
    );
    assert_eq!(host.lsm.calls(), ["held 62 allowed 0", "held 62 allowed 12"]);
    assert!(dir.path().join("agent.orders").exists());
    // When the allowance ends, then the hold stands again, as it did in the kernel all the time.
    assert_eq!(host.enforcement.tick(12 * SECOND - 1), []);
    let ended = host.enforcement.expire(12 * SECOND);
    assert_eq!(
        ended.iter().map(|note| change(note).what).collect::<Vec<_>>(),
        [POLICY_EXPIRED]
    );
    assert_eq!(host.lsm.calls(), ["held 62 allowed 0"]);
    let (kept, _) = Store::beside(&dir.path().join("agent.sock")).read("boot", 0);
    assert!(kept.hold.is_some() && kept.allowance.is_none());
    assert!(shown(&host.live).hold.is_some() && shown(&host.live).allowance.is_none());
    // When it is taken back, then nothing is left of it anywhere.
    let (_, note) = host.enforcement.take(&Order::Clear, 0, 13 * SECOND).unwrap();
    assert_eq!(change(&note).what, POLICY_CLEAR);
    assert_eq!(host.lsm.calls(), ["held 0 allowed 0"]);
    assert!(!dir.path().join("agent.orders").exists());
    assert_eq!(shown(&host.live).hold, None);
}

#[test]
fn an_order_that_cannot_be_kept_stands_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = begin(policy("enforce", ""), None, &dir.path().join("gone"));
    let (answer, _) = host.enforcement.take(&hold(None), 7, SECOND).unwrap();
    assert!(
        answer.told.last().unwrap().contains("not kept for the next agent"),
        "{answer:?}"
    );
    assert_eq!(host.lsm.calls().last().unwrap(), "held never allowed 0");
    assert!(shown(&host.live).troubles[0].contains("agent.orders"));
}

#[test]
fn where_no_program_is_asked_nothing_is_ordered_and_nothing_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::beside(&dir.path().join("agent.sock"));
    let begun = |loaded| {
        let nobody = Err("bpf is no active security module".into());
        Enforcement::begin(loaded, nobody, None, Some(store.clone()), live(), "boot".into(), SECOND)
    };
    assert!(begun(policy("enforce", "")).is_err());
    let (mut enforcement, notes) = begun(policy("audit", "")).unwrap();
    // It is not in force, so that nobody expects a decision for every call.
    assert_eq!(change(&notes[0]).what, POLICY_OFF);
    assert!(
        enforcement
            .take(&hold(None), 0, SECOND)
            .unwrap_err()
            .contains("no active security module")
    );
    assert!(enforcement.swap(policy("enforce", "")).is_err());
    assert!(!enforcement.can_refuse());
}

#[test]
fn the_programs_are_told_what_is_preserved_and_violated() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nname = \"guests\"\non = \"kexec-load\"\nmatch = { session = \"vm-*\" }\naction = \"deny\"\n\
                 [[rule]]\nname = \"memory\"\non = \"kexec-load\"\nmatch = { handler = \"memfd-v2\" }\naction = \"deny\"\n";
    let mut host = begin(loaded(rules), None, dir.path());
    let tell = |story: &mut Story, host: &mut Host| {
        for event in std::mem::take(&mut story.events) {
            let findings = host.live.apply(&event);
            assert_eq!(host.enforcement.observe(&event, &findings), None);
        }
        host.enforcement.follow(5 * SECOND);
        let told = host.lsm.0.borrow();
        let matched = |aspect: Aspect| told.preserved[aspect as usize].matched;
        (matched(Aspect::Session), matched(Aspect::Handler), told.severity)
    };
    let (own, other, guest) = (
        session(1, luo_trace_common::OWN_SESSION),
        session(2, "db"),
        session(3, "vm-web"),
    );
    let mut story = Story::new();
    story.create(own).create(other);
    assert_eq!(tell(&mut story, &mut host), (0, 0, 0));
    story
        .create(guest)
        .preserve(guest, 1, memfd(1))
        .preserve(guest, 2, memfd(2));
    assert_eq!(tell(&mut story, &mut host), (1, 2, 0));
    // A file that is not given back is a promise broken.
    story.close(guest, &[(1, memfd(1))]);
    let (sessions, _, severity) = tell(&mut story, &mut host);
    assert_eq!(sessions, 0);
    assert!(severity > 0);
    // It stays broken, whatever goes well after it.
    story.create(session(4, "next"));
    assert_eq!(tell(&mut story, &mut host).2, severity);
    assert_eq!(host.lsm.0.borrow().beat, 5 * SECOND);
}

#[test]
fn the_next_agent_knows_that_an_invariant_was_violated_in_this_boot() {
    // Given an agent that sees a promise broken, and is killed,
    let dir = tempfile::tempdir().unwrap();
    let severity = {
        let mut host = begin(policy("enforce", ""), None, dir.path());
        let (mut story, guest) = (Story::new(), session(3, "vm-web"));
        story
            .orderly()
            .create(guest)
            .preserve(guest, 1, memfd(1))
            .preserve(guest, 2, memfd(2))
            .close(guest, &[(1, memfd(1))]);
        for event in &story.events {
            host.enforcement.observe(event, &host.live.apply(event));
        }
        host.enforcement.follow(2 * SECOND);
        host.lsm.0.borrow().severity
    };
    assert!(severity > 0);
    // then the programs of the next one are told before its policy is in force,
    let next = begin(policy("enforce", ""), None, dir.path());
    assert_eq!(next.lsm.0.borrow().severity, severity);
    // also where only the programs that the first one left know of it,
    let left = Adopted {
        violated: severity,
        ..Adopted::default()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let next = begin_after(policy("enforce", ""), Some(left), elsewhere.path());
    assert_eq!(next.lsm.0.borrow().severity, severity);
    // and that an operator takes back all orders changes nothing about it.
    let mut next = begin(policy("enforce", ""), None, elsewhere.path());
    next.enforcement.take(&Order::Clear, 0, 3 * SECOND).unwrap();
    let last = begin(policy("enforce", ""), None, elsewhere.path());
    assert_eq!(last.lsm.0.borrow().severity, severity);
    // In another boot it is forgotten.
    let (standing, _) = Store::beside(&elsewhere.path().join("agent.sock")).read("another", 0);
    assert_eq!(standing, Standing::default());
}

#[test]
fn a_rule_that_names_a_handler_is_judged_when_a_file_has_been_preserved() {
    // Given a rule that only looks at the files of one handler,
    let dir = tempfile::tempdir().unwrap();
    let rule = "[[rule]]\nname = \"memory\"\non = \"file-preserve\"\nmatch = { handler = \"memfd-v2\", session = \"vm-*\" }\naction = \"audit\"\n";
    let mut host = begin(loaded(rule), None, dir.path());
    let notes = |story: &Story, host: &mut Host| -> Vec<Note> {
        let observe = |event| host.enforcement.observe(event, &host.live.apply(event));
        story.events.iter().filter_map(observe).collect()
    };
    let (other, guest) = (session(2, "db"), session(3, "vm-web"));
    let mut story = Story::new();
    story
        .by(42)
        .create(other)
        .preserve(other, 1, memfd(1))
        .create(guest)
        .preserve(guest, 1, memfd(2));
    // when files are preserved, then the one it is about is in the record, in the name of who did that;
    let told = notes(&story, &mut host);
    let [Note::Decision(of, decision)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((of.pid, decision.session, decision.rule), (42, guest, 0));
    assert_eq!(
        (decision.operation, decision.decision),
        (Operation::FilePreserve as u32, Decision::Audit as u32)
    );
    assert_eq!(decision.rule_name.to_string(), "memory");
    // and when the policy is off, nothing is.
    host.enforcement
        .swap(loaded(&format!("mode = \"off\"\n{rule}")))
        .unwrap();
    let mut story = Story::new();
    story.create(guest).preserve(guest, 9, memfd(9));
    assert_eq!(notes(&story, &mut host), []);
}

#[test]
fn what_is_preserved_already_counts_from_a_policys_first_decision_on() {
    // Given a session that was there before anybody asked for it,
    let dir = tempfile::tempdir().unwrap();
    let mut host = begin(policy("audit", ""), None, dir.path());
    let mut story = Story::new();
    story.create(session(1, "vm-web"));
    story.events.iter().for_each(|event| _ = host.live.apply(event));
    // when a policy that names it is put in force, then that is part of it.
    let rule = "[[rule]]\nname = \"guests\"\non = \"kexec-load\"\nmatch = { session = \"vm-*\" }\naction = \"deny\"\n";
    host.enforcement.swap(loaded(rule)).unwrap();
    assert_eq!(host.lsm.0.borrow().preserved[Aspect::Session as usize].matched, 1);
}

#[test]
fn what_a_policy_may_come_to_decide_is_counted_from_zero() {
    let dir = tempfile::tempdir().unwrap();
    let counted = |mode: &str, loss: &str| {
        let loss = format!("on_agent_loss = \"{loss}\"");
        decisions(&begin(policy(mode, &loss), None, dir.path()).enforcement.loaded.policy)
    };
    let own = |name: &str, no| [Operation::KexecLoad, Operation::KexecReboot].map(|on| (name.to_owned(), on, no));
    let rule = |no| ("legacy".to_owned(), Operation::KexecLoad, no);
    let (deny, would) = (Decision::Deny, Decision::WouldDeny);
    let closed = [rule(deny)]
        .into_iter()
        .chain(own("hold", deny))
        .chain(own("agent-loss", deny));
    assert_eq!(counted("enforce", "closed"), closed.collect::<Vec<_>>());
    let open = [rule(would)].into_iter().chain(own("hold", would));
    assert_eq!(counted("audit", "open"), open.collect::<Vec<_>>());
}
