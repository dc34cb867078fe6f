use luo_trace_common::events::PolicyDecision;
use luo_trace_common::policy::{Decision, Operation};
use zerocopy::FromZeros;

use super::{LONG, judge};
use crate::event::{Body, Event};
use crate::model::Finding;
use crate::testing::{Story, memfd, session};

#[test]
fn a_decision_on_a_session_is_no_operation_on_it() {
    // Given a kernel that loses a file of a session, which a walk finds out, and some time later,
    let a = session(1, "a");
    let mut s = Story::new();
    s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
    s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]));
    s.wait(LONG).create(session(2, "b"));
    let told = |events: &[Event]| {
        judge(events)
            .findings
            .iter()
            .map(Finding::to_string)
            .collect::<Vec<_>>()
    };
    let found = told(&s.events);
    assert_eq!(found.len(), 1, "{found:?}");
    // when policy is asked about that session, wherever in the record that is,
    for place in 1..=s.events.len() {
        let mut payload = PolicyDecision::new_zeroed();
        payload.session = a;
        let mut events = s.events.clone();
        let asked = Event {
            header: events[place - 1].header,
            body: Body::PolicyDecision(Operation::FilePreserve, Decision::Pass, Box::new(payload)),
        };
        events.insert(place, asked);
        // then the same is found, and nothing else.
        assert_eq!(told(&events), found, "asked at {place}");
    }
}
