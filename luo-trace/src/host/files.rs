//! Files of the agent's own, in a place where another user may have put something in their way: a link to another file, a pipe, a
//! file that is theirs. None of these is followed, waited for or believed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Links are an error, and nothing waits for the other end of a pipe.
const PLAIN: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Opens a file for reading and writing, and makes it with this mode where there is none.
///
/// # Errors
/// Where it is a link, no regular file, or another user's.
pub fn open_or_make(path: &Path, mode: u32) -> io::Result<File> {
    open(
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode),
        path,
    )
}

/// Opens a file for reading.
///
/// # Errors
/// As for [`open_or_make`], and where there is none.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open(File::options().read(true), path)
}

/// Puts a file with these contents and this mode at a path, as a whole or not at all, in place of whatever lies there.
///
/// # Errors
/// Where it cannot be written; then what was there before still is.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    // One that an agent left which was killed while it wrote, or that another user put there.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&next)?;
    file.write_all(contents)?;
    fs::rename(&next, path)
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(PLAIN).open(path)?;
    let of = file.metadata()?;
    let refused = match of.uid() {
        _ if !of.is_file() => "it is no regular file".to_owned(),
        uid if uid != geteuid().as_raw() => format!("it is user {uid}'s"),
        // Another name of it may be a file of ours that is worth more.
        _ if of.nlink() > 1 => "it has a second name".to_owned(),
        _ => return Ok(file),
    };
    Err(io::Error::other(refused))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory, in which `worthy` is what an attacker wants to have overwritten.
    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (file, worthy) = (dir.path().join("file"), dir.path().join("worthy"));
        fs::write(&worthy, "worthy").unwrap();
        (dir, file, worthy)
    }

    #[test]
    fn a_link_a_second_name_and_a_pipe_are_refused_and_left_alone() {
        type Attack = fn(&Path, &Path);
        let attacks: [Attack; 4] = [
            |file, worthy| symlink(worthy, file).unwrap(),
            |file, worthy| symlink(worthy.with_extension("gone"), file).unwrap(),
            |file, worthy| fs::hard_link(worthy, file).unwrap(),
            |file, _| {
                rustix::fs::mkfifoat(rustix::fs::CWD, file, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
            },
        ];
        for (number, attack) in attacks.into_iter().enumerate() {
            let (dir, file, worthy) = place();
            attack(&file, &worthy);
            assert!(open_or_make(&file, 0o600).is_err(), "attack {number}");
            assert!(open_to_read(&file).is_err(), "attack {number}");
            assert_eq!(fs::read_to_string(&worthy).unwrap(), "worthy");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "attack {number}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let (_dir, file, _) = place();
        fs::write(&file, "4711\n").unwrap();
        if !geteuid().is_root() {
            return;
        }
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        let why = open_or_make(&file, 0o600).unwrap_err().to_string();
        assert!(why.contains("user 65534's"), "{why}");
    }

    #[test]
    fn what_lies_in_the_way_is_replaced_and_what_it_points_to_is_not_touched() {
        let (dir, file, worthy) = place();
        symlink(&worthy, &file).unwrap();
        symlink(&worthy, dir.path().join("file.new")).unwrap();
        replace(&file, b"ours", 0o640).unwrap();
        assert_eq!(fs::read_to_string(&worthy).unwrap(), "worthy");
        let mut text = String::new();
        open_to_read(&file).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "ours");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777 & !0o022,
            0o640 & !0o022
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
