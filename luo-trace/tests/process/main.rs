//! The binary as a user meets it: exit statuses, what goes to stdout and what to stderr, options and their environment.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, reason = "a test that cannot make its files fails")]

mod bundle;
mod export;
mod hosts;
mod ids;
mod replay;
mod settings;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use luo_trace::testing::image::Kernel;
use serde_json::Value;

use support::{arrives, arrives_empty, leaves, luo_trace, recorded, run, run_into, says, takes_a_token_twice};

const POLICY: &str = "mode = 'enforce'\n[[rule]]\nname = 'no-legacy'\non = ['kexec-load']\nwhen = { legacy-image = true }\naction = 'deny'\n";

/// The names of all subcommands of this command, from its help; those of `policy` are subcommands, too.
fn subcommands(of: &str) -> Vec<String> {
    let help = says(Path::new("."), format!("{of} --help").trim()).ends(0).stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   "));
    let names: Vec<_> = names
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn every_subcommand_explains_itself_on_stdout() {
    let mut names = subcommands("");
    assert!(names.len() > 10, "{names:?}");
    for group in ["config", "policy"] {
        names.extend(subcommands(group).iter().map(|name| format!("{group} {name}")));
    }
    for name in names {
        let said = says(Path::new("."), &format!("{name} --help")).ends(0);
        assert!(said.stdout.contains(&format!("luo-trace {name}")), "{}", said.stdout);
        assert_eq!(said.stderr, "");
    }
}

#[test]
fn a_subcommand_or_an_option_that_there_is_not_is_wrong_usage() {
    for line in [
        "chek",
        "check --formt json x",
        "agent --kho some",
        "agent --journal-max-size 1MiB",
        "agent --journal-keep 1",
        "agent --control x.lock",
        "report",
        "check x --format xml",
    ] {
        says(Path::new("."), line).ends(2).refuses(&["--help"]);
    }
}

#[test]
fn an_update_that_kept_its_promises_is_held() {
    let place = recorded(&[&leaves, &arrives]);
    let said = says(place.path(), "check 1.luoj 2.luoj").ends(0);
    assert!(said.stdout.contains("held"), "{}", said.stdout);
    assert_eq!(said.stderr, "");
}

#[test]
fn a_directory_of_journals_is_judged_like_the_journals_in_it() {
    let place = recorded(&[&leaves, &arrives]);
    let [all, each] = ["check .", "check 1.luoj 2.luoj"].map(|line| says(place.path(), line).ends(0).stdout);
    assert_eq!(all.replace("./", ""), each);
}

#[test]
fn every_update_of_a_host_is_a_line() {
    // Given the records of an update from which all came back, and of one of which a session did not arrive,
    let [whole, lossy] = [recorded(&[&leaves, &arrives]), recorded(&[&leaves, &arrives_empty])];
    let lines = |place: &Path| {
        let said = says(place, "updates .").ends(0);
        said.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // then each is told with its outcome, and the second with what was lost.
    let [header, update] = &lines(whole.path())[..] else {
        panic!("one update, and a header")
    };
    assert!(
        header.contains("when (UTC)") && update.contains("completed") && !update.contains("lost"),
        "{update}"
    );
    let update = &lines(lossy.path())[1];
    assert!(update.ends_with("sessions lost: 1, files lost: 1"), "{update}");
    let json = says(lossy.path(), "updates . --format json").ends(0).stdout;
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&rows[0]["outcome"], &rows[0]["fate"], &rows[0]["lost_sessions"]),
        (&"lost".into(), &"completed".into(), &1.into())
    );
    // Where no update is recorded, it says that.
    let none = recorded(&[&takes_a_token_twice]);
    assert_eq!(
        says(none.path(), "updates 1.luoj").ends(0).stdout,
        "no live update is recorded\n"
    );
}

#[test]
fn a_token_that_is_taken_twice_is_a_violation() {
    let place = recorded(&[&takes_a_token_twice]);
    let said = says(place.path(), "check 1.luoj").ends(1);
    assert!(said.stdout.contains("file-token-unique"), "{}", said.stdout);
}

