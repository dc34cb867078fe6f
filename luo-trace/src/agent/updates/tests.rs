//! What the agent knows of an update, from the journals of two kernels in a directory.

use std::path::Path;

use luo_trace_common::events::{HANDOVER_NOTHING, Handover, IMAGE_LEGACY, Image};

use super::*;
use crate::event::decode::encode;
use crate::journal::{Header, Writer};
use crate::report::ARRIVAL_DEADLINE;
use crate::sink::StatusSource as _;
use crate::sink::web::PageSource as _;
use crate::status::Status;
use crate::testing::{IMAGE, Story, header, memfd, session};

/// The journal of the boot of this number.
fn journal(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{}.luoj", header(number).boot_id))
}

/// Records the boot that the update of this number brought.
fn record(dir: &Path, number: u64, tell: impl FnOnce(&mut Story)) {
    record_as(dir, &header(number), tell);
}

fn record_as(dir: &Path, header: &Header, tell: impl FnOnce(&mut Story)) {
    let mut story = Story::new();
    tell(&mut story);
    let (mut writer, _) = Writer::open(dir, header).unwrap();
    let records: Vec<Vec<u8>> = story.events.iter().map(encode).collect();
    writer.append(records.iter().map(Vec::as_slice)).unwrap();
}

/// A kernel with a session leaves through this image.
fn leaves(image: Image) -> impl Fn(&mut Story) {
    move |story| {
        let vm = session(1, "vm");
        story.orderly().create(vm).preserve(vm, 1, memfd(1));
        story.reboot_with(image, |story| {
            story.freeze_files(vm, 1).serialize();
        });
    }
}

/// The next kernel finds the session.
fn arrives(story: &mut Story) {
    story.handover(&[("vm", &[1])], &[]);
    story.snapshot(|snapshot| _ = snapshot.unread());
    story.arrive(session(1, "vm"), 1).read_in();
}

fn is_finished(story: &mut Story) {
    let vm = session(1, "vm");
    story.retrieve_session(vm).retrieve(vm, 1, memfd(1));
    story.finish_files(vm, 1, |_| ());
}

/// The next kernel finds nothing.
fn arrives_empty(story: &mut Story) {
    story.push(Body::Handover(Handover {
        update_number: 1,
        flags: HANDOVER_NOTHING,
        ..Handover::default()
    }));
}

/// An agent in the kernel that the update of this number brought, whose word is asked for.
struct Agent {
    live: Arc<Live>,
    judge: Judge,
}

impl Agent {
    fn new(dir: &Path, number: u64, deadline: Duration) -> Self {
        Self::of(dir, header(number), deadline)
    }

    fn of(dir: &Path, header: Header, deadline: Duration) -> Self {
        let live = Arc::new(Live::new(&header).unwrap());
        let judge = Judge::new(dir.to_owned(), header.boot_id, deadline, live.clone());
        Self { live, judge }
    }

    /// What it knows now.
    fn status(&mut self) -> Status {
        assert!(!self.judge.judge(), "the journals are whole");
        self.live.status()
    }

    /// What the last update came to.
    fn outcome(&mut self) -> String {
        let status = self.status();
        status
            .updates
            .first()
            .map_or("none".into(), |update| update.outcome.to_string())
    }

    #[track_caller]
    fn shows(&self, lines: &[&str]) {
        let metrics = self.live.metrics();
        for line in lines {
            assert!(metrics.lines().any(|shown| shown == *line), "no {line} in {metrics}");
        }
    }
}

/// What an agent makes of two kernels that tell this, with no time to wait for anything.
fn outcome_of(before: impl FnOnce(&mut Story), after: impl FnOnce(&mut Story)) -> String {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, before);
    record(dir.path(), 1, after);
    Agent::new(dir.path(), 1, Duration::ZERO).outcome()
}

