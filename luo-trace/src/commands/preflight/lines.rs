//! Whose command line an image is judged with, and whose it may have instead.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Args, Host};
use crate::image::{Contents, Judgement, Line};
use crate::input;

/// Where boot entries lie, as systemd looks for them.
const ROOTS: [&str; 3] = ["/efi", "/boot", "/boot/efi"];
/// Whether an image to jump into is loaded.
const LOADED: &str = "/sys/kernel/kexec_loaded";
/// How many entries are read, and how much of each, in bytes.
const ENTRIES_MAX: usize = 256;
const ENTRY_MAX: u64 = 1 << 16;

/// A boot entry that boots the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) line: String,
}

/// Where the command line is from.
#[derive(Debug)]
pub(super) enum Origin {
    /// It was given.
    Given(String),
    /// It is the image's own; where there are add-ons beside it, they are named.
    Image { add_ons: Option<PathBuf> },
    /// It is this host's.
    Host {
        /// It.
        line: String,
        /// The boot entries of the same image.
        entries: Vec<Entry>,
        /// An image is loaded already.
        loaded: bool,
    },
    /// It is not known.
    Unknown,
}

impl Origin {
    /// Whose line that is: the one that is said, else the one that is in the image, else this host's.
    pub(super) fn of(args: &Args, contents: Option<&Contents>, host: &Host) -> Self {
        let unified = contents.and_then(|contents| contents.unified.as_ref());
        if let Some(line) = &args.cmdline {
            return Self::Given(line.clone());
        }
        if unified.is_some_and(|unified| unified.lines.iter().any(Option::is_some)) {
            return Self::Image {
                add_ons: add_ons(&args.kernel),
            };
        }
        match &host.command_line {
            Some(line) => Self::Host {
                line: line.clone(),
                entries: ROOTS
                    .iter()
                    .flat_map(|root| entries(Path::new(root), &args.kernel))
                    .collect(),
                loaded: fs::read_to_string(LOADED).is_ok_and(|loaded| loaded.trim() == "1"),
            },
            None => Self::Unknown,
        }
    }

    /// The line, as the kernel is given it.
    pub(super) fn line<'a>(&'a self, contents: Option<&'a Contents>) -> Option<&'a str> {
        match self {
            Self::Given(line) | Self::Host { line, .. } => Some(line),
            Self::Image { .. } => contents?.unified.as_ref()?.lines.first()?.as_deref(),
            Self::Unknown => None,
        }
    }

    /// Whose it is, for a program.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Given(_) => Some("given"),
            Self::Image { .. } => Some("image"),
            Self::Host { .. } => Some("host"),
            Self::Unknown => None,
        }
    }

    /// Whose it is, for a person.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Given(_) | Self::Unknown => String::new(),
            Self::Image { .. } => " (the image's own)".into(),
            Self::Host { entries, loaded, .. } => {
                let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
                let others = match names.as_slice() {
                    _ if *loaded => {
                        "`systemctl kexec` takes the image that is loaded now, with that one's line".to_owned()
                    }
                    [] => "`systemctl kexec` takes the boot entry's, which was not found".to_owned(),
                    names => format!(
                        "`systemctl kexec` takes that of the boot entry, here {}",
                        names.join(", ")
                    ),
                };
                format!(
                    "\n{:15}(this host's own, which `kexec --reuse-cmdline` takes; {others})",
                    ""
                )
            }
        }
    }

    /// Judges an image with this line. Where another may be taken that decides otherwise, that is not known.
    pub(super) fn judged(&self, judge: impl Fn(Line<'_>) -> Judgement) -> Judgement {
        let of = |line: &str| judge(Some(line.as_bytes()).into());
        let (line, doubt) = match self {
            Self::Unknown => (None, None),
            Self::Given(line) => (Some(line), None),
            Self::Image { add_ons } => (
                None,
                add_ons.as_ref().map(|add_ons| {
                    format!(
                        "the add-ons in {} may add to the line, and are not read: give the whole line with --cmdline",
                        add_ons.display()
                    )
                }),
            ),
            Self::Host { line, entries, .. } => {
                let answer = of(line).command_line;
                let other = entries.iter().find(|entry| of(&entry.line).command_line != answer);
                let doubt = other.map(|entry| {
                    format!(
                        "`kexec --reuse-cmdline` takes this host's line and `systemctl kexec` that of the boot entry, and with that of {} \
                         the answer is another: give the line with --cmdline",
                        entry.name
                    )
                });
                (Some(line), doubt)
            }
        };
        judge(Line {
            line: line.map(String::as_bytes),
            doubt,
        })
    }
}

