use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::event::Event;
use crate::event::decode::encode;
use crate::journal::{End, Writer};
use crate::status::{File as StatusFile, Flb, Losses, Session};
use crate::testing::image::{Kernel, unified};
use crate::testing::{self, Story, memfd, session};

const LINE: &str = "quiet kho=on liveupdate=on";

fn parsed(words: impl IntoIterator<Item = std::ffi::OsString>) -> Args {
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: Args,
    }
    Words::parse_from(words).args
}

fn args(more: &[&str]) -> Args {
    parsed(["preflight", "--kernel", "x"].iter().chain(more).map(Into::into))
}

/// A directory with a kernel that knows these names, in which journals may lie.
struct Bench(TempDir);

impl Bench {
    fn with(kernel: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kernel"), kernel).unwrap();
        Self(dir)
    }

    fn knows(names: &[&'static str]) -> Self {
        Self::with(&Kernel::with_luo(names).bzimage())
    }

    /// Records the boot of this number, on a kernel that writes this format of LUO.
    fn records(self, number: u64, luo_format: &str, events: &[Event]) -> Self {
        let header = Header {
            luo_format: Some(luo_format.into()),
            kho_format: Some("kho-v4".into()),
            ..testing::header(number)
        };
        let (mut writer, _) = Writer::open(self.0.path(), &header).unwrap();
        for event in events {
            writer.append([encode(event).as_slice()]).unwrap();
        }
        writer.end(&End::default()).unwrap();
        self
    }

    fn judged(&self, more: &[&str]) -> Result<(Exit, String)> {
        let (kernel, journals) = (self.0.path().join("kernel"), self.0.path().to_owned());
        let mut line = vec!["preflight".into(), "--kernel".into(), kernel.into_os_string()];
        for word in more {
            line.push(match *word {
                "DIR" => journals.clone().into_os_string(),
                word => word.into(),
            });
        }
        judged(&parsed(line))
    }

    fn of_record(&self) -> (Exit, String) {
        self.judged(&["--journal", "DIR", "--cmdline", LINE]).unwrap()
    }
}

fn with_a_session() -> Story {
    let mut story = Story::new();
    story.create(session(1, "vm")).preserve(session(1, "vm"), 1, memfd(1));
    story
}

#[test]
fn a_journal_tells_what_was_preserved_at_its_end_and_in_which_formats() {
    // Given a record of a boot that ends with a session, and one of a boot before it that wrote another format,
    let on = |names: &[&'static str]| {
        let bench = Bench::knows(names).records(2, "luo-v5", &with_a_session().events);
        bench
            .records(1, "luo-v4", &Story::new().create(session(9, "old")).events)
            .of_record()
    };
    // then a kernel that knows the handler carries it, and another does not, and the latest boot is the one that counts.
    let (exit, text) = on(&["memfd-v2"]);
    assert_eq!(exit, Exit::Held, "{text}");
    assert!(text.contains("kernel: will carry\n"), "{text}");
    assert!(text.contains("1 session, files of memfd-v2 (1)\n"), "{text}");
    let (exit, text) = on(&["vfio-pci-v1"]);
    assert_eq!(exit, Exit::Violated, "{text}");
    assert!(
        text.contains("lost         it does not know the file handler memfd-v2: its file is lost"),
        "{text}"
    );
}

#[test]
fn what_was_given_up_again_is_not_preserved() {
    let mut story = with_a_session();
    story.close(session(1, "vm"), &[(1, memfd(1))]);
    let (exit, text) = Bench::with(&Kernel::plain().bzimage())
        .records(1, "luo-v5", &story.events)
        .of_record();
    assert_eq!(exit, Exit::Held, "{text}");
    assert!(
        text.contains("nothing is preserved, so nothing would be lost"),
        "{text}"
    );
}

#[test]
fn a_record_with_a_hole_tells_what_it_knows_and_no_more() {
    // Given a record that lost events after a session was made,
    let mut story = with_a_session();
    let whole = story.release(session(2, "other"), 0, |_| {}).events.clone();
    let holed = testing::with_losses(&whole, |place| place == 2);
    // then a kernel that would carry what is known may still lose something,
    let (exit, text) = Bench::knows(&["memfd-v2"]).records(1, "luo-v5", &holed).of_record();
    assert_eq!(exit, Exit::Inconclusive, "{text}");
    assert!(text.contains("events are missing from the record"), "{text}");
    // and one that loses what is known does.
    let (exit, text) = Bench::knows(&[]).records(1, "luo-v5", &holed).of_record();
    assert_eq!(exit, Exit::Violated, "{text}");
}

#[test]
fn names_that_are_given_are_judged_with_formats_that_are_given() {
    let bench = Bench::knows(&["memfd-v2", "pci-v1"]);
    let given = [
        "--handler",
        "memfd-v2",
        "--flb",
        "pci-v1",
        "--cmdline",
        LINE,
        "--kho-format",
        "kho-v4",
    ];
    let with = |luo: &[&str]| bench.judged(&[&given[..], luo].concat()).unwrap();
    assert_eq!(with(&["--luo-format", "luo-v5"]).0, Exit::Held);
    let (exit, text) = with(&["--luo-format", "luo-v6"]);
    assert_eq!(exit, Exit::Violated);
    assert!(text.contains("kernel: will panic\n"), "{text}");
    let (exit, text) = with(&[]);
    assert_eq!(exit, Exit::Inconclusive);
    assert!(text.contains("cannot tell whether the format is the same"), "{text}");
}

#[test]
fn json_has_the_keys_that_are_promised() {
    let bench = Bench::knows(&["memfd-v2"]).records(1, "luo-v5", &with_a_session().events);
    let (_, text) = bench
        .judged(&["--journal", "DIR", "--cmdline", LINE, "--format", "json"])
        .unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    for (pointer, value) in [
        ("/outcome", json!("carries")),
        ("/kernel", json!("carries")),
        ("/command_line", json!("carries")),
        ("/line", json!(LINE)),
        ("/image/kind", json!("bzImage")),
        ("/image/compression", json!("gzip")),
        ("/image/release", json!("7.3.4-made-up")),
        ("/image/luo", json!({"there": true, "source": "types"})),
        ("/image/kho_by_default", Value::Null),
        ("/image/luo_formats", json!(["luo-v5"])),
        ("/image/versioned", json!(["memfd-v2"])),
        ("/image/takes_modules", json!(false)),
        ("/preserved/sessions", json!(1)),
        ("/preserved/handlers", json!([{"name": "memfd-v2", "count": 1}])),
        ("/preserved/flbs", json!([])),
        ("/preserved/incomplete", Value::Null),
        ("/running", json!({"luo": "luo-v5", "kho": "kho-v4"})),
    ] {
        assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
    }
    for reason in json["reasons"].as_array().unwrap() {
        for key in ["outcome", "about", "text", "source"] {
            assert!(reason[key].is_string(), "{reason}");
        }
    }
}

#[test]
fn whose_line_it_is_is_said_and_one_that_may_be_another_is_in_doubt() {
    let image = Kernel::with_luo(&["memfd-v2"]).bzimage();
    let formats = [
        "--handler",
        "memfd-v2",
        "--luo-format",
        "luo-v5",
        "--kho-format",
        "kho-v4",
    ];
    // Given a unified image with a line of its own, then that is the one, and it is said so.
    let bench = Bench::with(&unified(&[(".cmdline", LINE.as_bytes()), (".linux", &image)]));
    let (exit, text) = bench.judged(&formats).unwrap();
    assert_eq!(exit, Exit::Held, "{text}");
    assert!(text.contains("(the image's own)"), "{text}");
    assert!(text.contains("unified kernel image, bzImage"), "{text}");
    let (_, json) = bench.judged(&[&formats[..], &["--format", "json"]].concat()).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["line"], &json["line_of"]), (&json!(LINE), &json!("image")));
    // With an add-on beside it that is not known any more.
    let beside = bench.0.path().join("kernel.extra.d");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("x.addon.efi"), "").unwrap();
    let (exit, text) = bench.judged(&formats).unwrap();
    assert_eq!(exit, Exit::Inconclusive, "{text}");
    assert!(text.contains("add-ons"), "{text}");
    // Given this host's line, which switches LUO on, and a boot entry whose line does not,
    let entry = |line: &str| lines::Entry {
        name: "linux".into(),
        line: line.into(),
    };
    let origin = |line: &str| Origin::Host {
        line: LINE.into(),
        entries: vec![entry(line)],
        loaded: false,
    };
    let contents = image::read(&image).unwrap();
    let host = Host {
        platform: Platform::default(),
        ..Host::given(&args(&formats))
    };
    let running = Formats {
        luo: Some("luo-v5".into()),
        kho: Some("kho-v4".into()),
    };
    let outcome = |origin: &Origin| {
        let judged = origin.judged(|line| image::judge(&contents, &host.preserved, &running, &host.platform, line));
        judged.outcome
    };
    assert_eq!(outcome(&origin("quiet")), Forecast::Unknown);
    assert_eq!(outcome(&origin("liveupdate=on kho=on")), Forecast::Carries);
    assert!(origin("quiet").words().contains("the boot entry, here linux"));
}

