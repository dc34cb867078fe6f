//! Stories of updates, recorded in journals, judged, and told in every form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::{
    ArrivedFile, ArrivedSession, Handover, IMAGE_LEGACY, Image, Kexec, Outcome, POLICY_HOLD, POLICY_LOADED, Plain,
    PolicyChange, PolicyDecision, SessionRef, VERDICT_CARRIES, VERDICT_LOSES,
};
use luo_trace_common::hooks::Hook;
use luo_trace_common::policy::{Decision, Mode, NEVER, Operation, RuleName};
use luo_trace_common::text::{Compatible, Name};
use serde_json::Value;
use zerocopy::FromZeros;

use super::json::{File, Refused, Session, SessionFate, Stretch};
use super::*;
use crate::chain::Hosts;
use crate::chain::case::Case;
use crate::chain::timeline::PHASES;
use crate::event::Body;
use crate::event::decode::encode;
use crate::journal::{Clock, Header, HookState, Writer};
use crate::testing::{IMAGE, MEMFD, Story, memfd, session, with_losses};

const STYLE: Style = Style {
    colour: false,
    width: 100,
};
/// When the first kernel's clock was zero, in nanoseconds since 1970.
const EPOCH: u64 = 1_795_000_000_000_000_000;
/// How long after the first kernel's clock the second one's began.
const JUMP: u64 = 3_000_000_000;

/// Journals in a directory that lives as long as the test.
struct Records {
    dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

impl Records {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, paths: Vec::new() }
    }

    /// The record of the kernel that the update of this number brought.
    fn boot(mut self, number: u64, story: &Story) -> Self {
        let (mut writer, path) = Writer::open(self.dir.path(), &header(number)).unwrap();
        let records: Vec<Vec<u8>> = story.events.iter().map(encode).collect();
        writer.append(records.iter().map(Vec::as_slice)).unwrap();
        self.paths.push(path);
        self
    }

    fn report(&self) -> Report {
        Report::of(&Case::of(&self.paths, Hosts::Told).unwrap())
    }
}

/// A kernel whose clock began [`JUMP`] after that of the one before, and whose agent was attached at half a millisecond.
fn header(number: u64) -> Header {
    let hook = |hook: &Hook| HookState {
        id: hook.id().into(),
        attached: true,
        ..HookState::default()
    };
    let attached = 500_000;
    let since = number * JUMP + attached;
    Header {
        boot_id: format!("00000000-0000-4000-8000-00000000000{number}"),
        kernel_release: format!("7.3.{number}"),
        host: crate::testing::header(number).host,
        update_number: Some(number),
        clock: Clock {
            monotonic_ns: attached,
            realtime_ns: EPOCH + since,
            boottime_ns: attached,
            tsc: Some(since * 2),
            tsc_khz: Some(2_000_000),
            counter_invariant: Some(true),
        },
        attach_ns: 200_000,
        userspace_ns: Some(100_000),
        hooks: Hook::ALL.iter().map(hook).collect(),
        agent_version: "1.2.3".into(),
        ..Header::default()
    }
}

fn vm() -> SessionRef {
    session(1, "vm")
}

fn cache() -> SessionRef {
    session(2, "cache")
}

/// A kernel with two sessions leaves.
fn leaves(s: &mut Story) {
    s.orderly()
        .create(vm())
        .preserve(vm(), 1, memfd(1))
        .preserve(vm(), 2, memfd(2));
    s.create(cache())
        .preserve(cache(), 7, memfd(7))
        .load("kho=on liveupdate=on");
    s.push(Body::KexecEnter(Kexec {
        image: IMAGE,
        ..Kexec::default()
    }));
    let start = s.now();
    s.freeze_files(vm(), 2).freeze_files(cache(), 1).serialize();
    let duration = s.now() - start;
    let outcome = Outcome { result: 0, duration };
    s.push(Body::LiveupdateReboot(Plain { outcome }));
}

/// What it left is found by the next kernel.
fn arrives(s: &mut Story, number: u64) {
    let handler = Compatible::new(MEMFD);
    for (of, tokens) in [(vm(), vec![1, 2]), (cache(), vec![7])] {
        let (name, files) = (of.name, tokens.len() as u64);
        s.push(Body::ArrivedSession(ArrivedSession { name, files }));
        for token in tokens {
            s.push(Body::ArrivedFile(ArrivedFile {
                session: name,
                token,
                handler,
                ..ArrivedFile::default()
            }));
        }
    }
    s.push(Body::Handover(Handover {
        update_number: number,
        sessions: 2,
        files: 3,
        flags: luo_trace_common::events::HANDOVER_WHOLE,
        ..Handover::default()
    }));
    s.open_device_with(|s| {
        s.arrive(vm(), 2).arrive(cache(), 1).read_in();
    });
}

