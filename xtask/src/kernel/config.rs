//! The testbed's kernel configuration: one fragment, its flavours, and a check that a kernel took it.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use testbed_guest::scenario::Build;

use super::Flavour;

/// What the testbed needs of a kernel, merged onto the smallest configuration there is.
const TESTBED: &str = include_str!("../../testbed/kernel/testbed.config");
/// What a kernel that checks itself has besides.
const DEBUG: &str = include_str!("../../testbed/kernel/debug.config");

/// What all options of LUO begin with, and the option on which they depend.
const LUO: &str = "CONFIG_LIVEUPDATE";
/// The option of the handler that preserves memfds.
const MEMFD: &str = "CONFIG_LIVEUPDATE_MEMFD";

/// A command line that is built in, and taken in the place of whatever a boot loader or kexec says. It has all that the testbed needs of a
/// second kernel, and not `kho=on`.
const OWN_LINE: &str = "CONFIG_CMDLINE_BOOL=y
CONFIG_CMDLINE=\"console=ttyS0 liveupdate=on panic=-1 no_timer_check printk.devkmsg=on luo_testbed.grace_ms=2000 luo_testbed.boot=2\"
CONFIG_CMDLINE_OVERRIDE=y
";

/// The fragment for a build.
pub(super) fn fragment(flavour: Flavour, build: Build) -> String {
    let speed = "CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y";
    let (own, checks) = match flavour {
        Flavour::O2 => (speed, ""),
        Flavour::Debug => (speed, DEBUG),
        // Packed functions begin at odd addresses, too, and 7.2 and 7.3 take such an address of ftrace's own for a marked
        // one: a kprobe that shares its function with another user of ftrace then runs into the middle of nowhere.
        Flavour::Os => (
            "CONFIG_CC_OPTIMIZE_FOR_SIZE=y\nCONFIG_DEBUG_FORCE_FUNCTION_ALIGN_64B=y",
            "",
        ),
    };
    let fragment = format!("{TESTBED}{own}\n{checks}");
    match build {
        Build::Testbed | Build::OtherAbi => fragment,
        Build::WithoutLuo => without(&fragment, LUO),
        Build::WithoutMemfd => without(&fragment, MEMFD),
        Build::OwnLine => format!("{fragment}{OWN_LINE}"),
    }
}

/// A fragment in which an option is off, and nothing is said of the options whose names begin with it.
fn without(fragment: &str, option: &str) -> String {
    let others = fragment.lines().filter(|line| !line.starts_with(option));
    others
        .map(|line| format!("{line}\n"))
        .chain([format!("{option}=n\n")])
        .collect()
}

/// Checks that the final configuration `config` holds everything that `fragment` asks for, and
/// returns the options that the source tree `tree` does not know.
///
/// # Errors
/// The kernel knows an option and yet did not take it: something that it depends on is missing.
pub(super) fn verify(fragment: &str, config: &str, tree: &Path) -> Result<Vec<String>> {
    let refused = refused(fragment, config);
    if refused.is_empty() {
        return Ok(Vec::new());
    }
    let known = known(tree)?;
    let (lost, unknown): (Vec<_>, Vec<_>) = refused
        .into_iter()
        .map(str::to_owned)
        .partition(|line| known.contains(symbol(line)));
    if !lost.is_empty() {
        bail!(
            "this kernel knows these options of xtask/testbed/kernel/*.config but did not take them; \
             add what they depend on: {}",
            lost.join(", ")
        );
    }
    Ok(unknown)
}

/// The fragment's lines that the final configuration does not have. What is asked to be off may be
/// absent.
fn refused<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let set: HashSet<_> = config.lines().filter(|line| line.starts_with("CONFIG_")).collect();
    let asked = fragment.lines().filter(|line| line.starts_with("CONFIG_"));
    asked
        .filter(|line| match line.strip_suffix("=n") {
            Some(name) => set.contains(format!("{name}=y").as_str()),
            None => !set.contains(line),
        })
        .collect()
}

fn symbol(line: &str) -> &str {
    let line = line.strip_prefix("CONFIG_").unwrap_or(line);
    line.split_once('=').map_or(line, |(name, _)| name)
}

/// The names of all options that the tree's Kconfig files define.
fn known(tree: &Path) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    let mut pending = vec![tree.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let path: PathBuf = entry
                .with_context(|| format!("cannot read {}", directory.display()))?
                .path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else if name.starts_with("Kconfig") {
                let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                names.extend(defined(&String::from_utf8_lossy(&text)).map(str::to_owned));
            }
        }
    }
    Ok(names)
}

