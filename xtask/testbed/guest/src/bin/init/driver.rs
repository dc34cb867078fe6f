//! Does a scenario's steps against `/dev/liveupdate`, and checks what the kernel answers.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::mem;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use testbed_guest::content;
use testbed_guest::luo::{Device, Session};
use testbed_guest::protocol::Message;
use testbed_guest::scenario::{
    BothModes, Churn, DeniedThroughout, DeviceFile, ErrnoName, Load, ManySessions, Memfd, RefusedThroughout, Run,
    SessionName, Step, WriteFile,
};

use crate::agent::{Agent, PATIENCE};
use crate::{bench, bpf, callers, churn, faults, flood, guise, squat, sweep, system, without};

/// Content is written and compared by this many bytes.
const CHUNK: usize = 1 << 20;

/// What the steps so far have opened.
pub(crate) struct Driver<'a, 's> {
    boot: u32,
    agent: &'a mut Agent<'s>,
    bpf_at_boot: &'a bpf::Objects,
    device: Option<Device>,
    sessions: HashMap<Vec<u8>, Session>,
    files: HashMap<String, File>,
    /// Whether policy only looks, so that nothing fails with `EPERM`.
    looks_only: bool,
}

impl<'a, 's> Driver<'a, 's> {
    /// A driver that has opened nothing yet.
    pub(crate) fn new(boot: u32, agent: &'a mut Agent<'s>, bpf_at_boot: &'a bpf::Objects) -> Self {
        Driver {
            boot,
            agent,
            bpf_at_boot,
            device: None,
            sessions: HashMap::new(),
            files: HashMap::new(),
            looks_only: false,
        }
    }

    /// Says which step comes, and does it.
    pub(crate) fn perform_told(&mut self, step: &Step) -> Result<()> {
        let doing = describe(step);
        if !matches!(step, Step::As(_)) {
            system::say(&Message::Step { doing: doing.clone() });
        }
        self.perform(step).context(doing)
    }