/// One session is brought back and finished, of the other nobody asks for the file.
fn comes_back(s: &mut Story) {
    s.retrieve_session(vm());
    s.retrieve(vm(), 1, memfd(1)).retrieve(vm(), 2, memfd(2));
    s.finish_files(vm(), 2, |_| ());
    s.retrieve_session(cache()).finish_files(cache(), 1, |_| ());
}

/// One update over two kernels.
fn update() -> Report {
    let (mut before, mut after) = (Story::new(), Story::new());
    leaves(&mut before);
    arrives(&mut after, 1);
    comes_back(&mut after);
    Records::new().boot(0, &before).boot(1, &after).report()
}

/// So many updates, one after the other.
fn updates(number: u64) -> Report {
    let mut records = Records::new();
    for boot in 0..=number {
        let mut story = Story::new();
        if boot > 0 {
            arrives(&mut story, boot);
            comes_back(&mut story);
        }
        if boot < number {
            leaves(&mut story);
        }
        records = records.boot(boot, &story);
    }
    records.report()
}

/// A report whose every name tries to break out of where it is shown.
fn hostile() -> Report {
    let mut report = update();
    let evil = r#""><script src=http://evil/x.js>alert(1)</script><img src=x onerror='x'>&amp;{{ title }}%s</summary>"#;
    let evil = format!("{evil}\u{1b}[31m");
    let file = File {
        token: evil.clone(),
        handler: evil.clone(),
        fate: Some("pending"),
        ..File::default()
    };
    report.updates[0].sessions.push(Session {
        name: evil.clone(),
        files: vec![file],
        ..Session::default()
    });
    report.updates[0].flbs.push(json::Flb {
        name: evil.clone(),
        ..json::Flb::default()
    });
    report.kernels[0].release.clone_from(&evil);
    report.kernels[0].journal.clone_from(&evil);
    report.kernels[0].doubts.push(evil.clone());
    report.kernels[0].sessions.push(Session {
        name: evil,
        ..Session::default()
    });
    report
}

#[test]
fn an_update_is_told_with_its_phases_sessions_and_files() {
    // Given the records of two kernels
    let report = update();
    // Then there is one update, and all that is known of it
    let [update] = report.updates.as_slice() else {
        panic!("{:?}", report.updates)
    };
    assert_eq!((update.number, update.from, update.to), (Some(1), Some(0), Some(1)));
    let names: Vec<&str> = update.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, PHASES);
    let sum: u64 = update.phases.iter().map(|phase| phase.duration_ns).sum();
    assert_eq!(Some(sum), update.whole_ns);
    let clock = update.clock.unwrap();
    assert_eq!((clock.basis, clock.promised), ("counter", true));
    let told: Vec<_> = update
        .sessions
        .iter()
        .map(|s| (s.name.as_str(), s.fate, s.files.len()))
        .collect();
    assert_eq!(
        told,
        [("cache", SessionFate::Unclaimed, 1), ("vm", SessionFate::Finished, 2)]
    );
    assert_eq!(update.bytes(), 4096 * (2 + 3 + 8));
    // The tool's own share is told beside the whole.
    let attach = update.phases.iter().find(|phase| phase.name == "attach").unwrap();
    assert_eq!(update.agent_ns, Some(attach.duration_ns));
    let share = attach.duration_ns * 100 / update.blackout_ns.unwrap();
    let told = format!("({share} %) passed while the agent attached its hooks.");
    assert!(update.notes()[1].ends_with(&told), "{:?}", update.notes());
}

#[test]
fn a_session_is_dark_from_its_own_freeze_to_its_own_last_file() {
    let report = update();
    let session = &report.updates[0].sessions[1];
    let (freeze, last) = (session.freeze.unwrap(), session.files[1].retrieve.unwrap());
    let end = last.start_ns + i64::try_from(last.duration_ns).unwrap();
    assert_eq!(session.blackout_ns, Some(end.abs_diff(freeze.start_ns)));
    assert!(
        session.blackout_ns < report.updates[0].blackout_ns,
        "the update's begins before any session's"
    );
    assert_eq!(
        report.updates[0].sessions[0].blackout_ns, None,
        "nothing of it came back"
    );
}

