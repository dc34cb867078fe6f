//! What is on the screen, at the sizes that screens have.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::status::Process;
use crate::status::policy::Policy;

fn file(token: &str, size: u64, state: &'static str) -> File {
    File {
        token: token.into(),
        handler: "memfd-v2".into(),
        size,
        state: state.into(),
        age_ns: Some(12_300_000_000),
    }
}

fn status() -> Status {
    let web = Session {
        name: "vm-web".into(),
        direction: "outgoing".into(),
        state: "open".into(),
        age_ns: Some(83_000_000_000),
        owners: vec![Process {
            pid: 70,
            comm: "luod".into(),
        }],
        files: vec![file("0x10", 64 << 20, "preserved"), file("0x9", 8192, "preserved")],
        ..Session::default()
    };
    let db = Session {
        name: "vm-db".into(),
        direction: "incoming".into(),
        state: "stranded".into(),
        pending_files: 3,
        ..Session::default()
    };
    let verdict = |invariant: &'static str, status: &'static str| Verdict {
        invariant: invariant.into(),
        status: status.into(),
        severity: "error".into(),
        statement: "It holds.".into(),
        ..Verdict::default()
    };
    Status {
        host: "node-7".into(),
        kernel: "7.3.4".into(),
        update_number: Some(2),
        image: Some("legacy".into()),
        sessions: vec![web, db],
        memory: vec![Memory {
            handler: "memfd-v2".into(),
            files: 2,
            bytes: (64 << 20) + 8192,
        }],
        verdicts: vec![
            verdict("session-balance", "ok"),
            verdict("file-balance", "violated"),
            verdict("kho-balance", "unknown"),
        ],
        findings: vec![Finding {
            invariant: "file-balance".into(),
            severity: "error".into(),
            object: "file 0x1 of session \"vm-web\"".into(),
            expected: "one unpreserve".into(),
            seen: "none".into(),
            advice: "Report the handler.".into(),
            ..Finding::default()
        }],
        ..Status::default()
    }
}

fn screen(size: (u16, u16), status: &Status, trouble: Option<&str>, view: &View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(frame, status, trouble, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..size.1).map(|y| line(y).trim_end().to_owned()).collect()
}

fn on(tab: Tab) -> View {
    View { tab, ..View::default() }
}

#[test]
fn at_80_by_24_everything_that_matters_is_there() {
    let screen = screen((80, 24), &status(), None, &View::default());
    let expected = [
        "node-7  Linux 7.3.4  update 2  image legacy",
        "64.0 MiB preserved in 2 files  0.0 ops/s  nothing lost",
        "Sessions 2  Files 2  Global  Memory 1  Ops  Promises 3  Findings 1",
        "session        direction state     files  size       age      owner",
        "vm-web         outgoing  open      2      64.0 MiB   1m 23s   luod[70]",
        "vm-db          incoming  stranded  3      0 B        -",
    ];
    assert_eq!(screen[..6], expected);
    assert!(screen[6..17].iter().all(String::is_empty));
    assert!(
        screen[17].starts_with(" promises: 1 held, 1 violated, 1 unknown ─"),
        "{screen:#?}"
    );
    assert_eq!(screen[18], "file-balance: file 0x1 of session \"vm-web\": none");
    assert_eq!(screen[23], "q quit  tab next list  ↑↓ move  s sort  r reverse  ? help");
}

#[test]
fn at_200_by_50_names_have_room() {
    let mut status = status();
    status.sessions[0].name = "n".repeat(63);
    let screen = screen((200, 50), &status, None, &on(Tab::Files));
    let files: Vec<&String> = screen.iter().filter(|line| line.contains("memfd-v2")).collect();
    assert_eq!(files.len(), 2, "{screen:#?}");
    assert!(
        files[0].starts_with(&"n".repeat(63)) && files[0].contains("0x10"),
        "{files:?}"
    );
    assert!(screen[49].starts_with("q quit"));
}

#[test]
fn a_tiny_screen_shows_what_it_can() {
    let small = screen((20, 5), &status(), None, &View::default());
    assert!(small[0].starts_with("node-7  Linux 7.3.4"), "{small:#?}");
    assert!(small[3].starts_with("session"), "{small:#?}");
    assert!(small[4].starts_with("q quit"), "{small:#?}");
    // And none at all is no reason to fail, whatever is shown.
    for size in [(1, 1), (0, 0), (80, 1), (3, 40)] {
        for tab in Tab::ALL {
            let view = View { help: true, ..on(tab) };
            let lines = screen(size, &status(), Some("trouble"), &view);
            assert_eq!(lines.len(), usize::from(size.1));
        }
    }
}

