//! Keeping the memory in systemd's file descriptor store, which has it preserved by LUO where the service's unit says so.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use luo_trace_common::OWN_SESSION;
use sd_notify::NotifyState;

use super::{Tried, read};

/// The fd store, and what was in it.
#[derive(Debug)]
pub(super) struct Keeper {
    passed: Vec<OwnedFd>,
}

impl Keeper {
    /// Takes what systemd passed to this process under our name.
    ///
    /// # Errors
    /// Where systemd contradicts itself.
    pub(super) fn new() -> Result<Self> {
        let passed = sd_notify::listen_fds_with_names().context("what systemd passed to the agent cannot be taken")?;
        let passed = passed
            .filter(|(_, name)| name == OWN_SESSION)
            // SAFETY: systemd made these descriptors for this process before it began, and nothing else here takes them.
            .map(|(fd, _)| unsafe { OwnedFd::from_raw_fd(fd) })
            .collect();
        Ok(Self { passed })
    }

    pub(super) fn attempt(&mut self, memfd: &OwnedFd) -> Tried {
        let mut tried = Tried {
            arrived: self.passed.drain(..).map(read).collect(),
            ..Tried::default()
        };
        // What is stored under our name now has been taken; what is stored in its place is this boot's.
        let name = || NotifyState::FdName(OWN_SESSION);
        let stored = sd_notify::notify(&[NotifyState::FdStoreRemove, name()])
            .and_then(|()| sd_notify::notify_with_fds(&[NotifyState::FdStore, name()], &[memfd.as_fd()]));
        match stored {
            Ok(()) => tried.said = Some("the end of the journal goes over a kexec in systemd's fd store".into()),
            Err(error) => {
                let text =
                    format!("the journal is not carried over a kexec: systemd's fd store cannot be reached: {error}");
                (tried.trouble, tried.again) = (Some(text), true);
            }
        }
        tried
    }
}