#[test]
fn a_session_that_does_not_arrive_is_a_violation() {
    let place = recorded(&[&leaves, &arrives_empty]);
    let said = says(place.path(), "check 1.luoj 2.luoj").ends(1);
    assert!(said.stdout.contains("kexec-sessions-conserved"), "{}", said.stdout);
}

#[test]
fn a_departure_without_the_next_kernels_journal_is_inconclusive() {
    let place = recorded(&[&leaves]);
    says(place.path(), "check 1.luoj").ends(3);
}

#[test]
fn an_expectation_that_is_not_met_is_a_violation() {
    let place = recorded(&[&leaves, &arrives]);
    fs::write(place.path().join("one.toml"), "updates = 1\n").unwrap();
    fs::write(place.path().join("two.toml"), "updates = 2\n").unwrap();
    says(place.path(), "check 1.luoj 2.luoj --expect one.toml").ends(0);
    says(place.path(), "check 1.luoj 2.luoj --expect two.toml").ends(1);
}

#[test]
fn a_mistake_in_expectations_is_told_with_its_place() {
    let place = recorded(&[&leaves]);
    fs::write(place.path().join("wrong.toml"), "updates = 1\nsesions = 2\n").unwrap();
    let said = says(place.path(), "check 1.luoj --expect wrong.toml").ends(2);
    said.refuses(&["wrong.toml", "line 2", "sesions"]);
}

#[test]
fn an_agent_does_not_start_with_a_port_that_cannot_be_protected() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("typo.yml"), "basic_auth_user: {}\n").unwrap();
    let agent = |rest: &str| says(place.path(), &format!("agent --control agent.sock {rest}")).ends(2);
    agent("--listen 127.0.0.1:0 --web-config gone.yml").refuses(&["--web-config", "gone.yml", "No such file"]);
    agent("--listen 127.0.0.1:0 --web-config typo.yml").refuses(&["typo.yml", "basic_auth_user", "line 1"]);
    agent("--web-config typo.yml").refuses(&["--listen"]);
}

#[test]
fn what_is_wrong_with_a_collector_or_a_label_is_told_before_anything_is_traced() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("headers"), "Authorization Bearer secret\n").unwrap();
    let agent = |rest: &str| says(place.path(), &format!("agent --control agent.sock {rest}")).ends(2);
    agent("--otlp collector:4318").refuses(&["--otlp", "http://"]);
    agent("--otlp http://collector --otlp-headers gone").refuses(&["gone", "No such file"]);
    agent("--otlp http://collector --otlp-ca gone").refuses(&["https://"]);
    agent("--otlp https://collector --otlp-ca headers").refuses(&["headers", "PEM"]);
    agent("--otlp-headers headers").refuses(&["--otlp"]);
    let said = agent("--otlp http://collector --otlp-headers headers");
    assert!(!said.stderr.contains("secret"), "{}", said.stderr);
    said.refuses(&["headers:1"]);
    agent("--label version=1").refuses(&["version", "choose another name"]);
    agent("--label rack").refuses(&["NAME=VALUE"]);
    fs::write(
        place.path().join("agent.toml"),
        "labels = { region = 'eu', 'le' = '1' }\n",
    )
    .unwrap();
    agent("--config agent.toml").refuses(&["agent.toml:1:10", "le"]);
    fs::write(
        place.path().join("agent.toml"),
        "labels = { region = 'eu' }\nlog-format = 'json'\n",
    )
    .unwrap();
    let shown = says(place.path(), "config show agent.toml").ends(0).stdout;
    assert!(shown.contains("region=eu"), "{shown}");
}

#[test]
fn a_file_that_is_not_there_is_told_by_name() {
    let place = tempfile::tempdir().unwrap();
    for line in [
        "check gone",
        "report gone",
        "updates gone",
        "policy check gone",
        "policy test gone gone",
        "preflight --kernel gone",
    ] {
        says(place.path(), line).ends(2).refuses(&["gone", "No such file"]);
    }
}