#[test]
fn a_terminal_gets_the_timeline_the_sessions_and_what_nobody_asked_for() {
    let text = render(&update(), STYLE);
    for line in [
        "A live update over 2 kernels: 7.3.0 → 7.3.1",
        "  Blackout 3.00 s: from the beginning of the freeze to the last file brought back.",
        "  Time between kernels: the CPU's counter, which runs on over the kexec, ± ",
        "  cache                        1 file           32.0 KiB",
        "finished, never brought back",
        "finished, never asked for",
        "came over and finished",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colour was asked for");
}

#[test]
fn a_file_that_could_not_be_brought_back_was_asked_for() {
    let (mut before, mut after) = (Story::new(), Story::new());
    leaves(&mut before);
    arrives(&mut after, 1);
    after.retrieve_session(vm()).failing(5).retrieve(vm(), 1, memfd(1));
    after.finish_files(vm(), 2, |_| ());
    let report = Records::new().boot(0, &before).boot(1, &after).report();
    let notes: Vec<String> = report.updates[0].sessions[1].files.iter().map(File::note).collect();
    assert_eq!(
        notes,
        ["finished, never brought back, 1 refusal", "finished, never asked for"]
    );
}

#[test]
fn what_the_kernel_refused_a_guest_is_told_apart_from_what_it_refuses_systemd_each_time() {
    // Given a session in which systemd, process 1, hands over two descriptors that no handler takes and one that fails, and a
    // guest's in which a file on huge pages meets the same error,
    let mut story = Story::new();
    let (stored, guest) = (session(1, "systemd"), session(2, "vm"));
    story.orderly().by(1).create(stored);
    for (token, errno) in [(1, 2), (2, 2), (3, 12)] {
        story.failing(errno).preserve(stored, token, memfd(token));
    }
    story.by(812).create(guest).failing(2).preserve(guest, 1, memfd(4));
    let report = Records::new().boot(0, &story).report();
    // then only the two are called usual.
    let sessions = &report.kernels[0].sessions;
    let told = sessions
        .iter()
        .flat_map(|session| &session.refused)
        .map(Refused::describe);
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "not preserved: 2 files of vmm (1), ENOENT, as usual: no handler takes such stored descriptors",
            "not preserved: 1 file of vmm (1), ENOMEM",
            "not preserved: 1 file of vmm (812), ENOENT",
        ]
    );
    let text = render(&report, STYLE);
    assert_eq!(text.matches("\n    not preserved: ").count(), 3, "{text}");
    let page = html(&report).unwrap();
    assert_eq!(page.matches("not preserved: ").count(), 3, "{page}");
}

#[test]
fn many_updates_are_compared_and_the_last_is_told_in_full() {
    let report = updates(4);
    let text = render(&report, STYLE);
    assert!(text.starts_with("4 live updates over 5 kernels\n"), "{text}");
    let rows: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("completed") && line.contains('█'))
        .collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert!(rows[3].starts_with("  4        7.3.3 → 7.3.4"), "{}", rows[3]);
    assert_eq!(text.matches("\nTimeline\n").count(), 1, "{text}");
    assert!(text.contains("Update 4: 7.3.3 → 7.3.4, completed"), "{text}");
}

#[test]
fn a_kernel_that_was_not_updated_still_tells_of_its_sessions() {
    let mut story = Story::new();
    story
        .orderly()
        .create(vm())
        .preserve(vm(), 1, memfd(1))
        .create(cache())
        .close(cache(), &[]);
    // The recorder's own session is none of them.
    let own = session(3, OWN_SESSION);
    story.create(own).close(own, &[]);
    let report = Records::new().boot(0, &story).report();
    assert!(report.updates.is_empty());
    let told: Vec<_> = report.kernels[0]
        .sessions
        .iter()
        .map(|s| (s.name.as_str(), s.fate))
        .collect();
    assert_eq!(told, [("vm", SessionFate::Alive), ("cache", SessionFate::Abandoned)]);
    let text = render(&report, STYLE);
    assert!(text.starts_with("One kernel: 7.3.0\n"), "{text}");
    assert!(text.contains("abandoned") && text.contains("alive"), "{text}");
}

