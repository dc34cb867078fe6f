//! The BPF objects that the kernel holds, to see what the agent leaves behind.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::agent::PATIENCE;

/// The commands of bpf(2) that walk ids, from `include/uapi/linux/bpf.h`.
const WALKS: [(&str, libc::c_long); 4] = [("program", 11), ("map", 12), ("BTF", 23), ("link", 31)];

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

/// The next id after `id`, or `None` after the last.
fn next_id(command: libc::c_long, id: u32) -> io::Result<Option<u32>> {
    // `union bpf_attr` begins, for these commands, with start_id, next_id and open_flags.
    let mut attr = [id, 0, 0];
    // SAFETY: the size given is that of `attr`, which the kernel reads, and whose second word it writes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of_val(&attr)) };
    if result == 0 {
        return Ok(Some(attr[1]));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}