#[test]
fn an_empty_file_and_a_text_are_no_journals() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("empty"), "").unwrap();
    fs::write(place.path().join("notes"), "not a journal at all, but a text\n").unwrap();
    for name in ["empty", "notes"] {
        for command in ["check", "report"] {
            says(place.path(), &format!("{command} {name}"))
                .ends(2)
                .refuses(&[name, "journal"]);
        }
    }
}

/// Every command that reads a file, with `X` in the place of that file; the others are there.
const READERS: [&str; 9] = [
    "check X",
    "check 1.luoj --expect X",
    "report X",
    "policy check X",
    "policy test X 1.luoj",
    "policy test policy.toml X",
    "preflight --kernel X",
    "preflight --kernel image --journal X",
    "agent --policy X --control x.sock",
];

#[test]
fn what_may_never_end_is_refused_at_once_by_every_command() {
    let place = recorded(&[&leaves]);
    fs::write(place.path().join("policy.toml"), POLICY).unwrap();
    fs::write(place.path().join("image"), Kernel::plain().bzimage()).unwrap();
    let fifo = place.path().join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
    std::os::unix::fs::symlink(&fifo, place.path().join("link")).unwrap();
    for (name, what) in [
        ("fifo", "it is a pipe: write"),
        ("link", "it is a pipe: write"),
        ("socket", "it is a socket: give a file"),
        ("/dev/zero", "another device without an end: give a file"),
    ] {
        for line in READERS {
            let said = says(place.path(), &line.replace('X', name)).ends(2);
            said.refuses(&[name, what]);
        }
    }
}

#[test]
fn a_file_is_read_through_a_link_and_as_standard_input() {
    let place = recorded(&[&takes_a_token_twice]);
    std::os::unix::fs::symlink("1.luoj", place.path().join("link")).unwrap();
    says(place.path(), "check link").ends(1);
    let input = fs::File::open(place.path().join("1.luoj")).unwrap();
    run(luo_trace(["check", "/dev/stdin"]).stdin(input)).ends(1);
    // A pipe may wait for ever for what is written into it.
    let (reader, _writer) = std::io::pipe().unwrap();
    run(luo_trace(["check", "/dev/stdin"]).stdin(reader))
        .ends(2)
        .refuses(&["/dev/stdin", "it is a pipe"]);
}

#[test]
fn journals_of_a_directory_that_cannot_be_read_are_told_and_the_others_judged() {
    // Given two good journals beside an empty file, a journal without its beginning's end, notes, a directory and a pipe,
    let place = recorded(&[&leaves, &arrives]);
    let whole = fs::read(place.path().join("1.luoj")).unwrap();
    fs::write(place.path().join("empty.luoj"), "").unwrap();
    fs::write(place.path().join("half.luoj"), &whole[..40]).unwrap();
    fs::write(place.path().join("notes.luoj"), "not a journal at all, but a text\n").unwrap();
    fs::create_dir(place.path().join("inside.luoj")).unwrap();
    let fifo = place.path().join("fifo.luoj");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(fifo)
            .status()
            .unwrap()
            .success()
    );
    let unreadable = ["empty", "half", "notes", "inside", "fifo"];
    // then check judges the two, says what it could not read, and does not say that all is well,
    let said = says(place.path(), "check .").ends(3);
    assert!(said.stdout.contains("completed: boot 1"), "{}", said.stdout);
    for name in unreadable {
        let line = format!("left out, and what is in it is not known: ./{name}.luoj: ");
        assert!(said.stdout.contains(&line), "no {name} in {}", said.stdout);
    }
    for format in ["json", "ktap", "junit", "github"] {
        let said = says(place.path(), &format!("check . --format {format}")).ends(3);
        assert!(said.stdout.contains("half.luoj"), "{}", said.stdout);
    }
    // the report has a line for each,
    for format in ["text", "html", "json"] {
        let said = says(place.path(), &format!("report . --format {format}")).ends(0);
        for name in unreadable {
            assert!(
                said.stdout.contains(&format!("{name}.luoj")),
                "no {name} in {}",
                said.stdout
            );
        }
    }
    // and nothing else takes what it has read for all there is.
    fs::write(place.path().join("policy.toml"), POLICY).unwrap();
    let said = says(place.path(), "policy test policy.toml .").ends(3);
    assert!(said.stdout.contains("left out: ./half.luoj"), "{}", said.stdout);
    fs::write(place.path().join("image"), Kernel::with_luo(&["memfd-v2"]).bzimage()).unwrap();
    let said = says(place.path(), "preflight --kernel image --journal .").ends(3);
    assert!(said.stdout.contains("may be the latest"), "{}", said.stdout);
}

