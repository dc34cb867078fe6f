//! Debian packages of newer suites than the machine's own, without touching its apt sources: an
//! apt root of our own in the cache, with the machine's mirror and keyring.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{cache, run};

/// The suites that carry kernels with LUO and recent Rust sources.
const SUITES: &str = "trixie-backports sid";

/// How old the package lists of [`Apt::newer`] may grow before they are fetched again.
const LISTS_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether this machine has Debian's package tools at all.
pub(crate) fn available() -> bool {
    ["apt-get", "apt-cache", "dpkg"]
        .iter()
        .all(|tool| which::which(tool).is_ok())
}

/// A sources file, in the deb822 format, for a suite on the mirror that this machine uses.
///
/// # Errors
/// The machine's sources name no Debian mirror.
pub(crate) fn sources(suite: &str) -> Result<String> {
    Ok(Mirror::of_this_machine()?.sources(suite))
}

/// A set of package sources, and where downloads go.
pub(crate) struct Apt {
    options: Vec<String>,
    downloads: PathBuf,
}

impl Apt {
    /// The machine's own sources, as they are.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub(crate) fn machine() -> Result<Self> {
        Ok(Self {
            options: option("APT::Sandbox::User", "root"),
            downloads: cache::subdir("apt/download")?,
        })
    }

    /// Newer suites, through a root of our own. Fetches their package lists when there are none or
    /// they are old; old ones serve when the mirror does not answer.
    ///
    /// # Errors
    /// The machine's sources name no Debian mirror, or the lists cannot be fetched, or the
    /// machine's keyring does not know who signed them.
    pub(crate) fn newer() -> Result<Self> {
        Self::newer_in("apt", &[])
    }

    /// The same for machines of another architecture, such as `arm64`: nothing of it could run here.
    ///
    /// # Errors
    /// As [`Apt::newer`].
    pub(crate) fn newer_of(architecture: &str) -> Result<Self> {
        let only = [
            ("APT::Architecture", architecture),
            ("APT::Architectures::", architecture),
        ];
        Self::newer_in(&format!("apt/{architecture}"), &only)
    }

    fn newer_in(root: &str, more: &[(&str, &str)]) -> Result<Self> {
        let _lock = cache::lock("apt")?;
        let subdir = |name: &str| cache::subdir(&format!("{root}/{name}"));
        let (parts, lists, archive) = (subdir("parts")?, subdir("lists")?, subdir("cache")?);
        let options = [
            ("Dir::Etc::SourceList", "/dev/null"),
            ("Dir::Etc::SourceParts", path(&parts)?),
            ("Dir::State::Lists", path(&lists)?),
            ("Dir::Cache", path(&archive)?),
            ("Dir::Cache::pkgcache", "pkgcache.bin"),
            ("Dir::Cache::srcpkgcache", "srcpkgcache.bin"),
            // A mirror may hold a still picture of sid, whose signature says it is out of date.
            ("Acquire::Check-Valid-Until", "false"),
            ("Acquire::Languages", "none"),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false"),
            ("APT::Sandbox::User", "root"),
        ];
        let options = options.iter().chain(more).flat_map(|(name, value)| option(name, value));
        let options = options.collect();
        let apt = Self {
            options,
            downloads: cache::subdir("apt/download")?,
        };
        apt.refresh(&parts.join("newer.sources"), &lists.join("fetched"))?;
        Ok(apt)
    }

    /// The names of all packages that begin with `prefix`.
    ///
    /// # Errors
    /// `apt-cache` fails.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = run::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// The versions there are of `package`, the preferred one first.
    ///
    /// # Errors
    /// `apt-cache` fails. A package that does not exist has no versions, which is no error.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = run::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
            .collect())
    }

    /// Downloads `package`, in `version` or the preferred one, and unpacks it below a directory
    /// of the cache that is returned and that the caller removes. Installs nothing, runs no script.
    ///
    /// # Errors
    /// There is no such package, the download fails, or the disk is full.
    pub(crate) fn unpack(&self, package: &str, version: Option<&str>) -> Result<PathBuf> {
        let deb = self.download(package, version)?;
        let root = deb.with_extension("unpacked");
        run::output(Command::new("dpkg").arg("-x").arg(&deb).arg(&root))?;
        fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
        Ok(root)
    }

    /// Downloads `package`, in `version` or the preferred one, and returns the `.deb` file.
    ///
    /// # Errors
    /// There is no such package, or the download fails.
    pub(crate) fn download(&self, package: &str, version: Option<&str>) -> Result<PathBuf> {
        let wanted = version.map_or(package.to_owned(), |version| format!("{package}={version}"));
        let directory = self.downloads.join(package);
        if directory.exists() {
            fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        eprintln!("downloading the Debian package {wanted}");
        // A hundred megabytes may take a while: apt shows its own progress on a terminal.
        let mut command = self.command("apt-get");
        command
            .current_dir(&directory)
            .args(["download", &wanted])
            .stdout(io::stderr());
        if !command.status().context("cannot start apt-get")?.success() {
            bail!("apt-get cannot download {wanted}: it says above why");
        }
        let mut files = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        let deb = files
            .next()
            .with_context(|| format!("apt-get downloaded nothing for {wanted}"))?;
        Ok(deb
            .with_context(|| format!("cannot read {}", directory.display()))?
            .path())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").args(&self.options);
        command
    }

    /// Brings the sources file and the package lists up to date. `stamp` tells when that was.
    fn refresh(&self, sources: &Path, stamp: &Path) -> Result<()> {
        let age = fs::metadata(stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age < LISTS_AGE) {
            return Ok(());
        }
        let mirror = Mirror::of_this_machine()?;
        fs::write(sources, mirror.sources(SUITES)).with_context(|| format!("cannot write {}", sources.display()))?;
        eprintln!("fetching the package lists of {SUITES}");
        let fetched = run::output(self.command("apt-get").args(["-q", "--error-on=any", "update"]));
        match fetched {
            Ok(_) => fs::write(stamp, "").with_context(|| format!("cannot write {}", stamp.display())),
            Err(why) if age.is_some() => {
                eprintln!("going on with the old lists: {why:#}");
                Ok(())
            }
            Err(why) => Err(explained(&why)),
        }
    }
}