    /// Does one step; an error says what was expected and what came.
    pub(crate) fn perform(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::CreateSession(step) => self.open_session(&step.name, step.fails, Device::create_session),
            Step::RetrieveSession(step) => self.open_session(&step.name, step.fails, Device::retrieve_session),
            Step::CloseSession(step) => {
                self.session(&step.name)?;
                self.sessions.remove(step.name.bytes());
                Ok(())
            }
            Step::KeepSessions(_) => {
                self.sessions.drain().for_each(|(_, session)| mem::forget(session));
                Ok(())
            }
            Step::Preserve(step) => {
                let memfd = create(&step.memfd)?;
                let result = self.session(&step.session)?.preserve(&memfd, step.token);
                self.files.insert(step.memfd.name.clone(), memfd);
                self.expect(result, step.fails).map(drop)
            }
            Step::PreserveAgain(step) => {
                let memfd = self.files.get(&step.memfd);
                let memfd = memfd.with_context(|| format!("no earlier step made the file {:?}", step.memfd))?;
                self.expect(self.session(&step.session)?.preserve(memfd, step.token), step.fails)
                    .map(drop)
            }
            Step::Retrieve(step) => {
                let result = self.session(&step.session)?.retrieve(step.token);
                if let (Some(file), Some(wanted)) = (self.expect(result, step.fails)?, &step.memfd) {
                    let mut file = File::from(file);
                    compare(&mut file, wanted)?;
                    self.files.insert(wanted.name.clone(), file);
                }
                Ok(())
            }
            Step::PreserveDevice(step) => {
                let file = open_device(&step.device)?;
                let result = self.session(&step.session)?.preserve(&file, step.token);
                self.files.insert(step.device.name.clone(), file);
                self.expect(result, step.fails).map(drop)
            }
            Step::RetrieveDevice(step) => {
                let result = self.session(&step.session)?.retrieve(step.token);
                if let (Some(file), Some(wanted)) = (self.expect(result, step.fails)?, &step.device) {
                    let mut file = File::from(file);
                    compare_content(&mut file, wanted.seed, wanted.size.bytes())?;
                    self.files.insert(wanted.name.clone(), file);
                }
                Ok(())
            }
            Step::Finish(step) => {
                if self
                    .expect(self.session(&step.session)?.finish(), step.fails)?
                    .is_some()
                {
                    self.sessions.remove(step.session.bytes());
                }
                Ok(())
            }
            Step::OpenDevice(step) => {
                self.device = self.expect(open(), step.fails)?;
                Ok(())
            }
            Step::OpenTwice(step) => {
                self.device()?;
                self.expect(open(), step.fails).map(drop)
            }
            Step::CloseDevice(_) => {
                self.device = None;
                Ok(())
            }
            Step::Load(step) => self.load(step),
            Step::Unload(step) => self.expect(system::unload_kernel(step.how)?, None).map(drop),
            Step::Reboot(step) => self.expect(callers::reboot(step.by)?, Some(step.fails)).map(drop),
            Step::LoadByI386(step) => self.expect(callers::load_by_i386(step.segments), step.fails).map(drop),
            Step::Fault(step) => faults::set(&step.name, step.value),
            Step::WriteFile(step) => write(step),
            Step::RemovePins(_) => fs::remove_dir_all("/sys/fs/bpf/luo-trace").context("nothing is pinned"),
            Step::DetachLinks(_) => bpf::cannot_detach_links(),
            Step::FailNth(step) => {
                self.device()?;
                let device = self.device.as_ref().context("the device is not open")?;
                sweep::sweep(step, device, &mut self.sessions)
            }
            Step::ManySessions(many) => self.create_many(many),
            Step::CloseManySessions(many) => self.close_many(many),
            Step::RetrieveManySessions(many) => self.retrieve_many(many),
            Step::Churn(step) => self.churn(step),
            Step::Run(step) => self.run(step),
            Step::ScrapeMetrics(step) => self.agent.scrape(step),
            Step::StartAgent(step) => self.agent.start(step),
            Step::StopAgent(step) => self.agent.stop(step.exits),
            Step::ReloadPolicy(step) => self.agent.reload_policy(step),
            Step::KillAgent(_) => self.agent.kill(),
            Step::KillStartingAgent(_) => self.agent.kill_while_it_starts(),
            Step::StopStartingAgent(_) => self.agent.stop_while_it_starts(),
            Step::PauseAgent(step) => self.agent.pause(step),
            Step::ResumeAgent(_) => self.agent.resume(),
            Step::AgentThreads(step) => self.agent.check_threads(step),
            Step::AgentSays(step) => self.agent.wait_until_it_says(&step.text),
            Step::MakeRoom(_) => without::make_room(),
            Step::CheckBpf(_) => self.bpf_at_boot.check_more(),
            Step::CheckNoBpf(_) => self.bpf_at_boot.wait_for_nothing_more(),
            Step::Bench(_) => bench::run(self.device()?),
            Step::As(step) => guise::wear(step, || step.steps.iter().try_for_each(|step| self.perform_told(step))),
            Step::BothModes(step) => self.in_both_modes(step),
            Step::Product(_) => bail!("xtask makes steps of it, and this guest got it as it is"),
            Step::RefusedThroughout(step) => self.refused_throughout(step),
            Step::DeniedThroughout(step) => self.denied_throughout(step),
            Step::PortFloodedThroughout(step) => {
                let told = flood::throughout(step, || step.steps.iter().try_for_each(|step| self.perform_told(step)))?;
                system::say(&Message::Step { doing: told });
                Ok(())
            }
            Step::MountBpffs(step) => squat::mount_bpffs(&step.mode),
            Step::MakeAsStranger(step) => self.expect(squat::make_as_stranger(step)?, step.fails).map(drop),
            Step::MakePrecious(_) => squat::make_precious(),
            Step::CheckPrecious(_) => squat::check_precious(),
            Step::Remove(step) => squat::remove(&step.path),
            Step::Eventually(step) => self.perform_at_last(step),
        }
    }

    /// Does a step until it comes out as it should.
    fn perform_at_last(&mut self, step: &Step) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.perform(step) {
            if Instant::now() > deadline {
                return Err(error.context(format!("it did not come to that within {PATIENCE:?}")));
            }
            // Nothing tells when to try again.
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn load(&self, step: &Load) -> Result<()> {
        let loaded = system::load_kernel(step)?;
        if self.looks_only && step.fails.is_some() && loaded.is_ok() {
            system::unload_kernel(step.how)?.context("cannot take the image out again")?;
        }
        self.expect(loaded, step.fails).map(drop)
    }

    fn in_both_modes(&mut self, step: &BothModes) -> Result<()> {
        for looks_only in [true, false] {
            self.looks_only = looks_only;
            self.agent.reload_in_mode(step.policy.as_ref(), looks_only)?;
            step.steps.iter().try_for_each(|step| self.perform_told(step))?;
        }
        Ok(())
    }

    fn refused_throughout(&mut self, step: &RefusedThroughout) -> Result<()> {
        // The steps need the device, too, and the kernel lets nobody open it a second time.
        let device = self.device()?.share()?;
        let over = AtomicBool::new(false);
        let attempts = || {
            let mut attempts = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let created = device.create_session(step.session.bytes());
                if created.map(drop) != Err(Errno::PERM) {
                    bail!(
                        "attempt {attempts} to create the session {} was not refused",
                        step.session
                    );
                }
                attempts += 1;
                // Each is an event for the agent, too. A gap that anybody could use is longer than this.
                thread::sleep(Duration::from_millis(2));
            }
            Ok(attempts)
        };
        self.throughout(&step.steps, &over, attempts, "refused")
    }

    fn denied_throughout(&mut self, step: &DeniedThroughout) -> Result<()> {
        let over = AtomicBool::new(false);
        let attempts = || {
            callers::become_stranger()?;
            let mut attempts = 0_u64;
            while !over.load(Ordering::Relaxed) || attempts < step.times {
                callers::load_as_stranger()?;
                attempts += 1;
            }
            Ok(attempts)
        };
        self.throughout(&step.steps, &over, attempts, "denied")
    }

    /// Does steps while a thread makes attempts, until it is told that they are over; tells how many there were.
    fn throughout(
        &mut self,
        steps: &[Step],
        over: &AtomicBool,
        attempts: impl FnOnce() -> Result<u64> + Send,
        what: &str,
    ) -> Result<()> {
        let result = thread::scope(|scope| {
            let thread = scope.spawn(attempts);
            let done = steps.iter().try_for_each(|step| self.perform_told(step));
            over.store(true, Ordering::Relaxed);
            let attempts = thread.join().map_err(|_| anyhow!("the thread panicked"))?;
            done.and(attempts)
        });
        let doing = format!("{what} {} times", result?);
        system::say(&Message::Step { doing });
        Ok(())
    }

    /// What the kernel answered, if that is what the scenario wants: `None` for a failure that was wanted.
    fn expect<T>(&self, result: Result<T, Errno>, fails: Option<ErrnoName>) -> Result<Option<T>> {
        match (&result, fails) {
            (Err(Errno::PERM), _) if self.looks_only => bail!("it was refused, though policy only looks"),
            (_, Some(wanted)) if self.looks_only && wanted.errno() == Errno::PERM => Ok(None),
            _ => expect(result, fails),
        }
    }

    fn open_session(
        &mut self,
        name: &SessionName,
        fails: Option<ErrnoName>,
        open: impl Fn(&Device, &[u8]) -> Result<Session, Errno>,
    ) -> Result<()> {
        let opened = open(self.device()?, name.bytes());
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

    fn create_many(&mut self, many: &ManySessions) -> Result<()> {
        for index in 0..many.count {
            let name = name_of(many, index);
            let session = self
                .device()?
                .create_session(&name)
                .with_context(|| format!("session {index}"))?;
            for file in 0..many.files {
                let memfd = create(&file_of(many, index, file))?;
                session
                    .preserve(&memfd, file.into())
                    .with_context(|| format!("session {index}, file {file}"))?;
            }
            self.sessions.insert(name, session);
        }
        Ok(())
    }

    fn close_many(&mut self, many: &ManySessions) -> Result<()> {
        for index in 0..many.count {
            self.sessions
                .remove(&name_of(many, index))
                .with_context(|| format!("session {index} is not open"))?;
        }
        Ok(())
    }

    fn retrieve_many(&mut self, many: &ManySessions) -> Result<()> {
        for index in 0..many.count {
            let session = self.device()?.retrieve_session(&name_of(many, index));
            let session = session.with_context(|| format!("session {index}"))?;
            for file in 0..many.files {
                let context = || format!("session {index}, file {file}");
                let memfd = session.retrieve(file.into()).with_context(context)?;
                compare(&mut File::from(memfd), &file_of(many, index, file)).with_context(context)?;
            }
            session.finish().with_context(|| format!("session {index}, finish"))?;
        }
        Ok(())
    }

    fn churn(&mut self, step: &Churn) -> Result<()> {
        self.device()?;
        let device = self.device.as_ref().context("the device is not open")?;
        churn::churn(step, device, self.agent)
    }

    fn run(&self, step: &Run) -> Result<()> {
        let (program, arguments) = step.argv.split_first().context("there is no program to run")?;
        let name = program.rsplit('/').next().unwrap_or(program);
        let log = format!("run-{}-{name}.log", self.boot);
        let output = File::create(format!("/host/{log}"))?;
        let status = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("cannot run {program}"))?;
        if status.code() != Some(step.exits) {
            bail!(
                "{name} ended with {status} instead of exit status {}: see {log}",
                step.exits
            );
        }
        let printed = fs::read(format!("/host/{log}"))?;
        match &step.prints {
            Some(wanted) if !String::from_utf8_lossy(&printed).contains(wanted) => {
                bail!("{name} did not print {wanted:?}: see {log}")
            }
            _ => Ok(()),
        }
    }

    /// The device, opened when it is first needed, and held until `close-device`. While it is closed a program of the
    /// scenario can have it.
    fn device(&mut self) -> Result<&Device> {
        if self.device.is_none() {
            self.device = Some(Device::open().context("cannot open /dev/liveupdate")?);
        }
        self.device.as_ref().context("the device is not open")
    }

    fn session(&self, name: &SessionName) -> Result<&Session> {
        self.sessions
            .get(name.bytes())
            .with_context(|| format!("no earlier step opened the session {name}"))
    }
}