#[test]
fn a_session_that_did_not_arrive_is_missing_only_where_somebody_looked() {
    // Given a kernel that leaves with two sessions, and a next one that finds nothing of them
    let mut before = Story::new();
    leaves(&mut before);
    let fates = |after: &Story| {
        let report = Records::new().boot(0, &before).boot(1, after).report();
        let sessions = report.updates[0].sessions.iter();
        sessions.map(|session| session.fate).collect::<BTreeSet<_>>()
    };
    let mut looked = Story::new();
    looked.push(Body::Handover(Handover {
        update_number: 1,
        flags: luo_trace_common::events::HANDOVER_NOTHING,
        ..Handover::default()
    }));
    // Then they are missing where it looked, and not known where it did not.
    assert_eq!(fates(&looked), BTreeSet::from([SessionFate::Missing]));
    assert_eq!(fates(&Story::new()), BTreeSet::from([SessionFate::Unknown]));
}

#[test]
fn a_report_calls_nothing_lost_of_which_the_judgement_is_in_doubt() {
    // Given updates in which sessions are lost on the way, are left behind by the next update, or all arrive,
    let mut before = Story::new();
    leaves(&mut before);
    let mut nothing = Story::new();
    nothing.push(Body::Handover(Handover {
        update_number: 1,
        flags: luo_trace_common::events::HANDOVER_NOTHING,
        ..Handover::default()
    }));
    let mut left_behind = Story::new();
    arrives(&mut left_behind, 1);
    left_behind.load("kho=on liveupdate=on").reboot();
    let mut whole = Story::new();
    arrives(&mut whole, 1);
    let red = |report: &Report| {
        let sessions = report.updates.iter().flat_map(|update| &update.sessions);
        let lost = |session: &&Session| {
            matches!(session.fate, SessionFate::Missing | SessionFate::Lost)
                || session.files.iter().any(|file| file.fate == Some("lost"))
        };
        sessions.filter(lost).count()
    };
    let (mut lost, mut doubted) = (0, 0);
    for after in [nothing, left_behind, whole] {
        for place in 0..before.events.len() + after.events.len() {
            // when any one event is missing of either record, and the next one tells so,
            let without = |story: &Story, first: usize| {
                let mut left = Story::new();
                left.events = with_losses(&story.events, |at| first + at == place);
                left
            };
            let records = Records::new()
                .boot(0, &without(&before, 0))
                .boot(1, &without(&after, before.events.len()));
            let report = records.report();
            // then what is shown as lost was found to be.
            let accused = report.findings.iter().any(|found| found.kernel.is_none());
            assert!(
                accused || red(&report) == 0,
                "without event {place}: {:?}",
                report.updates
            );
            lost += red(&report);
            doubted += usize::from(red(&report) == 0);
        }
    }
    assert!(lost > 0 && doubted > 0);
}

#[test]
fn what_a_legacy_image_left_behind_is_missing_though_nobody_looked() {
    let mut before = Story::new();
    before
        .orderly()
        .create(vm())
        .preserve(vm(), 1, memfd(1))
        .reboot_into(Image {
            mode: IMAGE_LEGACY,
            ..IMAGE
        });
    let report = Records::new().boot(0, &before).boot(1, &Story::new()).report();
    assert_eq!(report.updates[0].sessions[0].fate, SessionFate::Missing);
}

#[test]
fn where_nothing_is_known_of_the_next_kernel_the_shutdown_has_an_open_end() {
    let mut before = Story::new();
    leaves(&mut before);
    before.wait(1_000_000).close_device();
    let report = Records::new().boot(0, &before).report();
    assert_eq!(report.updates[0].sessions[0].fate, SessionFate::Left);
    let text = render(&report, STYLE);
    assert!(
        text.starts_with("A live update, seen from one kernel: 7.3.0\n"),
        "{text}"
    );
    assert!(text.contains("told up to the kernel's last sign of life"), "{text}");
}

