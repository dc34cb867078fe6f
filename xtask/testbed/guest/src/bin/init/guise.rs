//! Lets a thread be another program, so that policy can tell callers apart.

use std::ffi::CString;
use std::fs;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::Uid;
use rustix::thread::{set_name, set_thread_res_uid};
use testbed_guest::scenario::As;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Does some work in a thread with another name and user, whose process is in another control group meanwhile.
pub(crate) fn wear(guise: &As, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let move_to = |cgroup: &str| {
        let directory = format!("{CGROUPS}{cgroup}");
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(format!("{directory}/cgroup.procs"), "0"))
            .with_context(|| format!("cannot move into the control group {cgroup:?}"))
    };
    if let Some(cgroup) = &guise.cgroup {
        move_to(cgroup)?;
    }
    let done = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            put_on(guise)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread panicked")))
    });
    match guise.cgroup {
        Some(_) => done.and(move_to("")),
        None => done,
    }
}

/// Gives the calling thread its name and its user. The effective user stays root, and with it all that root may do.
fn put_on(guise: &As) -> Result<()> {
    if let Some(comm) = &guise.comm {
        set_name(&CString::new(comm.as_str())?).context("cannot name the thread")?;
    }
    if let Some(uid) = guise.uid {
        set_thread_res_uid(Uid::from_raw(uid), Uid::ROOT, Uid::ROOT).context("cannot become another user")?;
    }
    Ok(())
}