#[test]
fn a_violation_is_told_whatever_else_cannot_be_read() {
    let place = recorded(&[&takes_a_token_twice]);
    fs::write(place.path().join("empty.luoj"), "").unwrap();
    says(place.path(), "check .").ends(1);
}

#[test]
fn a_directory_with_no_journal_that_can_be_read_is_refused() {
    let place = tempfile::tempdir().unwrap();
    says(place.path(), "check .")
        .ends(2)
        .refuses(&["no journal in this directory"]);
    fs::write(place.path().join("empty.luoj"), "").unwrap();
    says(place.path(), "check .")
        .ends(2)
        .refuses(&["empty.luoj", "not a luo-trace journal"]);
}

#[test]
fn a_journal_that_was_cut_off_is_read_as_far_as_it_goes() {
    let place = recorded(&[&leaves]);
    let whole = fs::read(place.path().join("1.luoj")).unwrap();
    fs::write(place.path().join("cut.luoj"), &whole[..whole.len() - 9]).unwrap();
    let said = says(place.path(), "check cut.luoj").ends(3);
    assert!(said.stdout.contains("cut.luoj"), "{}", said.stdout);
}

#[test]
fn every_form_of_the_checks_can_be_read_by_its_readers() {
    let place = recorded(&[&leaves, &arrives_empty]);
    let form = |name: &str| {
        says(place.path(), &format!("check 1.luoj 2.luoj --format {name}"))
            .ends(1)
            .stdout
    };
    let json: Value = serde_json::from_str(&form("json")).unwrap();
    assert!(json.is_object());
    let junit = form("junit");
    let mut reader = quick_xml::Reader::from_str(&junit);
    let mut names = BTreeSet::new();
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Start(tag) | quick_xml::events::Event::Empty(tag) => {
                names.insert(String::from_utf8(tag.name().0.to_vec()).unwrap());
            }
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert!(names.contains("testcase") && names.contains("failure"), "{names:?}");
    assert!(form("ktap").starts_with("KTAP version 1\n"));
    let sarif: Value = serde_json::from_str(&form("sarif")).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    for result in results {
        let rule = &rules[result["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!(rule["id"], result["ruleId"]);
    }
    assert!(
        results
            .iter()
            .any(|result| { result["ruleId"] == "invariant/kexec-sessions-conserved" && result["level"] == "error" })
    );
    assert!(form("github").lines().any(|line| line.starts_with("::error")));
}

#[test]
fn a_report_has_the_same_words_on_stdout_and_in_a_file() {
    let place = recorded(&[&leaves, &arrives]);
    for format in ["text", "html", "json", "perfetto", "otlp"] {
        let line = format!("report 1.luoj 2.luoj --format {format}");
        let printed = says(place.path(), &line).ends(0).stdout;
        assert!(printed.len() > 100, "{format}: {printed}");
        let written = says(place.path(), &format!("{line} -o report")).ends(0);
        assert_eq!((written.stdout.as_str(), written.stderr.as_str()), ("", ""));
        let file = fs::read_to_string(place.path().join("report")).unwrap();
        assert_eq!(file, printed, "{format}");
    }
}

#[test]
fn a_report_that_cannot_be_written_says_where() {
    let place = recorded(&[&leaves]);
    let said = says(place.path(), "report 1.luoj -o gone/report").ends(2);
    said.refuses(&["gone/report"]);
}

#[test]
fn a_reader_that_has_seen_enough_does_not_change_what_was_found() {
    let place = recorded(&[&leaves, &arrives_empty]);
    fs::write(place.path().join("policy.toml"), POLICY).unwrap();
    fs::write(place.path().join("plain"), Kernel::plain().bzimage()).unwrap();
    for (line, status) in [
        ("check 1.luoj 2.luoj", 1),
        ("check 1.luoj 2.luoj --format json", 1),
        ("report 1.luoj 2.luoj", 0),
        ("hooks", 0),
        ("invariants", 0),
        ("metrics", 0),
        ("policy check policy.toml", 0),
        ("policy test policy.toml 1.luoj --format json", 0),
        ("preflight --kernel plain --handler memfd-v2", 1),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = run_into(luo_trace(line.split(' ')).current_dir(place.path()), writer).ends(status);
        assert_eq!(said.stderr, "", "{line}");
    }
}

#[test]
fn the_tables_have_a_line_for_each_row() {
    for (line, row) in [
        ("hooks", "session-create"),
        ("invariants", "file-balance"),
        ("metrics", "luo_sessions"),
    ] {
        let said = says(Path::new("."), line).ends(0);
        assert!(said.stdout.lines().any(|line| line.contains(row)), "{}", said.stdout);
    }
    let one = says(Path::new("."), "invariants file-balance").ends(0).stdout;
    assert!(one.starts_with("file-balance"), "{one}");
    says(Path::new("."), "invariants file-balanse")
        .ends(2)
        .refuses(&["file-balanse", "luo-trace invariants"]);
}

#[test]
fn a_policy_is_judged_with_the_place_of_each_mistake() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("good.toml"), POLICY).unwrap();
    fs::write(
        place.path().join("bad.toml"),
        POLICY.replace("kexec-load", "kexec-loud"),
    )
    .unwrap();
    says(place.path(), "policy check good.toml").ends(0);
    let said = says(place.path(), "policy check bad.toml").ends(2);
    let told = said.stdout + &said.stderr;
    assert!(told.contains("bad.toml:4:") && told.contains("kexec-loud"), "{told}");
}

