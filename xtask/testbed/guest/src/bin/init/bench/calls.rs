//! Calls that have nothing to do with LUO, and that do next to nothing.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::pipe;
use rustix::system::sethostname;
use testbed_guest::scenario::Call;

const FILE: &str = "/run/bench-file";
/// Longer than the kernel takes any host's name.
const LONG_NAME: [u8; 65] = [b'x'; 65];

/// A call with what it needs.
pub(super) enum Prepared {
    IoctlOnPipe(OwnedFd),
    /// How often it was begun.
    OpenAndClose(Cell<usize>),
    Sethostname,
    RebootNothing,
    UnloadNothing,
}

impl Prepared {
    /// Makes what the call needs.
    pub(super) fn new(call: Call) -> Result<Prepared> {
        Ok(match call {
            Call::IoctlOnPipe => Prepared::IoctlOnPipe(pipe()?.0),
            Call::OpenAndClose => {
                File::create(FILE)?;
                Prepared::OpenAndClose(Cell::default())
            }
            Call::Sethostname => Prepared::Sethostname,
            Call::RebootNothing => Prepared::RebootNothing,
            Call::UnloadNothing => Prepared::UnloadNothing,
        })
    }

    /// Gets ready to make the call many times; gives what has to be there meanwhile.
    ///
    /// Where the kernel's pages for open files are just full, each open takes a page more and each close gives it back. So every
    /// time other numbers of files are open, and the time counts that took least.
    pub(super) fn begin(&self) -> Result<Vec<OwnedFd>> {
        let Prepared::OpenAndClose(begun) = self else {
            return Ok(Vec::new());
        };
        begun.set(begun.get() + 1);
        Ok((0..begun.get() % 8 * 3)
            .map(|_| open_file())
            .collect::<Result<_, _>>()?)
    }

    /// Makes the call once.
    ///
    /// # Errors
    /// It does not end as it should: something else was measured.
    pub(super) fn make(&self) -> Result<()> {
        match self {
            Prepared::IoctlOnPipe(pipe) => {
                ioctl_fionread(pipe)?;
            }
            Prepared::OpenAndClose(_) => drop(open_file()?),
            Prepared::Sethostname => match sethostname(&LONG_NAME) {
                Err(Errno::INVAL) => {}
                other => bail!("a host's name that is too long: {other:?}"),
            },
            // SAFETY: with a magic number that is none the kernel does nothing.
            Prepared::RebootNothing => match unsafe { libc::syscall(libc::SYS_reboot, 0, 0, 0, 0) } {
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {}
                other => bail!("reboot(2) without its magic number gave {other}"),
            },
            // SAFETY: no segments are given, so that none is read.
            Prepared::UnloadNothing => match unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, 0, 0) } {
                0 => {}
                _ => return Err(io::Error::last_os_error().into()),
            },
        }
        Ok(())
    }
}

fn open_file() -> Result<OwnedFd, Errno> {
    open(FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
