//! The disk of a guest with systemd: a small Debian system, the agent as a service or as a package beside it, and the testbed's own service.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use luo_trace::journal::{VERSION, preamble};

use super::guest::{self, Guest};
use crate::setup::{self, Need};
use crate::{apt, cache, dist, run};

/// The suite with a systemd that knows LUO.
const SUITE: &str = "sid";

/// The first systemd that keeps its fd store over a kexec by LUO.
const FIRST_SYSTEMD: u32 = 261;

/// What there is besides the smallest system that can install packages.
const PACKAGES: [&str; 4] = ["systemd", "systemd-sysv", "udev", "kexec-tools"];

/// The disk's size: what is not used takes no room on the host.
const SIZE: &str = "1G";

/// What the kernel's command line has for such a guest. systemd's own words would come in between the kernel's lines.
pub(super) const CMDLINE: &str = "root=/dev/vda rw systemd.show_status=false systemd.mask=serial-getty@ttyS0.service";

/// What a disk has besides the system.
#[derive(Clone, Copy)]
pub(super) struct Added {
    /// The directories that the system lacks.
    directories: &'static [&'static str],
    /// Files: each one's place in the guest, and where it is in the source tree.
    files: &'static [(&'static str, &'static str)],
    /// Programs of the testbed's, which go to `/usr/bin`.
    programs: &'static [&'static str],
    /// Whether the agent is there.
    agent: bool,
    /// Services that are started at boot: what `systemctl enable` would link, and where.
    enabled: &'static [(&'static str, &'static str)],
}

/// The agent as a service, and the testbed's workload.
pub(super) const SERVICE: Added = Added {
    directories: &["/usr/lib/luo-trace", "/etc/systemd/system/luo-trace.service.d"],
    files: &[
        (
            "/etc/systemd/system/luo-trace.service",
            "luo-trace/systemd/luo-trace.service",
        ),
        ("/usr/lib/luo-trace/early-init", "luo-trace/systemd/early-init"),
        (
            "/etc/systemd/system/workload.service",
            "xtask/testbed/systemd/workload.service",
        ),
        (
            "/etc/systemd/system/luo-trace.service.d/set-aside.conf",
            "xtask/testbed/systemd/set-aside.conf",
        ),
        (
            "/etc/systemd/system/luo-trace.service.d/watchdog.conf",
            "xtask/testbed/systemd/watchdog.conf",
        ),
    ],
    programs: &["workload"],
    agent: true,
    enabled: &[
        ("/etc/systemd/system/sysinit.target.wants", "luo-trace.service"),
        ("/etc/systemd/system/multi-user.target.wants", "workload.service"),
    ],
};

/// No agent, and what installs one.
pub(super) const PACKAGE: Added = Added {
    directories: &[],
    files: &[(
        "/etc/systemd/system/package.service",
        "xtask/testbed/systemd/package.service",
    )],
    programs: &["package"],
    agent: false,
    enabled: &[("/etc/systemd/system/multi-user.target.wants", "package.service")],
};

/// Writes a disk with everything on it, to be used once.
///
/// # Errors
/// The system on it is not in the cache and cannot be made, or the disk cannot be written.
pub(super) fn write_disk(guest: &Guest, added: Added, disk: &Path) -> Result<()> {
    let system = system()?;
    // `cp` leaves holes where the system's image has them.
    run::output(Command::new("cp").arg("--sparse=always").arg(&system).arg(disk))?;
    let mut files = Vec::new();
    if added.agent {
        files.push(("/usr/bin/luo-trace".to_owned(), agent(guest)?.to_owned()));
    }
    for name in added.programs {
        files.push((format!("/usr/bin/{name}"), guest.init.with_file_name(name)));
    }
    for (place, source) in added.files {
        files.push(((*place).to_owned(), guest::workspace().join(source)));
    }
    debugfs(disk, &commands(added, &files))
}

fn agent(guest: &Guest) -> Result<&Path> {
    let agent = guest.agent.as_deref();
    agent.context("this scenario needs the agent, and none was built")
}

/// Writes what the guest installs: the agent as a package of this version and of a later one, and the beginning of a journal in a format
/// that is not known yet.
///
/// # Errors
/// A file of the package is missing, or cannot be written.
pub(super) fn write_packages(guest: &Guest, directory: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let [own, later] = dist::debian(agent(guest)?, &directory.join("generated"))?;
    write("own.deb", &own)?;
    write("later.deb", &later)?;
    write("newer.luoj", &preamble(VERSION + 1))
}

/// What puts our files onto a disk: as its `ls -l` would show them, with their modes, owned by root.
fn commands(added: Added, files: &[(String, PathBuf)]) -> String {
    let made = added.directories.iter().map(|directory| format!("mkdir {directory}\n"));
    let mut commands: String = made.collect();
    for (place, source) in files {
        let (directory, name) = place.rsplit_once('/').unwrap_or(("", place));
        commands += &format!("cd {directory}\nwrite \"{}\" {name}\n", source.display());
    }
    for (directory, unit) in added.enabled {
        commands += &format!("cd {directory}\nsymlink {unit} ../{unit}\n");
    }
    commands
}

