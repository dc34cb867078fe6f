//! Who is at the other end of a connection.
//!
//! The kernel says with which effective user id a process connected, which is root's where only root may: of an operator who
//! became root by sudo or su, the user who logged in is told by the process (`/proc/PID/loginuid`, CONFIG_AUDIT). Its pid alone
//! may be another process's by now; its pidfd stays its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::{UnixListener, UnixStream};

use crate::host::proc;

/// The peer at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// The user who logged in, or where no login is known the effective one when it connected; `None` where the system does
    /// not tell.
    pub(super) uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::of(stream.io())
    }
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        let login = pidfd(stream.as_fd()).ok().and_then(|process| login_of(&process));
        let effective = || stream.peer_cred().ok().map(|peer| peer.uid());
        Self {
            uid: login.or_else(effective),
        }
    }
}

/// The process that connected, where the kernel tells (from Linux 6.5 on).
fn pidfd(stream: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut size = size_of_val(&fd) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `fd`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut size,
        )
    };
    match result {
        // SAFETY: the kernel has made this descriptor for us.
        0 if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The user whose login a process descends from, where there was one.
fn login_of(process: &OwnedFd) -> Option<u32> {
    let fdinfo = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let pid = || proc::pid(&fs::read_to_string(&fdinfo).ok()?);
    let before = pid()?;
    let login = proc::login(&fs::read_to_string(format!("/proc/{before}/loginuid")).ok()?);
    // As long as the process has this pid, no other one has.
    login.filter(|_| pid() == Some(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_peer_is_the_user_who_logged_in_or_else_the_one_it_connects_as() {
        // Given this process at both ends,
        let (here, _there) = UnixStream::pair().unwrap();
        // then it is told as its login says, where it has one.
        let login = fs::read_to_string("/proc/self/loginuid").ok();
        let expected = login.and_then(|text| proc::login(&text));
        let expected = expected.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        assert_eq!(Peer::of(&here).uid, Some(expected));
    }

    #[test]
    fn of_a_process_that_is_gone_no_login_is_known() {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let mut child = std::process::Command::new("sleep").arg("300").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let own = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
        assert_eq!(login_of(&process), proc::login(&own));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(login_of(&process), None);
    }
}
