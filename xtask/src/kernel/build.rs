//! From a source tree to a bzImage in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result};
use testbed_guest::scenario;

use super::{
    Flavour, Kernel, config,
    source::{Tree, short_hash},
};
use crate::{cache, run};

/// A file of the testbed's own, with its text.
macro_rules! own {
    ($name:literal) => {
        ($name, include_str!(concat!("../../testbed/kernel/", $name)))
    };
}

/// The testbed's own C files, compiled into every kernel: LUO exports no symbol to modules.
const OWN_FILES: &[(&str, &str)] = &[
    own!("luo_testbed.c"),
    own!("luo_testbed.h"),
    own!("luo_testbed_handlers.c"),
    own!("luo_testbed_tamper.c"),
];

/// What the names of their objects begin with.
const OWN_PREFIX: &str = "luo_testbed";

/// What gives LUO's ABI another name, in front of everything else that `luo_core.c` includes.
const OTHER_ABI: (&str, &str) = own!("other_abi.h");

/// Where in a source tree they go.
const OWN_DIRECTORY: &str = "kernel/liveupdate";

/// One build: what goes in, and where things are.
struct Build<'a> {
    tree: &'a Tree,
    name: String,
    fragment: String,
    /// Whether LUO's ABI gets another name.
    other_abi: bool,
    directory: PathBuf,
    /// The build directory of nearly the same kernel, to begin with.
    like: Option<PathBuf>,
    finished: PathBuf,
}

/// Takes the finished kernel from the cache, or builds it.
pub(super) fn ensure(tree: &Tree, flavour: Flavour, kind: scenario::Build) -> Result<Kernel> {
    let compiler = run::output(Command::new("gcc").arg("--version"))?;
    let usual = format!("{}-{flavour}", tree.name);
    let (name, like) = match kind {
        scenario::Build::Testbed => (usual, None),
        _ => (
            format!("{usual}-{}", kind.name()),
            Some(cache::subdir("build")?.join(usual)),
        ),
    };
    let mut own = OWN_FILES.to_vec();
    own.extend((kind == scenario::Build::OtherAbi).then_some(OTHER_ABI));
    let fragment = config::fragment(flavour, kind);
    let key = key(&name, &fragment, &own, compiler.lines().next().unwrap_or_default());
    let build = Build {
        tree,
        fragment,
        other_abi: kind == scenario::Build::OtherAbi,
        directory: cache::subdir("build")?.join(&name),
        like,
        finished: cache::subdir("kernel")?.join(format!("{name}-{key}")),
        name,
    };
    let image = build.finished.join("bzImage");
    if !tree.fixed || !image.exists() {
        // All builds of one tree take turns: they share its files.
        let _lock = cache::lock(&tree.name)?;
        if !tree.fixed || !image.exists() {
            build.run(&image)?;
        }
        build.remove_copy()?;
    }
    let directory = build.directory;
    Ok(Kernel {
        image,
        version: tree.version.clone(),
        flavour: Some(flavour),
        tree: Some(tree.clone()),
        build: directory.exists().then_some(directory),
    })
}

/// Stands for everything that goes into a kernel.
fn key(name: &str, fragment: &str, own: &[(&str, &str)], compiler: &str) -> String {
    short_hash(format!("{name}\0{fragment}\0{own:?}\0{compiler}").as_bytes())
}

