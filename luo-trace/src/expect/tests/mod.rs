//! Stories of updates and of what was expected of them.

use luo_trace_common::text::{Compatible, SessionName};

use super::*;
use crate::chain::Fate;
use crate::chain::case::Conclusion;
use crate::expect::formats::{self, Answer};

mod stories;

const MS: u64 = 1_000_000;
const TODAY: Day = Day {
    year: 2026,
    month: 6,
    day: 15,
};

fn took(ms: u64) -> Took {
    Took {
        ns: ms * MS,
        uncertainty: 0,
    }
}

/// A memfd that came over.
fn file(size: u64) -> FileAccount {
    FileAccount {
        handler: Some(Compatible::new("memfd-v2")),
        size: Some(size),
        retrieved: Some(true),
        refused: None,
        finished: Some(true),
    }
}

fn session(sizes: &[u64]) -> SessionAccount {
    SessionAccount {
        arrived: Some(true),
        files: (0..).zip(sizes.iter().map(|&size| file(size))).collect(),
        whole: true,
        blackout: Some(took(900)),
    }
}

/// An update that carried a database with two files and a web server with one, all of which came over.
fn good() -> UpdateAccount {
    UpdateAccount {
        number: Some(1),
        fate: Fate::Completed,
        sessions: [("vm-db", &[4096, 8192][..]), ("vm-web", &[1 << 20])]
            .map(|(name, sizes)| (SessionName::new(name), session(sizes)))
            .into(),
        whole: true,
        phases: vec![("freeze", took(2)), ("shutdown", took(700))],
        blackout: Some(took(1_000)),
    }
}

fn one(update: UpdateAccount) -> Account {
    Account {
        updates: vec![update],
        whole: true,
    }
}

/// Changes a file of the database.
fn with_file(token: u64, change: impl FnOnce(&mut FileAccount)) -> Account {
    let mut update = good();
    let session = update.sessions.get_mut(&SessionName::new("vm-db")).unwrap();
    change(session.files.get_mut(&token).unwrap());
    one(update)
}

/// What comes of holding an account against a file of expectations: the worst answer, and all that is not a pass.
fn held(account: &Account, text: &str) -> (Answer, String) {
    let expectations = Expectations::parse(text).unwrap();
    let checks = expectations.of_account(account, &Lines(text));
    assert!(!checks.is_empty(), "nothing is checked: {text}");
    let told = checks
        .iter()
        .filter(|check| check.answer != Answer::Pass)
        .map(|check| format!("{}: {}", check.name, check.message))
        .collect::<Vec<_>>()
        .join("\n");
    (checks.iter().map(|check| check.answer).max().unwrap(), told)
}

#[track_caller]
fn passes(account: &Account, text: &str) {
    let (answer, told) = held(account, text);
    assert_eq!(answer, Answer::Pass, "{told}");
}

#[track_caller]
fn fails(account: &Account, text: &str, line: &str) {
    let (answer, told) = held(account, text);
    assert_eq!(answer, Answer::Fail, "{told}");
    assert!(told.contains(line), "{told}");
}

#[track_caller]
fn is_open(account: &Account, text: &str, line: &str) {
    let (answer, told) = held(account, text);
    assert_eq!(answer, Answer::Inconclusive, "{told}");
    assert!(told.contains(line), "{told}");
}

#[test]
fn an_update_as_expected_passes_in_every_respect() {
    passes(
        &one(good()),
        r#"
        outcome = "completed"
        updates = 1
        blackout = "1 s"
        sessions = 2
        files = 3
        size = { min = "1 MiB", max = "2 MiB" }
        retrieved = true
        finished = true

        [phases]
        freeze = "2 ms"

        [[session]]
        name = "vm-db"
        files = 2
        tokens = [0, "0x1"]
        handlers = ["memfd-v2"]
        size = "12 KiB"
        file_size = { max = 8192 }
        retrieved = true
        finished = true
        blackout = "900 ms"

        [[session]]
        match = "vm-*"
        count = 2

        [[session]]
        name = "vm-gone"
        count = 0
        "#,
    );
}

