//! The ioctls of `/dev/liveupdate` and of a session, as `include/uapi/linux/liveupdate.h` of 7.3 has them
//! (unchanged since 6.19).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Where the kernel offers LUO, when it has it and `liveupdate=on` was on its command line.
pub const DEVICE: &str = "/dev/liveupdate";

const CREATE_SESSION: Opcode = opcode::none(0xBA, 0x00);
const RETRIEVE_SESSION: Opcode = opcode::none(0xBA, 0x01);
const PRESERVE_FD: Opcode = opcode::none(0xBA, 0x40);
const RETRIEVE_FD: Opcode = opcode::none(0xBA, 0x41);
const FINISH: Opcode = opcode::none(0xBA, 0x42);

/// Longest session name in bytes, without the NUL that ends it.
pub const NAME_MAX: usize = 63;

/// `struct liveupdate_ioctl_create_session`, and `.._retrieve_session`, which has the same layout.
#[repr(C)]
struct SessionArgs {
    size: u32,
    fd: i32,
    name: [u8; NAME_MAX + 1],
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

/// The open device; the kernel allows one opener at a time.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device; in a kernel that came by kexec this is what deserializes the incoming sessions.
    ///
    /// # Errors
    /// EBUSY when a process has it open, EIO when deserializing failed, ENOENT when LUO is off.
    pub fn open() -> io::Result<Device> {
        OpenOptions::new().read(true).write(true).open(DEVICE).map(Device)
    }

    /// The same opened device once more, for another program.
    ///
    /// # Errors
    /// Where there is no descriptor left.
    pub fn share(&self) -> io::Result<Device> {
        self.0.try_clone().map(Device)
    }

    /// Creates an outgoing session of this name (at most [`NAME_MAX`] bytes, none of them NUL).
    ///
    /// # Errors
    /// EEXIST when the name is taken, EINVAL when it is empty or too long.
    pub fn create_session(&self, name: &[u8]) -> Result<Session, Errno> {
        let mut args = session_args(name)?;
        call::<CREATE_SESSION, _>(&self.0, &mut args)?;
        Ok(Session(owned(args.fd)?))
    }

    /// Retrieves the incoming session of this name.
    ///
    /// # Errors
    /// ENOENT when there is none, EINVAL when it was retrieved already.
    pub fn retrieve_session(&self, name: &[u8]) -> Result<Session, Errno> {
        let mut args = session_args(name)?;
        call::<RETRIEVE_SESSION, _>(&self.0, &mut args)?;
        Ok(Session(owned(args.fd)?))
    }
}

/// An open session; closing it abandons an outgoing one and finishes an incoming one.
#[derive(Debug)]
pub struct Session(OwnedFd);

impl Session {
    /// Preserves a file under a token.
    ///
    /// # Errors
    /// EEXIST when the token is taken, EBUSY when the file is preserved already, ENOENT when no handler takes it.
    pub fn preserve(&self, file: impl AsFd, token: u64) -> Result<(), Errno> {
        self.preserve_number(file.as_fd().as_raw_fd(), token)
    }

    /// Preserves what has this descriptor, if anything has, under a token.
    ///
    /// # Errors
    /// As [`Session::preserve`], and EBADF when there is no such descriptor.
    pub fn preserve_number(&self, fd: RawFd, token: u64) -> Result<(), Errno> {
        call::<PRESERVE_FD, _>(
            &self.0,
            &mut FileArgs {
                size: size_of::<FileArgs>() as u32,
                fd,
                token,
            },
        )
    }

    /// Its own descriptor.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Retrieves the file of a token.
    ///
    /// # Errors
    /// ENOENT when the session has no such token; the handler's own error otherwise.
    pub fn retrieve(&self, token: u64) -> Result<OwnedFd, Errno> {
        let mut args = FileArgs {
            size: size_of::<FileArgs>() as u32,
            fd: -1,
            token,
        };
        call::<RETRIEVE_FD, _>(&self.0, &mut args)?;
        owned(args.fd)
    }

    /// Finishes the session: the kernel gives up what it still holds of it.
    ///
    /// # Errors
    /// The error of the handler whose `can_finish` refused.
    pub fn finish(&self) -> Result<(), Errno> {
        call::<FINISH, _>(
            &self.0,
            &mut FinishArgs {
                size: size_of::<FinishArgs>() as u32,
                reserved: 0,
            },
        )
    }
}

fn session_args(name: &[u8]) -> Result<SessionArgs, Errno> {
    let mut args = SessionArgs {
        size: size_of::<SessionArgs>() as u32,
        fd: -1,
        name: [0; NAME_MAX + 1],
    };
    args.name
        .get_mut(..name.len())
        .ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(name);
    Ok(args)
}

/// One ioctl of LUO: each takes a pointer to its own struct, which begins with its size, and writes back to it.
fn call<const OPCODE: Opcode, T>(fd: impl AsFd, args: &mut T) -> Result<(), Errno> {
    // SAFETY: every opcode in this file is called with the struct that the kernel reads and writes for it,
    // which is `repr(C)`, and whose size stands in its first field.
    unsafe { ioctl(fd, Updater::<OPCODE, T>::new(args)) }
}

/// Takes the descriptor that an ioctl answered with.
fn owned(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the kernel has just installed this descriptor for us, and nobody else knows its number.
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

    #[test]
    fn a_name_of_63_bytes_fits_and_keeps_its_nul() {
        let args = session_args(&[0xFF; NAME_MAX]).unwrap();
        assert_eq!(args.name[NAME_MAX - 1..], [0xFF, 0]);
        assert!(session_args(&[b'x'; NAME_MAX + 2]).is_err());
    }
}