#[test]
fn the_json_form_keeps_its_keys() {
    let json = serde_json::to_value(update()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&json),
        "doubts findings kernels repeated result unreadable updates verdicts"
    );
    let (kernel, update) = (&json["kernels"][0], &json["updates"][0]);
    assert_eq!(
        keys(kernel),
        "agent_version boot_id doubts ending events host host_id journal lost policy policy_more release sessions start_ns start_unix_ns update_number"
    );
    assert_eq!(
        keys(update),
        "agent_ns blackout_ns clock durations fate flbs from last_heard_ns number phases sessions to verdicts whole_ns"
    );
    assert_eq!(keys(&update["clock"]), "basis promised uncertainty_ns");
    assert_eq!(keys(&update["phases"][0]), "blackout duration_ns kernel name start_ns");
    let session = &update["sessions"][1];
    assert_eq!(
        keys(session),
        "blackout_ns bytes created_ns fate files finished_ns freeze incoming name outgoing refusals refused retrieved_ns"
    );
    assert_eq!(
        keys(&session["files"][0]),
        "bytes failures fate finish freeze handler preserve retrieve token"
    );
    assert_eq!(keys(&session["files"][0]["preserve"]), "duration_ns start_ns");
    assert_eq!(
        keys(&update["durations"][0]),
        "count handler max_ns median_ns min_ns operation p99_ns"
    );
    assert_eq!(keys(&json["verdicts"][0]), "invariant status");
    assert_eq!(
        (&update["fate"], &session["fate"]),
        (&"completed".into(), &"finished".into())
    );
    assert_eq!(kernel["start_unix_ns"], EPOCH);
    assert_eq!(json["kernels"][1]["start_ns"], JUMP);
}

#[test]
fn durations_are_summed_up_by_handler_and_operation() {
    let report = update();
    let told: Vec<_> = report.updates[0]
        .durations
        .iter()
        .map(|d| (d.handler.as_str(), d.operation, d.count))
        .collect();
    assert_eq!(told, [(MEMFD, "preserve", 3), (MEMFD, "retrieve", 2)]);
    let of = |times: Vec<u64>| {
        let summary = gather::summary("h", "retrieve", times).unwrap();
        [summary.min_ns, summary.median_ns, summary.p99_ns, summary.max_ns]
    };
    assert_eq!(of(vec![5]), [5, 5, 5, 5]);
    assert_eq!(of(vec![9, 1, 4]), [1, 4, 9, 9]);
    assert_eq!(of((1..=200).rev().collect()), [1, 100, 198, 200]);
    assert_eq!(gather::summary("h", "retrieve", Vec::new()), None);
}

/// Every element closes, every attribute is quoted, and nothing is loaded or run: an XML parser reads it to its end.
#[cfg(feature = "agent")]
fn assert_self_contained(page: &str) {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(page);
    reader.config_mut().check_end_names = true;
    loop {
        match reader
            .read_event()
            .unwrap_or_else(|error| panic!("at {}: {error}", reader.buffer_position()))
        {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) => {
                let name = String::from_utf8(tag.name().0.to_vec()).unwrap();
                let harmless =
                    !["script", "link", "img", "iframe", "object", "embed", "base", "form"].contains(&name.as_str());
                assert!(harmless, "<{name}>");
                for attribute in tag.attributes() {
                    let key = String::from_utf8(attribute.unwrap().key.0.to_vec()).unwrap();
                    assert!(
                        !key.starts_with("on") && !key.contains("href") && key != "src",
                        "{key} in <{name}>"
                    );
                }
            }
            _ => {}
        }
    }
    let style = &page[page.find("<style>").unwrap()..page.find("</style>").unwrap()];
    for outside in ["url(", "@import", "http"] {
        assert!(!style.contains(outside), "{outside} in the style");
    }
}