fn option(name: &str, value: &str) -> Vec<String> {
    vec!["-o".to_owned(), format!("{name}={value}")]
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| {
        format!(
            "apt cannot use the path {}: set LUO_TRACE_CACHE to one in UTF-8",
            path.display()
        )
    })
}

/// What to do about a failed `apt-get update`.
fn explained(why: &anyhow::Error) -> anyhow::Error {
    if why.to_string().contains("NO_PUBKEY") {
        return anyhow!(
            "this machine's keyring does not know the key that signs {SUITES}: install a newer debian-archive-keyring, \
             or give a kernel with --source or --image\n{why}"
        );
    }
    anyhow!("the package lists of {SUITES} cannot be fetched: is the network there?\n{why}")
}

/// Where this machine takes Debian packages from.
#[derive(Debug, PartialEq)]
struct Mirror {
    uri: String,
    keyring: Option<String>,
}

impl Mirror {
    /// apt itself reads the machine's sources, in either of their formats.
    fn of_this_machine() -> Result<Self> {
        let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)";
        let targets =
            run::output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
        let (uri, file) = debian(&targets).ok_or_else(|| {
            anyhow!(
                "no apt source of this machine names a Debian mirror; a kernel can be given with --source or --image"
            )
        })?;
        // A file that cannot be read leaves the choice of keys to apt.
        let keyring = keyring(&fs::read_to_string(file).unwrap_or_default());
        Ok(Self {
            uri: uri.to_owned(),
            keyring,
        })
    }

    /// A sources file in the deb822 format.
    fn sources(&self, suites: &str) -> String {
        let signed = self
            .keyring
            .as_ref()
            .map_or(String::new(), |keyring| format!("Signed-By: {keyring}\n"));
        format!(
            "Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\n{signed}",
            self.uri
        )
    }
}

/// The first Debian archive among apt's index targets, and the sources file that names it.
fn debian(targets: &str) -> Option<(&str, &str)> {
    targets.lines().find_map(|line| {
        let [uri, release, component, entry] = line.split('|').collect::<Vec<_>>()[..] else {
            return None;
        };
        let archive = uri.trim_end_matches('/').ends_with("/debian") || uri.contains("/debian/");
        let (file, _line) = entry.rsplit_once(':')?;
        (archive && component == "main" && !release.contains("security")).then_some((uri, file))
    })
}

/// The keyring file that a sources file signs by, in the deb822 or the one-line format.
fn keyring(sources: &str) -> Option<String> {
    let lines = sources.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.into_iter().find_map(|line| {
        let value = match line.strip_prefix("Signed-By:") {
            Some(value) => value,
            None => line.split_once("signed-by=")?.1,
        };
        let file = value.trim().split([' ', ',', ']']).next()?;
        file.starts_with('/').then(|| file.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_first_debian_archive_that_is_no_security_archive() {
        let targets = "https://packages.example/node/|nodistro|main|/etc/apt/sources.list.d/node.sources:1\n\
                       http://mirror.example/debian-security/|bookworm-security|main|/etc/apt/sources.list:2\n\
                       http://mirror.example/debian/|bookworm|contrib|/etc/apt/sources.list:3\n\
                       http://mirror.example/debian/|bookworm|main|/etc/apt/sources.list:3\n\
                       http://other.example/debian/|sid|main|/etc/apt/sources.list:4\n";
        assert_eq!(
            debian(targets),
            Some(("http://mirror.example/debian/", "/etc/apt/sources.list"))
        );
    }

    #[test]
    fn a_machine_without_a_debian_archive_has_no_mirror() {
        assert_eq!(
            debian("http://mirror.example/ubuntu/|noble|main|/etc/apt/sources.list:1\n"),
            None
        );
        assert_eq!(debian(""), None);
        assert_eq!(debian("half|a line"), None);
    }

    #[test]
    fn the_keyring_is_found_in_both_formats_of_a_sources_file() {
        let deb822 = "# Signed-By: /old.gpg\nTypes: deb\nSigned-By: /usr/share/keyrings/debian.gpg\n";
        assert_eq!(keyring(deb822).as_deref(), Some("/usr/share/keyrings/debian.gpg"));
        let one_line = "deb [arch=amd64 signed-by=/etc/apt/keys/debian.gpg] http://mirror.example/debian sid main";
        assert_eq!(keyring(one_line).as_deref(), Some("/etc/apt/keys/debian.gpg"));
        assert_eq!(keyring("deb http://mirror.example/debian sid main"), None);
        assert_eq!(
            keyring("Types: deb\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n"),
            None,
            "a key in the file"
        );
    }

    #[test]
    fn an_unknown_key_is_told_as_such() {
        let why = anyhow!("apt-get failed: The following signatures couldn't be verified: NO_PUBKEY 0E98404D386FA1D9");
        assert!(explained(&why).to_string().contains("keyring does not know"));
        assert!(
            explained(&anyhow!("Could not resolve host"))
                .to_string()
                .contains("network")
        );
    }
}
