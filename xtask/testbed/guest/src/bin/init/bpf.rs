//! The BPF objects that the kernel holds, to see what the agent leaves behind.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::agent::PATIENCE;

/// The commands of bpf(2) that walk ids, from `include/uapi/linux/bpf.h`.
const WALKS: [(&str, libc::c_long); 4] = [("program", 11), ("map", 12), ("BTF", 23), ("link", NEXT_LINK)];
const NEXT_LINK: libc::c_long = 31;

/// What exists: kind and id of each object, kind and path of each pin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Objects(BTreeSet<(&'static str, String)>);

impl Objects {
    /// What exists now.
    pub(crate) fn now() -> Result<Objects> {
        let mut found = BTreeSet::new();
        for (kind, command) in WALKS {
            let mut id = 0;
            while let Some(next) = next_id(command, id)? {
                found.insert((kind, format!("id {next}")));
                id = next;
            }
        }
        for pin in fs::read_dir("/sys/fs/bpf")? {
            found.insert(("pin", pin?.path().display().to_string()));
        }
        Ok(Objects(found))
    }

    /// What exists now and is not in `self`.
    pub(crate) fn more(&self) -> Result<Objects> {
        Ok(Objects(Objects::now()?.0.difference(&self.0).cloned().collect()))
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that a program, a map and a link exist that are not in `self`: that to find nothing would mean something.
    ///
    /// # Errors
    /// Names the kind of which there is none.
    pub(crate) fn check_more(&self) -> Result<()> {
        let more = self.more()?;
        for wanted in ["program", "map", "link"] {
            if !more.0.iter().any(|(kind, _)| *kind == wanted) {
                bail!("no {wanted} is there that was not there at boot, only: {more}");
            }
        }
        Ok(())
    }

    /// Waits until nothing exists that is not in `self`: before it frees what no process holds any more the kernel waits for RCU grace
    /// periods.
    ///
    /// # Errors
    /// Names what is left when the kernel had time enough.
    pub(crate) fn wait_for_nothing_more(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.more()?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind: {left}");
            }
            // The kernel tells nobody when it has freed an object, so it is asked again.
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|(kind, which)| format!("{kind} {which}")).collect();
        f.write_str(&names.join(", "))
    }
}

/// Tries to detach every link.
///
/// # Errors
/// Where the kernel does so, or there is no link to try it on.
pub(crate) fn cannot_detach_links() -> Result<()> {
    // `BPF_LINK_GET_FD_BY_ID` and `BPF_LINK_DETACH` of the same header.
    const FD_BY_ID: libc::c_long = 30;
    const DETACH: libc::c_long = 34;
    // SAFETY: the kernel only reads the attributes.
    let of_link = |command, link: u32| unsafe { call(command, &mut [link, 0, 0]) };
    let (mut id, mut tried) = (0, 0);
    while let Some(next) = next_id(NEXT_LINK, id)? {
        id = next;
        let fd = of_link(FD_BY_ID, id)?;
        let detached = of_link(DETACH, fd);
        // SAFETY: a descriptor that the kernel has just made for this, and that is used no more.
        drop(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) });
        match detached {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => tried += 1,
            Err(error) => return Err(error.into()),
            Ok(_) => bail!("link {id} is detached"),
        }
    }
    match tried {
        0 => bail!("there is no link to detach"),
        _ => Ok(()),
    }
}

/// The next id after `id`, or `None` after the last.
fn next_id(command: libc::c_long, id: u32) -> io::Result<Option<u32>> {
    // `union bpf_attr` begins, for these commands, with start_id, next_id and open_flags.
    let mut attr = [id, 0, 0];
    // SAFETY: the kernel writes the second word.
    match unsafe { call(command, &mut attr) } {
        Ok(_) => Ok(Some(attr[1])),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// bpf(2) with the beginning of what `union bpf_attr` has for the command.
///
/// # Safety
/// Whatever the attributes point to is there for as long as the call lasts, and may be read and written as the command does.
pub(crate) unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<u32> {
    // SAFETY: the size given is that of the attributes; the rest is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}
