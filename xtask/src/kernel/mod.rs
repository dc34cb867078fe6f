//! Kernels for the testbed: found or fetched as source, configured, built with the testbed's own C
//! file in them, and kept in the cache.

mod build;
mod config;
mod image;
mod source;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use testbed_guest::scenario::Build;

use crate::setup::{self, Need};

/// A kernel that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Where it comes from.
    pub source: Source,
    /// How it is built; means nothing for a ready image.
    pub flavour: Flavour,
}

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The newest `linux-source-X.Y` package that has LUO.
    Newest,
    /// A Debian package, such as `linux-source-7.2`. Any unpacked release of the series serves.
    Package(String),
    /// A source tree, which is copied and not touched.
    Directory(PathBuf),
    /// A tar file of a source tree, compressed as tar can tell.
    Tarball(PathBuf),
    /// A ready bzImage.
    Image(PathBuf),
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        match () {
            () if path.is_dir() => Ok(Self::Directory(path.to_owned())),
            () if path.is_file() => Ok(Self::Tarball(path.to_owned())),
            () if text.starts_with("linux-source-") => Ok(Self::Package(text.to_owned())),
            () => Err("neither a source tree, nor a tar file, nor the name of a linux-source-X.Y package".to_owned()),
        }
    }
}

/// How a kernel is built. The compiler inlines other functions in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// For speed, `-O2`, as the distributions do.
    #[default]
    O2,
    /// For size, `-Os`.
    Os,
    /// For speed, with the kernel's own checks: KASAN, lockdep, lists, objects. It takes several times as long.
    Debug,
}

impl Flavour {
    /// How many times as long as on the usual one a scenario may take.
    pub(crate) fn slowness(self) -> u32 {
        match self {
            Self::O2 | Self::Os => 1,
            Self::Debug => 4,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::O2 => "o2",
            Self::Os => "os",
            Self::Debug => "debug",
        })
    }
}

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// Its release, such as `7.3.4`.
    pub version: String,
    /// How it was built, unless it came ready.
    pub flavour: Option<Flavour>,
    /// The source tree, unless it came ready.
    tree: Option<source::Tree>,
    /// The directory it was built in, unless it came ready. Its contents may be of a later build.
    pub build: Option<PathBuf>,
}

impl Kernel {
    /// Where its source tree is, unless it came ready.
    pub fn source(&self) -> Option<&Path> {
        self.tree.as_ref().map(|tree| tree.path.as_path())
    }

    /// Another build of the same kernel. Its first one takes some minutes: it begins with a copy of this one's.
    ///
    /// # Errors
    /// This kernel came ready, or the build fails.
    pub fn built(&self, build: Build) -> Result<Self> {
        match (build, &self.tree, self.flavour) {
            (Build::Testbed, ..) => Ok(self.clone()),
            (_, Some(tree), Some(flavour)) => build::ensure(tree, flavour, build),
            _ => bail!(
                "of a ready image there is no build {:?}: give --source instead of --image",
                build.name()
            ),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flavour {
            Some(flavour) => write!(f, "{}-{flavour}", self.version),
            None => f.write_str(&self.version),
        }
    }
}

/// Gets a kernel: from the cache in no time where it is there, otherwise by a build of some ten minutes.
///
/// # Errors
/// The source cannot be got or has no LUO, the configuration does not hold on it, or the build fails.
pub(crate) fn ensure(request: &Request) -> Result<Kernel> {
    if let Source::Image(file) = &request.source {
        return image::ready(file);
    }
    setup::ensure(&[Need::KernelBuild])?;
    build::ensure(&source::resolve(&request.source)?, request.flavour, Build::Testbed)
}

/// Which kernel: the options that every verb that needs one takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// A source tree, a tar file of one, or a package such as linux-source-7.3 [default: the newest package with LUO]
    #[arg(long, value_name = "DIR|TAR|PACKAGE")]
    source: Option<Source>,
    /// Optimise for speed (o2) or for size (os), or have the kernel check itself (debug: KASAN, lockdep)
    #[arg(long, default_value_t, value_enum)]
    flavour: Flavour,
    /// Take a ready bzImage instead of building one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "flavour"])]
    image: Option<PathBuf>,
}

impl Args {
    /// The same options, as they are written after a command.
    pub(crate) fn words(&self) -> String {
        let source = self.source.as_ref().and_then(|source| match source {
            Source::Newest => None,
            Source::Package(name) => Some(format!(" --source {name}")),
            Source::Directory(path) | Source::Tarball(path) | Source::Image(path) => {
                Some(format!(" --source {}", path.display()))
            }
        });
        let flavour = (self.flavour != Flavour::default()).then(|| format!(" --flavour {}", self.flavour));
        let image = self.image.as_ref().map(|image| format!(" --image {}", image.display()));
        [source, flavour, image].into_iter().flatten().collect()
    }
}

impl From<Args> for Request {
    fn from(args: Args) -> Self {
        let source = match args.image {
            Some(file) => Source::Image(file),
            None => args.source.unwrap_or(Source::Newest),
        };
        Self {
            source,
            flavour: args.flavour,
        }
    }
}

/// `cargo xtask kernel`: prints the image's path to standard output, alone.
///
/// # Errors
/// Those of [`ensure`].
pub(crate) fn command(args: Args) -> Result<()> {
    let kernel = ensure(&args.into())?;
    eprintln!("Linux {kernel} is ready");
    for (what, place) in [("source", kernel.source()), ("build", kernel.build.as_deref())] {
        if let Some(place) = place {
            eprintln!("  {what}: {}", place.display());
        }
    }
    println!("{}", kernel.image.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_apart_by_what_it_is() {
        let here = env!("CARGO_MANIFEST_DIR");
        let file = format!("{here}/Cargo.toml");
        assert_eq!(here.parse(), Ok(Source::Directory(here.into())));
        assert_eq!(file.parse(), Ok(Source::Tarball(file.into())));
        assert_eq!(
            "linux-source-7.2".parse(),
            Ok(Source::Package("linux-source-7.2".to_owned()))
        );
        assert!("/no/such/tree".parse::<Source>().unwrap_err().contains("neither"));
    }
}