impl Build<'_> {
    fn run(&self, image: &Path) -> Result<()> {
        add_own_files(&self.tree.path.join(OWN_DIRECTORY), OWN_FILES)?;
        self.begin_with_a_copy()?;
        self.configure()?;
        eprintln!(
            "building Linux {} in {} (some ten minutes from nothing)",
            self.name,
            self.directory.display()
        );
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut make = self.make();
        make.args([format!("-j{jobs}"), "bzImage".to_owned()]);
        // What the kernel tells of its build must not tell of the machine.
        make.args(["KBUILD_BUILD_USER=luo-trace", "KBUILD_BUILD_HOST=testbed"]);
        if self.other_abi {
            let (name, text) = OTHER_ABI;
            let header = self.directory.join(name);
            write_if_changed(&header, text)?;
            make.arg(format!("CFLAGS_luo_core.o=-include {}", header.display()));
        }
        run::logged(
            &self.name,
            &mut make,
            &cache::subdir("log")?.join(format!("kernel-{}.log", self.name)),
        )?;

        fs::create_dir_all(&self.finished).with_context(|| format!("cannot make {}", self.finished.display()))?;
        let (built, new) = (
            self.directory.join("arch/x86/boot/bzImage"),
            image.with_extension("new"),
        );
        fs::copy(&built, &new)
            .and_then(|_| fs::rename(&new, image))
            .with_context(|| format!("cannot keep {} as {}", built.display(), image.display()))
    }

    /// Begins with the build of nearly the same kernel, where there is one and this one has not begun: make then
    /// compiles what differs.
    fn begin_with_a_copy(&self) -> Result<()> {
        let Some(like) = self
            .like
            .as_ref()
            .filter(|like| like.exists() && !self.directory.exists())
        else {
            return Ok(());
        };
        let new = self.directory.with_file_name(format!("{}.new", self.name));
        if new.exists() {
            fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        }
        eprintln!("copying {}", like.display());
        run::output(
            Command::new("cp")
                .args(["--archive", "--reflink=auto"])
                .arg(like)
                .arg(&new),
        )?;
        fs::rename(&new, &self.directory).with_context(|| format!("cannot make {}", self.directory.display()))
    }

    /// Removes what [`begin_with_a_copy`](Self::begin_with_a_copy) took, 2 GB that the next copy gives again in
    /// seconds. A tree that changes keeps it, since each of its kernels is made anew.
    fn remove_copy(&self) -> Result<()> {
        if self.like.is_none() || !self.tree.fixed || !self.directory.exists() {
            return Ok(());
        }
        fs::remove_dir_all(&self.directory).with_context(|| format!("cannot remove {}", self.directory.display()))
    }

    /// Makes the configuration, unless the one there was made from the same fragment.
    fn configure(&self) -> Result<()> {
        let (fragment, config) = (self.directory.join("testbed.config"), self.directory.join(".config"));
        if config.exists() && fs::read_to_string(&fragment).is_ok_and(|made_from| made_from == self.fragment) {
            return Ok(());
        }
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot make {}", self.directory.display()))?;
        let merged = self.directory.join("testbed.config.new");
        fs::write(&merged, &self.fragment).with_context(|| format!("cannot write {}", merged.display()))?;
        run::output(self.make().arg("tinyconfig"))?;
        let mut merge = Command::new(self.tree.path.join("scripts/kconfig/merge_config.sh"));
        run::output(merge.args(["-m", "-O"]).arg(&self.directory).arg(&config).arg(&merged))?;
        run::output(self.make().arg("olddefconfig"))?;
        let made = fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
        let unknown = config::verify(&self.fragment, &made, &self.tree.path)?;
        if !unknown.is_empty() {
            eprintln!(
                "Linux {} does not know, and goes without: {}",
                self.tree.version,
                unknown.join(", ")
            );
        }
        fs::rename(&merged, &fragment).with_context(|| format!("cannot write {}", fragment.display()))
    }

    fn make(&self) -> Command {
        let mut make = Command::new("make");
        make.env("LC_ALL", "C")
            .env_remove("MAKEFLAGS")
            .arg("-C")
            .arg(&self.tree.path);
        make.arg(format!("O={}", self.directory.display()));
        make
    }
}

/// Puts our files into a directory of a source tree, and the objects of the C files into its Makefile, in place of
/// those of another version of the testbed. What is the same already is left alone: a new time stamp would have it
/// compiled again.
fn add_own_files(directory: &Path, files: &[(&str, &str)]) -> Result<()> {
    let makefile = directory.join("Makefile");
    let rules = fs::read_to_string(&makefile).with_context(|| format!("cannot read {}", makefile.display()))?;
    let own = format!("obj-y += {OWN_PREFIX}");
    let mut rules: Vec<_> = rules
        .lines()
        .filter(|line| !line.starts_with(&own))
        .map(str::to_owned)
        .collect();
    for (name, text) in files {
        write_if_changed(&directory.join(name), text)?;
        if let Some(object) = name.strip_suffix(".c") {
            rules.push(format!("obj-y += {object}.o"));
        }
    }
    write_if_changed(&makefile, &(rules.join("\n") + "\n"))
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_everything_that_goes_in_and_with_nothing_else() {
        let own = [("a.c", "int a;")];
        let all = key("7.3.4-o2", "CONFIG_A=y", &own, "gcc 12");
        assert_eq!(all, key("7.3.4-o2", "CONFIG_A=y", &own, "gcc 12"));
        let others = [
            key("7.3.5-o2", "CONFIG_A=y", &own, "gcc 12"),
            key("7.3.4-os", "CONFIG_A=y", &own, "gcc 12"),
            key("7.3.4-o2", "CONFIG_A=n", &own, "gcc 12"),
            key("7.3.4-o2", "CONFIG_A=y", &[("a.c", "int b;")], "gcc 12"),
            key("7.3.4-o2", "CONFIG_A=y", &[("b.c", "int a;")], "gcc 12"),
            key("7.3.4-o2", "CONFIG_A=y", &own, "gcc 13"),
        ];
        assert!(others.iter().all(|other| *other != all), "{all} {others:?}");
    }

    #[test]
    fn own_files_are_added_once_and_touched_only_when_they_change() {
        let directory = std::env::temp_dir().join(format!("xtask-own-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (makefile, own) = (directory.join("Makefile"), directory.join("luo_testbed.c"));
        fs::write(&makefile, "obj-y += luo.o\nobj-y += luo_testbed_of_another_version.o\n").unwrap();
        add_own_files(
            &directory,
            &[("luo_testbed.c", "int one;"), ("luo_testbed.h", "int two;")],
        )
        .unwrap();
        assert_eq!(
            fs::read_to_string(&makefile).unwrap(),
            "obj-y += luo.o\nobj-y += luo_testbed.o\n"
        );

        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        for path in [&makefile, &own] {
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
        add_own_files(&directory, &[("luo_testbed.c", "int one;")]).unwrap();
        for path in [&makefile, &own] {
            assert_eq!(
                fs::metadata(path).unwrap().modified().unwrap(),
                long_ago,
                "{} was touched",
                path.display()
            );
        }
        add_own_files(&directory, &[("luo_testbed.c", "int two;")]).unwrap();
        assert_eq!(fs::read_to_string(&own).unwrap(), "int two;");
        assert_eq!(fs::metadata(&makefile).unwrap().modified().unwrap(), long_ago);
        fs::remove_dir_all(directory).unwrap();
    }
}