/// Changes a disk that no process has mounted, which takes no privilege.
fn debugfs(disk: &Path, commands: &str) -> Result<()> {
    let mut debugfs = Command::new("debugfs");
    debugfs.arg("-w").arg("-f").arg("-").arg(disk);
    let mut child = debugfs
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start debugfs: run `cargo xtask setup`")?;
    child
        .stdin
        .take()
        .context("debugfs has no input")?
        .write_all(commands.as_bytes())
        .context("debugfs does not read its commands")?;
    let done = child.wait_with_output().context("cannot wait for debugfs")?;
    // Its exit status is no help: it tells of each failed command, and goes on with the next.
    let said = String::from_utf8_lossy(&done.stderr);
    let complaints: Vec<_> = said.lines().filter(|line| !line.starts_with("debugfs ")).collect();
    if !done.status.success() || !complaints.is_empty() {
        bail!(
            "cannot put our files onto {}: {}",
            disk.display(),
            complaints.join("\n")
        );
    }
    Ok(())
}

/// The image of a system without our files: from the cache, or made and kept there until a user removes it.
fn system() -> Result<PathBuf> {
    let name = format!("{SUITE}-{}", PACKAGES.join("-"));
    let image = cache::subdir("system")?.join(&name).with_extension("ext4");
    let _lock = cache::lock("system")?;
    if image.is_file() {
        return Ok(image);
    }
    setup::ensure(&[Need::Disk])?;
    if !rustix::process::geteuid().is_root() {
        bail!(
            "a Debian system can only be made by root. Run this once, and then the same command again:\n\n    \
             sudo --preserve-env=HOME,LUO_TRACE_CACHE,XDG_CACHE_HOME cargo xtask vm systemd\n"
        );
    }
    let directory = cache::subdir("system")?;
    let (tree, unfinished) = (directory.join("tree"), directory.join("unfinished"));
    remove(&tree)?;
    let made = bootstrap(&tree, &directory).and_then(|()| pack(&tree, &unfinished));
    remove(&tree)?;
    made?;
    fs::rename(&unfinished, &image).with_context(|| format!("cannot make {}", image.display()))?;
    Ok(image)
}

/// Installs a Debian system below `tree`.
fn bootstrap(tree: &Path, directory: &Path) -> Result<()> {
    let sources = directory.join("debian.sources");
    fs::write(&sources, apt::sources(SUITE)?).with_context(|| format!("cannot write {}", sources.display()))?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=minbase"]);
    // A mirror may hold a still picture of sid, whose signature says it is out of date.
    mmdebstrap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    mmdebstrap.arg(format!("--include={}", PACKAGES.join(",")));
    mmdebstrap.arg(SUITE).arg(tree).arg(&sources);
    let log = cache::subdir("log")?.join("system.log");
    let what = format!("installing Debian {SUITE} with systemd");
    run::logged(&what, &mut mmdebstrap, &log)?;
    let status = tree.join("var/lib/dpkg/status");
    let status = fs::read_to_string(&status).with_context(|| format!("cannot read {}", status.display()))?;
    match systemd_version(&status) {
        Some(version) if version >= FIRST_SYSTEMD => Ok(()),
        version => bail!(
            "{SUITE} on this machine's mirror has systemd {}, and LUO takes {FIRST_SYSTEMD}: use a newer mirror",
            version.map_or("of an unknown version".into(), |version| version.to_string())
        ),
    }
}

/// The version of systemd in dpkg's list of what is installed.
fn systemd_version(status: &str) -> Option<u32> {
    let mut packages = status.split("\n\n");
    let systemd = packages.find(|package| package.starts_with("Package: systemd\n"))?;
    let version = systemd.lines().find_map(|line| line.strip_prefix("Version: "))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Makes an image of the file system below `tree`.
fn pack(tree: &Path, image: &Path) -> Result<()> {
    let mut mkfs = Command::new("mkfs.ext4");
    run::output(mkfs.args(["-q", "-F", "-d"]).arg(tree).arg(image).arg(SIZE)).map(drop)
}

fn remove(tree: &Path) -> Result<()> {
    match tree.exists() {
        true => fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_for_the_guest_is_in_the_source_tree_and_every_enabled_service_in_the_guest() {
        for added in [SERVICE, PACKAGE] {
            for (_, source) in added.files {
                assert!(guest::workspace().join(source).is_file(), "{source}");
            }
            for (_, unit) in added.enabled {
                let place = format!("/etc/systemd/system/{unit}");
                assert!(added.files.iter().any(|(installed, _)| *installed == place), "{unit}");
            }
        }
    }

    #[test]
    fn files_are_written_by_their_names_into_directories_that_are_there() {
        let commands = commands(
            SERVICE,
            &[("/usr/lib/luo-trace/own".into(), PathBuf::from("/a place/own"))],
        );
        let made = commands.find("mkdir /usr/lib/luo-trace\n").unwrap();
        let written = commands
            .find("cd /usr/lib/luo-trace\nwrite \"/a place/own\" own\n")
            .unwrap();
        assert!(made < written, "{commands}");
        assert!(
            commands.contains("symlink luo-trace.service ../luo-trace.service\n"),
            "{commands}"
        );
    }

    #[test]
    fn systemds_version_is_that_of_the_package_of_this_very_name() {
        let status = "Package: systemd-sysv\nVersion: 100-1\n\nPackage: systemd\nStatus: install ok installed\n\
                      Version: 262.1-1\n\nPackage: udev\nVersion: 100-1\n";
        assert_eq!(systemd_version(status), Some(262));
        assert_eq!(systemd_version("Package: udev\nVersion: 262.1-1\n"), None);
        assert_eq!(systemd_version("Package: systemd\nVersion: odd\n"), None);
    }
}