#[test]
fn a_file_that_was_never_retrieved_is_named() {
    let account = with_file(1, |file| file.retrieved = Some(false));
    let line = "every file retrieved: file 0x1 of session \"vm-db\" was never retrieved";
    fails(&account, "retrieved = true", line);
    fails(
        &account,
        "[[session]]\nname = \"vm-db\"\nretrieved = true",
        "file 0x1 was never retrieved",
    );
    // And no process asked for it to be finished.
    passes(&account, "finished = true");
}

#[test]
fn a_retrieve_that_failed_is_told_with_the_file() {
    let account = with_file(0, |file| {
        file.retrieved = Some(false);
        file.refused = Some(-22);
    });
    fails(
        &account,
        "retrieved = true",
        "file 0x0 of session \"vm-db\" was never retrieved: its retrieve failed with EINVAL",
    );
}

#[test]
fn a_file_that_must_stay_behind_and_was_retrieved_is_wrong() {
    fails(
        &one(good()),
        "[[session]]\nname = \"vm-web\"\nfinished = false",
        "file 0x0 was finished",
    );
}

#[test]
fn a_session_that_was_lost_on_the_way_is_named_and_not_measured() {
    let mut update = good();
    update.sessions.get_mut(&SessionName::new("vm-db")).unwrap().arrived = Some(false);
    let told = "session \"vm-db\": session \"vm-db\" left and did not arrive";
    fails(&one(update), "[[session]]\nname = \"vm-db\"\nfiles = 7", told);
}

#[test]
fn wrong_numbers_are_told_with_what_was_expected() {
    let account = one(good());
    fails(&account, "sessions = 3", "sessions: 3 expected, 2");
    fails(&account, "files = { max = 2 }", "files: at most 2 expected, 3");
    fails(
        &account,
        "size = 4096",
        "bytes: 4.0 KiB (4096 B) expected, 1.0 MiB (1060864 B)",
    );
    fails(&account, "updates = 2", "updates: 2 expected, 1");
    let db = |line: &str| format!("[[session]]\nname = \"vm-db\"\n{line}");
    fails(&account, &db("files = { min = 3 }"), "files: at least 3 expected, 2");
    fails(&account, &db("tokens = [0, 2]"), "tokens: 0x0, 0x2 expected, 0x0, 0x1");
    fails(
        &account,
        &db("handlers = [\"vfio-pci-v1\"]"),
        "handlers: vfio-pci-v1 expected, memfd-v2",
    );
    fails(
        &account,
        &db("file_size = 4096"),
        "size of file 0x1: 4.0 KiB (4096 B) expected, 8.0 KiB (8192 B)",
    );
    fails(
        &account,
        "[[session]]\nmatch = \"db-*\"",
        "sessions that left: at least 1 expected, 0",
    );
}

#[test]
fn time_over_the_limit_fails() {
    let account = one(good());
    fails(
        &account,
        "blackout = \"999 ms\"",
        "blackout: at most 999 ms expected, 1.00 s",
    );
    fails(
        &account,
        "[phases]\nfreeze = \"1 ms\"",
        "freeze: at most 1.00 ms expected, 2.00 ms",
    );
    fails(
        &account,
        "[[session]]\nname = \"vm-db\"\nblackout = \"800 ms\"",
        "at most 800 ms expected, 900 ms",
    );
    is_open(&account, "[phases]\nretrieve = \"1 s\"", "retrieve is not known");
}

