//! What `--web-config` says, as it stands now: the file, and those that it names, are read again when they change.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio_rustls::TlsAcceptor;

use super::config::{ClientAuth, WebConfig};
use super::guard::Users;
use super::tls;

/// More bytes than any of the files has.
const LONGEST: u64 = 1 << 20;

/// How the port is protected.
pub struct Access {
    path: Option<PathBuf>,
    /// The files that were read, or tried to be, and what each was like before.
    seen: Vec<(PathBuf, Option<Stamp>)>,
    now: Rules,
}

/// What a connection that begins now has to obey.
#[derive(Clone, Default)]
pub(super) struct Rules {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) users: Option<Arc<Users>>,
    /// Whether a client has to have a certificate of a known authority.
    certificate: bool,
}

/// What tells a file from what it was before: device, inode, size, and the time of its last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Access {
    /// Reads the file; without one, nothing is protected.
    ///
    /// # Errors
    /// Where it, or a file that it names, cannot be read or used.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let mut access = Self {
            path: path.map(Path::to_owned),
            seen: Vec::new(),
            now: Rules::default(),
        };
        access.read()?;
        Ok(access)
    }

    /// Why a port at an address that is not this machine's alone is open to others, in a sentence.
    pub fn warning(&self) -> Option<String> {
        let Rules {
            tls,
            users,
            certificate,
        } = &self.now;
        let missing = match (tls.is_some(), users.is_some() || *certificate) {
            (true, true) => return None,
            (true, false) => "without a password: every peer that reaches it can read the names of sessions",
            (false, true) => "without TLS: passwords and the names of sessions can be read on the way",
            (false, false) => {
                "without TLS and without a password: every peer that reaches it can read the names of sessions"
            }
        };
        Some(format!(
            "the port is open to the network {missing}. Give --web-config FILE, or listen on 127.0.0.1"
        ))
    }

    /// The rules as they stand now. Of a file that has changed and cannot be used any more the old rules stay, and `tell` is told.
    pub(super) fn rules(&mut self, tell: &dyn Fn(String)) -> Rules {
        if self.seen.iter().any(|(path, before)| stamp(path) != *before) {
            let path = self.path.as_deref().unwrap_or(Path::new("")).display().to_string();
            match self.read() {
                Ok(()) => tell(format!("{path} was read again")),
                Err(error) => tell(format!("{error:#}; the port goes on with what {path} said before")),
            }
        }
        self.now.clone()
    }

    fn read(&mut self) -> Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        // The stamps are older than what is read: a change in between is seen the next time.
        let named = self.seen.drain(..).map(|(path, _)| path).collect::<Vec<_>>();
        self.see([path.clone()].into_iter().chain(named));
        let text = String::from_utf8(read(&path)?).with_context(|| format!("{} is not text", path.display()))?;
        let config = WebConfig::read(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
        let config = config.beside(path.parent().unwrap_or(Path::new("")));
        let files = config.tls.iter().flat_map(|tls| tls.files());
        self.seen.clear();
        self.see([path].into_iter().chain(files.map(Path::to_owned)));
        let certificate = |tls: &super::config::Tls| tls.client_auth_type == ClientAuth::RequireAndVerifyClientCert;
        self.now = Rules {
            certificate: config.tls.as_ref().is_some_and(certificate),
            tls: config.tls.as_ref().map(|tls| tls::acceptor(tls, read)).transpose()?,
            users: Users::new(config.users)?.map(Arc::new),
        };
        Ok(())
    }

    fn see(&mut self, paths: impl Iterator<Item = PathBuf>) {
        for path in paths {
            if self.seen.iter().all(|(seen, _)| *seen != path) {
                let stamp = stamp(&path);
                self.seen.push((path, stamp));
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino(), of.size(), of.ctime(), of.ctime_nsec()))
}

/// A regular file of no unreasonable size.
fn read(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    ensure!(
        fs::metadata(path).with_context(context)?.is_file(),
        "{} is no regular file",
        path.display()
    );
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(context)?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).with_context(context)?;
    ensure!(
        bytes.len() as u64 <= LONGEST,
        "{} is longer than {LONGEST} bytes",
        path.display()
    );
    Ok(bytes)
}
