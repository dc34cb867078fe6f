//! What the kernel decides by a compiled policy is what the rules say when they are read one by one.

use luo_trace_common::policy::{
    Aspect, CGROUP_DEPTH, CgroupKey, CgroupName, CgroupNode, Condition, Decision, Facts, Mode, NOT_COUNTED, Operation,
    Orders, RULE_AGENT_LOSS, RULE_HOLD, RULE_NONE, RULES, RuleName, Ruling, SEVERITIES, Selected,
};
use luo_trace_common::text::{Comm, Compatible, SessionName};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::Severity;
use crate::policy::{Compiled, Places, Policy, Rule, Selection, Sessions, When, level};
use crate::testing::cases;

/// A call, and all that is known when it is decided.
#[derive(Clone, Debug)]
struct Call {
    operation: Operation,
    comm: Comm,
    uid: u32,
    cgroup: Option<Vec<CgroupName>>,
    session: Option<SessionName>,
    /// The sessions and handlers that are preserved.
    sessions: Vec<SessionName>,
    handlers: Vec<Compatible>,
    /// The conditions that are so or not, by number; those that count are not looked for here.
    simple: Vec<Option<bool>>,
    counts: Option<(u64, u64)>,
    violated: u64,
    orders: Orders,
}

impl Call {
    fn is_of_image(&self) -> bool {
        matches!(self.operation, Operation::KexecLoad | Operation::KexecReboot)
    }
}

/// Whether something is so: `None` is not known.
type Truth = Option<bool>;

fn all(truths: impl IntoIterator<Item = Truth>) -> Truth {
    let truths: Vec<_> = truths.into_iter().collect();
    match truths.contains(&Some(false)) {
        true => Some(false),
        false if truths.contains(&None) => None,
        false => Some(true),
    }
}

/// Whether a call has one of the values that are named for an aspect.
fn has(selection: &Selection, aspect: Aspect, call: &Call) -> Truth {
    let means = |name: &SessionName| {
        selection.session.iter().any(|sessions| match sessions {
            Sessions::Named(wanted) => wanted.as_bytes() == name.as_bytes(),
            Sessions::Beginning(wanted) => name.as_bytes().starts_with(wanted.as_bytes()),
        })
    };
    match aspect {
        Aspect::Comm => Some(selection.comm.contains(&call.comm)),
        Aspect::Uid => Some(selection.uid.contains(&call.uid)),
        Aspect::Cgroup => {
            let path = call.cgroup.as_ref()?;
            Some(
                selection
                    .cgroup
                    .iter()
                    .any(|above| path.len() >= above.len() && path[..above.len()] == above[..]),
            )
        }
        Aspect::Session if call.is_of_image() => Some(call.sessions.iter().any(means)),
        Aspect::Session => call.session.as_ref().map(means),
        Aspect::Handler if call.is_of_image() => Some(call.handlers.iter().any(|it| selection.handler.contains(it))),
        Aspect::Handler => None,
    }
}

fn selects(selection: &Selection, call: &Call) -> Truth {
    let named = Aspect::ALL.iter().filter(|&&aspect| selection.names(aspect));
    all(named.map(|&aspect| has(selection, aspect, call)))
}

fn is_so(when: &When, condition: Condition, call: &Call) -> Truth {
    let counted = |of: fn((u64, u64)) -> u64, over: Option<u64>| Some(of(call.counts?) > over.unwrap());
    match condition {
        Condition::SessionsOver => counted(|(sessions, _)| sessions, when.sessions_over),
        Condition::FilesOver => counted(|(_, files)| files, when.files_over),
        Condition::InvariantViolated => Some(call.violated >= level(when.violated.unwrap())),
        simple => call.simple[simple as usize],
    }
}

/// Whether a rule applies, as its text reads.
fn applies(rule: &Rule, call: &Call) -> bool {
    let excepted = match rule.unless.is_empty() {
        true => Some(false),
        false => selects(&rule.unless, call),
    };
    let asked = Condition::ALL.iter().filter(|&&condition| rule.when.names(condition));
    let so = all(asked.map(|&condition| is_so(&rule.when, condition, call)));
    let truth = all([selects(&rule.matches, call), excepted.map(|excepted| !excepted), so]);
    let unknown = rule.unknown_applies.unwrap_or(call.operation == Operation::KexecReboot);
    rule.on.contains(&call.operation) && !rule.is_after_the_fact(call.operation) && truth.unwrap_or(unknown)
}

