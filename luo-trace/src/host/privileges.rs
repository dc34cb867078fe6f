//! What the agent may do once its programs are attached, and what the process that reads images may.
//!
//! Linux has privileges by thread. A thread passes on what it has to those that it starts, so they are dropped before any other
//! thread is.

use std::io;

use rustix::process::{Gid, Uid, getuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// A privilege that the agent keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name, as in capabilities(7).
    pub name: &'static str,
    /// Its number, `include/uapi/linux/capability.h` (7.3).
    pub number: u32,
    /// What the agent does by it after it has attached its programs.
    pub purpose: &'static str,
}

/// All of them. What loads, attaches or pins programs is not among them: programs, maps and links are used by their descriptors.
pub const KEPT: [Kept; 5] = [
    kept(
        "CAP_DAC_READ_SEARCH",
        2,
        "open an image, or a policy on SIGHUP, that only its owner may read",
    ),
    kept(
        "CAP_KILL",
        5,
        "end the process that reads an image, which is another user's",
    ),
    kept("CAP_SETGID", 6, "have that process begin without a group of its own"),
    kept("CAP_SETUID", 7, "have that process begin as the user 65534"),
    kept(
        "CAP_SYS_PTRACE",
        19,
        "find the image among the descriptors of the process that loads it, and who holds a session",
    ),
];

const fn kept(name: &'static str, number: u32, purpose: &'static str) -> Kept {
    Kept { name, number, purpose }
}

/// Who is no user of the host.
const NO_USER: u32 = 65534;

/// Keeps only what the agent needs from here on, for good: this thread and those that it starts.
///
/// # Errors
/// Where the kernel does not take them away.
pub fn keep_needed() -> io::Result<()> {
    keep(KEPT.iter().map(|kept| bit(kept.number)).collect())
}

/// Gives up every privilege for good, and the user, where that can be.
///
/// # Errors
/// Where the kernel does not take them away.
pub fn drop_all() -> io::Result<()> {
    if getuid().is_root()
        && capabilities(None)?
            .effective
            .contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
    {
        set_thread_groups(&[])?;
        let (user, group) = (Uid::from_raw(NO_USER), Gid::from_raw(NO_USER));
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
    }
    keep(CapabilitySet::empty())
}

fn keep(kept: CapabilitySet) -> io::Result<()> {
    // No program that is started gets back what is dropped here.
    set_no_new_privs(true)?;
    let has = capabilities(None)?;
    if has.effective.contains(CapabilitySet::SETPCAP) {
        let others = (0..u64::BITS).map(bit).filter(|&one| !kept.contains(one));
        for other in others {
            // The kernel refuses to tell of those that it does not know.
            if capability_is_in_bounding_set(other).unwrap_or(false) {
                remove_capability_from_bounding_set(other)?;
            }
        }
    }
    clear_ambient_capability_set()?;
    let kept = has.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

fn bit(number: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    /// A line of what the kernel tells of this thread.
    fn told(name: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    }

    fn set(name: &str) -> u64 {
        u64::from_str_radix(&told(name), 16).unwrap()
    }

    #[test]
    fn what_is_kept_is_at_most_the_table_and_comes_to_new_threads() {
        let table: u64 = KEPT.iter().map(|kept| 1 << kept.number).sum();
        // In a thread, so that the other tests keep theirs.
        thread::spawn(move || {
            let had = set("CapPrm:");
            keep_needed().unwrap();
            thread::spawn(move || {
                assert_eq!(set("CapPrm:"), had & table);
                assert_eq!(set("CapEff:"), had & table);
                assert_eq!((set("CapInh:"), set("CapAmb:")), (0, 0));
                if had & 1 << 8 != 0 {
                    assert_eq!(set("CapBnd:") & !table, 0);
                }
                assert_eq!(told("NoNewPrivs:"), "1");
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn nothing_is_left_of_what_is_given_up() {
        thread::spawn(|| {
            let was_root = getuid().is_root() && set("CapEff:") & 0xc0 == 0xc0;
            drop_all().unwrap();
            assert_eq!((set("CapPrm:"), set("CapEff:"), set("CapInh:")), (0, 0, 0));
            if was_root {
                assert_eq!(told("Uid:"), ["65534"; 4].join("\t"));
                assert_eq!(told("Groups:"), "");
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn each_has_the_number_of_its_name() {
        for Kept { name, number, .. } in KEPT {
            let named = CapabilitySet::from_name(name.trim_start_matches("CAP_")).unwrap();
            assert_eq!(named, bit(number), "{name}");
        }
    }
}
