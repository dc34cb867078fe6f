//! Keeping the memory in a session of LUO's.

use std::io;
use std::os::fd::OwnedFd;

use luo_trace_common::OWN_SESSION;

use super::device::{Device, Session};
use super::{Foreign, TOKEN, Tried, read};

/// The session of our own.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// While it is open, the memory is preserved: closing it gives it up.
    kept: Option<Session>,
    /// What came over has been asked for.
    asked: bool,
    /// A session of our name that is not ours. Closing it would throw away what is in it.
    foreign: Option<Session>,
}

impl Keeper {
    /// Opens the device for as long as two calls take; the rest goes without it.
    pub(super) fn attempt(&mut self, memfd: &OwnedFd, foreign: &Foreign) -> Tried {
        let device = match Device::open() {
            Ok(device) => device,
            Err(error) => return no_device(&error),
        };
        let may_ask = !self.asked && !foreign.is_theirs();
        let incoming = may_ask.then(|| device.retrieve_session(OWN_SESSION));
        let outgoing = device.create_session(OWN_SESSION);
        drop(device);
        self.asked = true;

        let mut tried = Tried::default();
        let preserved = outgoing.and_then(|session| session.preserve(memfd, TOKEN).map(|()| session));
        match preserved {
            Ok(session) => {
                self.kept = Some(session);
                tried.said = Some(format!(
                    "the end of the journal goes over a kexec in the session {OWN_SESSION}"
                ));
            }
            Err(error) => tried.trouble = Some(refused(&error)),
        }
        match incoming {
            Some(Ok(session)) => match session.retrieve(TOKEN) {
                Ok(memfd) => {
                    tried.arrived.push(read(memfd));
                    // Where it fails, closing the session tries it once more, and the hooks tell of it.
                    _ = session.finish();
                }
                Err(error) => {
                    let why = format!(
                        "a session {OWN_SESSION} came over the kexec that this agent did not make ({error}); it is kept as \
                         it is while the agent runs: give the session another name"
                    );
                    tried.arrived.push(Err(io::Error::other(why)));
                    self.foreign = Some(session);
                }
            },
            Some(Err(error)) if error.raw_os_error() != Some(libc::ENOENT) => tried.arrived.push(Err(error)),
            Some(Err(_)) | None => {}
        }
        tried
    }
}

fn no_device(error: &io::Error) -> Tried {
    let (why, again) = match error.raw_os_error() {
        Some(libc::EBUSY) => (
            "another process has /dev/liveupdate open; trying again until it is free".to_owned(),
            true,
        ),
        Some(libc::ENOENT) => (
            "there is no /dev/liveupdate: boot with kho=on liveupdate=on".to_owned(),
            false,
        ),
        Some(libc::EIO) => (
            "this kernel could not read in what the previous one left".to_owned(),
            false,
        ),
        _ => (format!("/dev/liveupdate cannot be opened: {error}"), false),
    };
    Tried {
        trouble: Some(not_carried(&why)),
        again,
        ..Tried::default()
    }
}

fn refused(error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::EEXIST) => format!("another program has made a session {OWN_SESSION}; give that one another name"),
        Some(libc::ENOENT | libc::EOPNOTSUPP) => format!("this kernel has no handler that preserves a memfd ({error})"),
        Some(libc::ENOMEM) => format!("LUO has no memory for it ({error}); use a smaller --carry-kib"),
        _ => format!("LUO refuses it: {error}"),
    };
    not_carried(&why)
}

fn not_carried(why: &str) -> String {
    format!("the journal is not carried over a kexec: {why}")
}