#[cfg(feature = "agent")]
#[test]
fn the_page_is_whole_and_needs_nothing_from_outside() {
    for report in [update(), updates(3), Records::new().boot(0, &Story::new()).report()] {
        let page = html(&report).unwrap();
        assert_self_contained(&page);
        assert!(!page.contains("http://") && !page.contains("https://"));
    }
    let page = html(&update()).unwrap();
    for text in [
        "Live update: 7.3.0 → 7.3.1",
        "3.00 s",
        "vm",
        "never asked for",
        "deserialize",
        "2026-11-18",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[cfg(feature = "agent")]
#[test]
fn no_name_breaks_out_of_the_page() {
    let page = html(&hostile()).unwrap();
    assert_self_contained(&page);
    assert!(!page.contains("<script") && !page.contains("<img"), "names are text");
    assert!(page.contains("&#60;script"), "and are shown as such");
}

#[cfg(feature = "agent")]
#[test]
fn a_page_of_ten_thousand_sessions_stays_small_and_shows_what_went_wrong() {
    let mut report = update();
    let session = report.updates[0].sessions[1].clone();
    let sessions = (0..10_000).map(|number| Session {
        name: format!("vm-{number:05}"),
        ..session.clone()
    });
    report.updates[0].sessions = sessions.collect();
    report.updates[0].sessions[9_999].fate = SessionFate::Missing;
    report.updates[0].sessions[0].files = vec![session.files[0].clone(); 5_000];
    let page = html(&report).unwrap();
    assert!(page.len() < 500_000, "{} bytes", page.len());
    assert!(page.contains("and 9700 more sessions") && page.contains("and 4900 more files"));
    assert!(
        page.contains("vm-09999"),
        "the one that did not arrive is among those shown"
    );
}

#[test]
fn a_trace_for_perfetto_has_a_process_for_each_kernel_and_tracks_that_never_overlap() {
    for report in [update(), updates(3), hostile()] {
        let trace = perfetto(&report);
        let events = trace["traceEvents"].as_array().unwrap();
        let mut named = BTreeSet::new();
        let mut tracks: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
        for event in events {
            let place = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
            assert!(event["name"].is_string() && event["args"].is_object(), "{event}");
            match event["ph"].as_str().unwrap() {
                "M" => _ = named.insert(place),
                "X" => {
                    let (start, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                    assert!(start >= 0.0 && length >= 0.0 && event["cat"].is_string(), "{event}");
                    assert!(named.contains(&place), "{event} is on a track without a name");
                    tracks.entry(place).or_default().push((start, start + length));
                }
                other => panic!("{other} is no kind of event that is meant"),
            }
        }
        let kernels: BTreeSet<u64> = tracks.keys().map(|(pid, _)| *pid).collect();
        assert_eq!(kernels.len(), report.kernels.len());
        for slices in tracks.values_mut() {
            slices.sort_by(|a, b| a.0.total_cmp(&b.0));
            // Microseconds with a fraction: what touches may seem to overlap by less than the clock's own nanosecond.
            assert!(
                slices.windows(2).all(|pair| pair[1].0 >= pair[0].1 - 0.001),
                "{slices:?}"
            );
        }
    }
    let trace = perfetto(&update()).to_string();
    for name in ["kernel 1: 7.3.0", "\"shutdown\"", "retrieve 0x1", "vm blackout"] {
        assert!(trace.contains(name), "{name}");
    }
}

#[test]
fn operations_at_the_same_time_have_tracks_of_their_own() {
    let mut report = update();
    let at = |start_ns| {
        Some(Stretch {
            start_ns,
            duration_ns: 100,
        })
    };
    let files = &mut report.updates[0].sessions[1].files;
    (files[0].retrieve, files[1].retrieve) = (at(4_000_000_000), at(4_000_000_050));
    let trace = perfetto(&report);
    let slices = trace["traceEvents"].as_array().unwrap().iter();
    let tracks: BTreeSet<u64> = slices
        .filter(|event| event["cat"] == "retrieve")
        .map(|event| event["tid"].as_u64().unwrap())
        .collect();
    assert_eq!(tracks.len(), 2);
}

#[test]
fn otlp_spans_form_one_trace_for_an_update_over_both_kernels() {
    let report = update();
    let export = otlp(&report);
    let resources = export["resourceSpans"].as_array().unwrap();
    assert_eq!(resources.len(), 2, "each kernel is a resource");
    let spans: Vec<&Value> = resources
        .iter()
        .flat_map(|resource| resource["scopeSpans"][0]["spans"].as_array().unwrap())
        .collect();
    let text = |span: &Value, key: &str| span[key].as_str().unwrap().to_owned();
    let nanos = |span: &Value, key: &str| text(span, key).parse::<u64>().unwrap();
    let hex =
        |id: &str, digits| id.len() == digits && id.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    let by_id: BTreeMap<String, &Value> = spans.iter().map(|span| (text(span, "spanId"), *span)).collect();
    assert_eq!(by_id.len(), spans.len(), "ids are not used twice");
    let traces: BTreeSet<String> = spans.iter().map(|span| text(span, "traceId")).collect();
    assert!(traces.len() == 1 && traces.iter().all(|id| hex(id, 32)), "{traces:?}");
    let mut roots = 0;
    for span in &spans {
        assert!(hex(&text(span, "spanId"), 16) && span["kind"] == 1, "{span}");
        let (start, end) = (nanos(span, "startTimeUnixNano"), nanos(span, "endTimeUnixNano"));
        assert!(EPOCH < start && start <= end, "{span}");
        for attribute in span["attributes"].as_array().unwrap() {
            let value = attribute["value"].as_object().unwrap();
            let (kind, value) = value.iter().next().unwrap();
            match kind.as_str() {
                "stringValue" => assert!(value.is_string()),
                "intValue" => _ = value.as_str().unwrap().parse::<i64>().unwrap(),
                "boolValue" => assert!(value.is_boolean()),
                other => panic!("{other} is no kind of value"),
            }
        }
        let Some(parent) = by_id.get(&text(span, "parentSpanId")) else {
            assert_eq!(span["parentSpanId"], "");
            roots += 1;
            continue;
        };
        let inside = nanos(parent, "startTimeUnixNano") <= start && end <= nanos(parent, "endTimeUnixNano");
        assert!(inside, "{span} outside of {parent}");
    }
    assert_eq!(roots, 1);
    // A session of which no process asked for a file is an error, and so is nothing else here.
    let wrong: Vec<String> = spans
        .iter()
        .filter(|span| span["status"]["code"] == 2)
        .map(|span| text(span, "name"))
        .collect();
    assert_eq!(wrong, ["session cache"]);
    assert_eq!(export, otlp(&update()), "the same update always has the same ids");
    let mut other = report;
    other.kernels[1].boot_id = "another".into();
    assert_ne!(export, otlp(&other));
}

#[test]
fn text_from_a_journal_cannot_mislead_a_terminal() {
    let mut story = Story::new();
    story.orderly().create(session(1, "a\u{1b}[31m\nb"));
    let records = Records::new();
    let evil = Header {
        kernel_release: "7.3\u{1b}[2J".into(),
        ..header(0)
    };
    let (mut writer, path) = Writer::open(records.dir.path(), &evil).unwrap();
    let events: Vec<Vec<u8>> = story.events.iter().map(encode).collect();
    writer.append(events.iter().map(Vec::as_slice)).unwrap();
    let text = render(&Report::of(&Case::of(&[path], Hosts::Told).unwrap()), STYLE);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains("a\\u{1b}[31m\\nb"), "{text}");
}

fn changed<'s>(s: &'s mut Story, what: u32, text: &str) -> &'s mut Story {
    s.push(Body::PolicyChange(Box::new(PolicyChange {
        what,
        mode: Mode::Enforce as u32,
        generation: 1,
        until: NEVER,
        uid: 7,
        operations: 0,
        text: Name::new(text),
    })))
}

