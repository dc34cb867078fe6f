//! Who holds LUO's sessions: the processes with a session's descriptor open, found in `/proc`.
//!
//! The kernel names such a descriptor `anon_inode:[luo_session] NAME` (`luo_session_getfile` in
//! `kernel/liveupdate/luo_session.c`, 7.3). A look at it opens nothing of LUO's. Processes and descriptors come and go
//! while `/proc` is read: what vanishes is left out, and so is what this process may not see.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use luo_trace_common::text::Comm;

use crate::status::{Owners, Process};

const PREFIX: &[u8] = b"anon_inode:[luo_session] ";

/// The processes of this host that hold sessions, in the order of their pids.
///
/// Where `/proc` shows other processes than the host's, there are some that it does not show: none is told then.
pub fn owners() -> Owners {
    match super::namespace::is_foreign() {
        true => Owners::new(),
        false => owners_in(Path::new("/proc")),
    }
}

fn owners_in(proc: &Path) -> Owners {
    let mut pids: Vec<u32> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut owners = Owners::new();
    for pid in pids {
        let process = proc.join(pid.to_string());
        for session in sessions_of(&process) {
            let holders = owners.entry(session).or_default();
            if holders.last().is_none_or(|holder: &Process| holder.pid != pid) {
                let comm = fs::read(process.join("comm")).unwrap_or_default();
                let comm = Comm::new(comm.strip_suffix(b"\n").unwrap_or(&comm)).to_string();
                holders.push(Process { pid, comm });
            }
        }
    }
    owners
}

/// The names of the sessions that a process holds, one for each descriptor.
fn sessions_of(process: &Path) -> impl Iterator<Item = Vec<u8>> {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    descriptors.filter_map(|entry| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        Some(target.as_os_str().as_bytes().strip_prefix(PREFIX)?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A pid, a command name, and where each of its descriptors points.
    type Shown<'a> = (&'a str, &'a [u8], &'a [&'a [u8]]);

    fn proc(processes: &[Shown]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (pid, comm, links) in processes {
            let fds = proc.path().join(pid).join("fd");
            fs::create_dir_all(&fds).unwrap();
            fs::write(proc.path().join(pid).join("comm"), [*comm, b"\n"].concat()).unwrap();
            for (number, link) in links.iter().enumerate() {
                symlink(OsStr::from_bytes(link), fds.join(number.to_string())).unwrap();
            }
        }
        proc
    }

    #[test]
    fn holders_are_found_by_their_descriptors_in_the_order_of_their_pids() {
        let proc = proc(&[
            (
                "100",
                b"luod",
                &[
                    b"/dev/null",
                    b"anon_inode:[luo_session] vm",
                    b"anon_inode:[luo_session] vm",
                ],
            ),
            (
                "99",
                b"vmm",
                &[b"anon_inode:[luo_session] vm", b"anon_inode:[eventfd]", b"pipe:[1]"],
            ),
            ("self", b"no process", &[b"anon_inode:[luo_session] vm"]),
        ]);
        let owners = owners_in(proc.path());
        let vm: Vec<_> = owners[b"vm".as_slice()]
            .iter()
            .map(|p| (p.pid, p.comm.as_str()))
            .collect();
        assert_eq!(vm, [(99, "vmm"), (100, "luod")]);
        assert_eq!(owners.len(), 1);
    }

    #[test]
    fn names_of_any_bytes_are_told_apart() {
        let odd: &[u8] = b"a\xff \n[luo_session] b/c";
        let link = [PREFIX, odd].concat();
        let proc = proc(&[("7", b"x\x1b[31m", &[&link])]);
        let owners = owners_in(proc.path());
        assert_eq!(owners[odd][0].comm, "x\\u{1b}[31m");
    }

    #[test]
    fn what_vanishes_meanwhile_is_left_out() {
        let proc = proc(&[("7", b"vmm", &[b"anon_inode:[luo_session] vm"])]);
        // A process without descriptors to read, and a descriptor that is no link any more.
        fs::create_dir(proc.path().join("8")).unwrap();
        fs::write(proc.path().join("7/fd/9"), "").unwrap();
        fs::remove_file(proc.path().join("7/comm")).unwrap();
        let owners = owners_in(proc.path());
        assert_eq!(
            owners[b"vm".as_slice()],
            [Process {
                pid: 7,
                comm: String::new()
            }]
        );
        assert!(owners_in(Path::new("/nowhere")).is_empty());
    }
}
