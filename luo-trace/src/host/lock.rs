//! Locks that keep a second agent away.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::files;

/// The lock of who traces this kernel, whatever its socket. A container with a `/run` of its own has another one.
pub const KERNEL: &str = "/run/luo-trace/kernel.lock";

/// A lock. The system takes it away from a process that ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held")] File);

/// Why there is no lock, or nothing of what it stands for.
#[derive(Debug)]
pub enum Refusal {
    /// Another agent has it; this is its pid, where it tells.
    Taken(Option<u32>),
    /// It cannot be had here.
    Unusable(anyhow::Error),
}

impl Lock {
    /// Takes the lock of this path, whose directory is made where there is none, for its owner alone.
    ///
    /// # Errors
    /// Where another agent has it, or the directory cannot be written; where the file is a link, or not ours.
    pub fn take(path: &Path) -> Result<Self, Refusal> {
        let unusable = |error: io::Error| {
            let why = anyhow::Error::new(error);
            Refusal::Unusable(why.context(format!("cannot use the lock {}", path.display())))
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(unusable)?;
        }
        let mut lock = files::open_or_make(path, 0o600).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The agent that has just taken it may not have written yet.
                _ = (&lock).take(16).read_to_string(&mut pid);
                return Err(Refusal::Taken(pid.trim().parse().ok()));
            }
        }
        lock.set_len(0).map_err(unusable)?;
        let pid = format!("{}\n", std::process::id());
        lock.write_all(pid.as_bytes()).map_err(unusable)?;
        Ok(Self(lock))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn who_comes_second_is_told_who_has_it_until_that_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("luo-trace/kernel.lock");
        let first = Lock::take(&path).unwrap();
        match Lock::take(&path) {
            Err(Refusal::Taken(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        Lock::take(&path).expect("it is free again");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, worthy) = (dir.path().join("kernel.lock"), dir.path().join("worthy"));
        fs::write(&worthy, "worthy").unwrap();
        std::os::unix::fs::symlink(&worthy, &path).unwrap();
        assert!(matches!(Lock::take(&path), Err(Refusal::Unusable(_))));
        assert_eq!(fs::read_to_string(&worthy).unwrap(), "worthy");
    }
}
