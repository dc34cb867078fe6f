//! Keeping the directory of journals within what its options say, and telling what went.

use std::path::Path;
use std::time::SystemTime;

use crate::journal::{Limits, Pruned, newer, prune};
use crate::sink::log::tell;
use crate::text::units::bytes;

/// Removes what is more than `limits` from a directory of journals, and tells so. Where that cannot be done the agent goes on.
pub fn keep_within(dir: &Path, running: &str, limits: &Limits) {
    match prune(dir, running, limits, SystemTime::now()) {
        Ok(pruned) => words(&pruned, limits).into_iter().for_each(tell),
        Err(error) => tell(format_args!(
            "the journals in {} cannot be looked through: {error}",
            dir.display()
        )),
    }
}

/// Tells which journals in a directory a newer luo-trace has begun, as after a downgrade: they stay as they are.
pub fn tell_newer(dir: &Path) {
    // A directory that cannot be read is told of where it is looked through.
    for unreadable in newer(dir).unwrap_or_default() {
        tell(format_args!(
            "{} is left as it is: {}",
            unreadable.journal.display(),
            unreadable.error
        ));
    }
}

fn words(pruned: &Pruned, limits: &Limits) -> Vec<String> {
    let removed = pruned.removed.iter().map(|removed| {
        let option = match removed.for_size {
            true => "--journal-max-size",
            false => "--journal-keep",
        };
        let size = bytes(removed.bytes);
        format!(
            "the journal of boot {} was removed ({size}): more than {option} keeps",
            removed.boot
        )
    });
    let left = pruned.left.iter().map(|(path, why)| {
        format!(
            "{} has the name of a journal that was to be removed, and is left alone: {why}",
            path.display()
        )
    });
    let too_much = (pruned.size > limits.size).then(|| {
        format!(
            "the journals that are always kept may take {}, more than --journal-max-size {}: move older ones away, or allow more",
            bytes(pruned.size),
            bytes(limits.size)
        )
    });
    removed.chain(left).chain(too_much).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Keep, Removed};

    #[test]
    fn what_went_and_what_could_not_is_told_with_the_option() {
        let removed = |boot: &str, for_size| Removed {
            boot: boot.into(),
            bytes: 5 << 20,
            for_size,
        };
        let pruned = Pruned {
            removed: vec![removed("a", false), removed("b", true)],
            left: vec![("c.luoj".into(), "it is locked".into())],
            size: 40 << 20,
        };
        let limits = Limits {
            size: 16 << 20,
            keep: Keep::Boots(50),
        };
        let words = words(&pruned, &limits);
        assert_eq!(words.len(), 4);
        assert!(
            words[0].contains("boot a was removed (5.0 MiB): more than --journal-keep"),
            "{words:?}"
        );
        assert!(
            words[1].contains("boot b") && words[1].contains("--journal-max-size"),
            "{words:?}"
        );
        assert!(words[2].contains("c.luoj") && words[2].contains("locked"), "{words:?}");
        assert!(
            words[3].contains("40.0 MiB, more than --journal-max-size 16.0 MiB"),
            "{words:?}"
        );
    }
}
