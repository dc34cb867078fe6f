//! Kernel source trees: from Debian packages, tar files and directories into the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::Source;
use crate::{
    apt::{self, Apt},
    cache, run,
};

/// The first series with LUO.
const FIRST: Series = Series(6, 19);

/// A source tree in the cache.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called in the cache: its version, and for what a user gave, where it came from.
    pub name: String,
    /// Its release, such as `7.3.4`.
    pub version: String,
    /// Whether it came from a package or tar file, so that its name says what is in it.
    pub fixed: bool,
}

/// A kernel series, such as 7.3. Ordered by number: 7.10 comes after 7.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series(u32, u32);

impl Series {
    fn of(version: &str) -> Option<Self> {
        let mut numbers = version.split(['.', '-']).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    fn of_package(package: &str) -> Option<Self> {
        let version = package.strip_prefix("linux-source-")?;
        Self::of(version).filter(|series| version == format!("{}.{}", series.0, series.1))
    }
}

/// Finds the tree in the cache, or brings it there.
///
/// # Errors
/// It cannot be got, is no kernel source, or has no LUO.
pub(super) fn resolve(source: &Source) -> Result<Tree> {
    let tree = match source {
        Source::Newest => package(&newest()?)?,
        Source::Package(name) => package(name)?,
        Source::Directory(directory) => copy(directory)?,
        Source::Tarball(file) => tarball(file)?,
        Source::Image(file) => bail!("{} is an image, and no source", file.display()),
    };
    if !tree.path.join("kernel/liveupdate/luo_core.c").exists() {
        bail!("Linux {} has no LUO: take 6.19 or later", tree.version);
    }
    Ok(tree)
}

/// The newest source package with LUO.
fn newest() -> Result<String> {
    if !apt::available() {
        bail!(
            "this machine has no apt-get to fetch a kernel source package with: give a kernel.org tar file or a tree \
             with --source, or a bzImage with --image"
        );
    }
    let names = Apt::newer()?.names("linux-source-")?;
    newest_of(&names).cloned().with_context(|| {
        format!(
            "no source package of a kernel with LUO among {}: give one with --source",
            names.join(", ")
        )
    })
}

fn newest_of(packages: &[String]) -> Option<&String> {
    let known = packages
        .iter()
        .filter_map(|package| Some((Series::of_package(package)?, package)));
    known
        .filter(|(series, _)| *series >= FIRST)
        .max()
        .map(|(_, package)| package)
}

/// The tree of a source package. Any release of its series that is already there serves, so that
/// nothing is fetched again because a mirror moved on; to move on too, remove the tree.
fn package(name: &str) -> Result<Tree> {
    let series = Series::of_package(name).with_context(|| {
        format!("{name} is no package of a kernel's source: they are called linux-source-X.Y, such as linux-source-7.3")
    })?;
    if let Some(tree) = unpacked(series)? {
        return Ok(tree);
    }
    let _lock = cache::lock("source")?;
    if let Some(tree) = unpacked(series)? {
        return Ok(tree);
    }
    if !apt::available() {
        bail!("this machine has no apt-get to fetch {name} with: give a kernel.org tar file or a tree with --source");
    }
    let apt = Apt::newer()?;
    if apt.versions(name)?.is_empty() {
        bail!(
            "there is no package {name}; there are: {}",
            apt.names("linux-source-")?.join(", ")
        );
    }
    let unpacked = apt.unpack(name, None)?;
    let sources = unpacked.join("usr/src");
    let mut files = fs::read_dir(&sources).with_context(|| format!("the package {name} brings no source"))?;
    let archive = files.find_map(|file| file.ok().map(|file| file.path()).filter(|path| is_tar(path)));
    let archive = archive.with_context(|| format!("the package {name} brings no tar file below usr/src"))?;
    let tree = extract(&archive, None)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    Ok(tree)
}

fn is_tar(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().contains(".tar"))
}

/// The newest complete tree of a series that came from a package.
fn unpacked(series: Series) -> Result<Option<Tree>> {
    let root = cache::subdir("source")?;
    let entries = fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let released = names.filter(|name| Series::of(name) == Some(series) && numbers(name).is_some());
    let complete = released.filter(|name| root.join(name).join(COMPLETE).exists());
    Ok(complete.max_by_key(|name| numbers(name)).map(|name| Tree {
        path: root.join(&name),
        version: name.clone(),
        name,
        fixed: true,
    }))
}

/// The numbers of a plain release such as 7.3.4, and of nothing else.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|number| number.parse().ok()).collect()
}

/// The file that marks a tree as wholly there.
const COMPLETE: &str = ".complete";

/// The tree of a tar file that a user gave; its size and age tell it from a later one of that path.
fn tarball(file: &Path) -> Result<Tree> {
    let path = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
    let meta = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let origin = short_hash(format!("{} {} {:?}", path.display(), meta.len(), meta.modified().ok()).as_bytes());
    let root = cache::subdir("source")?;
    let _lock = cache::lock("source")?;
    let entries = fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if name.ends_with(&format!("-{origin}")) && root.join(&name).join(COMPLETE).exists() {
            let path = root.join(&name);
            return Ok(Tree {
                version: version(&path)?,
                path,
                name,
                fixed: true,
            });
        }
    }
    extract(&path, Some(&origin))
}