/// What a hold comes to when an image is loaded.
fn decided(s: &mut Story, decision: Decision) -> &mut Story {
    let mut payload = PolicyDecision::new_zeroed();
    (payload.operation, payload.decision) = (Operation::KexecLoad as u32, decision as u32);
    payload.rule_name = RuleName::new("hold");
    s.push(Body::PolicyDecision(Operation::KexecLoad, decision, Box::new(payload)))
}

/// A host whose operator holds it while an image is loaded, twice.
fn held() -> Report {
    let mut s = Story::new();
    changed(&mut s, POLICY_LOADED, "/etc/policy.toml");
    s.create(vm());
    changed(&mut s, POLICY_HOLD, "<b>disk</b>\x1b[2J swap");
    for decision in [Decision::Deny, Decision::Pass] {
        decided(&mut s, decision);
    }
    s.close(vm(), &[]);
    Records::new().boot(0, &s).report()
}

#[test]
fn what_was_refused_and_ordered_is_told_where_it_happened() {
    // Given a record in which a hold refused an image,
    let report = held();
    // then that is no violation of anything,
    assert_eq!(report.findings.len(), 0);
    let violated = report.verdicts.iter().filter(|verdict| verdict.status == "violated");
    assert_eq!(violated.count(), 0);
    // what passed is not told, and the rest is, in its order.
    let what: Vec<_> = report.kernels[0].policy.iter().map(|line| line.what).collect();
    assert_eq!(what, ["loaded", "hold", "deny"]);
    let text = render(&report, STYLE);
    let section = text
        .split("\nPolicy and images in kernel 1, 7.3.0\n")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    assert!(
        section.contains("policy in force, mode enforce: /etc/policy.toml\n"),
        "{text}"
    );
    assert!(
        section.contains("held by user 7 until it is taken back, mode enforce: <b>disk</b>\\u{1b}[2J swap"),
        "{text}"
    );
    assert!(section.contains("refused by the rule \"hold\""), "{text}");
    assert!(!render(&update(), STYLE).contains("Policy"));
}

