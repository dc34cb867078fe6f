//! Reading a kernel's image in a process of its own: an image comes from anywhere, and is unpacked by much code.
//!
//! The agent starts itself once more, with the image as standard input. Before that process looks at the first byte, it gives up
//! every privilege for good and keeps only system calls that move memory and read and write what is open. What it found goes
//! to standard output. It may fail, hang or be killed: the image is unknown then, and nothing else suffers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

use crate::host::{self, privileges};
use crate::image::{self, Contents, Machine, Platform};

/// The subcommand that no help shows.
pub const COMMAND: &str = "read-image";

/// How long one may take, in processor time and in all: under emulation the largest take a minute.
const CPU_SECONDS: u64 = 120;
const PATIENCE: Duration = Duration::from_secs(180);
/// How much address space it may take, in bytes: the file, what its packer may look back at, and what is kept of it.
const MEMORY: u64 = 1 << 30;
/// How much of its answer is read, in bytes: some ten for each word of the kernel, of which there are two million at most.
const ANSWER_MAX: u64 = 64 << 20;

/// This host, as far as it matters to an image.
pub fn this_host() -> Platform {
    Platform {
        machine: Machine::of_name(std::env::consts::ARCH),
        page_size: Some(host::page_size()),
    }
}

/// What comes of a read.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Contents(Box<Contents>),
    Unreadable(String),
}

/// Why nothing is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is no kernel, or damaged.
    Unreadable(String),
    /// The process that was to read it did not get to its end.
    NotRead(String),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreadable(why) | Self::NotRead(why)) = self;
        f.write_str(why)
    }
}

impl From<Answer> for Result<Contents, Unknown> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Contents(contents) => Ok(*contents),
            Answer::Unreadable(why) => Err(Unknown::Unreadable(why)),
        }
    }
}

/// Reads an image, of a file whose beginning is next to be read, in a process of its own.
///
/// # Errors
/// Why nothing is known of it.
pub fn read(image: &File) -> Result<Contents, Unknown> {
    if cfg!(test) {
        // The process of unit tests has no subcommands: the tests of the binary read in one of its own.
        let bytes = whole(image).map_err(|error| Unknown::Unreadable(error.to_string()))?;
        return answer(&bytes).into();
    }
    // The file that runs now, also where another has taken its place since.
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND);
    ask(command, image, PATIENCE)
}

/// Reads an image by a command.
fn ask(mut command: Command, image: &File, patience: Duration) -> Result<Contents, Unknown> {
    let mut start = || {
        command.env_clear().stdin(image.try_clone()?);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    };
    let mut child = start().map_err(|error| {
        Unknown::NotRead(format!(
            "the process that reads images cannot be started ({error}): is /proc mounted?"
        ))
    })?;
    let said = child.stdout.take().map_or(Ok(Vec::new()), |out| listen(out, patience));
    // Whatever it does, there is nothing more to wait for.
    _ = child.kill();
    match said.map(|said| serde_json::from_slice::<Answer>(&said)) {
        Ok(Ok(answer)) => {
            _ = child.wait();
            answer.into()
        }
        Ok(Err(_)) => Err(Unknown::NotRead(why_none(child))),
        Err(error) => {
            reap(child);
            Err(Unknown::NotRead(format!(
                "the process that reads images was ended: {error}"
            )))
        }
    }
}

/// Takes everything that a process says until it has nothing more to say, which has to be in this time.
fn listen(mut out: impl Read + AsFd, patience: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut said = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other(format!(
                "it took longer than {} seconds",
                patience.as_secs()
            )));
        }
        let left = left.try_into().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&out, PollFlags::IN)], Some(&left)) {
            // Nothing came in time, which the next turn tells.
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            ready => _ = ready?,
        }
        match out.read(&mut chunk)? {
            0 => return Ok(said),
            read => said.extend_from_slice(&chunk[..read]),
        }
        if said.len() as u64 > ANSWER_MAX {
            return Err(io::Error::other("it said more than there is to say of a kernel"));
        }
    }
}

/// Why a process gave no answer.
fn why_none(mut child: Child) -> String {
    let status = match child.wait() {
        Ok(status) => status,
        Err(error) => return format!("the process that reads images is lost: {error}"),
    };
    match status.signal() {
        Some(signal) => format!(
            "the process that reads images was killed by signal {signal}: it may take {} MiB and {CPU_SECONDS} seconds, and no \
             system call that opens or starts something",
            MEMORY >> 20
        ),
        None => format!(
            "the process that reads images gave no answer ({status}), which is a mistake in luo-trace: report it with the image"
        ),
    }
}

/// Waits for a process that was killed, elsewhere: one that reads from a disk which hangs does not end before it is back.
fn reap(mut child: Child) {
    _ = std::thread::Builder::new()
        .name("reap".into())
        .spawn(move || child.wait());
}