#[test]
fn what_is_no_kernel_is_an_error() {
    let error = Bench::with(b"no kernel")
        .judged(&["--handler", "memfd-v2"])
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("cannot be judged: it is no kernel: it is text"),
        "{error:#}"
    );
}

#[test]
fn of_a_status_what_leaves_counts_and_the_recorders_own_with_it() {
    // Given a status with an outgoing session, the recorder's own, and one that came from the previous kernel,
    let with = |direction: &'static str, own, handler: &str| Session {
        direction: direction.into(),
        own,
        files: vec![StatusFile {
            handler: handler.into(),
            ..StatusFile::default()
        }],
        ..Session::default()
    };
    let flb = |direction: &'static str, alive| Flb {
        name: "pci-v1".into(),
        direction: direction.into(),
        users: 1,
        alive,
    };
    let own = with("outgoing", true, "memfd-v2");
    let mut status = Status {
        sessions: vec![
            own.clone(),
            with("incoming", false, "kvm_vm_luo_v1"),
            with("outgoing", false, "vfio-pci-v1"),
        ],
        flbs: vec![flb("incoming", true), flb("outgoing", true)],
        ..Status::default()
    };
    let names = |used: &[InUse]| used.iter().map(|used| used.name.clone()).collect::<Vec<_>>();
    // then what leaves is preserved, with the file without which the others do not arrive;
    let preserved = Preserved::of_status(&status);
    assert_eq!(preserved.sessions, 1);
    assert_eq!(names(&preserved.handlers), ["memfd-v2", "vfio-pci-v1"]);
    assert_eq!(preserved.flbs.len(), 1);
    // alone, the recorder's own is nothing that could be lost;
    status.sessions = vec![own];
    assert!(Preserved::of_status(&status).is_empty());
    // and where events were lost there may be more.
    status.losses = Losses {
        events: 1,
        ..Losses::default()
    };
    assert!(!Preserved::of_status(&status).is_empty());
}
