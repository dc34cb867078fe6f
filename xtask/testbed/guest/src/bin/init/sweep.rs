//! Does an operation of LUO over and over, each time with the next one of the kernel's allocations made to fail.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use testbed_guest::luo::{Device, Session};
use testbed_guest::protocol::Message;
use testbed_guest::scenario::{DeviceFile, FailNth, FailingOperation, Memfd};

use crate::{faults, files, system};

/// Which allocation fails, and in which session.
struct Try<'a> {
    n: u32,
    /// The session's name.
    name: Vec<u8>,
    step: &'a FailNth,
    device: &'a Device,
    sessions: &'a mut HashMap<Vec<u8>, Session>,
}

/// Fails every allocation of an operation, one after the other, and says how many there were.
///
/// # Errors
/// There were more than the step has tries for, or the operation failed though no allocation had.
pub(crate) fn sweep(step: &FailNth, device: &Device, sessions: &mut HashMap<Vec<u8>, Session>) -> Result<()> {
    faults::prepare()?;
    for n in 1..=step.count {
        let name = format!("{}-{}", step.prefix, n - 1).into_bytes();
        let attempt = Try {
            n,
            name,
            step,
            device,
            sessions,
        };
        let context = || format!("{:?}, allocation {n}", step.operation);
        let (result, failed) = attempt.perform().with_context(context)?;
        if failed {
            continue;
        }
        match (step.operation, result) {
            (FailingOperation::Reboot, Ok(())) => bail!("reboot(KEXEC) came back without an error"),
            (FailingOperation::Reboot, Err(_)) | (_, Ok(())) => {}
            (_, Err(errno)) => {
                return Err(errno).with_context(context).context("no allocation failed");
            }
        }
        system::say(&Message::Step {
            doing: format!("{:?}: failed {} allocations, each once", step.operation, n - 1),
        });
        return Ok(());
    }
    bail!("{} tries are not enough", step.count)
}

impl Try<'_> {
    /// What the operation answered, and whether an allocation failed in it.
    fn perform(mut self) -> Result<(Result<(), Errno>, bool)> {
        let n = self.n;
        match self.step.operation {
            FailingOperation::Create => {
                let prefix = self.step.prefix.as_bytes();
                faults::nth(n, || self.device.create_session(prefix).map(drop))
            }
            FailingOperation::PreserveMemfd => {
                let memfd = files::create(&Memfd {
                    name: "memfd".into(),
                    size: 8192.into(),
                    seed: n.into(),
                    sealed: false,
                    holes: false,
                })?;
                let session = self.open()?;
                faults::nth(n, || session.preserve(&memfd, u64::MAX))
            }
            FailingOperation::PreserveDevice => {
                let file = files::open_device(&DeviceFile {
                    node: "hugetlb".into(),
                    name: "device".into(),
                    size: 8192.into(),
                    seed: n.into(),
                })?;
                let session = self.open()?;
                faults::nth(n, || session.preserve(&file, u64::MAX))
            }
            FailingOperation::RetrieveSession => {
                let (result, failed) = faults::nth(n, || self.device.retrieve_session(&self.name))?;
                let result = result.map(|session| {
                    self.sessions.insert(self.name, session);
                });
                Ok((result, failed))
            }
            FailingOperation::Retrieve => {
                let session = self.incoming()?;
                faults::nth(n, || session.retrieve(0).map(drop))
            }
            FailingOperation::Finish => {
                let session = self.incoming()?;
                faults::nth(n, || session.finish())
            }
            FailingOperation::Reboot => faults::nth(n, system::kexec),
        }
    }

    /// The session, which an earlier step has opened.
    fn open(&self) -> Result<&Session> {
        let name = self.name.escape_ascii();
        self.sessions
            .get(&self.name)
            .with_context(|| format!("the session {name} is not open"))
    }

    /// The incoming session, retrieved now if it is not yet.
    fn incoming(&mut self) -> Result<&Session> {
        if !self.sessions.contains_key(&self.name) {
            let session = self.device.retrieve_session(&self.name)?;
            self.sessions.insert(self.name.clone(), session);
        }
        self.open()
    }
}
