//! The distribution's packages: how each is recognised, and what it is called where.

use std::{env::consts::ARCH, fmt, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{Need, Tools};
use crate::{
    apt::{self, Apt},
    cache, run,
};

use Brings::{Header, Module, Program, Service};
use Need::{Bpftrace, Disk, Fuzzer, KernelBuild, Pictures, Prometheus, Python, Qemu, Valgrind, VictoriaMetrics};

/// One thing a package brings.
#[derive(Debug, PartialEq)]
pub(super) struct Package {
    need: Need,
    brings: Brings,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
}

#[derive(Debug, PartialEq)]
enum Brings {
    Program(&'static str),
    Header(&'static str),
    /// A module of Python's.
    Module(&'static str),
    /// A program whose Debian package would start a service: it is unpacked into the cache instead.
    Service(&'static str),
}

impl fmt::Display for Brings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program(name) | Service(name) => f.write_str(name),
            Header(name) => write!(f, "the header {name}"),
            Module(name) => write!(f, "the Python module {name}"),
        }
    }
}

#[rustfmt::skip] // a table
const PACKAGES: &[Package] = &[
    Package { need: Qemu, brings: Program("qemu-system-x86_64"), debian: "qemu-system-x86", fedora: "qemu-system-x86-core", arch: "qemu-system-x86" },
    Package { need: KernelBuild, brings: Program("gcc"), debian: "gcc", fedora: "gcc", arch: "gcc" },
    Package { need: KernelBuild, brings: Program("make"), debian: "make", fedora: "make", arch: "make" },
    Package { need: KernelBuild, brings: Program("flex"), debian: "flex", fedora: "flex", arch: "flex" },
    Package { need: KernelBuild, brings: Program("bison"), debian: "bison", fedora: "bison", arch: "bison" },
    Package { need: KernelBuild, brings: Program("bc"), debian: "bc", fedora: "bc", arch: "bc" },
    Package { need: KernelBuild, brings: Program("pahole"), debian: "dwarves", fedora: "dwarves", arch: "pahole" },
    Package { need: KernelBuild, brings: Program("cpio"), debian: "cpio", fedora: "cpio", arch: "cpio" },
    Package { need: KernelBuild, brings: Program("xz"), debian: "xz-utils", fedora: "xz", arch: "xz" },
    Package { need: KernelBuild, brings: Program("zstd"), debian: "zstd", fedora: "zstd", arch: "zstd" },
    Package { need: KernelBuild, brings: Program("perl"), debian: "perl", fedora: "perl", arch: "perl" },
    Package { need: KernelBuild, brings: Program("python3"), debian: "python3", fedora: "python3", arch: "python" },
    Package { need: KernelBuild, brings: Program("rsync"), debian: "rsync", fedora: "rsync", arch: "rsync" },
    Package { need: KernelBuild, brings: Header("libelf.h"), debian: "libelf-dev", fedora: "elfutils-libelf-devel", arch: "libelf" },
    Package { need: KernelBuild, brings: Header("openssl/ssl.h"), debian: "libssl-dev", fedora: "openssl-devel", arch: "openssl" },
    Package { need: Prometheus, brings: Service("prometheus"), debian: "prometheus", fedora: "golang-github-prometheus", arch: "prometheus" },
    Package { need: Prometheus, brings: Service("promtool"), debian: "prometheus", fedora: "golang-github-prometheus", arch: "prometheus" },
    Package { need: Prometheus, brings: Program("curl"), debian: "curl", fedora: "curl", arch: "curl" },
    Package { need: VictoriaMetrics, brings: Service("victoria-metrics"), debian: "victoria-metrics", fedora: "victoriametrics", arch: "victoriametrics" },
    Package { need: VictoriaMetrics, brings: Service("vmalert"), debian: "victoria-metrics", fedora: "victoriametrics", arch: "victoriametrics" },
    Package { need: Bpftrace, brings: Program("bpftrace"), debian: "bpftrace", fedora: "bpftrace", arch: "bpftrace" },
    Package { need: Fuzzer, brings: Program("c++"), debian: "g++", fedora: "gcc-c++", arch: "gcc" },
    Package { need: Disk, brings: Program("mmdebstrap"), debian: "mmdebstrap", fedora: "mmdebstrap", arch: "mmdebstrap" },
    Package { need: Disk, brings: Program("mkfs.ext4"), debian: "e2fsprogs", fedora: "e2fsprogs", arch: "e2fsprogs" },
    Package { need: Disk, brings: Program("debugfs"), debian: "e2fsprogs", fedora: "e2fsprogs", arch: "e2fsprogs" },
    Package { need: Pictures, brings: Program("npm"), debian: "npm", fedora: "nodejs-npm", arch: "npm" },
    Package { need: Pictures, brings: Program("chromium"), debian: "chromium", fedora: "chromium", arch: "chromium" },
    Package { need: Python, brings: Program("python3"), debian: "python3", fedora: "python3", arch: "python" },
    Package { need: Python, brings: Module("ensurepip"), debian: "python3-venv", fedora: "python3", arch: "python" },
    Package { need: Valgrind, brings: Program("valgrind"), debian: "valgrind", fedora: "valgrind", arch: "valgrind" },
];

impl Package {
    fn present(&self, tools: &Tools) -> bool {
        match self.brings {
            Program(name) | Service(name) => tools.program(name).is_ok(),
            Module(name) => run::output(Command::new("python3").args(["-c", &format!("import {name}")])).is_ok(),
            // Debian keeps some headers in a directory of the architecture.
            Header(name) => ["", &format!("{ARCH}-linux-gnu")]
                .iter()
                .any(|below| Path::new("/usr/include").join(below).join(name).exists()),
        }
    }
}

/// The rows of the table that `needs` asks for and that are not on this machine.
pub(super) fn missing(needs: &[Need], tools: &Tools) -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|package| needs.contains(&package.need) && !package.present(tools))
        .collect()
}

