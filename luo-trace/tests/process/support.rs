//! The binary as a user starts it, and made-up files to give it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use luo_trace::event::Event;
use luo_trace::event::decode::encode;
use luo_trace::journal::{End, Header, Writer};
use luo_trace::testing::{IMAGE, Story, header, memfd, session};
use tempfile::TempDir;

/// How long a command may take, on a busy machine, too.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a command said, and how it ended.
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Asserts that it ended with this status, and nothing on stderr tells of a panic.
    #[track_caller]
    pub fn ends(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// Asserts that it printed nothing, and that what it says on stderr has these words.
    #[track_caller]
    pub fn refuses(self, words: &[&str]) {
        assert_eq!(self.stdout, "", "errors go to stderr");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {}", self.stderr);
        }
    }
}

/// The binary with these arguments, in an environment that has none of its variables.
pub fn luo_trace<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luo-trace"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LUO_TRACE_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end, and kills it where that does not come.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    run_into(command, Stdio::piped())
}

/// The same, with this standard output.
#[track_caller]
pub fn run_into(command: &mut Command, stdout: impl Into<Stdio>) -> Said {
    let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        panic!("{command:?} did not end within {DEADLINE:?}");
    };
    let output = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        status: output.status.code().expect("it ended by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs the binary with these arguments, separated by spaces, in a directory.
#[track_caller]
pub fn says(place: &Path, line: &str) -> Said {
    run(luo_trace(line.split(' ')).current_dir(place))
}

/// A directory with the journals `1.luoj`, `2.luoj` ... of these boots.
pub fn recorded(boots: &[&dyn Fn(&mut Story)]) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for (number, tell) in (0..).zip(boots) {
        let mut story = Story::new();
        tell(&mut story);
        let path = record(place.path(), &header(number), &story.events);
        fs::rename(path, place.path().join(format!("{}.luoj", number + 1))).unwrap();
    }
    place
}

fn record(place: &Path, header: &Header, events: &[Event]) -> PathBuf {
    let (mut writer, path) = Writer::open(place, header).unwrap();
    for event in events {
        writer.append([encode(event).as_slice()]).unwrap();
    }
    writer.end(&End::default()).unwrap();
    path
}

/// The journal of a boot of this name, on a host of this name and id.
pub fn record_of(place: &Path, boot: &str, (name, id): (&str, &str), events: &[Event]) {
    let mut header = header(0);
    header.boot_id = boot.into();
    header.host.name = name.into();
    header.host.given = Some(id.into());
    record(place, &header, events);
}

/// A kernel that preserves a session with a file, and leaves with it.
pub fn leaves(story: &mut Story) {
    let vm = session(1, "vm");
    story.orderly().create(vm).preserve(vm, 1, memfd(1));
    story.reboot_with(IMAGE, |story| {
        story.freeze_files(vm, 1).serialize();
    });
}

/// A kernel in which that session is retrieved and finished.
pub fn arrives(story: &mut Story) {
    let vm = session(1, "vm");
    story.handover(&[("vm", &[1])], &[]);
    story.snapshot(|snapshot| _ = snapshot.unread());
    story
        .arrive(vm, 1)
        .read_in()
        .retrieve_session(vm)
        .retrieve(vm, 1, memfd(1));
    story.finish_files(vm, 1, |_| ());
}

/// A kernel in which nothing came over.
pub fn arrives_empty(story: &mut Story) {
    story.handover(&[], &[]);
    story.snapshot(|_| ());
    story.read_in();
}

/// A kernel that takes one token twice.
pub fn takes_a_token_twice(story: &mut Story) {
    let vm = session(1, "vm");
    story
        .orderly()
        .create(vm)
        .preserve(vm, 1, memfd(1))
        .preserve(vm, 1, memfd(2));
}