/// What is decided, as the rules read.
fn plain(policy: &Policy, call: &Call) -> Ruling {
    let applying = || (0..).zip(&policy.rules).filter(|(_, rule)| applies(rule, call));
    let denies = applying().find(|(_, rule)| rule.deny).map(|(number, _)| number);
    let own = match call.is_of_image() {
        true if call.orders.held => Some(RULE_HOLD),
        true if call.orders.stale && policy.closed => Some(RULE_AGENT_LOSS),
        _ => None,
    };
    let (decision, rule) = match (own.or(denies), applying().next()) {
        (Some(rule), _) if call.orders.allowed => (Decision::Allowed, rule),
        (Some(rule), _) if policy.mode == Mode::Enforce => (Decision::Deny, rule),
        (Some(rule), _) => (Decision::WouldDeny, rule),
        (None, Some((number, _))) => (Decision::Audit, number),
        (None, None) => (Decision::Pass, RULE_NONE),
    };
    Ruling { decision, rule }
}

/// The rules that name a value, looked up as the programs do.
fn looked_up(compiled: &Compiled, call: &Call) -> ([Selected; Aspect::COUNT], u32) {
    let mut selected = [Selected::default(); Aspect::COUNT];
    let mut unselected = 0;
    let of = |found: Option<Selected>| found.unwrap_or_default();
    let comm = compiled.comms.iter().find(|(comm, _)| *comm == call.comm);
    selected[Aspect::Comm as usize] = of(comm.map(|(_, selected)| *selected));
    let uid = compiled.uids.iter().find(|(uid, _)| *uid == call.uid);
    selected[Aspect::Uid as usize] = of(uid.map(|(_, selected)| *selected));
    match &call.cgroup {
        Some(path) => selected[Aspect::Cgroup as usize] = walked(&compiled.cgroups, path),
        None => unselected |= 1 << Aspect::Cgroup as u32,
    }
    if call.is_of_image() {
        selected[Aspect::Session as usize] = compiled.table.preserved[Aspect::Session as usize];
        selected[Aspect::Handler as usize] = compiled.table.preserved[Aspect::Handler as usize];
        return (selected, unselected);
    }
    match &call.session {
        Some(name) => {
            let bit = |bytes: &[u8; 64], bit: u32| bytes[bit as usize / 8] >> (7 - bit % 8) & 1;
            let begins = |bits: u32, with: &[u8; 64]| (0..bits).all(|at| bit(&name.0, at) == bit(with, at));
            let matching = compiled
                .sessions
                .iter()
                .filter(|prefix| begins(prefix.bits, &prefix.name));
            let longest = matching.max_by_key(|prefix| prefix.bits);
            selected[Aspect::Session as usize] = of(longest.map(|prefix| prefix.selected));
        }
        None => unselected |= 1 << Aspect::Session as u32,
    }
    (selected, unselected | 1 << Aspect::Handler as u32)
}

/// From the root on, as deep as it goes.
fn walked(nodes: &[(CgroupKey, CgroupNode)], path: &[CgroupName]) -> Selected {
    let (mut parent, mut selected) = (0, Selected::default());
    for &name in path.iter().take(CGROUP_DEPTH) {
        let key = CgroupKey {
            generation: 0,
            parent,
            name,
        };
        let Some((_, node)) = nodes.iter().find(|(other, _)| *other == key) else {
            break;
        };
        (parent, selected) = (node.node, selected.or(node.selected));
    }
    selected
}