#[test]
fn an_update_is_judged_again_with_each_thing_that_happens() {
    // Given a kernel that left with a session, which the next one has found,
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, arrives);
    let mut agent = Agent::new(dir.path(), 1, Duration::MAX);
    assert_eq!(agent.outcome(), "waiting");
    agent.shows(&[
        "luo_update_outcome{outcome=\"waiting\"} 1",
        "luo_update_outcome{outcome=\"completed\"} 0",
        "luo_update_lost{kind=\"session\"} 0",
        "luo_update_unclaimed{kind=\"file\"} 0",
        "luo_invariant_status{invariant=\"kexec-sessions-conserved\"} 0",
    ]);
    // when it is retrieved and finished,
    let path = journal(dir.path(), 1);
    fs::remove_file(path).unwrap();
    record(dir.path(), 1, |story| {
        arrives(story);
        is_finished(story);
    });
    // then the update is completed, and has a blackout.
    assert_eq!(agent.outcome(), "completed");
    let releases = [0, 1].map(|number| header(number).kernel_release);
    agent.shows(&[
        &format!(
            "luo_update_info{{from=\"{}\",outcome=\"completed\",to=\"{}\"}} 1",
            releases[0], releases[1]
        ),
        "luo_update_outcome{outcome=\"waiting\"} 0",
    ]);
    let metrics = agent.live.metrics();
    assert!(metrics.contains("\nluo_update_blackout_seconds "), "{metrics}");
    assert!(
        metrics.contains("\nluo_update_phase_seconds{phase=\"freeze\"} "),
        "{metrics}"
    );
}

#[test]
fn each_way_in_which_an_update_ends_has_a_word_of_its_own() {
    let legacy = Image {
        mode: IMAGE_LEGACY,
        ..IMAGE
    };
    let aborts = |story: &mut Story| {
        let vm = session(1, "vm");
        story.orderly().create(vm).preserve(vm, 1, memfd(1));
        story.failing(16).reboot().kexec_returns();
    };
    let unclaimed = |story: &mut Story| {
        arrives(story);
        story.retrieve_session(session(1, "vm"));
        story.finish_files(session(1, "vm"), 1, |_| ());
    };
    assert_eq!(outcome_of(leaves(IMAGE), arrives_empty), "lost");
    assert_eq!(outcome_of(leaves(legacy), |_| ()), "carried-nothing");
    assert_eq!(outcome_of(leaves(IMAGE), unclaimed), "unclaimed");
    assert_eq!(
        outcome_of(leaves(IMAGE), arrives),
        "unclaimed",
        "it waits beyond the deadline"
    );
    assert_eq!(
        outcome_of(leaves(IMAGE), |_| ()),
        "inconclusive",
        "no agent looked at what came"
    );
    // A kernel of which there is no record may have left with anything, or with nothing.
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 1, |story| {
        arrives(story);
        is_finished(story);
    });
    assert_eq!(Agent::new(dir.path(), 1, ARRIVAL_DEADLINE).outcome(), "arrived");
    // A kernel that goes on after an update that it gave up.
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, aborts);
    assert_eq!(Agent::new(dir.path(), 0, ARRIVAL_DEADLINE).outcome(), "aborted");
    // And one that came up by itself.
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, |_| ());
    assert_eq!(Agent::new(dir.path(), 0, ARRIVAL_DEADLINE).outcome(), "none");
}

#[test]
fn a_cold_boot_soon_after_a_departure_is_no_arrival() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    let cold = Header {
        boot_id: "cold".into(),
        clock: header(1).clock,
        ..header(0)
    };
    record_as(dir.path(), &cold, |_| ());
    let mut agent = Agent::of(dir.path(), cold, ARRIVAL_DEADLINE);
    assert_eq!(agent.outcome(), "cold-boot");
    agent.shows(&["luo_invariant_status{invariant=\"kexec-arrived\"} 1"]);
}

#[test]
fn an_update_that_is_given_up_takes_nothing_back_of_what_was_lost_before() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, |story| {
        arrives_empty(story);
        story.failing(16).reboot().kexec_returns();
    });
    let mut agent = Agent::new(dir.path(), 1, ARRIVAL_DEADLINE);
    let outcomes = agent.status().updates;
    let outcomes: Vec<_> = outcomes.iter().map(|update| &*update.outcome).collect();
    assert_eq!(outcomes, ["aborted", "lost"]);
    agent.shows(&[
        "luo_update_outcome{outcome=\"aborted\"} 1",
        "luo_update_lost{kind=\"session\"} 1",
    ]);
}