/// A step as a scenario's author would know it again. Of the steps and the policies in it there is only the number, of a
/// policy's text nothing, so that
/// what went wrong has room in a message, too.
/// Writes as an operator's shell would.
fn write(step: &WriteFile) -> Result<()> {
    match fs::write(&step.file, &step.text) {
        Err(error) if error.raw_os_error() == step.may_fail.map(|name| name.errno().raw_os_error()) => Ok(()),
        written => written.with_context(|| format!("cannot write {}", step.file)),
    }
}

fn describe(step: &Step) -> String {
    let Ok(mut shown) = serde_json::to_value(step) else {
        return format!("{step:?}");
    };
    for key in shown.as_object_mut().into_iter().flat_map(|step| step.values_mut()) {
        for list in ["steps", "policies"] {
            if let Some(list) = key.get_mut(list) {
                *list = list.as_array().map_or(0, Vec::len).into();
            }
        }
        if let Some(policy) = key
            .get_mut("policy")
            .filter(|policy| policy.as_str().is_some_and(is_long))
        {
            *policy = "its own".into();
        }
    }
    shown.to_string()
}

/// Whether it is the text of a policy, and not the name of a file.
fn is_long(policy: &str) -> bool {
    policy.contains('\n')
}

fn open() -> Result<Device, Errno> {
    Device::open().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// What the kernel answered, if that is what the scenario wants: `None` for a failure that was wanted.
fn expect<T>(result: Result<T, Errno>, fails: Option<ErrnoName>) -> Result<Option<T>> {
    match (result, fails) {
        (Ok(value), None) => Ok(Some(value)),
        (Ok(_), Some(wanted)) => bail!("the kernel allowed it, but it had to fail with {wanted}"),
        (Err(errno), Some(wanted)) if errno == wanted.errno() => Ok(None),
        (Err(errno), Some(wanted)) => bail!("the kernel refused with \"{errno}\" instead of {wanted}"),
        (Err(errno), None) => bail!("the kernel refused with \"{errno}\""),
    }
}

fn name_of(many: &ManySessions, index: u32) -> Vec<u8> {
    format!("{}-{index}", many.prefix).into_bytes()
}

fn file_of(many: &ManySessions, session: u32, file: u32) -> Memfd {
    let seed = u64::from(session) << 32 | u64::from(file);
    Memfd {
        name: format!("{}-{session}-{file}", many.prefix),
        size: many.size,
        seed,
        sealed: false,
    }
}

/// Opens a device of the testbed and fills the file.
pub(crate) fn open_device(device: &DeviceFile) -> Result<File> {
    let path = format!("/dev/luo_testbed/{}", device.node);
    let file = File::options().read(true).write(true).open(&path);
    let mut file = file.with_context(|| format!("cannot open {path}"))?;
    fill(&mut file, device.seed, device.size.bytes()).with_context(|| format!("cannot fill {:?}", device.name))?;
    Ok(file)
}

/// Creates a memfd with its contents and seals.
pub(crate) fn create(memfd: &Memfd) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(memfd.name.as_str(), flags).context("cannot create a memfd")?);
    fill(&mut file, memfd.seed, memfd.size.bytes())
        .with_context(|| format!("cannot fill the memfd {:?}", memfd.name))?;
    fcntl_add_seals(&file, seals(memfd)).with_context(|| format!("cannot seal the memfd {:?}", memfd.name))?;
    Ok(file)
}