/// The names that one Kconfig file defines.
fn defined(kconfig: &str) -> impl Iterator<Item = &str> {
    kconfig.lines().filter_map(|line| {
        let (word, name) = line.trim().split_once(char::is_whitespace)?;
        matches!(word, "config" | "menuconfig").then_some(name.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flavours_differ_in_their_optimisation_and_what_it_needs() {
        let (o2, os) = (
            fragment(Flavour::O2, Build::Testbed),
            fragment(Flavour::Os, Build::Testbed),
        );
        let (o2, os): (HashSet<_>, HashSet<_>) = (o2.lines().collect(), os.lines().collect());
        assert_eq!(
            o2.difference(&os).collect::<Vec<_>>(),
            [&"CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y"]
        );
        let only_os: HashSet<_> = os.difference(&o2).copied().collect();
        let expected = [
            "CONFIG_CC_OPTIMIZE_FOR_SIZE=y",
            "CONFIG_DEBUG_FORCE_FUNCTION_ALIGN_64B=y",
        ];
        assert_eq!(only_os, HashSet::from(expected));
    }

    #[test]
    fn a_kernel_that_checks_itself_has_its_checks_and_all_of_the_usual_one() {
        let usual = fragment(Flavour::O2, Build::Testbed);
        let checks = fragment(Flavour::Debug, Build::Testbed);
        let checks = checks.strip_prefix(&usual).unwrap();
        assert!(checks.contains("CONFIG_KASAN=y\n") && checks.contains("CONFIG_PROVE_LOCKING=y\n"));
    }

    #[test]
    fn without_luo_all_of_luo_is_off_and_nothing_else_changes() {
        let fragment = |build| fragment(Flavour::O2, build);
        let (with, without) = (fragment(Build::Testbed), fragment(Build::WithoutLuo));
        let (with, without): (HashSet<_>, HashSet<_>) = (with.lines().collect(), without.lines().collect());
        assert!(
            with.difference(&without)
                .all(|line| line.starts_with("CONFIG_LIVEUPDATE"))
        );
        assert_eq!(without.difference(&with).collect::<Vec<_>>(), [&"CONFIG_LIVEUPDATE=n"]);
    }

    #[test]
    fn without_a_handler_that_one_is_off_and_nothing_else_changes() {
        let fragment = |build| fragment(Flavour::O2, build);
        let without = fragment(Build::WithoutMemfd);
        assert_eq!(
            without
                .replace("CONFIG_LIVEUPDATE_MEMFD=n", "CONFIG_LIVEUPDATE_MEMFD=y")
                .lines()
                .collect::<HashSet<_>>(),
            fragment(Build::Testbed).lines().collect()
        );
    }

    #[test]
    fn what_is_asked_for_must_be_in_the_final_configuration() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NR=8\nCONFIG_ON=y\nCONFIG_NAME=\"x\"\n";
        assert!(refused("# a comment\nCONFIG_A=y\nCONFIG_NR=8\nCONFIG_NAME=\"x\"\n", config).is_empty());
        assert!(
            refused("CONFIG_B=n\nCONFIG_UNHEARD_OF=n\n", config).is_empty(),
            "off is off"
        );
        assert_eq!(
            refused("CONFIG_B=y\nCONFIG_NR=4\nCONFIG_ON=n\n", config),
            ["CONFIG_B=y", "CONFIG_NR=4", "CONFIG_ON=n"]
        );
    }

    #[test]
    fn an_option_that_the_kernel_knows_and_refuses_is_an_error_and_an_unknown_one_is_told() {
        let tree = std::env::temp_dir().join(format!("xtask-config-{}", std::process::id()));
        fs::create_dir_all(tree.join("mm")).unwrap();
        fs::write(tree.join("Kconfig"), "menuconfig LIVEUPDATE\n\tbool \"Live update\"\n").unwrap();
        fs::write(
            tree.join("mm/Kconfig.debug"),
            "config FAILSLAB\n\tbool\n\thelp\n\t  config of nothing\n",
        )
        .unwrap();

        let unknown = verify("CONFIG_LIVEUPDATE=y\nCONFIG_FUTURE=y\n", "CONFIG_LIVEUPDATE=y\n", &tree).unwrap();
        assert_eq!(unknown, ["CONFIG_FUTURE=y"]);
        let lost = verify("CONFIG_LIVEUPDATE=y\nCONFIG_FAILSLAB=y\n", "", &tree)
            .unwrap_err()
            .to_string();
        assert!(lost.contains("CONFIG_LIVEUPDATE=y, CONFIG_FAILSLAB=y"), "{lost}");
        fs::remove_dir_all(tree).unwrap();
    }
}