#[test]
fn what_broke_in_the_last_moment_before_the_jump_is_told_after_it() {
    // Given a kernel in which a token is taken twice right before it leaves,
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, |story| {
        let vm = session(1, "vm");
        story
            .orderly()
            .create(vm)
            .preserve(vm, 1, memfd(1))
            .preserve(vm, 1, memfd(2));
        story.reboot_with(IMAGE, |story| {
            story.freeze_files(vm, 1).serialize();
        });
    });
    record(dir.path(), 1, arrives);
    // then the next kernel's metrics tell of it.
    let mut agent = Agent::new(dir.path(), 1, ARRIVAL_DEADLINE);
    agent.status();
    let metrics = agent.live.metrics();
    let line = "luo_previous_kernel_violations{invariant=\"file-token-unique\",severity=\"";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn of_many_journals_the_boot_before_is_found_by_how_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    for number in [3, 0, 2, 1] {
        record(dir.path(), number, arrives_empty);
    }
    let file = |number: u64| vec![journal(dir.path(), number)];
    let pair = |number: u64| Pair::find(dir.path(), &header(number).boot_id);
    assert_eq!((pair(2).own, pair(2).before), (file(2), file(1)));
    assert_eq!((pair(0).own, pair(0).before), (file(0), Vec::new()));
    // Where there is none of the boot itself, there is none before it.
    assert_eq!(Pair::find(dir.path(), "another"), Pair::default());
}

#[test]
fn the_bell_is_answered_up_to_the_last_call() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, arrives);
    let mut agent = Agent::new(dir.path(), 1, ARRIVAL_DEADLINE);
    let (caller, called) = sync_channel(1);
    let bell = Bell {
        caller,
        written: agent.judge.written.clone(),
    };
    assert!(!agent.status().judging_updates);
    // However often it rings before it is answered, that is one answer.
    for _ in 0..3 {
        bell.ring(agent.live.ask_for_updates());
    }
    assert!(agent.live.status().judging_updates);
    assert!(called.try_recv().is_ok() && called.try_recv().is_err());
    assert!(!agent.status().judging_updates);
}

#[test]
fn a_rest_is_over_when_a_reader_is_told_that_updates_are_still_to_be_judged() {
    let live = Arc::new(Live::new(&header(0)).unwrap());
    live.ask_for_updates();
    let (over, rested) = sync_channel(1);
    let resting = live.clone();
    thread::spawn(move || {
        resting.rest(Duration::from_secs(3600));
        over.send(())
    });
    assert!(live.status().judging_updates);
    assert_eq!(rested.recv_timeout(Duration::from_secs(60)), Ok(()));
}

#[test]
fn the_thread_judges_when_it_is_called_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, arrives);
    let own = header(1);
    let live = Arc::new(Live::new(&own).unwrap());
    let bell = Judge::start(dir.path().to_owned(), own.boot_id, Duration::MAX, live.clone(), None).unwrap();
    let call = live.ask_for_updates();
    assert!(live.status().updates.is_empty());
    bell.ring(call);
    let deadline = Instant::now() + Duration::from_secs(300);
    while live.status().judging_updates {
        assert!(Instant::now() < deadline, "no judge came");
        thread::yield_now();
    }
    assert_eq!(live.status().updates[0].outcome, "waiting");
}

#[test]
fn what_was_lost_over_an_update_has_the_id_that_check_gives_it() {
    // Given a session that did not arrive,
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, arrives_empty);
    let ids = |findings: &[Finding]| findings.iter().map(|finding| finding.id).collect::<Vec<_>>();
    let check = |dir: &Path| ids(&Case::of(&[dir], Hosts::Told).unwrap().chain.findings);
    // then the agent tells it by the id that check has,
    let mut agent = Agent::new(dir.path(), 1, Duration::MAX);
    agent.status();
    let told = agent.judge.found.clone();
    assert!(!told.is_empty());
    assert_eq!(told, check(dir.path()).into_iter().collect());
    // also where check knows more boots than the agent, so that each has another place,
    let alone = check(dir.path());
    record(dir.path(), 2, arrives_empty);
    let of_three = check(dir.path());
    assert!(alone.iter().all(|id| of_three.contains(id)), "{alone:?} {of_three:?}");
    // and another update that loses the same has other ids.
    let other = tempfile::tempdir().unwrap();
    record(other.path(), 4, leaves(IMAGE));
    record(other.path(), 5, arrives_empty);
    assert!(check(other.path()).iter().all(|id| !of_three.contains(id)));
}