/// Compares a retrieved file with the memfd that was preserved: size, seals, every byte.
fn compare(file: &mut File, memfd: &Memfd) -> Result<()> {
    let size = file.metadata()?.len();
    if size != memfd.size.bytes() {
        bail!("it came back with {size} bytes instead of {}", memfd.size.bytes());
    }
    let seals_now = fcntl_get_seals(&*file)?;
    if seals_now != seals(memfd) {
        bail!("it came back with {seals_now:?} instead of {:?}", seals(memfd));
    }
    compare_content(file, memfd.seed, size)
}

/// Writes the contents that follow from a seed.
fn fill(file: &mut File, seed: u64, size: u64) -> io::Result<()> {
    // A hundred thousand small files are made faster without a large buffer for each.
    let mut chunk = vec![0; CHUNK.min(size as usize)];
    for (offset, length) in chunks(size) {
        content::fill(seed, offset, &mut chunk[..length]);
        file.write_all(&chunk[..length])?;
    }
    Ok(())
}

/// Compares every byte of a file with what follows from a seed, and sees that nothing comes after.
fn compare_content(file: &mut File, seed: u64, size: u64) -> Result<()> {
    file.rewind()?;
    let mut chunk = vec![0; CHUNK];
    for (offset, length) in chunks(size) {
        file.read_exact(&mut chunk[..length])?;
        if let Some(wrong) = content::first_difference(seed, offset, &chunk[..length]) {
            bail!("the byte at offset {wrong:#x} came back changed");
        }
    }
    if file.read(&mut chunk)? > 0 {
        bail!("it came back with more than {size} bytes");
    }
    Ok(())
}