/// Whether some row of the table is for this need.
#[cfg(test)]
pub(super) fn meet(need: Need) -> bool {
    PACKAGES.iter().any(|package| package.need == need)
}

/// Gets what is missing, where the machine and the user allow it.
pub(super) fn install(missing: &[&Package], tools: &Tools) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::available() {
        bail!("{}", instructions(missing));
    }
    let (services, others): (Vec<_>, Vec<_>) = missing.iter().partition(|p| matches!(p.brings, Service(_)));
    apt_install(&names(&others, |p| p.debian))?;
    for package in names(&services, |p| p.debian) {
        unpack(package, tools)?;
    }
    match missing.iter().find(|package| !package.present(tools)) {
        None => Ok(()),
        Some(package) => {
            bail!(
                "the Debian package {} is there, but it did not bring {}",
                package.debian,
                package.brings
            )
        }
    }
}

/// Installs packages of the machine's own suite, with fresh package lists if the ones there fail.
fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !root() {
        bail!("packages are missing. Run this, and then the same command again:\n\n    sudo {line}\n");
    }
    eprintln!("about to run: {line}");
    let log = cache::subdir("log")?.join("apt-install.log");
    let install = || {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-y", "install", "--no-install-recommends"])
            .args(packages);
        run::logged(
            "installing packages",
            command.env("DEBIAN_FRONTEND", "noninteractive"),
            &log,
        )
    };
    install().or_else(|_| {
        eprintln!("the package lists may be missing or old; about to run: apt-get update");
        run::output(Command::new("apt-get").args(["-q", "update"]))?;
        install()
    })
}

/// Puts the programs of a package of the machine's own suite into the cache.
fn unpack(package: &str, tools: &Tools) -> Result<()> {
    let apt = Apt::machine()?;
    if apt.versions(package)?.is_empty() {
        if !root() {
            bail!("apt knows no package {package}. Run `sudo apt-get update`, and then the same command again");
        }
        eprintln!("the package lists may be missing; about to run: apt-get update");
        run::output(Command::new("apt-get").args(["-q", "update"]))?;
    }
    let unpacked = apt.unpack(package, None)?;
    fs::create_dir_all(tools.directory()).context("cannot make the directory of tools in the cache")?;
    for program in fs::read_dir(unpacked.join("usr/bin")).with_context(|| format!("{package} brings no program"))? {
        let program = program.with_context(|| format!("cannot read the unpacked {package}"))?;
        let place = tools.directory().join(program.file_name());
        fs::rename(program.path(), &place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

/// What to tell a person on a machine without Debian's package tools.
fn instructions(missing: &[&Package]) -> String {
    let (fedora, arch) = (names(missing, |p| p.fedora), names(missing, |p| p.arch));
    format!(
        "packages are missing, and this machine has no apt-get to install them. Install them, and run the same command again:\n\n    \
         Fedora:  dnf install {}\n    Arch:    pacman -S {}\n    others:  whatever brings {}\n",
        fedora.join(" "),
        arch.join(" "),
        missing
            .iter()
            .map(|package| package.brings.to_string())
            .collect::<Vec<_>>()
            .join(", "),
    )
}

fn names(packages: &[&Package], name: impl Fn(&Package) -> &'static str) -> Vec<&'static str> {
    let mut names: Vec<_> = packages.iter().map(|package| name(package)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether this process may install packages.
fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(need: Need) -> Vec<&'static Package> {
        PACKAGES.iter().filter(|package| package.need == need).collect()
    }

    #[test]
    fn a_package_that_brings_two_things_is_named_once() {
        assert_eq!(names(&rows(Need::Prometheus), |p| p.debian), ["curl", "prometheus"]);
    }

    #[test]
    fn another_distribution_is_told_its_own_names_for_what_is_missing() {
        let text = instructions(&rows(Need::KernelBuild));
        assert!(
            text.contains("dnf install bc bison cpio dwarves elfutils-libelf-devel"),
            "{text}"
        );
        assert!(text.contains("pacman -S bc bison cpio flex gcc libelf"), "{text}");
        assert!(text.contains("the header libelf.h"), "{text}");
        assert!(!text.contains("qemu"), "only what is missing: {text}");
    }
}
