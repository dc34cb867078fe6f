//! Whether `/proc` shows this host's processes by the numbers that the kernel's programs tell.

use std::fs;
use std::path::Path;

/// What stands in for every answer that would need a process's number, where they are another namespace's.
pub const FOREIGN: &str = "the agent sees the processes of another pid namespace than the host's: who holds a session, and from which file an \
                           image is loaded, is not known; run it in the host's (of a container: --pid=host)";

/// The number of the host's own pid namespace. Mirrors `PID_NS_INIT_INO` in `include/uapi/linux/nsfs.h` (7.3).
const HOSTS: &str = "pid:[4026531836]";

/// Whether `/proc` is that of another pid namespace than the host's, where that can be told.
pub fn is_foreign() -> bool {
    is_foreign_in(Path::new("/proc"))
}

fn is_foreign_in(proc: &Path) -> bool {
    // Process 1 is of the namespace that /proc was mounted for, and this process perhaps of one further in.
    let of = |process: &str| fs::read_link(proc.join(process).join("ns/pid")).ok();
    let namespace = of("1").or_else(|| of("self"));
    namespace.is_some_and(|namespace| namespace != Path::new(HOSTS))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_namespace_that_is_not_the_hosts_is_known_by_its_number() {
        let foreign = |namespaces: &[(&str, &str)]| {
            let proc = tempfile::tempdir().unwrap();
            for (process, namespace) in namespaces {
                let at = proc.path().join(process).join("ns");
                fs::create_dir_all(&at).unwrap();
                symlink(namespace, at.join("pid")).unwrap();
            }
            is_foreign_in(proc.path())
        };
        assert!(!foreign(&[("1", HOSTS)]));
        assert!(foreign(&[("1", "pid:[4026532201]")]));
        // The host's /proc shows every process by the number that the kernel's programs tell, also to a process further in.
        assert!(!foreign(&[("1", HOSTS), ("self", "pid:[4026532201]")]));
        // Where process 1 may not be looked at, this one tells; without /proc nothing does.
        assert!(foreign(&[("self", "pid:[4026532201]")]));
        assert!(!foreign(&[]));
    }
}