#[test]
fn a_policy_is_tried_on_a_recorded_update() {
    let place = recorded(&[&leaves, &arrives]);
    fs::write(place.path().join("policy.toml"), POLICY).unwrap();
    let json = says(place.path(), "policy test policy.toml 1.luoj --format json")
        .ends(0)
        .stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["mode"], "enforce");
}

#[test]
fn an_image_is_judged_before_it_is_loaded() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("good"), Kernel::with_luo(&["memfd-v2"]).bzimage()).unwrap();
    fs::write(place.path().join("plain"), Kernel::plain().bzimage()).unwrap();
    fs::write(place.path().join("text"), "no kernel, but a text\n").unwrap();
    let said = |image: &str| {
        let mut line = vec!["preflight", "--kernel", image, "--handler", "memfd-v2"];
        line.extend([
            "--luo-format",
            "luo-v5",
            "--kho-format",
            "kho-v4",
            "--cmdline",
            "kho=on liveupdate=on",
        ]);
        run(luo_trace(line).current_dir(place.path()))
    };
    assert!(said("good").ends(0).stdout.contains("will carry"));
    assert!(said("plain").ends(1).stdout.contains("will lose"));
    said("text").ends(2).refuses(&["text", "no kernel"]);
}

/// A file of zstd that unpacks to what begins as a kernel, and has far more bytes than any.
fn bomb() -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    // Magic number, and a header with a window of one block.
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let block = |last: bool, kind: usize, size: usize| (usize::from(last) | kind << 1 | size << 3).to_le_bytes();
    packed.extend_from_slice(&block(false, 0, 64)[..3]);
    packed.extend_from_slice(b"\x7fELF\x02\x01\x01");
    packed.resize(packed.len() + 64 - 7, 0);
    // Then each block is one byte, repeated.
    for number in (0..9000).rev() {
        packed.extend_from_slice(&block(number == 0, 1, BLOCK)[..3]);
        packed.push(0);
    }
    packed
}

