//! Opening files that a user names: at once, and only what has an end.

use std::fs::{File, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading, also through links. Opening never waits.
///
/// # Errors
/// Where it cannot be opened, or is something else: a pipe waits for its other end, and a terminal or a device may never end. The
/// error says what it is and what to do.
pub fn open(path: &Path) -> io::Result<File> {
    // Asked first, since opening alone has effects on some devices: it rewinds a tape, and starts a watchdog.
    is_regular(std::fs::metadata(path)?.file_type())?;
    // Another file may have taken the name since. Without a wait for a pipe's other end, and without making a terminal ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    is_regular(file.metadata()?.file_type())?;
    Ok(file)
}

fn is_regular(is: FileType) -> io::Result<()> {
    let (what, instead) = match is {
        is if is.is_file() => return Ok(()),
        is if is.is_dir() => ("a directory", "give a file in it"),
        is if is.is_fifo() => ("a pipe", "write what comes out of it to a file, and give that"),
        is if is.is_socket() => ("a socket", "give a file"),
        is if is.is_char_device() => ("a terminal or another device without an end", "give a file"),
        _ => ("a block device", "copy what is on it to a file, and give that"),
    };
    let kind = if is.is_dir() {
        io::ErrorKind::IsADirectory
    } else {
        io::ErrorKind::InvalidInput
    };
    Err(io::Error::new(kind, format!("it is {what}: {instead}")))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_file_is_opened_also_through_a_link_and_a_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&path, "text").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let held = File::open(&path).unwrap();
        let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        for path in [path.as_path(), &link, Path::new(&descriptor)] {
            let mut text = String::new();
            open(path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "text");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_with_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        let pipe = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        for (path, what) in [
            (dir.path(), "a directory"),
            (&socket, "a socket"),
            (Path::new(&pipe), "a pipe"),
            (Path::new("/dev/zero"), "device"),
        ] {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