#[test]
fn a_limit_closer_than_the_clocks_agree_is_neither_kept_nor_broken() {
    let mut update = good();
    update.blackout = Some(Took {
        ns: 1_000 * MS,
        uncertainty: 50 * MS,
    });
    let account = one(update);
    passes(&account, "blackout = \"1050 ms\"");
    is_open(
        &account,
        "blackout = \"1049 ms\"",
        "at most 1.05 s expected, 1.00 s ± 50.0 ms",
    );
    is_open(&account, "blackout = \"950 ms\"", "± 50.0 ms");
    fails(
        &account,
        "blackout = \"949 ms\"",
        "at most 949 ms expected, 1.00 s ± 50.0 ms",
    );
}

#[test]
fn the_outcome_is_compared_for_each_update_or_in_their_order() {
    let aborted = UpdateAccount {
        fate: Fate::Aborted,
        sessions: [].into(),
        blackout: None,
        ..good()
    };
    let both = Account {
        updates: vec![aborted.clone(), good()],
        whole: true,
    };
    passes(&both, "outcome = [\"aborted\", \"completed\"]");
    fails(&both, "outcome = \"completed\"", "completed expected, aborted");
    fails(&both, "outcome = [\"aborted\"]", "updates: 1 expected, 2");
    fails(&both, "outcome = \"none\"", "no update expected, aborted; completed");
    // What did not leave carried nothing, and took no time.
    passes(&both, "blackout = \"1 s\"\nsessions = 2\n[[session]]\nname = \"vm-db\"");
    fails(&one(aborted), "sessions = 2", "no live update was completed");
}

#[test]
fn where_no_update_was_tried_only_a_whole_record_proves_it() {
    let mut account = Account {
        updates: vec![],
        whole: true,
    };
    passes(&account, "outcome = \"none\"");
    fails(&account, "outcome = \"completed\"", "no live update was tried");
    fails(&account, "[[session]]\nname = \"vm-db\"", "no live update was tried");
    account.whole = false;
    is_open(&account, "outcome = \"none\"", "events are missing");
    is_open(
        &account,
        "outcome = \"completed\"",
        "no live update was tried, as far as is known",
    );
    is_open(&account, "retrieved = true", "as far as is known");
    is_open(&account, "blackout = \"1 s\"", "as far as is known");
}

#[test]
fn without_the_next_kernels_journal_nothing_is_said_of_what_arrived() {
    let mut update = good();
    update.fate = Fate::Departed;
    update.blackout = None;
    for session in update.sessions.values_mut() {
        session.arrived = None;
        for file in session.files.values_mut() {
            (file.retrieved, file.finished) = (None, None);
        }
    }
    let account = one(update);
    is_open(&account, "outcome = \"completed\"", "no record of the next kernel");
    is_open(&account, "retrieved = true", "cannot be told whether file 0x0");
    is_open(&account, "blackout = \"1 s\"", "blackout is not known");
    is_open(
        &account,
        "[[session]]\nname = \"vm-db\"",
        "cannot be told whether session \"vm-db\" arrived",
    );
    // What left is known all the same.
    passes(&account, "sessions = 2\nfiles = 3");
    fails(
        &account,
        "[[session]]\nname = \"vm-db\"\nfiles = 3",
        "files: 3 expected, 2",
    );
}

#[test]
fn with_events_lost_too_few_is_open_and_too_many_is_wrong() {
    let mut update = good();
    update.whole = false;
    update.sessions.get_mut(&SessionName::new("vm-db")).unwrap().whole = false;
    let account = one(update);
    is_open(&account, "sessions = 3", "sessions: 3 expected, 2 so far as is known");
    is_open(&account, "sessions = 2", "so far as is known");
    passes(&account, "sessions = { min = 2 }");
    fails(&account, "sessions = 1", "sessions: 1 expected, 2");
    let db = |line: &str| format!("[[session]]\nname = \"vm-db\"\n{line}");
    is_open(&account, &db("files = 2"), "so far as is known");
    is_open(&account, &db("tokens = [0, 1, 2]"), "so far as is known");
    fails(&account, &db("tokens = [0, 2]"), "tokens");
    is_open(
        &account,
        "retrieved = true",
        "there may be more files of session \"vm-db\"",
    );
    // No process can tell that it did not leave.
    is_open(
        &account,
        "[[session]]\nname = \"vm-x\"",
        "at least 1 expected, 0 so far as is known",
    );
    is_open(
        &account,
        "[[session]]\nname = \"vm-x\"\ncount = 0",
        "so far as is known",
    );
}