fn seals(memfd: &Memfd) -> SealFlags {
    if memfd.sealed {
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
    } else {
        SealFlags::empty()
    }
}

/// Offset and length of each chunk of a file of this size.
fn chunks(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size)
        .step_by(CHUNK)
        .map(move |offset| (offset, (size - offset).min(CHUNK as u64) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn memfd(size: u64) -> Memfd {
        Memfd {
            name: "ram".into(),
            size: size.into(),
            seed: 3,
            sealed: true,
        }
    }

    #[test]
    fn a_file_that_came_back_whole_compares_equal() {
        let wanted = memfd(CHUNK as u64 + 5000);
        compare(&mut create(&wanted).unwrap(), &wanted).unwrap();
    }

    #[test]
    fn a_changed_byte_a_changed_size_and_a_lost_seal_are_found() {
        let wanted = Memfd {
            sealed: false,
            ..memfd(CHUNK as u64 + 5000)
        };
        let mut file = create(&wanted).unwrap();
        file.seek(std::io::SeekFrom::Start(CHUNK as u64 + 4321)).unwrap();
        file.write_all(b"!").unwrap();
        let error = compare(&mut file, &wanted).unwrap_err().to_string();
        assert!(error.contains("0x1010e1"), "{error}");

        let error = compare(&mut create(&memfd(PAGE)).unwrap(), &memfd(2 * PAGE))
            .unwrap_err()
            .to_string();
        assert!(error.contains("4096 bytes instead of 8192"), "{error}");

        let error = compare(&mut create(&wanted).unwrap(), &Memfd { sealed: true, ..wanted })
            .unwrap_err()
            .to_string();
        assert!(error.contains("SealFlags"), "{error}");
    }

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
