//! What building BPF programs in Rust takes: the standard library's source and the BPF linker.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::Tools;
use crate::{
    apt::{self, Apt},
    cache, run,
};

/// The newest line of the linker that works with the LLVM inside rustc; 0.11 wants one of the system's.
const LINKER_VERSION: &str = "0.10.3";

/// Seconds that rustup may take to download the source: it retries for long where it finds no server.
const RUSTUP_SECONDS: &str = "60";

/// Whether all is there.
pub(super) fn complete(tools: &Tools) -> Result<bool> {
    Ok(tools.program("bpf-linker").is_ok() && has_source(&source_link()?))
}

/// Gets what is not there.
pub(super) fn install(tools: &Tools) -> Result<()> {
    let link = source_link()?;
    if !has_source(&link) {
        install_source(&link)?;
    }
    if tools.program("bpf-linker").is_err() {
        install_linker(tools)?;
    }
    Ok(())
}

/// Where cargo's `-Z build-std` looks for the standard library's source.
fn source_link() -> Result<PathBuf> {
    let sysroot = run::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust"))
}

fn has_source(link: &Path) -> bool {
    link.join("library/core/src/lib.rs").exists()
}

/// From rustup where it can, else from Debian's package of the same version.
fn install_source(link: &Path) -> Result<()> {
    if link.is_symlink() {
        // It leads into a cache that was cleared, and rustup would trip over it.
        fs::remove_file(link).with_context(|| format!("cannot remove the stale link {}", link.display()))?;
    }
    eprintln!("about to run: rustup component add rust-src");
    let rustup = run::output(Command::new("timeout").args([RUSTUP_SECONDS, "rustup", "component", "add", "rust-src"]));
    // Where a user removed the files by hand, rustup believes that they are there.
    let rustup = rustup.and_then(|_| match has_source(link) {
        true => Ok(()),
        false => bail!(
            "rustup says that rust-src is installed, and {} is not there",
            link.display()
        ),
    });
    let Err(why) = rustup else { return Ok(()) };
    if !apt::available() {
        bail!(
            "the standard library's source is missing and rustup cannot get it. Install it and run the same command \
             again:\n\n    Fedora:  dnf install rust-src\n    Arch:    pacman -S rust-src\n\n{why}"
        );
    }
    eprintln!("rustup cannot; taking Debian's package rust-src instead");
    link_debian_source(link)
}

fn link_debian_source(link: &Path) -> Result<()> {
    let rustc = run::output(Command::new("rustc").arg("-V"))?;
    let release = rustc.split_whitespace().nth(1).context("`rustc -V` names no version")?;
    let apt = Apt::newer()?;
    let versions = apt.versions("rust-src")?;
    let Some(version) = same_release(&versions, release) else {
        bail!(
            "Debian has no rust-src for rustc {release}, only {}: install one of these toolchains, or give this one its \
             source with rustup",
            versions.join(", ")
        );
    };
    let place = cache::subdir("rust-src")?.join(format!("rustc-{release}"));
    if !has_source(&place) {
        let unpacked = apt.unpack("rust-src", Some(version))?;
        let source = unpacked.join("usr/src").join(format!("rustc-{release}"));
        fs::rename(&source, &place).with_context(|| format!("cannot make {}", place.display()))?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    }
    let parent = link.parent().context("the sysroot has no parent")?;
    fs::create_dir_all(parent)
        .and_then(|()| symlink(&place, link))
        .with_context(|| {
            format!(
                "cannot link {} to {}: may you write there?",
                link.display(),
                place.display()
            )
        })
}

/// The Debian version of exactly this release of Rust.
fn same_release<'a>(versions: &'a [String], release: &str) -> Option<&'a String> {
    versions.iter().find(|version| {
        version
            .strip_prefix(release)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn install_linker(tools: &Tools) -> Result<()> {
    eprintln!("about to run: cargo install bpf-linker --version {LINKER_VERSION} (some minutes)");
    let root = tools
        .directory()
        .parent()
        .context("the cache has no directory for tools")?;
    let log = cache::subdir("log")?.join("bpf-linker.log");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--root",
        ])
        .arg(root);
    run::logged("building bpf-linker", &mut command, &log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_must_be_of_exactly_the_compilers_release() {
        let versions = ["1.97.1+dfsg1-1", "1.95.10+dfsg1-1", "1.95.1+dfsg1-2~bpo13+1"].map(str::to_owned);
        assert_eq!(same_release(&versions, "1.95.1"), Some(&versions[2]));
        assert_eq!(same_release(&versions, "1.95.0"), None);
    }
}
