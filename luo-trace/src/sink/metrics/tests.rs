//! Metrics as Prometheus reads them.

use luo_trace_common::events::{self as abi, FileOp, Object, Outcome, PolicyDecision, SessionOp, SessionRef};
use luo_trace_common::hooks::Hook;
use luo_trace_common::policy::{RULE_NONE, RuleName};
use luo_trace_common::text::SessionName;
use zerocopy::FromZeros;

use super::*;
use crate::model::{Coverage, Id, Model, Subject};
use crate::testing::Story;

const SESSION: SessionRef = SessionRef {
    id: 1,
    name: SessionName::EMPTY,
};

fn event(seq: u64, body: Body) -> Event {
    Event {
        header: abi::Header {
            seq,
            ktime: seq * 1000,
            ..abi::Header::new_zeroed()
        },
        body,
    }
}

fn create(result: i64) -> Event {
    let session = SessionRef {
        name: SessionName::new("vm-secret"),
        ..SESSION
    };
    event(
        1,
        Body::SessionCreate(SessionOp {
            session,
            outcome: Outcome {
                result,
                duration: 5_000,
            },
        }),
    )
}

fn preserve(n: u64, handler: impl AsRef<[u8]>) -> Event {
    let session = SessionRef {
        name: SessionName::new("vm-secret"),
        ..SESSION
    };
    let object = Object {
        identity: n,
        file: n,
        inode: n,
        size: 4096,
    };
    let outcome = Outcome {
        result: 0,
        duration: 10,
    };
    event(
        n + 1,
        Body::FilePreserve(FileOp {
            session,
            token: n,
            handler: Compatible::new(handler),
            object,
            data: n,
            outcome,
        }),
    )
}

fn counts(events: &[Event]) -> Counts {
    let mut model = Model::new(&Coverage::all());
    for event in events {
        model.apply(event);
    }
    model.counts().clone()
}

fn metrics() -> Metrics {
    Metrics::new().unwrap()
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
}

#[test]
fn the_table_names_each_metric_once_with_its_prefix_and_type() {
    for (i, metric) in METRICS.iter().enumerate() {
        assert!(
            METRICS[i + 1..].iter().all(|other| other.name != metric.name),
            "{}",
            metric.name
        );
        assert!(
            metric.name.starts_with("luo_") && metric.help.ends_with('.'),
            "{}",
            metric.name
        );
        assert_eq!(
            metric.kind == "counter",
            metric.name.ends_with("_total"),
            "{}",
            metric.name
        );
        let unbounded = ["session", "token", "pid", "comm"];
        assert!(
            !metric.labels.iter().any(|label| unbounded.contains(label)),
            "{}",
            metric.name
        );
    }
}

#[test]
fn the_printed_table_has_a_line_for_each_metric() {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), METRICS.len());
    assert!(text.contains("luo_files{direction,handler,state} "), "{text}");
}

