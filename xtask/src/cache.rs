//! The directory outside the repo where everything slow to get is kept: package lists, kernel
//! sources, build directories, finished kernels, tools. `xtask/README.md` says what lies where.

use std::{
    env,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The cache directory: `$LUO_TRACE_CACHE`, else `$XDG_CACHE_HOME/luo-trace`, else
/// `$HOME/.cache/luo-trace`. `luo-trace/build.rs` follows the same rule to find the BPF linker.
///
/// # Errors
/// None of the three variables is set, or the one that counts holds no absolute path.
pub(crate) fn dir() -> Result<PathBuf> {
    choose(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

/// A directory inside the cache, made if it is not there.
///
/// # Errors
/// There is no cache directory, or it cannot be written.
pub(crate) fn subdir(name: &str) -> Result<PathBuf> {
    let path = dir()?.join(name);
    fs::create_dir_all(&path).with_context(|| {
        format!(
            "cannot make {}; set LUO_TRACE_CACHE to a directory that can be written",
            path.display()
        )
    })?;
    Ok(path)
}

/// Takes the lock `name`, so that two invocations never do the same work at the same time. The
/// lock ends with the returned file, or with the process. Says so when it has to wait.
///
/// # Errors
/// The lock file cannot be made, or the file system knows no locks.
pub(crate) fn lock(name: &str) -> Result<File> {
    lock_at(&subdir("lock")?.join(name))
}

/// The same with a lock file anywhere, whose name says what is worked on.
///
/// # Errors
/// As for [`lock`].
pub(crate) fn lock_at(path: &Path) -> Result<File> {
    let name = path.file_name().unwrap_or_default().display();
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("waiting for another xtask that works on {name}"),
        Err(TryLockError::Error(why)) => return Err(why).with_context(|| format!("cannot lock {}", path.display())),
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn choose(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    for (name, below) in [
        ("LUO_TRACE_CACHE", ""),
        ("XDG_CACHE_HOME", "luo-trace"),
        ("HOME", ".cache/luo-trace"),
    ] {
        if let Some(base) = variable(name) {
            if base.is_relative() {
                bail!(
                    "{name} is '{}', but the cache must not depend on the working directory: make it an absolute path",
                    base.display()
                );
            }
            return Ok(if below.is_empty() { base } else { base.join(below) });
        }
    }
    bail!("no place for the cache: set LUO_TRACE_CACHE to a directory with 10 GB of room")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)]) -> Result<PathBuf> {
        choose(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| PathBuf::from(value))
        })
    }

    #[test]
    fn the_most_specific_variable_names_the_cache() {
        let home = ("HOME", "/home/ann");
        let xdg = ("XDG_CACHE_HOME", "/var/ann");
        let own = ("LUO_TRACE_CACHE", "/big/luo");
        assert_eq!(chosen(&[home]).unwrap(), PathBuf::from("/home/ann/.cache/luo-trace"));
        assert_eq!(chosen(&[home, xdg]).unwrap(), PathBuf::from("/var/ann/luo-trace"));
        assert_eq!(chosen(&[home, xdg, own]).unwrap(), PathBuf::from("/big/luo"));
    }

    #[test]
    fn a_relative_cache_or_none_is_refused_with_the_variable_to_set() {
        assert!(
            chosen(&[("LUO_TRACE_CACHE", "cache")])
                .unwrap_err()
                .to_string()
                .contains("absolute")
        );
        assert!(chosen(&[]).unwrap_err().to_string().contains("LUO_TRACE_CACHE"));
    }
}
