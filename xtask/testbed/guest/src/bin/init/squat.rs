//! A BPF file system in which every user may make directories, and a user who makes them where the agent would.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use testbed_guest::scenario::MakeAsStranger;

use crate::callers;

const BPFFS: &str = "/sys/fs/bpf";

/// What is not to be lost, and lies where a link may lead.
const PRECIOUS: &str = "/tmp/precious";
/// What is in it: directories with the names that luo-trace gives those of its pins, whatever it is asked to remove, and the files
/// that it would remove in them.
const NAMES: [&str; 3] = ["0123456789abcdef/7/policy_gate", "0123456789abcdef/7/state", "7/state"];
const CONTENTS: &str = "precious";

/// Mounts an empty BPF file system, whose root has this mode.
pub(crate) fn mount_bpffs(mode: &str) -> Result<()> {
    let options = CString::new(format!("mode={mode}"))?;
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), options.as_c_str()).context("cannot mount the BPF file system")
}

/// Makes a directory or a link as a user without any right, and gives the kernel's answer.
///
/// # Errors
/// Where there is no such user.
pub(crate) fn make_as_stranger(step: &MakeAsStranger) -> Result<Result<(), Errno>> {
    // Only this thread loses its rights, and it ends with them.
    let make = || {
        callers::become_stranger()?;
        let made = match &step.leads_to {
            Some(leads_to) => symlink(leads_to, &step.path),
            None => fs::create_dir(&step.path),
        };
        Ok(made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    };
    thread::scope(|scope| scope.spawn(make).join()).unwrap_or_else(|_| Err(anyhow!("the thread panicked")))
}

/// Makes what a link may lead to.
pub(crate) fn make_precious() -> Result<()> {
    for name in NAMES {
        let path = Path::new(PRECIOUS).join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&path, CONTENTS).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Checks that it is as it was made.
pub(crate) fn check_precious() -> Result<()> {
    let mut files = Vec::new();
    list(Path::new(PRECIOUS), &mut files).with_context(|| format!("something of {PRECIOUS} is gone"))?;
    files.sort();
    let wanted = NAMES.map(|name| Path::new(PRECIOUS).join(name));
    if files != wanted {
        bail!("in {PRECIOUS} there is now {files:?} instead of {wanted:?}");
    }
    match files
        .iter()
        .find(|path| fs::read(path).ok().as_deref() != Some(CONTENTS.as_bytes()))
    {
        Some(path) => bail!("{} has other contents than before", path.display()),
        None => Ok(()),
    }
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

/// Removes a directory with everything in it, or a link.
pub(crate) fn remove(path: &str) -> Result<()> {
    // Of a link this removes the link alone.
    fs::remove_dir_all(path)
        .or_else(|_| fs::remove_file(path))
        .with_context(|| format!("cannot remove {path}"))
}