#[test]
fn operations_are_counted_by_result_and_timed() {
    let metrics = metrics();
    for result in [0, -17, -4000, -4001] {
        metrics.observe(&create(result));
    }
    let text = metrics.render();
    has(&text, r#"luo_operations_total{op="session-create",result="ok"} 1"#);
    has(&text, r#"luo_operations_total{op="session-create",result="EEXIST"} 1"#);
    has(&text, r#"luo_operations_total{op="session-create",result="other"} 2"#);
    has(
        &text,
        r#"luo_operation_duration_seconds_sum{op="session-create"} 0.00002"#,
    );
    has(
        &text,
        r#"luo_operation_duration_seconds_bucket{op="session-create",le="0.001"} 4"#,
    );
    has(&text, r#"luo_trace_events_total{kind="session-create"} 4"#);
}

#[test]
fn a_gap_counts_what_was_lost_and_is_no_operation() {
    let metrics = metrics();
    metrics.observe(&event(1, Body::Gap { lost: 7 }));
    let text = metrics.render();
    has(&text, "luo_trace_lost_events_total 7");
    assert!(!text.contains("luo_operations_total{"), "{text}");
}

#[test]
fn gauges_show_the_latest_state_and_nothing_of_an_older_one() {
    let metrics = metrics();
    metrics.set_counts(
        &counts(&[create(0), preserve(1, "memfd-v2"), preserve(2, "memfd-v2")]),
        90_000_000_000,
    );
    let text = metrics.render();
    has(&text, r#"luo_sessions{direction="outgoing"} 1"#);
    has(
        &text,
        r#"luo_files{direction="outgoing",handler="memfd-v2",state="preserved"} 2"#,
    );
    has(&text, r#"luo_preserved_bytes{handler="memfd-v2"} 8192"#);
    has(&text, r#"luo_incoming_pending{kind="session"} 0"#);
    metrics.set_counts(&counts(&[]), 90_000_000_000);
    assert!(!metrics.render().contains("memfd-v2"));
}

#[test]
fn what_waits_has_waited_since_the_boot() {
    let metrics = metrics();
    let mut story = Story::new();
    story.handover(&[("vm", &[1, 2])], &[]);
    metrics.set_counts(&counts(&story.events), 90_000_000_000);
    let text = metrics.render();
    has(&text, r#"luo_incoming_pending{kind="session"} 1"#);
    has(&text, r#"luo_incoming_pending{kind="file"} 2"#);
    has(&text, "luo_incoming_oldest_pending_seconds 90");
    metrics.set_counts(&counts(&[]), 91_000_000_000);
    has(&metrics.render(), "luo_incoming_oldest_pending_seconds 0");
}

#[test]
fn handlers_beyond_the_bound_are_counted_together() {
    let metrics = metrics();
    let mut events = vec![create(0)];
    events.extend((1..=NAMES as u64 + 5).map(|n| preserve(n, format!("handler-{n}"))));
    metrics.set_counts(&counts(&events), 90_000_000_000);
    let text = metrics.render();
    has(
        &text,
        r#"luo_files{direction="outgoing",handler="other",state="preserved"} 5"#,
    );
    assert_eq!(text.matches("luo_preserved_bytes{").count(), NAMES + 1);
}

#[test]
fn names_are_escaped_and_sessions_are_no_labels() {
    let metrics = metrics();
    metrics.observe(&create(0));
    metrics.set_counts(&counts(&[create(0), preserve(1, b"a\"} 1\nx \xff")]), 90_000_000_000);
    let text = metrics.render();
    assert!(!text.contains("vm-secret"), "{text}");
    has(&text, r#"luo_preserved_bytes{handler="a\"} 1\\nx \\xff"} 4096"#);
}

#[test]
fn verdicts_findings_hooks_and_sinks_are_shown() {
    let metrics = metrics();
    let state = |hook: Hook, attached, switched_off| HookState {
        id: hook.id().into(),
        attached,
        switched_off,
        ..HookState::default()
    };
    metrics.set_hooks(&[
        state(Hook::FilePreserve, true, false),
        state(Hook::Kexec, false, false),
        state(Hook::KhoKeyAdd, false, true),
    ]);
    metrics.set_verdicts(&Model::new(&Coverage::all().without(Hook::Kexec)).verdicts());
    metrics.found(&Finding {
        id: Id::default(),
        invariant: Invariant::FileBalance,
        object: Subject::Update,
        expected: "x".into(),
        seen: "y".into(),
        advice: "z",
        evidence: Vec::new(),
        time_ns: 0,
    });
    metrics.sink_dropped("journal", 3);
    metrics.decode_errors(2);
    metrics.set_update_number(4);
    assert!(!metrics.render().contains("luo_kho_scratch_bytes "), "it is not known");
    metrics.set_kho_scratch(64 << 20);
    let text = metrics.render();
    has(&text, r#"luo_trace_hook_attached{hook="file-preserve"} 1"#);
    has(&text, r#"luo_trace_hook_attached{hook="kexec"} 0"#);
    assert!(!text.contains("kho-key-add"), "{text}");
    has(&text, r#"luo_invariant_status{invariant="file-balance"} 0"#);
    has(&text, r#"luo_invariant_status{invariant="freeze-no-return"} 2"#);
    has(
        &text,
        r#"luo_invariant_violations_total{invariant="file-balance",severity="error"} 1"#,
    );
    assert!(
        !text.contains(r#"luo_invariant_violations_total{invariant="freeze-no-return""#),
        "what never happened has no series: {text}"
    );
    has(&text, r#"luo_trace_sink_dropped_total{sink="journal"} 3"#);
    has(&text, "luo_trace_decode_errors_total 2");
    has(&text, "luo_update_number 4");
    has(&text, "luo_kho_scratch_bytes 67108864");
}

#[test]
fn preserved_pages_are_counted_by_what_was_done_with_them() {
    // Given two calls that preserve pages, one of which fails, and what an operation did to KHO's tree,
    let metrics = metrics();
    let call = |pages, result| {
        let outcome = Outcome { result, duration: 1 };
        let op = abi::KhoOp {
            pages,
            outcome,
            ..abi::KhoOp::default()
        };
        event(1, Body::KhoOp(abi::KhoCall::PreservePages, op))
    };
    metrics.observe(&call(4, 0));
    metrics.observe(&call(8, -12));
    let pages = |pages| abi::Keys {
        calls: 1,
        pages,
        sum: 7,
    };
    metrics.observe(&event(
        2,
        Body::KhoBalance(abi::KhoBalance {
            added: pages(3),
            removed: pages(2),
            failures: 1,
            ..abi::KhoBalance::default()
        }),
    ));
    // then the failed call preserved nothing, and the sum is no operation of its own.
    let text = metrics.render();
    has(&text, r#"luo_kho_pages_total{op="kho-preserve-pages"} 4"#);
    has(&text, r#"luo_kho_failures_total{op="kho-preserve-pages"} 1"#);
    has(&text, r#"luo_kho_pages_total{op="kho-key-add"} 3"#);
    has(&text, r#"luo_kho_pages_total{op="kho-key-del"} 2"#);
    has(&text, r#"luo_kho_failures_total{op="kho-key-add"} 1"#);
    assert!(!text.contains(r#"op="kho-balance""#), "{text}");
}

fn decision(rule: &str, operation: Operation, decision: Decision) -> Event {
    let mut payload = PolicyDecision::new_zeroed();
    payload.rule = if rule.is_empty() { RULE_NONE } else { 3 };
    payload.rule_name = RuleName::new(rule);
    event(1, Body::PolicyDecision(operation, decision, Box::new(payload)))
}

#[test]
fn decisions_are_counted_by_rule_and_those_of_a_policy_that_went_are_gone() {
    let metrics = metrics();
    has(&metrics.render(), "luo_policy_mode{mode=\"off\"} 1");
    // Given a policy with a rule that has not decided yet,
    let rule = |name: &str| (name.to_owned(), Operation::KexecLoad, Decision::Deny);
    metrics.set_policy(Mode::Enforce, &[rule("legacy"), rule("hold")]);
    has(&metrics.render(), "luo_policy_mode{mode=\"enforce\"} 1");
    has(&metrics.render(), "luo_policy_mode{mode=\"off\"} 0");
    has(
        &metrics.render(),
        "luo_policy_decisions_total{decision=\"deny\",op=\"kexec-load\",rule=\"legacy\"} 0",
    );
    // when it decides, and nobody's rule does,
    metrics.observe(&decision("legacy", Operation::KexecLoad, Decision::Deny));
    metrics.observe(&decision("", Operation::KexecLoad, Decision::Pass));
    let text = metrics.render();
    has(
        &text,
        "luo_policy_decisions_total{decision=\"deny\",op=\"kexec-load\",rule=\"legacy\"} 1",
    );
    has(
        &text,
        "luo_policy_decisions_total{decision=\"pass\",op=\"kexec-load\",rule=\"\"} 1",
    );
    // and another policy comes, then what is not a rule any more is gone, and a late decision of it has no name.
    metrics.set_policy(Mode::Audit, &[rule("other-rule"), rule("hold")]);
    metrics.observe(&decision("legacy", Operation::KexecLoad, Decision::Deny));
    let text = metrics.render();
    assert!(!text.contains("rule=\"legacy\""), "{text}");
    has(
        &text,
        "luo_policy_decisions_total{decision=\"deny\",op=\"kexec-load\",rule=\"other\"} 1",
    );
    has(
        &text,
        "luo_policy_decisions_total{decision=\"pass\",op=\"kexec-load\",rule=\"\"} 1",
    );
}

#[test]
fn orders_are_a_state_and_not_a_count() {
    let metrics = metrics();
    metrics.set_orders(true, 90_500_000_000);
    has(&metrics.render(), "luo_policy_held 1");
    has(&metrics.render(), "luo_policy_allowed_seconds 90.5");
    metrics.set_orders(false, 0);
    has(&metrics.render(), "luo_policy_held 0");
    has(&metrics.render(), "luo_policy_allowed_seconds 0");
}

#[test]
fn one_of_what_can_be_known_of_the_image_is_so() {
    let metrics = metrics();
    metrics.set_image("pending");
    metrics.set_image("loses");
    let text = metrics.render();
    for known in IMAGE_VERDICTS {
        let value = u32::from(known == "loses");
        let line = format!("luo_image_verdict{{verdict=\"{known}\"}} {value}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}
