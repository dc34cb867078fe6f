//! Halts one thread of another process, as a debugger does, while the others go on: a thread that is stuck, seen from outside.

use std::fs;
use std::io;
use std::ptr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A thread that this process halts until the thread or this process ends.
#[derive(Debug)]
pub struct Halted(Pid);

impl Halted {
    /// Halts the thread of this name.
    ///
    /// # Errors
    /// The process has no such thread or is gone, or it may not be traced.
    pub fn named(process: u32, name: &str) -> Result<Halted> {
        let thread = Halted(thread_named(process, name)?);
        thread.trace(libc::PTRACE_SEIZE)?;
        thread.trace(libc::PTRACE_INTERRUPT)?;
        // The kernel only asks it to halt: this tells when it has.
        thread.wait()?;
        Ok(thread)
    }

    /// Waits until the thread has ended, which takes a SIGKILL or the end of its process.
    ///
    /// # Errors
    /// It goes on being halted.
    pub fn wait_for_its_end(self, patience: Duration) -> Result<()> {
        // `PIDFD_THREAD` of `include/uapi/linux/pidfd.h`: one for a thread that leads no process.
        let flags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
        let ended = pidfd_open(self.0, flags).context("cannot wait for the thread")?;
        let left = Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        };
        if poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left))? == 0 {
            bail!("it was still there after {patience:?}");
        }
        // The process is not gone before its tracer has seen this.
        self.wait()
    }

    fn trace(&self, request: libc::c_uint) -> Result<()> {
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests take no address and no data, and change no memory of this process.
        match unsafe { libc::ptrace(request, self.0.as_raw_nonzero().get(), none, none) } {
            -1 => Err(io::Error::last_os_error()).context("cannot halt the thread"),
            _ => Ok(()),
        }
    }

    /// Waits for the next thing that the kernel tells of the thread.
    fn wait(&self) -> Result<()> {
        let mut status = 0;
        // SAFETY: the kernel writes to `status`, which lives through the call.
        match unsafe { libc::waitpid(self.0.as_raw_nonzero().get(), &raw mut status, libc::__WALL) } {
            -1 => Err(io::Error::last_os_error()).context("cannot wait for the thread"),
            _ => Ok(()),
        }
    }
}

fn thread_named(process: u32, name: &str) -> Result<Pid> {
    let directory = format!("/proc/{process}/task");
    let mut names = Vec::new();
    for thread in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
        let thread = thread?;
        // One that has ended since has no name.
        let Ok(comm) = fs::read_to_string(thread.path().join("comm")) else {
            continue;
        };
        if comm.trim_end() == name {
            let number = thread.file_name().to_string_lossy().parse()?;
            return Pid::from_raw(number).context("a thread has no number");
        }
        names.push(comm.trim_end().to_owned());
    }
    bail!("process {process} has no thread {name:?}, only {names:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_by_its_name_among_those_of_its_process() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (here, is_here) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("to-be-found".into()).spawn(move || {
            here.send(rustix::thread::gettid()).unwrap();
            wait.recv().unwrap_err();
        });
        let tid = is_here.recv().unwrap();
        assert_eq!(thread_named(std::process::id(), "to-be-found").unwrap(), tid);
        let error = thread_named(std::process::id(), "to-be-foun").unwrap_err();
        assert!(error.to_string().contains("to-be-found"), "{error}");
        drop(done);
        thread.unwrap().join().unwrap();
    }
}
