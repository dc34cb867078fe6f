//! The files of an installed luo-trace: one list, from which every package is made.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{crates, text};
use crate::run;
use crate::vm::guest::workspace;

/// A file as it is installed.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Where, without the first slash.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) bytes: Vec<u8>,
}

/// All of them, by their paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(pub(super) Vec<File>);

/// Single files of this tree: where they go, with which mode, and where they lie.
const SINGLE: [(&str, u32, &str); 9] = [
    ("etc/luo-trace/agent.toml", 0o644, "luo-trace/packaging/agent.toml"),
    ("usr/lib/luo-trace/early-init", 0o755, "luo-trace/systemd/early-init"),
    (
        "usr/lib/systemd/system/luo-trace.service",
        0o644,
        "luo-trace/systemd/luo-trace.service",
    ),
    ("usr/share/doc/luo-trace/CHANGELOG.md", 0o644, "luo-trace/CHANGELOG.md"),
    (
        "usr/share/doc/luo-trace/copyright",
        0o644,
        "luo-trace/packaging/deb/copyright",
    ),
    ("usr/share/doc/luo-trace/README.md", 0o644, "README.md"),
    ("usr/share/doc/luo-trace/LICENSE-APACHE", 0o644, "LICENSE-APACHE"),
    ("usr/share/doc/luo-trace/LICENSE-MIT", 0o644, "LICENSE-MIT"),
    (
        "usr/share/luo-trace/dashboards/luo-trace.json",
        0o644,
        "dashboards/luo-trace.json",
    ),
];

/// Directories of this tree, whose files go in with what names they have.
const WHOLE: [(&str, &str); 5] = [
    ("usr/share/doc/luo-trace/docs", "luo-trace/docs"),
    ("usr/share/luo-trace/policies", "luo-trace/policies"),
    ("usr/share/luo-trace/ci", "luo-trace/ci"),
    ("usr/share/luo-trace/dashboards/runbooks", "dashboards/runbooks"),
    ("usr/share/luo-trace/dashboards", "dashboards"),
];

/// The shells that are completed, and where each looks.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/luo-trace"),
    ("zsh", "usr/share/zsh/vendor-completions/_luo-trace"),
    ("fish", "usr/share/fish/vendor_completions.d/luo-trace.fish"),
];

impl Files {
    /// Takes them from this tree, and from the agent, which makes some of them itself; `generated` is a directory for that.
    pub(super) fn gather(agent: &Path, generated: &Path) -> Result<Self> {
        let mut files = Self::default();
        files.add("usr/bin/luo-trace", 0o755, text(agent)?);
        for (path, mode, source) in SINGLE {
            files.add(path, mode, text(&workspace().join(source))?);
        }
        for (path, source) in WHOLE {
            files.add_all(path, &workspace().join(source))?;
        }
        for (shell, path) in SHELLS {
            let script = run::output(Command::new(agent).args(["completions", shell]))?;
            files.add(path, 0o644, script.into_bytes());
        }
        let pages = generated.join("man");
        _ = fs::remove_dir_all(&pages);
        run::output(Command::new(agent).arg("man").arg(&pages))?;
        for (name, bytes) in inside(&pages)? {
            files.add(&format!("usr/share/man/man1/{name}.gz"), 0o644, gzip(&bytes)?);
        }
        files.add(
            "usr/share/doc/luo-trace/CRATES",
            0o644,
            crates::licences()?.into_bytes(),
        );
        files.0.sort_by(|a, b| a.path.cmp(&b.path));
        files.0.dedup_by(|a, b| a.path == b.path);
        Ok(files)
    }

    fn add(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.0.push(File {
            path: path.to_owned(),
            mode,
            bytes,
        });
    }

    fn add_all(&mut self, path: &str, directory: &Path) -> Result<()> {
        for (name, bytes) in inside(directory)? {
            let mode = if name.ends_with(".sh") { 0o755 } else { 0o644 };
            self.add(&format!("{path}/{name}"), mode, bytes);
        }
        Ok(())
    }

    /// An archive of them below a directory of this name.
    pub(super) fn archive(&self, below: &str, time: u64) -> Result<Vec<u8>> {
        gzip(&tar(
            self.0
                .iter()
                .map(|file| (format!("{below}/{}", file.path), file.mode, &*file.bytes)),
            time,
        )?)
    }
}

/// The files that lie in a directory, by their names.
fn inside(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let context = || format!("cannot list {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, text(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// Packs bytes: the same bytes give the same.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}

/// An archive of these paths, with the directories that they lie in; all of it is root's, and of this time.
pub(super) fn tar<'a>(files: impl Iterator<Item = (String, u32, &'a [u8])>, time: u64) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut made = std::collections::BTreeSet::new();
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (path, mode, bytes) in files {
        let above: Vec<_> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        for directory in above {
            if directory != "." && made.insert(directory.clone()) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                archive.append_data(&mut header, format!("{directory}/"), &[][..])?;
            }
        }
        let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
        archive
            .append_data(&mut header, &path, bytes)
            .with_context(|| format!("{path} cannot be packed"))?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_the_same_whenever_it_is_made_and_has_its_directories_first() {
        let files = Files(vec![File {
            path: "usr/bin/luo-trace".into(),
            mode: 0o755,
            bytes: b"program".to_vec(),
        }]);
        let [one, other] = [(); 2].map(|()| files.archive("luo-trace-1", 7).unwrap());
        assert_eq!(one, other);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&one[..]));
        let names = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (7, 0));
            entry.path().unwrap().display().to_string()
        });
        let names: Vec<_> = names.collect();
        assert_eq!(
            names,
            [
                "luo-trace-1/",
                "luo-trace-1/usr/",
                "luo-trace-1/usr/bin/",
                "luo-trace-1/usr/bin/luo-trace"
            ]
        );
    }

    #[test]
    fn every_file_of_the_list_is_in_this_tree() {
        for (_, _, source) in SINGLE {
            assert!(workspace().join(source).is_file(), "{source}");
        }
        for (_, source) in WHOLE {
            assert!(!inside(&workspace().join(source)).unwrap().is_empty(), "{source}");
        }
    }
}