#[test]
fn in_a_chain_every_update_must_be_so_and_the_one_that_is_not_is_named() {
    let mut second = good();
    second.number = Some(2);
    second.blackout = Some(took(3_000));
    second.sessions.remove(&SessionName::new("vm-web"));
    let account = Account {
        updates: vec![good(), second],
        whole: true,
    };
    fails(
        &account,
        "blackout = \"2 s\"",
        "blackout of update 2: at most 2.00 s expected, 3.00 s",
    );
    fails(
        &account,
        "[[session]]\nname = \"vm-web\"",
        "sessions that left of update 2",
    );
    passes(&account, "[[session]]\nname = \"vm-db\"\nfiles = 2");
}

#[test]
fn names_of_any_bytes_can_be_expected() {
    let mut update = good();
    let odd = SessionName::new(b"\xff\x01:");
    update.sessions = [(odd, session(&[1]))].into();
    let account = one(update);
    passes(&account, "[[session]]\nname = \"hex:ff013a\"\nfiles = 1");
    passes(&account, "[[session]]\nmatch = \"*:\"");
    let (_, told) = held(&account, "[[session]]\nname = \"hex:ff013a\"\nfiles = 2");
    assert!(told.starts_with("session \"\\xff\\u{1}:\""), "{told}");
}

#[test]
fn a_check_knows_the_line_it_is_written_on() {
    let text = "outcome = \"completed\"\n\n[[session]]\nname = \"vm-db\"\n";
    let checks = Expectations::parse(text)
        .unwrap()
        .of_account(&one(good()), &Lines(text));
    let lines: Vec<_> = checks.iter().map(|check| check.line).collect();
    assert_eq!(lines, [Some(1), Some(3)]);
}

#[test]
fn many_reasons_are_cut_short() {
    let mut update = good();
    let sizes = [1; 100];
    update.sessions = [(SessionName::new("vm-db"), session(&sizes))].into();
    let (_, told) = held(&one(update), "retrieved = false");
    assert!(told.ends_with("; and 92 more"), "{told}");
}

#[test]
fn what_is_no_file_of_expectations_is_told_with_line_and_column() {
    for (text, line, why) in [
        (
            "updates = 1\nblackuot = \"1 s\"",
            "line 2, column 1",
            "unknown field `blackuot`",
        ),
        (
            "blackout = \"soon\"",
            "line 1, column 12",
            "is no time, such as \"500 ms\"",
        ),
        ("blackout = 5", "line 1", "expected a string"),
        ("outcome = \"fine\"", "line 1, column 11", "expected \"completed\""),
        ("outcome = []", "line 1", "for no update, write \"none\""),
        ("sessions = { min = 3, max = 2 }", "line 1", "min 3 is more than max 2"),
        ("sessions = {}", "line 1", "give min, max or both"),
        ("size = \"big\"", "line 1", "expected a size such as 4096"),
        (
            "[phases]\nfreez = \"1 s\"",
            "line 2",
            "there is no phase \"freez\"; there are preserve",
        ),
        ("[[session]]\nfiles = 1", "line 1", "either name = \"vm\" or match"),
        ("[[session]]\nname = \"hex:0\"", "line 1", "two hexadecimal digits"),
        ("[[session]]\nname = \"\"", "line 1", "is not empty"),
        ("[[session]]\nmatch = \"a[\"", "line 1", "no pattern of names"),
        (
            "[[session]]\nname = \"a\"\ntokens = [\"x\"]",
            "line 3",
            "no token, such as 5",
        ),
        ("[[session]]\nname = \"a\"\nfile = 1", "line 3", "unknown field `file`"),
        (
            "[[allow]]\ninvariant = \"kho\"\nreason = \"x\"\nuntil = 2026-01-01",
            "line 1",
            "there is no invariant \"kho\"",
        ),
        (
            "[[allow]]\ninvariant = \"kho-balance\"\nreason = \" \"\nuntil = 2026-01-01",
            "line 1",
            "has no reason",
        ),
        (
            "[[allow]]\ninvariant = \"kho-balance\"\nreason = \"x\"\nuntil = 07:30:00",
            "line 1",
            "ends on a day",
        ),
        ("fail_on = \"all\"", "line 1", "unknown variant `all`"),
    ] {
        let error = Expectations::parse(text).unwrap_err();
        assert!(error.contains(line) && error.contains(why), "{text}: {error}");
    }
}

