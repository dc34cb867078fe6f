//! Texts of `/proc`, as the kernel writes them. Other processes choose some of what is in them: names, mount points, mount options.

/// What `/proc/PID/loginuid` says of a process that no login began.
const UNSET: u32 = u32::MAX;

/// The pid in a pidfd's `/proc/self/fdinfo/FD`; `None` where the process is gone (-1), or of another pid namespace (0).
pub fn pid(fdinfo: &str) -> Option<u32> {
    line(fdinfo, "Pid:")?.parse().ok().filter(|&pid| pid > 0)
}

/// The user in `/proc/PID/loginuid`; `None` where no login began the process.
pub fn login(loginuid: &str) -> Option<u32> {
    loginuid.trim().parse().ok().filter(|&uid| uid != UNSET)
}

/// The effective capabilities in `/proc/PID/status`.
pub fn effective_capabilities(status: &str) -> Option<u64> {
    u64::from_str_radix(line(status, "CapEff:")?, 16).ok()
}

/// The device, as major and minor number, of the mount that a descriptor's file was opened by: the descriptor's
/// `/proc/PID/fdinfo/FD` has the mount's id, and `/proc/PID/mountinfo` its device.
pub fn device_of_mount(fdinfo: &str, mountinfo: &str) -> Option<(u32, u32)> {
    let mount = line(fdinfo, "mnt_id:")?;
    let mut mounts = mountinfo.lines().map(|line| line.split(' '));
    let mut line = mounts.find(|line| line.clone().next() == Some(mount))?;
    // Its id, its parent's, and the device.
    let (major, minor) = line.nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What follows a name, in the first line that begins with it.
fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_that_of_a_process_that_is_there() {
        let fdinfo = |pid: &str| format!("pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t63\nPid:\t{pid}\nNSpid:\t{pid}\n");
        assert_eq!(pid(&fdinfo("4711")), Some(4711));
        for gone in ["-1", "0", "", "x"] {
            assert_eq!(pid(&fdinfo(gone)), None, "{gone:?}");
        }
        assert_eq!(pid("pos:\t0\n"), None);
    }

    #[test]
    fn a_process_that_no_login_began_has_no_login_user() {
        assert_eq!(login("1000"), Some(1000));
        assert_eq!(login("0\n"), Some(0));
        assert_eq!(login("4294967295"), None);
        assert_eq!(login(""), None);
    }

    #[test]
    fn capabilities_are_those_in_effect() {
        let status = "Name:\tCapEff:\t1\nCapPrm:\t00000000000000ff\nCapEff:\t00000000000800e4\n";
        assert_eq!(effective_capabilities(status), Some(0x800e4));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn a_mount_is_found_by_its_whole_id() {
        let fdinfo = "pos:\t0\nflags:\t0100000\nmnt_id:\t29\nino:\t257\n";
        let mounts = "2 1 8:1 / / rw - ext4 /dev/a rw\n290 2 8:2 / /x rw - ext4 /dev/c rw\n29 2 0:27 /@ /boot rw - btrfs /dev/b rw\n";
        assert_eq!(device_of_mount(fdinfo, mounts), Some((0, 27)));
        assert_eq!(device_of_mount(fdinfo, "29\n29 2\n"), None);
        assert_eq!(device_of_mount(fdinfo, "2 29 8:1 / 29 rw\n"), None);
        assert_eq!(device_of_mount("pos:\t0\n", mounts), None);
    }
}