#[test]
fn an_update_is_pushed_once_it_is_decided_as_the_trace_that_the_report_has() {
    // Given a kernel that left with a session, which the next one has found and no process has asked for,
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, arrives);
    let agent = |dir: &Path| {
        let mut agent = Agent::new(dir, 1, Duration::MAX);
        let (push, traces) = crate::sink::push::unsent(agent.live.clone());
        agent.judge.pushes = Some(Pushes::new(push, vec![otlp::text("rack", "7")]));
        (agent, traces)
    };
    let (mut first, pushed) = agent(dir.path());
    assert_eq!(first.outcome(), "waiting");
    assert_eq!(pushed(), []);
    // when it is retrieved and finished,
    let path = journal(dir.path(), 1);
    fs::remove_file(path).unwrap();
    record(dir.path(), 1, |story| {
        arrives(story);
        is_finished(story);
    });
    assert_eq!(first.outcome(), "completed");
    let traces = pushed();
    // then its trace is pushed, over both kernels, each with what is said of the host,
    let [trace] = &traces[..] else { panic!("{traces:?}") };
    assert_eq!(trace.resource_spans.len(), 2);
    for kernel in &trace.resource_spans {
        let about = &kernel.resource.as_ref().unwrap().attributes;
        assert!(about.contains(&otlp::text("rack", "7")), "{about:?}");
    }
    // with the spans that a report of the same has,
    let spans = |trace: &ExportTraceServiceRequest| {
        let kernels = trace
            .resource_spans
            .iter()
            .flat_map(|kernel| kernel.scope_spans.clone());
        kernels.flat_map(|scope| scope.spans).collect::<Vec<_>>()
    };
    let report = Report::of(&Case::of(&[dir.path()], Hosts::Told).unwrap());
    assert_eq!(spans(trace), spans(&otlp::export(&report)));
    // once, until it is decided otherwise; and an agent that is started anew pushes the same.
    first.outcome();
    assert_eq!(pushed(), []);
    let (mut second, pushed) = agent(dir.path());
    second.outcome();
    assert_eq!(pushed(), traces);
}

#[test]
fn a_decided_update_is_noted_and_outlives_its_journals() {
    let dir = tempfile::tempdir().unwrap();
    record(dir.path(), 0, leaves(IMAGE));
    record(dir.path(), 1, arrives);
    let mut agent = Agent::new(dir.path(), 1, Duration::MAX);
    assert_eq!(agent.outcome(), "waiting");
    assert!(
        ledger::read(dir.path()).unwrap().rows.is_empty(),
        "it is not decided yet"
    );
    let path = journal(dir.path(), 1);
    fs::remove_file(&path).unwrap();
    record(dir.path(), 1, |story| {
        arrives(story);
        is_finished(story);
    });
    (0..2).for_each(|_| assert_eq!(agent.outcome(), "completed"));
    // An agent that is started anew notes nothing twice.
    let mut again = Agent::new(dir.path(), 1, Duration::MAX);
    again.judge.read_ledger();
    again.outcome();
    let noted = fs::read_to_string(dir.path().join("updates.jsonl")).unwrap();
    assert_eq!(noted.lines().filter(|line| !line.is_empty()).count(), 1, "{noted}");
    // While the journals are there, they tell of it; and once they are gone, the ledger does.
    let rows = |dir: &Path| {
        let case = Case::of(&[dir], Hosts::Told).unwrap();
        let journals = updates(&Report::of(&case), Duration::MAX, 0);
        Row::with_ledger(journals, ledger::read(dir).unwrap().rows)
    };
    let told: Vec<_> = rows(dir.path()).into_iter().map(|row| row.only_in_ledger).collect();
    assert_eq!(told, [false]);
    let outcomes = || {
        let rows = rows(dir.path()).into_iter();
        rows.map(|row| (row.outcome.into_owned(), row.only_in_ledger))
            .collect::<Vec<_>>()
    };
    // Of the kernel that left first; what the other tells of the update is only half of it.
    fs::remove_file(journal(dir.path(), 0)).unwrap();
    assert_eq!(outcomes(), [("completed".into(), true)]);
    let table = crate::report::table(&rows(dir.path()));
    assert!(table.contains("only in the ledger"), "{table}");
    fs::remove_file(path).unwrap();
    record(dir.path(), 7, |story| _ = story.orderly());
    assert_eq!(outcomes()[0], ("completed".into(), true));
}
