//! What building BPF programs in Rust takes besides the linker: the standard library's source.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, Apt},
    cache, run,
};

/// Seconds that rustup may take to download the source: it retries for long where it finds no server.
const RUSTUP_SECONDS: &str = "60";

/// Whether it is there.
pub(super) fn complete() -> Result<bool> {
    Ok(has_source(&source_link()?))
}

/// Gets it where it is not there.
pub(super) fn install() -> Result<()> {
    let link = source_link()?;
    match has_source(&link) {
        true => Ok(()),
        false => install_source(&link),
    }
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