/// Unpacks a tar file with one directory in it, and gives the tree its name in the cache.
fn extract(archive: &Path, origin: Option<&str>) -> Result<Tree> {
    let root = cache::subdir("source")?;
    let new = root.join(".new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    fs::create_dir(&new).with_context(|| format!("cannot make {}", new.display()))?;
    eprintln!("unpacking {}", archive.display());
    run::output(
        Command::new("tar")
            .arg("-C")
            .arg(&new)
            .args(["--strip-components=1", "-xf"])
            .arg(archive),
    )?;
    let version = version(&new)?;
    let name = origin.map_or(version.clone(), |origin| format!("{version}-{origin}"));
    let path = root.join(&name);
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::rename(&new, &path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::write(path.join(COMPLETE), "").with_context(|| format!("cannot mark {} as complete", path.display()))?;
    Ok(Tree {
        path,
        name,
        version,
        fixed: true,
    })
}

/// A copy of a tree that a user works on: the testbed adds files to it, and only what changed since
/// the last copy is copied, so that a build stays short. What was deleted since then stays.
fn copy(directory: &Path) -> Result<Tree> {
    let from = fs::canonicalize(directory).with_context(|| format!("cannot find {}", directory.display()))?;
    let version = version(&from)?;
    let name = format!("{version}-{}", short_hash(from.as_os_str().as_encoded_bytes()));
    let path = cache::subdir("source")?.join(&name);
    let complete = path.join(COMPLETE);
    let _lock = cache::lock("source")?;
    // A file that was cut off in the middle of a copy is newer than its original: start afresh.
    if fs::remove_file(&complete).is_err() && path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let entries = fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?;
    let entries: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let wanted = entries
        .iter()
        .filter(|entry| !entry.ends_with(".git") && !entry.ends_with(COMPLETE));
    eprintln!("copying what changed in {}", from.display());
    run::output(
        Command::new("cp")
            .args(["--archive", "--update"])
            .args(wanted)
            .arg(&path),
    )?;
    fs::write(&complete, "").with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(Tree {
        path,
        name,
        version,
        fixed: false,
    })
}

/// The release that a tree's top Makefile tells.
fn version(tree: &Path) -> Result<String> {
    let path = tree.join("Makefile");
    let makefile = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: is this a kernel's source?", path.display()))?;
    release(&makefile).with_context(|| format!("{} tells no kernel version", path.display()))
}

fn release(makefile: &str) -> Option<String> {
    let value = |name| {
        let assigned = makefile
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        assigned.map(str::trim)
    };
    let (major, minor, patch) = (value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?);
    let release = format!("{major}.{minor}.{patch}{}", value("EXTRAVERSION")?);
    // It names directories: it must be no path.
    (Series::of(&release).is_some() && !release.contains('/')).then_some(release)
}

/// Eight hexadecimal digits that stand for `bytes`, the same on every machine and in every version.
pub(super) fn short_hash(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_ordered_by_number() {
        let of = |version| Series::of(version).unwrap();
        assert!(of("6.19") < of("7.0") && of("7.0") < of("7.3") && of("7.9") < of("7.10.2"));
        assert_eq!(of("7.3.4"), of("7.3-rc1"));
        assert_eq!(Series::of("seven"), None);
        assert_eq!(Series::of("7"), None);
    }

    #[test]
    fn the_newest_package_is_the_one_of_the_highest_series_with_luo() {
        let packages = |names: &[&str]| {
            names
                .iter()
                .map(|name| format!("linux-source-{name}"))
                .collect::<Vec<_>>()
        };
        let all = packages(&["6.19", "7.9", "7.10", "7.3", "rt", "7.11-rt", "6.1"]);
        assert_eq!(newest_of(&all).map(String::as_str), Some("linux-source-7.10"));
        assert_eq!(
            newest_of(&packages(&["6.1", "6.12", "6.18"])),
            None,
            "none of these has LUO"
        );
    }

    #[test]
    fn only_plain_releases_count_as_unpacked_packages() {
        assert!(numbers("7.2.13") > numbers("7.2.6"));
        assert_eq!(numbers("7.3.4-1badcafe"), None);
    }

    #[test]
    fn the_release_is_read_from_the_makefile() {
        let makefile =
            "# SPDX\nVERSION = 7\nPATCHLEVEL = 4\nSUBLEVEL = 0\nEXTRAVERSION = -rc1\nNAME = x\nVERSIONS = 9\n";
        assert_eq!(release(makefile).as_deref(), Some("7.4.0-rc1"));
        assert_eq!(release("all:\n\techo no kernel\n"), None);
        assert_eq!(
            release("VERSION = ../..\nPATCHLEVEL = 4\nSUBLEVEL = 0\nEXTRAVERSION =\n"),
            None
        );
    }

    #[test]
    fn a_short_hash_never_changes() {
        assert_eq!(short_hash(b"luo-trace"), short_hash(b"luo-trace"));
        assert_eq!(short_hash(b"123456789"), "cbf43926", "the check value of CRC-32");
    }
}