#[test]
fn files_are_sorted_by_what_their_tokens_are_and_not_by_how_they_are_written() {
    let tokens = |view: &View| -> Vec<String> {
        let items = screen((80, 24), &status(), None, view);
        let rows = items.iter().filter(|line| line.contains("memfd-v2"));
        rows.map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
            .collect()
    };
    let mut view = on(Tab::Files);
    assert_eq!(tokens(&view), ["0x10", "0x9"]);
    view.sort_by_next();
    view.sort_by_next();
    assert_eq!(tokens(&view), ["0x9", "0x10"]);
    view.reverse = true;
    assert_eq!(tokens(&view), ["0x10", "0x9"]);
}

#[test]
fn the_marked_row_of_a_long_list_is_always_on_the_screen() {
    let mut long = status();
    long.sessions[0].files = (0..100_000).map(|i| file(&format!("{i:#x}"), 1, "preserved")).collect();
    let mut view = on(Tab::Files);
    for (move_by, marked) in [(0, 0), (50_000, 50_000), (isize::MAX, 99_999), (isize::MIN, 0)] {
        view.move_by(move_by, rows(&long, Tab::Files));
        assert_eq!(view.selected, marked);
        let screen = screen((80, 24), &long, None, &view);
        let token = format!(" {marked:#x} ");
        assert!(
            screen.iter().any(|line| line.contains(&token)),
            "{token} is not in {screen:#?}"
        );
    }
    // When the list becomes shorter, the mark goes with it.
    view.selected = 99_999;
    assert!(
        screen((80, 24), &status(), None, &view)
            .iter()
            .any(|line| line.contains("0x9"))
    );
}

#[test]
fn a_finding_that_is_marked_is_told_in_full() {
    let screen = screen((80, 24), &status(), None, &on(Tab::Findings)).join("\n");
    for text in ["expected: one unpreserve; seen: none", "Report the handler."] {
        assert!(screen.contains(text), "{text} is missing in {screen}");
    }
}

#[test]
fn an_empty_list_says_so_and_trouble_takes_the_place_of_the_sums() {
    let screen = screen((80, 24), &status(), Some("the agent has ended"), &on(Tab::Flbs));
    assert_eq!(screen[1], "the agent has ended");
    assert_eq!(screen[4], "none");
}

#[test]
fn every_list_fills_all_of_its_columns() {
    let mut status = status();
    status.flbs.push(Flb {
        name: "iommu-v1".into(),
        direction: "outgoing".into(),
        users: 2,
        alive: true,
    });
    status.operations.ended.push(Operation {
        op: "file-preserve".into(),
        ok: 7,
        failed: 1,
    });
    for tab in Tab::ALL {
        assert!(rows(&status, tab) > 0, "{tab:?}");
        let items = items(&status, &on(tab));
        for column in 0..tab.columns().len() {
            // Only whom a session belongs to may be unknown.
            let empty = items.iter().all(|item| item.cell(column).is_empty());
            assert!(!empty, "column {column} of {tab:?}");
        }
    }
}

#[test]
fn a_hold_and_an_allowance_are_in_the_first_line() {
    let mut status = status();
    assert!(!screen((120, 24), &status, None, &View::default())[0].contains("policy"));
    let order = |until_ns| {
        Some(Order {
            until_ns,
            ..Order::default()
        })
    };
    status.policy = Some(Policy {
        mode: "enforce".into(),
        hold: order(None),
        allowance: order(Some(status.time_ns + 60_000_000_000)),
        ..Policy::default()
    });
    let line = &screen((120, 24), &status, None, &View::default())[0];
    assert!(line.contains("policy enforce HELD ALLOWED for another 1m"), "{line}");
}

#[test]
fn what_the_last_update_came_to_is_in_the_first_line() {
    let mut status = status();
    status.updates = vec![crate::report::Row {
        outcome: UpdateOutcome::Lost.name().into(),
        blackout_ns: Some(6_370_000_000),
        ..Default::default()
    }];
    let first = screen((120, 24), &status, None, &View::default()).remove(0);
    assert!(first.contains("update 2  lost, blackout 6.37 s"), "{first}");
}
