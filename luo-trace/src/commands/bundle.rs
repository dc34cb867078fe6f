//! `luo-trace bundle`: what a maintainer asks for, in one file.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::Args as ClapArgs;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::agent::ledger;
use crate::exit::Exit;
use crate::sink::log::tell;

/// The name of the directory that everything is in.
const INSIDE: &str = "luo-trace-bundle";
/// What is asked of this very program, and in which file the answer is.
const ASKED: [(&str, &[&str]); 5] = [
    ("version.txt", &["--version"]),
    ("doctor.txt", &["doctor"]),
    ("doctor.json", &["doctor", "--format", "json"]),
    ("status.json", &["status", "--format", "json"]),
    ("settings.txt", &["config", "show"]),
];
/// Files of the kernel's that say what it is.
const KERNEL: [&str; 4] = [
    "/proc/version",
    "/proc/cmdline",
    "/proc/sys/kernel/tainted",
    "/proc/sys/kernel/kexec_load_disabled",
];
/// What a line of the kernel's log has to have, in lower case.
const WORDS: [&str; 6] = ["kho", "luo", "liveupdate", "live update", "kexec", "command line"];
/// How much of the kernel's log is read.
const LOG: usize = 16 << 20;

/// Options of `luo-trace bundle`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The file to write, a tar packed by gzip, which only its owner can read; it must not be there yet
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The directory of the journals
    #[arg(long, value_name = "DIR", default_value = super::updates::JOURNALS)]
    journal: PathBuf,
    /// How much of the journals is taken, the newest first
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize::mib(64))]
    journal_max_size: ByteSize,
}

/// Collects, and says what is in the file. What cannot be had is left out, and told.
///
/// # Errors
/// Where the file is there already, or cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let cannot = || format!("cannot write {}", args.output.display());
    // Before there is a bundle, which may lie among the journals.
    let journals = plain_files(&args.journal);
    let mut options = File::options();
    let file = match options.write(true).create_new(true).mode(0o600).open(&args.output) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} is there already: name another file", args.output.display())
        }
        file => file.with_context(cannot)?,
    };
    let mut bundle = Bundle {
        tar: Builder::new(GzEncoder::new(file, Compression::default())),
        contents: String::new(),
    };
    for (name, words) in ASKED {
        bundle.answer(name, words).with_context(cannot)?;
    }
    let dir = args.journal.display().to_string();
    bundle
        .answer("updates.json", &["updates", &dir, "--format", "json"])
        .with_context(cannot)?;
    for path in KERNEL {
        let name = Path::new(path).file_name().unwrap_or_default().display();
        bundle
            .file(&format!("kernel/{name}"), path, fs::read(path))
            .with_context(cannot)?;
    }
    bundle
        .file("kernel/log.txt", "lines of the kernel's log", kernel_log())
        .with_context(cannot)?;
    match journals {
        Ok(files) => bundle.journals(files, args.journal_max_size.as_u64()),
        Err(why) => bundle.file("journal", &dir, Err(why)),
    }
    .with_context(cannot)?;
    let contents = bundle.end().with_context(cannot)?;
    let mut out = super::stdout();
    write!(
        out,
        "{contents}\n{} has this. Journals tell the names of sessions, of hosts and of processes: look before you send it.\n",
        args.output.display()
    )
    .context("cannot write to stdout")?;
    Ok(Exit::Held)
}

/// The file that is made.
struct Bundle {
    tar: Builder<GzEncoder<File>>,
    /// A line for each file.
    contents: String,
}

impl Bundle {
    /// Adds what this program answers to these words.
    fn answer(&mut self, name: &str, words: &[&str]) -> io::Result<()> {
        let of = format!("luo-trace {}", words.join(" "));
        let program = env::current_exe()?;
        let said = Command::new(program).args(words).stdin(Stdio::null()).output();
        self.file(name, &of, said.map(|said| [said.stdout, said.stderr].concat()))
    }

    /// Adds a file, whose contents are from what `of` says; or tells why there is none.
    fn file(&mut self, name: &str, of: &str, bytes: io::Result<Vec<u8>>) -> io::Result<()> {
        match bytes {
            Ok(bytes) => {
                self.line(name, of);
                self.add(name, &bytes)
            }
            Err(why) => {
                tell(format_args!("{name}: {why}; going on without it"));
                self.line("-", &format!("{of}: {why}"));
                Ok(())
            }
        }
    }

    fn line(&mut self, name: &str, of: &str) {
        self.contents += &format!("{name:24} {of}\n");
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_secs());
        self.tar.append_data(&mut header, format!("{INSIDE}/{name}"), bytes)
    }

    /// Adds the ledger and so many bytes of the journals among these files, the newest first.
    fn journals(&mut self, mut files: Vec<(SystemTime, PathBuf)>, most: u64) -> io::Result<()> {
        let is_ledger = |path: &Path| path.file_name().is_some_and(|name| name == ledger::NAME);
        files.sort_by_key(|(time, path)| (is_ledger(path), *time));
        let (mut left, mut left_out) = (most, 0);
        while let Some((_, path)) = files.pop() {
            let size = path.metadata().map_or(0, |file| file.len());
            match left.checked_sub(size) {
                None => left_out += 1,
                Some(rest) => {
                    left = rest;
                    let name = path.file_name().unwrap_or_default().display();
                    // One that grows meanwhile is taken as it was.
                    let bytes = File::open(&path).and_then(|file| {
                        let mut bytes = Vec::new();
                        file.take(size).read_to_end(&mut bytes).map(|_| bytes)
                    });
                    self.file(&format!("journal/{name}"), &path.display().to_string(), bytes)?;
                }
            }
        }
        if left_out > 0 {
            self.line(
                "-",
                &format!("{left_out} older journals: they are more than {}", ByteSize(most)),
            );
        }
        Ok(())
    }

    /// Adds the list of what is there, ends the file, and gives that list.
    fn end(mut self) -> io::Result<String> {
        let contents = std::mem::take(&mut self.contents);
        self.add("CONTENTS", contents.as_bytes())?;
        self.tar.into_inner()?.finish()?;
        Ok(contents)
    }
}

/// The plain files in a directory, with the time of the last change.
fn plain_files(dir: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.metadata()?;
        if file.is_file() {
            files.push((file.modified()?, entry.path()));
        }
    }
    Ok(files)
}

/// The lines of the kernel's log that have to do with live updates.
fn kernel_log() -> io::Result<Vec<u8>> {
    // SYSLOG_ACTION_READ_ALL of syslog(2), of which rustix and std have nothing.
    const READ_ALL: libc::c_int = 3;
    let mut log = vec![0_u8; LOG];
    let room = libc::c_int::try_from(log.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel writes into the vector, and no more than it is told that there is room for.
    let size = unsafe { libc::klogctl(READ_ALL, log.as_mut_ptr().cast(), room) };
    let size = usize::try_from(size).map_err(|_| io::Error::last_os_error())?;
    log.truncate(size);
    let text = String::from_utf8_lossy(&log);
    let lines = text.lines().filter(|line| {
        let line = line.to_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    });
    Ok(lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes())
}
