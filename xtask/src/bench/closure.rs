//! A dynamic program of this machine with everything it needs to run elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::run;

/// The program, to be found at `place`, and its libraries and loader where it looks for them: place and origin of each.
///
/// # Errors
/// `ldd` fails.
pub(super) fn of(program: &Path, place: &str) -> Result<Vec<(String, PathBuf)>> {
    let listing = run::output(Command::new("ldd").arg(program))?;
    let mut files = vec![(place.to_owned(), program.to_owned())];
    files.extend(libraries(&listing).map(|path| (path.trim_start_matches('/').to_owned(), PathBuf::from(path))));
    Ok(files)
}

/// The paths in what `ldd` prints: `NAME => PATH (ADDRESS)`, or for the loader `PATH (ADDRESS)`.
fn libraries(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path);
        line.split_whitespace().next().filter(|path| path.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn libraries_and_loader_are_found_and_what_the_kernel_brings_is_not() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f0e)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f10)\n";
        assert_eq!(
            libraries(listing).collect::<Vec<_>>(),
            ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
    }
}