#[test]
fn every_form_takes_policy() {
    let report = held();
    let page = html(&report).unwrap();
    assert_self_contained(&page);
    assert!(
        page.contains("Policy and images in kernel 1") && !page.contains("<b>disk"),
        "{page}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["kernels"][0]["policy"][2]["what"], "deny");
    let trace = perfetto(&report);
    let moments = trace["traceEvents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["ph"] == "i");
    let names: Vec<_> = moments.map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["loaded", "hold", "deny"]);
    assert_eq!(otlp_events(&otlp(&report)).len(), 3);
}

/// An export request in OTLP's JSON form.
fn otlp(report: &Report) -> Value {
    serde_json::to_value(super::otlp::export(report)).unwrap()
}

/// Every event of an export, with the name of the span that it is of. It lies within that span.
fn otlp_events(export: &Value) -> Vec<(String, String, String)> {
    let resources = export["resourceSpans"].as_array().unwrap();
    let spans = resources
        .iter()
        .flat_map(|resource| resource["scopeSpans"][0]["spans"].as_array().unwrap());
    let events = spans.flat_map(|span| {
        let nanos = |of: &Value, key: &str| of[key].as_str().unwrap().parse::<u64>().unwrap();
        let within = nanos(span, "startTimeUnixNano")..=nanos(span, "endTimeUnixNano");
        let events = span["events"].as_array().map_or(&[][..], Vec::as_slice);
        events.iter().map(move |event| {
            assert!(
                within.contains(&nanos(event, "timeUnixNano")),
                "{event} outside of {span}"
            );
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let told = text(&event["attributes"][1]["value"]["stringValue"]);
            (text(&span["name"]), text(&event["name"]), told)
        })
    });
    events.collect()
}

#[test]
fn otlp_tells_policy_on_the_phase_it_fell_into_or_else_on_a_span_of_its_kernel() {
    // Given policy before an update, in each of its kernels, and after it,
    let (mut before, mut after) = (Story::new(), Story::new());
    changed(&mut before, POLICY_LOADED, "/etc/policy.toml");
    leaves(&mut before);
    arrives(&mut after, 1);
    decided(&mut after, Decision::WouldDeny);
    comes_back(&mut after);
    changed(after.wait(1_000_000_000), POLICY_HOLD, "disk swap");
    decided(after.wait(1_000_000_000), Decision::Deny);
    let report = Records::new().boot(0, &before).boot(1, &after).report();
    // when it is exported, then each moment is told once, where it happened.
    let export = otlp(&report);
    let events = otlp_events(&export);
    let of: Vec<_> = events.iter().map(|(span, event, _)| (&**span, &**event)).collect();
    assert_eq!(
        of,
        [
            ("policy", "policy loaded"),
            ("retrieve", "policy would-deny"),
            ("policy", "policy hold"),
            ("policy", "policy deny")
        ]
    );
    assert!(events[2].2.contains("held by user 7"), "{events:?}");
    // What is no part of an update is no part of its trace, and each kernel has its own.
    let resources = export["resourceSpans"].as_array().unwrap();
    let spans = resources
        .iter()
        .flat_map(|resource| resource["scopeSpans"][0]["spans"].as_array().unwrap());
    let (own, others): (Vec<&Value>, Vec<&Value>) = spans.partition(|span| span["name"] == "policy");
    let traces = |of: &[&Value]| {
        of.iter()
            .map(|span| span["traceId"].to_string())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!((own.len(), traces(&own).len(), traces(&others).len()), (2, 2, 1));
    assert!(traces(&own).is_disjoint(&traces(&others)));
}

#[test]
fn what_was_found_in_an_image_is_told_in_every_form() {
    // Given an image whose command line does not switch LUO on,
    let mut story = Story::new();
    story.orderly();
    story.look_into(VERDICT_CARRIES, VERDICT_LOSES, "it has no liveupdate=on");
    let report = Records::new().boot(0, &story).report();
    // when a report is made, then it tells so, in colour.
    let [line] = &report.kernels[0].policy[..] else {
        panic!("{:?}", report.kernels[0].policy)
    };
    assert_eq!((line.what, line.tone()), ("loses", "bad"));
    let told = "in the image: carries, its command line: loses (it has no liveupdate=on)";
    assert_eq!(line.text, told);
    assert!(render(&report, STYLE).contains(told));
    assert!(html(&report).unwrap().contains(told));
    assert_eq!(
        otlp_events(&otlp(&report))[0],
        ("policy".into(), "policy loses".into(), told.into())
    );
    assert!(perfetto(&report).to_string().contains(told));
}