/// What the programs decide.
fn compiled(policy: &Policy, call: &Call) -> Ruling {
    let mut compiled = policy.compile();
    compiled.table.preserved = policy.preserved(call.sessions.iter().copied(), call.handlers.iter().copied());
    let (selected, unselected) = looked_up(&compiled, call);
    let mut facts = Facts {
        selected,
        unselected,
        violated: call.violated,
        sessions: call.counts.map_or(NOT_COUNTED, |(sessions, _)| sessions),
        files: call.counts.map_or(NOT_COUNTED, |(_, files)| files),
        ..Facts::default()
    };
    for (bit, truth) in call.simple.iter().enumerate() {
        match truth {
            Some(so) => facts.yes |= u32::from(*so) << bit,
            None => facts.unknown |= 1 << bit,
        }
    }
    if call.counts.is_none() {
        facts.unknown |= 1 << Condition::SessionsOver as u32 | 1 << Condition::FilesOver as u32;
    }
    let table = &compiled.table;
    table.rule(call.operation, table.applying(call.operation, &facts), call.orders)
}

fn comm() -> impl Strategy<Value = Comm> {
    select(vec!["a", "b", "c"]).prop_map(Comm::new)
}

fn handler() -> impl Strategy<Value = Compatible> {
    select(vec!["memfd-v2", "vfio-v1", "x"]).prop_map(Compatible::new)
}

fn cgroup() -> impl Strategy<Value = Vec<CgroupName>> {
    vec(select(vec!["a", "b"]).prop_map(CgroupName::new), 1..4)
}