/// The directory beside a unified image whose add-ons systemd-stub takes with it, where there are any. Add-ons for every image
/// lie elsewhere on the ESP, and are not looked for.
fn add_ons(kernel: &Path) -> Option<PathBuf> {
    let mut beside = kernel.as_os_str().to_owned();
    beside.push(".extra.d");
    let beside = PathBuf::from(beside);
    let mut files = fs::read_dir(&beside).ok()?.flatten();
    let any = files.any(|file| file.file_name().to_string_lossy().ends_with(".addon.efi"));
    any.then_some(beside)
}

/// The entries under a root that boot this very file: type 1 of the Boot Loader Specification.
fn entries(root: &Path, kernel: &Path) -> Vec<Entry> {
    let Ok(wanted) = fs::metadata(kernel) else {
        return Vec::new();
    };
    let files = fs::read_dir(root.join("loader/entries"))
        .into_iter()
        .flatten()
        .flatten();
    let paths = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|end| end == "conf"));
    let found = paths.take(ENTRIES_MAX).filter_map(|path| {
        let mut text = String::new();
        input::open(&path)
            .ok()?
            .take(ENTRY_MAX)
            .read_to_string(&mut text)
            .ok()?;
        let boots = values(&text, "linux").next()?;
        let of = fs::metadata(root.join(boots.trim_start_matches('/'))).ok()?;
        ((of.dev(), of.ino()) == (wanted.dev(), wanted.ino())).then(|| Entry {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            line: values(&text, "options").collect::<Vec<_>>().join(" "),
        })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    found
}

/// What stands behind a key of an entry, line by line.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let rest = line.trim_start().strip_prefix(key)?;
        rest.starts_with([' ', '\t']).then(|| rest.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_that_boot_an_image_have_its_line() {
        // Given a boot partition with two entries for an image, one for another, and what is no entry,
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/linux", "the image");
        write("b/linux", "another");
        write(
            "loader/entries/two.conf",
            "title x\nlinux /a/linux\noptions quiet\noptions kho=on\n",
        );
        write("loader/entries/one.conf", "linux\t/a/linux\ninitrd /a/initrd\n");
        write("loader/entries/other.conf", "linux /b/linux\noptions other\n");
        write("loader/entries/none.conf", "linuxx /a/linux\n");
        write("loader/entries/backup", "linux /a/linux\n");
        // then those of the image are found, with all of their options.
        let entry = |name: &str, line: &str| Entry {
            name: name.into(),
            line: line.into(),
        };
        let found = entries(root.path(), &root.path().join("a/linux"));
        assert_eq!(found, [entry("one", ""), entry("two", "quiet kho=on")]);
        assert_eq!(entries(&root.path().join("none"), &root.path().join("a/linux")), []);
    }

    #[test]
    fn add_ons_beside_a_unified_image_are_seen() {
        let esp = tempfile::tempdir().unwrap();
        let image = esp.path().join("linux.efi");
        assert_eq!(add_ons(&image), None);
        let beside = esp.path().join("linux.efi.extra.d");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("key.cred"), "").unwrap();
        assert_eq!(add_ons(&image), None);
        fs::write(beside.join("luo.addon.efi"), "").unwrap();
        assert_eq!(add_ons(&image), Some(beside));
    }
}