/// The process that reads: standard input to standard output.
///
/// # Errors
/// Where it cannot be confined, then nothing is read; where its answer does not reach the agent.
pub fn run() -> Result<()> {
    confine().context("the process that reads images cannot be confined")?;
    let answer = match whole(io::stdin().lock()) {
        Ok(bytes) => answer(&bytes),
        Err(error) => Answer::Unreadable(format!("the image cannot be read: {error}")),
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &answer)?;
    out.flush().context("no process takes the answer")
}

/// All of a file, in memory that is taken once.
fn whole(file: impl Read + AsFd) -> io::Result<Vec<u8>> {
    let size = rustix::fs::fstat(&file)?.st_size.unsigned_abs();
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(size).map_err(io::Error::other)?)?;
    file.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn answer(image: &[u8]) -> Answer {
    match image::read(image) {
        Ok(contents) => Answer::Contents(Box::new(contents)),
        Err(error) => Answer::Unreadable(error.to_string()),
    }
}

/// Gives up for good whatever reading does not need.
fn confine() -> Result<()> {
    // Whatever the agent had open goes.
    // SAFETY: this process uses no descriptor but the standard ones.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let most = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    // Neither new descriptors, nor files, nor processes, nor a picture of its memory on the disk.
    for resource in [Resource::Nofile, Resource::Fsize, Resource::Nproc, Resource::Core] {
        setrlimit(resource, none)?;
    }
    setrlimit(Resource::As, most(MEMORY))?;
    setrlimit(Resource::Cpu, most(CPU_SECONDS))?;
    privileges::drop_all()?;
    // After that, which forgets it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid().is_none() {
        bail!("the agent is gone");
    }
    seccompiler::apply_filter(&filter()?)?;
    Ok(())
}

/// The system calls that are left: any other one ends the process.
fn filter() -> Result<BpfProgram> {
    const CALLS: [i64; 21] = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.into_iter().map(|call| (call, Vec::new())).collect();
    // No memory becomes code.
    let exec = libc::PROT_EXEC as u64;
    let data = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(exec), 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![data.clone()])?]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(120);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn image() -> File {
        tempfile::tempfile().unwrap()
    }

    /// Why nothing is known where the process that reads does this.
    fn not_read(script: &str, patience: Duration) -> String {
        match ask(shell(script), &image(), patience) {
            Err(Unknown::NotRead(why)) => why,
            other => panic!("{script}: {other:?}"),
        }
    }

    #[test]
    fn a_process_that_is_killed_leaves_the_image_unknown() {
        let why = not_read("kill -9 $$", LONG);
        assert!(why.contains("killed by signal 9") && why.contains("1024 MiB"), "{why}");
        let why = not_read("printf '{\"Contents\":{'; kill -31 $$", LONG);
        assert!(why.contains("killed by signal 31"), "{why}");
    }

    #[test]
    fn a_process_that_hangs_is_ended_in_time_also_in_the_middle_of_an_answer() {
        for script in ["exec sleep 300", "printf '{'; exec sleep 300"] {
            let why = not_read(script, Duration::from_secs(1));
            assert!(why.contains("longer than 1 seconds"), "{why}");
        }
    }

    #[test]
    fn what_is_no_answer_or_has_no_end_is_not_believed() {
        let why = not_read("exit 7", LONG);
        assert!(why.contains("exit status: 7") && why.contains("report it"), "{why}");
        let why = not_read("echo '{\"Contents\":null}'", LONG);
        assert!(why.contains("no answer"), "{why}");
        let why = not_read("exec cat /dev/zero", LONG);
        assert!(why.contains("more than there is to say"), "{why}");
    }

    #[test]
    fn a_process_that_cannot_be_started_is_told() {
        let why = ask(Command::new("/gone/luo-trace"), &image(), LONG).unwrap_err();
        assert!(why.to_string().contains("cannot be started"), "{why}");
    }

    #[test]
    fn what_was_found_comes_over_whole() {
        use crate::testing::image::Kernel;
        let contents = image::read(&Kernel::with_luo(&["memfd-v2"]).bzimage()).unwrap();
        let text = serde_json::to_string(&Answer::Contents(Box::new(contents))).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let contents = ask(shell("cat"), &file.reopen().unwrap(), LONG).unwrap();
        assert_eq!(contents.kind, "bzImage");
        assert_eq!(contents.knows(b"memfd-v2"), Some(true));
        assert_eq!(contents.knows(b"nvme-v1"), Some(false));
    }

    #[test]
    fn the_list_of_calls_is_a_program_for_this_machine() {
        assert!(filter().unwrap().len() > 21);
    }
}
