//! The ioctls of `/dev/liveupdate` and of a session that carrying takes. Mirrors `include/uapi/linux/liveupdate.h` (7.3;
//! unchanged since 6.19).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use luo_trace_common::text::SessionName;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Where the kernel offers LUO.
const PATH: &str = "/dev/liveupdate";

const CREATE_SESSION: Opcode = opcode::none(0xBA, 0x00);
const RETRIEVE_SESSION: Opcode = opcode::none(0xBA, 0x01);
const PRESERVE_FD: Opcode = opcode::none(0xBA, 0x40);
const RETRIEVE_FD: Opcode = opcode::none(0xBA, 0x41);
const FINISH: Opcode = opcode::none(0xBA, 0x42);

/// `struct liveupdate_ioctl_create_session`, and `.._retrieve_session`, which has the same layout.
#[repr(C)]
struct SessionArgs {
    size: u32,
    fd: i32,
    name: [u8; 64],
}

/// `struct liveupdate_session_preserve_fd`, and `.._retrieve_fd`, which has the same layout.
#[repr(C)]
struct FileArgs {
    size: u32,
    fd: i32,
    token: u64,
}

/// `struct liveupdate_session_finish`.
#[repr(C)]
struct FinishArgs {
    size: u32,
    reserved: u32,
}

/// The open device. The kernel allows one opener at a time, so it is never held for longer than it takes.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Opens it, which is when the kernel reads in what the previous one left.
    ///
    /// # Errors
    /// EBUSY while another process has it open; EIO where reading in has failed; ENOENT where LUO is off.
    pub(super) fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(PATH).map(Self)
    }

    /// Creates an outgoing session.
    ///
    /// # Errors
    /// EEXIST where the name is taken.
    pub(super) fn create_session(&self, name: &str) -> io::Result<Session> {
        self.session::<CREATE_SESSION>(name)
    }

    /// Retrieves an incoming session.
    ///
    /// # Errors
    /// ENOENT where there is none, EINVAL where a process has it.
    pub(super) fn retrieve_session(&self, name: &str) -> io::Result<Session> {
        self.session::<RETRIEVE_SESSION>(name)
    }

    fn session<const OPCODE: Opcode>(&self, name: &str) -> io::Result<Session> {
        let mut args = SessionArgs {
            size: size_of::<SessionArgs>() as u32,
            fd: -1,
            name: SessionName::new(name).0,
        };
        call::<OPCODE, _>(&self.0, &mut args)?;
        Ok(Session(owned(args.fd)?))
    }
}

/// An open session. Closing it gives up what an outgoing one preserves, and finishes an incoming one.
#[derive(Debug)]
pub(super) struct Session(OwnedFd);

impl Session {
    /// Preserves a file.
    ///
    /// # Errors
    /// ENOENT where no handler takes the file; what the handler says otherwise.
    pub(super) fn preserve(&self, file: impl AsFd, token: u64) -> io::Result<()> {
        call::<PRESERVE_FD, _>(&self.0, &mut file_args(file.as_fd().as_raw_fd(), token))
    }

    /// Brings a file back.
    ///
    /// # Errors
    /// ENOENT where there is no such token; what the handler says otherwise.
    pub(super) fn retrieve(&self, token: u64) -> io::Result<OwnedFd> {
        let mut args = file_args(-1, token);
        call::<RETRIEVE_FD, _>(&self.0, &mut args)?;
        owned(args.fd)
    }

    /// Has the kernel give up what it still holds.
    ///
    /// # Errors
    /// What the handler says that refuses.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut args = FinishArgs {
            size: size_of::<FinishArgs>() as u32,
            reserved: 0,
        };
        call::<FINISH, _>(&self.0, &mut args)
    }
}

fn file_args(fd: RawFd, token: u64) -> FileArgs {
    FileArgs {
        size: size_of::<FileArgs>() as u32,
        fd,
        token,
    }
}

/// One of LUO's ioctls: each takes a pointer to a struct of its own, which begins with its size, and answers in it.
fn call<const OPCODE: Opcode, T>(fd: impl AsFd, args: &mut T) -> io::Result<()> {
    // SAFETY: each opcode above is called with the struct that the kernel reads and writes for it; all are `repr(C)`, and
    // say their own size in the first field.
    unsafe { ioctl(fd, Updater::<OPCODE, T>::new(args)) }.map_err(io::Error::from)
}

/// Takes the descriptor that an ioctl answered with.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::other("the kernel gave no descriptor"));
    }
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_laid_out_as_the_kernel_has_them() {
        assert_eq!(size_of::<SessionArgs>(), 72);
        assert_eq!(size_of::<FileArgs>(), 16);
        assert_eq!(size_of::<FinishArgs>(), 8);
    }
}