/// Names of few bytes, odd ones among them, so that many begin like another.
fn name(len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = SessionName> {
    vec(select(vec![b'a', b'b', 0xff, 0x80]), len).prop_map(SessionName::new)
}

fn sessions() -> impl Strategy<Value = Sessions> {
    prop_oneof![
        name(1..=3).prop_map(Sessions::Named),
        name(0..=3).prop_map(Sessions::Beginning)
    ]
}

fn selection() -> impl Strategy<Value = Selection> {
    let few = 0..3_usize;
    (
        vec(comm(), few.clone()),
        vec(0..3_u32, few.clone()),
        vec(cgroup(), few.clone()),
        vec(sessions(), few.clone()),
        vec(handler(), few),
        any::<u8>(),
    )
        .prop_map(|(comm, uid, cgroup, session, handler, kept)| {
            // Few rules name everything.
            let keep = |aspect: Aspect| kept >> aspect as u32 & 1 != 0 && kept >> 5 != 0;
            Selection {
                comm: if keep(Aspect::Comm) { comm } else { vec![] },
                uid: if keep(Aspect::Uid) { uid } else { vec![] },
                cgroup: if keep(Aspect::Cgroup) { cgroup } else { vec![] },
                session: if keep(Aspect::Session) { session } else { vec![] },
                handler: if keep(Aspect::Handler) { handler } else { vec![] },
            }
        })
}

fn when() -> impl Strategy<Value = When> {
    let simple = Condition::ALL
        .iter()
        .copied()
        .filter(|&condition| is_simple(condition))
        .collect::<Vec<_>>();
    let severity = select(vec![Severity::Warning, Severity::Error, Severity::Critical]);
    (
        proptest::sample::subsequence(simple, 0..3),
        option::weighted(0.3, 0..4_u64),
        option::weighted(0.3, 0..4_u64),
        option::weighted(0.2, severity),
    )
        .prop_map(|(simple, sessions_over, files_over, violated)| When {
            simple,
            sessions_over,
            files_over,
            violated,
        })
}

fn is_simple(condition: Condition) -> bool {
    !matches!(
        condition,
        Condition::SessionsOver | Condition::FilesOver | Condition::InvariantViolated
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let on = proptest::sample::subsequence(Operation::ALL.to_vec(), 1..=4);
    (
        on,
        selection(),
        selection(),
        when(),
        any::<bool>(),
        any::<Option<bool>>(),
    )
        .prop_map(|(on, matches, unless, when, deny, unknown_applies)| Rule {
            name: RuleName::new("r"),
            on,
            matches,
            unless,
            when,
            deny,
            unknown_applies,
            places: Places::default(),
        })
}

fn policy(rules: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Policy> {
    (
        select(vec![Mode::Audit, Mode::Enforce]),
        any::<bool>(),
        vec(rule(), rules),
    )
        .prop_map(|(mode, closed, rules)| Policy {
            mode,
            closed,
            stale_after: 1,
            rules,
        })
}

fn call() -> impl Strategy<Value = Call> {
    let who = (comm(), 0..3_u32, option::weighted(0.8, cgroup()));
    let what = (
        select(Operation::ALL.to_vec()),
        option::weighted(0.8, name(1..=4)),
        vec(name(1..=4), 0..3),
        vec(handler(), 0..3),
    );
    let simple = vec(any::<Option<bool>>(), Condition::COUNT).prop_map(|mut simple| {
        let numbered = Condition::ALL.iter().filter(|&&condition| !is_simple(condition));
        numbered.for_each(|&condition| simple[condition as usize] = Some(false));
        simple
    });
    let facts = (
        simple,
        option::weighted(0.7, (0..5_u64, 0..5_u64)),
        0..4_u64,
        any::<[bool; 3]>(),
    );
    (who, what, facts).prop_map(
        |((comm, uid, cgroup), (operation, session, sessions, handlers), facts)| {
            let (simple, counts, violated, [held, allowed, stale]) = facts;
            Call {
                operation,
                comm,
                uid,
                cgroup,
                session,
                sessions,
                handlers,
                simple,
                counts,
                violated,
                orders: Orders { held, allowed, stale },
            }
        },
    )
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn the_kernel_decides_what_the_rules_say((policy, calls) in (policy(0..=6), vec(call(), 8))) {
        for call in &calls {
            prop_assert_eq!(compiled(&policy, call), plain(&policy, call), "{:?}", call);
        }
    }

    #[test]
    fn a_call_for_which_there_is_no_room_is_decided_as_one_of_which_nothing_is_known(policy in policy(0..=6)) {
        let table = policy.compile().table;
        let facts = Facts {
            unselected: u32::MAX,
            unknown: u32::MAX,
            sessions: NOT_COUNTED,
            files: NOT_COUNTED,
            violated: SEVERITIES as u64,
            ..Facts::default()
        };
        for &operation in Operation::ALL {
            prop_assert_eq!(table.applying_to_unknown(operation), table.applying(operation, &facts));
        }
    }

    #[test]
    fn a_rule_that_is_said_to_be_covered_never_applies_alone((wide, narrow, calls) in (rule(), rule(), vec(call(), 16))) {
        for call in calls.iter().filter(|call| wide.covers(&narrow, call.operation)) {
            prop_assert!(!applies(&narrow, call) || applies(&wide, call), "{:?}", call);
        }
    }

    #[test]
    fn a_rule_covers_itself_and_any_that_asks_for_more((rule, call) in (rule(), call())) {
        prop_assert!(!rule.on.contains(&call.operation) || rule.covers(&rule, call.operation));
        let mut all = rule.clone();
        (all.matches, all.unless, all.when) = (Selection::default(), Selection::default(), When::default());
        let alike = all.is_after_the_fact(call.operation) == rule.is_after_the_fact(call.operation);
        prop_assert!(!rule.on.contains(&call.operation) || !alike || all.covers(&rule, call.operation));
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn a_policy_of_as_many_rules_as_there_may_be_is_decided_like_any_other(
        (policy, calls) in (policy(RULES..=RULES), vec(call(), 8))
    ) {
        for call in &calls {
            prop_assert_eq!(compiled(&policy, call), plain(&policy, call), "{:?}", call);
        }
    }
}

#[test]
fn every_mixture_of_known_and_unknown_is_decided_as_the_rule_reads() {
    let group = |text: &str| vec![CgroupName::new(text)];
    let name = |text: &str| SessionName::new(text);
    let mut seen = [0; 2];
    for present in 0..32_u32 {
        let has = |bit: u32| present >> bit & 1 != 0;
        let session = |bit| {
            if has(bit) {
                vec![Sessions::Named(name("a"))]
            } else {
                vec![]
            }
        };
        let mut rule = Rule {
            name: RuleName::new("r"),
            on: Operation::ALL.to_vec(),
            matches: Selection {
                session: session(0),
                ..Selection::default()
            },
            unless: Selection {
                cgroup: if has(1) { vec![group("a")] } else { vec![] },
                session: session(2),
                ..Selection::default()
            },
            when: When {
                simple: if has(3) { vec![Condition::LegacyImage] } else { vec![] },
                sessions_over: has(4).then_some(0),
                ..When::default()
            },
            deny: true,
            unknown_applies: None,
            places: Places::default(),
        };
        for case in 0..4 * 3_usize.pow(5) {
            let digit = |place: u32| case / 4 / 3_usize.pow(place) % 3;
            let of = |place: u32| [None, Some("a"), Some("b")][digit(place)];
            let mut simple = vec![Some(false); Condition::COUNT];
            simple[Condition::LegacyImage as usize] = [None, Some(false), Some(true)][digit(2)];
            rule.unknown_applies = [None, Some(false), Some(true)][digit(4)];
            let call = Call {
                operation: Operation::ALL[case % 4],
                comm: Comm::EMPTY,
                uid: 0,
                cgroup: of(0).map(group),
                session: of(1).map(name),
                sessions: of(1).map(name).into_iter().collect(),
                handlers: vec![],
                simple,
                counts: [None, Some((0, 0)), Some((1, 0))][digit(3)],
                violated: 0,
                orders: Orders::default(),
            };
            let policy = Policy {
                mode: Mode::Enforce,
                closed: false,
                stale_after: 1,
                rules: vec![rule.clone()],
            };
            let ruling = plain(&policy, &call);
            assert_eq!(compiled(&policy, &call), ruling, "{rule:?} {call:?}");
            seen[usize::from(ruling.decision == Decision::Deny)] += 1;
        }
    }
    assert!(seen.iter().all(|&often| often > 1000), "{seen:?}");
}

#[test]
fn every_mixture_of_orders_modes_and_rules_is_decided_as_documented() {
    for case in 0..3 * 2 * 8 * 4 * 16_usize {
        let mode = Mode::ALL[case % 3];
        let bit = |bit: usize| (case / 3) >> bit & 1 != 0;
        let rule = |deny, on| Rule {
            name: RuleName::EMPTY,
            on: if on { Operation::ALL.to_vec() } else { vec![] },
            matches: Selection::default(),
            unless: Selection::default(),
            when: When::default(),
            deny,
            unknown_applies: None,
            places: Places::default(),
        };
        let policy = Policy {
            mode,
            closed: bit(0),
            stale_after: 1,
            rules: vec![rule(bit(6), bit(7)), rule(bit(8), bit(9))],
        };
        let call = Call {
            operation: Operation::ALL[(case / 3) >> 4 & 3],
            comm: Comm::EMPTY,
            uid: 0,
            cgroup: None,
            session: None,
            sessions: vec![],
            handlers: vec![],
            simple: vec![Some(false); Condition::COUNT],
            counts: None,
            violated: 0,
            orders: Orders {
                held: bit(1),
                allowed: bit(2),
                stale: bit(3),
            },
        };
        let ruling = plain(&policy, &call);
        assert_eq!(compiled(&policy, &call), ruling, "{policy:?} {call:?}");
        // No process is asked exactly where nothing could come of it.
        let asked = policy.compile().table.asks(call.operation, call.orders);
        assert_eq!(asked, ruling.decision != Decision::Pass, "{policy:?} {call:?}");
    }
}

#[test]
fn a_name_that_fills_its_buffer_is_told_from_one_that_begins_so() {
    let long = "s".repeat(63);
    let text = format!(
        "[[rule]]\nname = \"exact\"\non = \"session-create\"\nmatch = {{ session = \"{long}\" }}\naction = \"deny\"\n[[rule]]\nname = \
         \"begins\"\non = \"session-create\"\nmatch = {{ session = \"{}*\" }}\naction = \"audit\"\n",
        "s".repeat(62)
    );
    let compiled = Policy::read(&text).unwrap().compile();
    let mut bits: Vec<_> = compiled
        .sessions
        .iter()
        .map(|prefix| (prefix.bits, prefix.selected.matched))
        .collect();
    bits.sort_unstable();
    assert_eq!(bits, [(8 * 62, 0b10), (8 * 64, 0b11)]);
}
