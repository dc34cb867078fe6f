//! What has opened the device, sessions and files, and does the steps that are about them: the driver, and each of several
//! threads beside the others.

use std::collections::HashMap;
use std::fs::File;
use std::mem;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::io::Errno;
use testbed_guest::luo::{Device, Session};
use testbed_guest::protocol::Message;
use testbed_guest::scenario::{ErrnoName, Failing, PreserveOther, SessionName, Step, Stranger, Together};

use crate::driver::describe;
use crate::{faults, files, system};

/// A file in memory that has a name, as no memfd has.
const NAMED: &str = "/dev/named";

/// A number that no descriptor has.
const CLOSED: i32 = 1 << 20;

/// What the steps so far have opened.
#[derive(Default)]
pub(crate) struct Hands {
    /// Opened when it is first needed, and held until `close-device`. While it is closed a program of the scenario can have it.
    pub(crate) device: Option<Device>,
    pub(crate) sessions: HashMap<Vec<u8>, Session>,
    files: HashMap<String, File>,
    /// Whether policy only looks, so that nothing fails with `EPERM`.
    pub(crate) looks_only: bool,
    /// Which allocation of the next call fails.
    nth: Option<u32>,
}

impl Hands {
    /// Does one step, if it is about a session or its files; an error says what was expected and what came.
    pub(crate) fn perform(&mut self, step: &Step) -> Result<bool> {
        match step {
            Step::CreateSession(step) => self.open_session(&step.name, step.fails, Device::create_session)?,
            Step::CreateMisnamed(step) => {
                let name = vec![b'n'; step.bytes];
                expect(self.device()?.create_session(&name), Some(step.fails)).map(drop)?;
            }
            Step::RetrieveSession(step) => self.open_session(&step.name, step.fails, Device::retrieve_session)?,
            Step::CloseSession(step) => {
                self.session(&step.name)?;
                self.sessions.remove(step.name.bytes());
            }
            Step::Preserve(step) => {
                let memfd = files::create(&step.memfd)?;
                let result = self.call(|| Ok(self.session(&step.session)?.preserve(&memfd, step.token)))?;
                self.files.insert(step.memfd.name.clone(), memfd);
                self.expect(result, step.fails).map(drop)?;
            }
            Step::PreserveAgain(step) => {
                let memfd = self.file(&step.memfd)?;
                let result = self.call(|| Ok(self.session(&step.session)?.preserve(memfd, step.token)))?;
                self.expect(result, step.fails).map(drop)?;
            }
            Step::PreserveOther(step) => self.preserve_other(step)?,
            Step::Refill(step) => {
                let file = self.files.get_mut(&step.memfd.name);
                let file = file.with_context(|| format!("no earlier step made the file {:?}", step.memfd.name))?;
                files::refill(file, &step.memfd)?;
            }
            Step::Retrieve(step) => {
                let result = self.session(&step.session)?.retrieve(step.token);
                if let (Some(file), Some(wanted)) = (self.expect(result, step.fails)?, &step.memfd) {
                    let mut file = File::from(file);
                    files::compare(&mut file, wanted)?;
                    self.files.insert(wanted.name.clone(), file);
                }
            }
            Step::PreserveDevice(step) => {
                let file = files::open_device(&step.device)?;
                let result = self.call(|| Ok(self.session(&step.session)?.preserve(&file, step.token)))?;
                self.files.insert(step.device.name.clone(), file);
                self.expect(result, step.fails).map(drop)?;
            }
            Step::RetrieveDevice(step) => {
                let result = self.session(&step.session)?.retrieve(step.token);
                if let (Some(file), Some(wanted)) = (self.expect(result, step.fails)?, &step.device) {
                    let mut file = File::from(file);
                    files::compare_device(&mut file, wanted)?;
                    self.files.insert(wanted.name.clone(), file);
                }
            }
            Step::Finish(step) => {
                let result = self.call(|| Ok(self.session(&step.session)?.finish()))?;
                if self.expect(result, step.fails)?.is_some() {
                    self.sessions.remove(step.session.bytes());
                }
            }
            Step::Failing(Failing { nth, step }) => {
                faults::prepare()?;
                self.nth = Some(*nth);
                let done = self.perform(step);
                self.nth = None;
                return done;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Does a call, in which an allocation may have to fail; where the call fails for that, it is made again.
    fn call<T>(&self, call: impl Fn() -> Result<Result<T, Errno>>) -> Result<Result<T, Errno>> {
        let Some(nth) = self.nth else { return call() };
        match faults::nth(nth, &call)? {
            (Ok(Err(_)), true) => call(),
            (result, _) => result,
        }
    }

    fn open_session(
        &mut self,
        name: &SessionName,
        fails: Option<ErrnoName>,
        open: impl Fn(&Device, &[u8]) -> Result<Session, Errno>,
    ) -> Result<()> {
        self.device()?;
        let device = self.device.as_ref().context("the device is not open")?;
        let opened = self.call(|| Ok(open(device, name.bytes())))?;
        if let Some(session) = self.expect(opened, fails)? {
            if self.sessions.contains_key(name.bytes()) {
                // Later steps mean the first one. A faulty kernel that gave the same one twice would free it twice.
                mem::forget(session);
            } else {
                self.sessions.insert(name.bytes().to_vec(), session);
            }
        }
        Ok(())
    }

    fn preserve_other(&self, step: &PreserveOther) -> Result<()> {
        let session = self.session(&step.session)?;
        let open = |path: &str| {
            let options = File::options().read(true).write(true).create(true).to_owned();
            options.open(path).with_context(|| format!("cannot open {path}"))
        };
        let result = match step.what {
            Stranger::Null => session.preserve(&open("/dev/null")?, step.token),
            Stranger::Named => session.preserve(&open(NAMED)?, step.token),
            Stranger::Session => session.preserve_number(session.number(), step.token),
            Stranger::Closed => session.preserve_number(CLOSED, step.token),
        };
        expect(result, Some(step.fails)).map(drop)
    }

    /// Has threads do steps side by side; each of them has the sessions and files that its steps are about.
    pub(crate) fn together(&mut self, step: &Together) -> Result<()> {
        let mut all = Vec::new();
        for steps in &step.threads {
            let mut hands = Hands {
                device: Some(self.device()?.share()?),
                looks_only: self.looks_only,
                ..Hands::default()
            };
            let sessions = steps.iter().filter_map(Step::session);
            hands
                .sessions
                .extend(sessions.filter_map(|name| self.sessions.remove_entry(name.bytes())));
            let files = steps.iter().filter_map(Step::file);
            hands
                .files
                .extend(files.filter_map(|name| self.files.remove_entry(name)));
            all.push((steps, hands));
        }
        thread::scope(|scope| {
            let one = |(steps, mut hands): (&'_ Vec<Step>, Hands)| {
                let mut done = steps.iter().map(|step| hands.perform_told(step));
                let done = done.try_for_each(|done| done);
                (done, hands)
            };
            let threads: Vec<_> = all.into_iter().map(|work| scope.spawn(move || one(work))).collect();
            let mut all_done = Ok(());
            for thread in threads {
                let (done, hands) = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
                self.sessions.extend(hands.sessions);
                self.files.extend(hands.files);
                all_done = all_done.and(done);
            }
            all_done
        })
    }

    /// Says which step comes, and does it, in a thread beside others.
    fn perform_told(&mut self, step: &Step) -> Result<()> {
        let doing = describe(step);
        system::say(&Message::Step { doing: doing.clone() });
        match self.perform(step).with_context(|| doing.clone())? {
            true => Ok(()),
            false => bail!("{doing}: no step for threads side by side"),
        }
    }

    /// What the kernel answered, if that is what the scenario wants: `None` for a failure that was wanted.
    pub(crate) fn expect<T>(&self, result: Result<T, Errno>, fails: Option<ErrnoName>) -> Result<Option<T>> {
        match (&result, fails) {
            (Err(Errno::PERM), _) if self.looks_only => bail!("it was refused, though policy only looks"),
            (_, Some(wanted)) if self.looks_only && wanted.errno() == Errno::PERM => Ok(None),
            _ => expect(result, fails),
        }
    }

    /// The device, opened where it is not.
    pub(crate) fn device(&mut self) -> Result<&Device> {
        if self.device.is_none() {
            self.device = Some(Device::open().context("cannot open /dev/liveupdate")?);
        }
        self.device.as_ref().context("the device is not open")
    }

    pub(crate) fn session(&self, name: &SessionName) -> Result<&Session> {
        self.sessions
            .get(name.bytes())
            .with_context(|| format!("no earlier step opened the session {name}"))
    }

    fn file(&self, name: &str) -> Result<&File> {
        let file = self.files.get(name);
        file.with_context(|| format!("no earlier step made the file {name:?}"))
    }
}

/// What the kernel answered, if that is what the scenario wants: `None` for a failure that was wanted.
pub(crate) fn expect<T>(result: Result<T, Errno>, fails: Option<ErrnoName>) -> Result<Option<T>> {
    match (result, fails) {
        (Ok(value), None) => Ok(Some(value)),
        (Ok(_), Some(wanted)) => bail!("the kernel allowed it, but it had to fail with {wanted}"),
        (Err(errno), Some(wanted)) if errno == wanted.errno() => Ok(None),
        (Err(errno), Some(wanted)) => bail!("the kernel refused with \"{errno}\" instead of {wanted}"),
        (Err(errno), None) => bail!("the kernel refused with \"{errno}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_other_than_the_wanted_one_is_an_error() {
        let eexist = || Some(ErrnoName::try_from("EEXIST".to_owned()).unwrap());
        assert_eq!(expect(Ok(1), None).unwrap(), Some(1));
        assert_eq!(expect::<u8>(Err(Errno::EXIST), eexist()).unwrap(), None);
        assert!(expect(Ok(1), eexist()).is_err());
        assert!(expect::<u8>(Err(Errno::BUSY), eexist()).is_err());
        assert!(expect::<u8>(Err(Errno::BUSY), None).is_err());
    }
}