#[test]
fn an_image_that_unpacks_to_more_than_any_kernel_has_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let bomb = bomb();
    assert!(bomb.len() < 40_000, "{}", bomb.len());
    fs::write(place.path().join("bomb"), bomb).unwrap();
    let said = says(place.path(), "preflight --kernel bomb --handler memfd-v2").ends(2);
    said.refuses(&["bomb", "unpacks to more than 512 MiB"]);
}

#[test]
fn what_is_no_file_is_no_image_and_is_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(place.path().join("fifo"))
        .status();
    assert!(made.unwrap().success());
    for path in ["fifo", "/dev/zero", "."] {
        let said = says(place.path(), &format!("preflight --kernel {path} --handler memfd-v2")).ends(2);
        said.refuses(&[path]);
    }
}

#[test]
fn the_process_that_reads_images_takes_a_bounded_memory() {
    // Given a file that is larger than all that it may have,
    let place = tempfile::tempdir().unwrap();
    let image = fs::File::create_new(place.path().join("large")).unwrap();
    image.set_len(2 << 30).unwrap();
    let image = fs::File::open(place.path().join("large")).unwrap();
    // then it says so.
    let said = run(luo_trace(["read-image"]).stdin(image)).ends(0);
    assert!(said.stdout.contains("the image cannot be read"), "{}", said.stdout);
}

#[test]
fn the_process_that_reads_images_has_no_privilege_and_few_system_calls() {
    use std::io::Write;
    // Given one that waits for its answer to be taken, since the pipe is full,
    let (reader, mut writer) = std::io::pipe().unwrap();
    let room = rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    writer.write_all(&vec![b' '; room]).unwrap();
    let mut child = luo_trace(["read-image"]).stdout(writer).spawn().unwrap();
    // when it has confined itself,
    let deadline = Instant::now() + Duration::from_secs(120);
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        if status.contains("\nSeccomp:\t2\n") {
            break status;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::yield_now();
    };
    // then nothing is left of what root may.
    for line in [
        "NoNewPrivs:\t1",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "Threads:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    if rustix::process::geteuid().is_root() {
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{status}");
        assert!(
            status.contains("Groups:\t \n") || status.contains("Groups:\t\n"),
            "{status}"
        );
    }
    drop(reader);
    child.wait().unwrap();
}

#[test]
fn without_luo_each_command_that_needs_it_says_why_and_cannot_work() {
    if Path::new("/dev/liveupdate").exists() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    for line in [
        "agent --control x.sock --journal j",
        "status --control x.sock",
        "watch --control x.sock",
        "policy status --control x.sock",
    ] {
        let said = says(place.path(), line).ends(4);
        assert!(
            said.stdout.is_empty() && said.stderr.lines().count() == 1,
            "{}",
            said.stderr
        );
    }
    let doctor = says(place.path(), "doctor --control x.sock").ends(4);
    assert!(!doctor.stdout.is_empty(), "the diagnosis is what was asked for");
}

#[test]
fn an_option_is_stronger_than_its_environment() {
    let doctor = |flag: &[&str]| {
        let mut command = luo_trace(["doctor"]);
        command.args(flag).env("LUO_TRACE_KHO", "sometimes");
        run(&mut command)
    };
    doctor(&[]).ends(2).refuses(&["sometimes"]);
    assert_ne!(doctor(&["--kho", "off"]).status, 2);
}

#[test]
fn a_package_gets_a_page_for_each_command_and_a_script_for_each_shell() {
    let place = tempfile::tempdir().unwrap();
    says(place.path(), "man pages").ends(0);
    for name in subcommands("") {
        let page = fs::read_to_string(place.path().join(format!("pages/luo-trace-{name}.1"))).unwrap();
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = says(place.path(), &format!("completions {shell}")).ends(0).stdout;
        assert!(script.contains("luo-trace") && script.contains("preflight"), "{shell}");
    }
    says(place.path(), "completions dash").ends(2).refuses(&["bash"]);
}
