//! Where an operator's orders outlive an agent: a file beside its socket.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::files;
use crate::policy::orders::{LONGEST_KEPT, Standing};

/// The file of the agent whose socket is at some path.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The file beside a socket. Nothing is touched yet.
    pub fn beside(socket: &Path) -> Self {
        Self {
            path: socket.with_extension("orders"),
        }
    }

    /// What stands of what was kept, as of `now`. What cannot be read counts as a hold, and the error is for the user who can mend
    /// it.
    pub fn read(&self, boot_id: &str, now: u64) -> (Standing, Option<anyhow::Error>) {
        let text = match self.text() {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Standing::default(), None),
            Err(error) => return self.damaged(&error.to_string(), now),
        };
        match Standing::kept(&text, boot_id, now) {
            Ok(standing) => (standing, None),
            Err(why) => self.damaged(&why, now),
        }
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        let file = files::open_to_read(&self.path)?;
        let mut text = Vec::new();
        file.take(LONGEST_KEPT + 1).read_to_end(&mut text)?;
        match text.len() as u64 {
            0..=LONGEST_KEPT => Ok(text),
            _ => Err(io::Error::other(format!("it has more than {LONGEST_KEPT} bytes"))),
        }
    }

    fn damaged(&self, why: &str, now: u64) -> (Standing, Option<anyhow::Error>) {
        let error = anyhow::anyhow!(
            "{}: {why}. There may have been a hold, so this host is held until `luo-trace policy clear`",
            self.path.display()
        );
        (Standing::of_damage(why, now), Some(error))
    }

    /// Keeps these orders in place of those before, as a whole or not at all. Nothing waits for a disk: after a crash of
    /// the machine they are another boot's, and void.
    ///
    /// # Errors
    /// Where the file cannot be written; then the ones before are still there.
    pub fn write(&self, standing: &Standing, boot_id: &str) -> Result<()> {
        let text = standing.keep(boot_id);
        files::replace(&self.path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Removes the file; gives whether there was one.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&self) -> Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use luo_trace_common::policy::Mode;

    use super::*;
    use crate::policy::orders::Order;

    fn held() -> Standing {
        let mut standing = Standing::default();
        let order = Order::Hold {
            reason: "disk swap".into(),
            for_ns: None,
        };
        standing.take(&order, 7, Mode::Enforce, 1);
        standing
    }

    #[test]
    fn orders_are_kept_and_read_and_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::beside(&dir.path().join("agent.sock"));
        assert_eq!(store.read("boot", 2).0, Standing::default());
        store.write(&Standing::default(), "boot").unwrap();
        store.write(&held(), "boot").unwrap();
        let (standing, trouble) = store.read("boot", 2);
        assert_eq!(standing, held());
        assert!(trouble.is_none());
        let mode = fs::metadata(dir.path().join("agent.orders"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // Nothing else is left beside it.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(store.remove().unwrap());
        assert!(!store.remove().unwrap());
        assert_eq!(store.read("boot", 2).0, Standing::default());
    }

    #[test]
    fn orders_are_never_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::beside(&dir.path().join("agent.sock"));
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("agent.orders.new")).unwrap();
        store.write(&held(), "boot").unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
        assert_eq!(store.read("boot", 2).0, held());
    }

    #[test]
    fn what_is_no_orders_file_is_a_hold_that_says_which_file_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::beside(&dir.path().join("agent.sock"));
        let path = dir.path().join("agent.orders");
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, held().keep("boot")).unwrap();
        type Spoil = fn(&Path, &Path) -> io::Result<()>;
        let spoilt: [Spoil; 4] = [
            |path, _| fs::write(path, "{\"version\":1,"),
            |path, _| fs::write(path, vec![b' '; LONGEST_KEPT as usize + 1]),
            |path, _| fs::create_dir(path),
            |path, elsewhere| std::os::unix::fs::symlink(elsewhere, path),
        ];
        for spoil in spoilt {
            spoil(&path, &elsewhere).unwrap();
            let (standing, trouble) = store.read("boot", 2);
            assert!(standing.hold.is_some());
            let trouble = trouble.unwrap().to_string();
            assert!(
                trouble.contains("agent.orders") && trouble.contains("policy clear"),
                "{trouble}"
            );
            _ = fs::remove_dir(&path);
            _ = fs::remove_file(&path);
        }
    }
}
