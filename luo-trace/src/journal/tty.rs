//! A serial line as the kernel gives it: `/dev/ttyS1`, `/dev/hvc1`, or any other file that takes bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An open serial line. What is written goes out as it is; flushing waits until it has.
#[derive(Debug)]
pub struct Tty(File);

impl Tty {
    /// Opens a line, at 115200 baud where it has a speed.
    ///
    /// # Errors
    /// Where it cannot be opened for writing, or refuses its settings.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Without O_NONBLOCK the kernel waits for a process at the other end.
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
        // SAFETY: the descriptor is open, and F_SETFL takes flags and no pointer.
        checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) })?;
        match make_raw(&file) {
            Err(error) if error.raw_os_error() != Some(libc::ENOTTY) => Err(error),
            _ => Ok(Self(file)),
        }
    }
}

impl Write for Tty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        // SAFETY: the descriptor is open.
        match checked(unsafe { libc::tcdrain(self.0.as_raw_fd()) }) {
            Err(error) if error.raw_os_error() != Some(libc::ENOTTY) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Has the line pass on every byte as it is, whether anybody is at the other end or not.
fn make_raw(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let mut settings = MaybeUninit::uninit();
    // SAFETY: the descriptor is open, and the settings are written to a place of their size.
    checked(unsafe { libc::tcgetattr(fd, settings.as_mut_ptr()) })?;
    // SAFETY: the call above succeeded, and so wrote them.
    let mut settings = unsafe { settings.assume_init() };
    // SAFETY: it changes valid settings in place.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // What cfsetspeed(3) does, which the libc crate binds to a version of it that a static C library has not.
    settings.c_cflag = settings.c_cflag & !libc::CBAUD | libc::B115200 | libc::CLOCAL;
    // SAFETY: the descriptor is open, and the settings are valid.
    checked(unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const settings) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::FromRawFd;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    /// A pseudo-terminal: the end that a guest's host has, and the path of the line.
    fn line() -> (File, std::path::PathBuf) {
        // SAFETY: both calls take no pointer; the descriptor is new and owned here.
        let host = unsafe { File::from_raw_fd(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY)) };
        let mut name = [0; 64];
        // SAFETY: the descriptor is a pseudo-terminal's, and the name is written to a place of the size that is given.
        unsafe {
            assert_eq!(libc::grantpt(host.as_raw_fd()), 0);
            assert_eq!(libc::unlockpt(host.as_raw_fd()), 0);
            assert_eq!(libc::ptsname_r(host.as_raw_fd(), name.as_mut_ptr(), name.len()), 0);
        }
        let bytes: Vec<_> = name
            .iter()
            .map(|&byte| byte as u8)
            .take_while(|&byte| byte != 0)
            .collect();
        (host, Path::new(std::ffi::OsStr::from_bytes(&bytes)).to_owned())
    }

    #[test]
    fn bytes_come_out_of_a_line_as_they_went_in() {
        let (mut host, path) = line();
        let mut tty = Tty::open(&path).unwrap();
        // A terminal that is not raw makes CR LF of the first, and swallows the second.
        tty.write_all(b"a\nb\tc\x04d").unwrap();
        let mut got = [0; 7];
        host.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a\nb\tc\x04d");
        tty.flush().unwrap();
    }

    #[test]
    fn a_file_that_is_no_terminal_takes_bytes_all_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tty = Tty::open(file.path()).unwrap();
        tty.write_all(b"a").unwrap();
        tty.flush().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"a");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let error = Tty::open(Path::new("/nonexistent/ttyS9")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