mod promises {
    //! What a file says of the promises themselves.

    use super::*;
    use crate::chain::Chain;
    use crate::chain::case::{Case, Judgement, Record};
    use crate::model::{Coverage, Model};
    use crate::testing::{Story, session};

    /// A whole record of one boot in which this happened.
    fn case(story: &Story, lost: u64) -> Case {
        let mut model = Model::new(&Coverage::all());
        let mut findings = Vec::new();
        for event in &story.events {
            findings.extend_from_slice(model.apply(event));
        }
        findings.extend_from_slice(model.finish());
        let judgement = Judgement {
            header: crate::journal::Header::default(),
            summary: crate::journal::Summary {
                lost,
                end: Some(crate::journal::End::default()),
                ..crate::journal::Summary::default()
            },
            runs: 1,
            departed: false,
            findings,
            verdicts: model.verdicts(),
        };
        let record = Record {
            journal: "b.luoj".into(),
            judgement,
        };
        Case {
            records: vec![record],
            chain: Chain::default(),
            repeated: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// A jump that came back though everything was frozen: `freeze-no-return` is broken, which is critical.
    fn came_back() -> Case {
        let mut story = Story::new();
        story.orderly().reboot().kexec_returns();
        let case = case(&story, 0);
        let ids: Vec<_> = case.findings().map(|finding| finding.invariant.id()).collect();
        assert_eq!(ids, ["freeze-no-return"]);
        case
    }

    fn answer(case: &Case, text: &str, name: &str) -> (Answer, String) {
        let checks = Expectations::parse(text).unwrap().check(case, TODAY, text);
        let check = checks.into_iter().find(|check| check.name == name).unwrap();
        (check.answer, check.message)
    }

    #[test]
    fn without_expectations_the_checks_come_to_what_the_case_does() {
        let mut quiet = Story::new();
        quiet.orderly().create(session(1, "a")).close(session(1, "a"), &[]);
        let mut holes = Story::new();
        holes.orderly().gap().create(session(1, "a"));
        for (case, wanted) in [
            (case(&quiet, 0), Conclusion::Held),
            (case(&holes, 1), Conclusion::Inconclusive),
            (came_back(), Conclusion::Violated),
        ] {
            let checks = Expectations::default().check(&case, TODAY, "");
            assert_eq!(formats::outcome(&checks), wanted);
            assert_eq!(case.conclusion(), wanted);
        }
    }

    #[test]
    fn a_violation_fails_until_it_is_allowed_and_again_when_the_allowance_ends() {
        let case = came_back();
        let (seen, message) = answer(&case, "", "freeze-no-return");
        assert_eq!(seen, Answer::Fail);
        assert!(message.contains("the live update"), "{message}");

        let allow = |until: &str| {
            format!(
                "[[allow]]\ninvariant = \"freeze-no-return\"\nreason = \"known, and mended in 7.4\"\nuntil = {until}"
            )
        };
        // The last day counts.
        let (seen, message) = answer(&case, &allow("2026-06-15"), "freeze-no-return");
        assert_eq!(seen, Answer::Pass);
        assert!(
            message.contains("allowed until 2026-06-15: known, and mended in 7.4"),
            "{message}"
        );

        let (seen, _) = answer(&case, &allow("2026-06-14"), "freeze-no-return");
        assert_eq!(seen, Answer::Fail);
        let (seen, message) = answer(&case, &allow("2026-06-14"), "allowance of freeze-no-return");
        assert_eq!(seen, Answer::Fail);
        assert!(message.contains("it ended on 2026-06-14"), "{message}");
    }

    /// Two live sessions of one name: `session-name-unique` is broken, which is an error.
    fn twice() -> Case {
        let mut story = Story::new();
        let (first, second) = (session(1, "vm"), session(2, "vm"));
        story.orderly().create(first).create(second);
        story.freeze_files(first, 0).freeze_files(second, 0);
        case(&story, 0)
    }

    #[test]
    fn only_findings_as_bad_as_asked_for_fail() {
        let case = twice();
        let (seen, message) = answer(&case, "fail_on = \"critical\"", "session-name-unique");
        assert_eq!(seen, Answer::Pass);
        assert!(message.starts_with("let pass, its severity being error"), "{message}");
        for text in ["", "fail_on = \"warning\"", "fail_on = \"error\""] {
            assert_eq!(answer(&case, text, "session-name-unique").0, Answer::Fail, "{text}");
        }
        let critical = answer(&came_back(), "fail_on = \"critical\"", "freeze-no-return");
        assert_eq!(critical.0, Answer::Fail);
    }

    #[test]
    fn holes_in_the_record_are_inconclusive_unless_they_are_allowed() {
        let mut story = Story::new();
        story.orderly().gap().create(session(1, "a"));
        let case = case(&story, 1);
        let outcome = |text: &str| formats::outcome(&Expectations::parse(text).unwrap().check(&case, TODAY, text));
        assert_eq!(outcome(""), Conclusion::Inconclusive);
        assert_eq!(outcome("allow_loss = true"), Conclusion::Held);
        assert_eq!(
            outcome("allow_loss = true\noutcome = \"none\""),
            Conclusion::Inconclusive
        );
    }
}

#[test]
fn the_example_that_is_shipped_has_every_key_and_is_right() {
    let text = include_str!("../../../ci/expect.toml");
    Expectations::parse(text).unwrap();
    // Adding a key to the file of expectations means adding it to the example.
    let file = include_str!("../file.rs");
    let structs = [
        "pub struct Expectations {",
        "struct WrittenSession {",
        "struct WrittenAllowance {",
    ];
    let fields = structs.map(|start| file.split(start).nth(1).unwrap().split('}').next().unwrap());
    let keys: Vec<_> = fields
        .iter()
        .flat_map(|fields| fields.lines())
        .filter_map(|line| line.trim().trim_start_matches("pub ").split_once(": "))
        .map(|(key, _)| key)
        .filter(|key| !key.starts_with('/') && *key != "pattern")
        .collect();
    assert!(keys.len() > 20, "{keys:?}");
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !text.contains(&format!("{key} =")) && !text.contains(&format!("[{key}]")))
        .collect();
    assert!(missing.is_empty(), "the example lacks {missing:?}");
}

#[test]
fn a_pattern_without_end_is_refused_and_the_longest_that_is_allowed_works() {
    let file = |pattern: &str| format!("[[session]]\nmatch = \"{pattern}\"");
    let error = Expectations::parse(&file(&"?".repeat(257))).unwrap_err();
    assert!(error.contains("at most 256 bytes, this one has 257"), "{error}");
    for part in ["?", "*", "[!a]", "{a,b}", "{a,{b,c}}"] {
        let pattern = part.repeat(256 / part.len());
        assert!(Expectations::parse(&file(&pattern)).is_ok(), "{pattern}");
    }
}
