//! Does a scenario's steps against `/dev/liveupdate`, and checks what the kernel answers.

use std::fs::{self, File};
use std::mem;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::io::Errno;
use testbed_guest::luo::Device;
use testbed_guest::protocol::Message;
use testbed_guest::scenario::{
    BothModes, Churn, DeniedThroughout, Load, ManySessions, Memfd, RefusedThroughout, Run, Step, Together, WriteFile,
};

use crate::agent::{Agent, PATIENCE};
use crate::collector::Collector;
use crate::crowd::Crowd;
use crate::hands::Hands;
use crate::{bench, bpf, callers, churn, faults, files, flood, guise, squat, sweep, system, without};

/// What the steps so far have opened.
pub(crate) struct Driver<'a, 's> {
    boot: u32,
    agent: &'a mut Agent<'s>,
    bpf_at_boot: &'a bpf::Objects,
    hands: Hands,
    crowds: Vec<Crowd>,
    collector: Option<Collector>,
}

impl<'a, 's> Driver<'a, 's> {
    /// A driver that has opened nothing yet.
    pub(crate) fn new(boot: u32, agent: &'a mut Agent<'s>, bpf_at_boot: &'a bpf::Objects) -> Self {
        Driver {
            boot,
            agent,
            bpf_at_boot,
            hands: Hands::default(),
            crowds: Vec::new(),
            collector: None,
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
        if self.hands.perform(step)? {
            return Ok(());
        }
        match step {
            Step::KeepSessions(_) => {
                self.hands
                    .sessions
                    .drain()
                    .for_each(|(_, session)| mem::forget(session));
                Ok(())
            }
            Step::OpenDevice(step) => {
                self.hands.device = self.hands.expect(open(), step.fails)?;
                Ok(())
            }
            Step::OpenTwice(step) => {
                self.hands.device()?;
                self.hands.expect(open(), step.fails).map(drop)
            }
            Step::CloseDevice(_) => {
                self.hands.device = None;
                Ok(())
            }
            Step::Load(step) => self.load(step),
            Step::Unload(step) => self.hands.expect(system::unload_kernel(step.how)?, None).map(drop),
            Step::Reboot(step) => self.hands.expect(callers::reboot(step.by)?, Some(step.fails)).map(drop),
            Step::LoadByI386(step) => self
                .hands
                .expect(callers::load_by_i386(step.segments), step.fails)
                .map(drop),
            Step::Fault(step) => faults::set(&step.name, step.value),
            Step::WriteFile(step) => write(step),
            Step::RemovePins(_) => fs::remove_dir_all("/sys/fs/bpf/luo-trace").context("nothing is pinned"),
            Step::DetachLinks(_) => bpf::cannot_detach_links(),
            Step::Crowd(step) => {
                self.crowds.push(Crowd::on(&step.function)?);
                Ok(())
            }
            Step::Disperse(_) => {
                self.crowds.clear();
                Ok(())
            }
            Step::FailNth(step) => {
                self.hands.device()?;
                let device = self.hands.device.as_ref().context("the device is not open")?;
                sweep::sweep(step, device, &mut self.hands.sessions)
            }
            Step::ManySessions(many) => self.create_many(many),
            Step::CloseManySessions(many) => self.close_many(many),
            Step::RetrieveManySessions(many) => self.retrieve_many(many),
            Step::Churn(step) => self.churn(step),
            Step::Run(step) => self.run(step),
            Step::ScrapeMetrics(step) => self.agent.scrape(step),
            Step::Collect(_) => {
                self.collector = Some(Collector::start(self.boot)?);
                Ok(())
            }
            Step::Collected(step) => {
                let collector = self.collector.as_mut().context("no step has started the collector")?;
                collector.wait_for(step)
            }
            Step::StartAgent(step) => self.agent.start(step),
            Step::StopAgent(step) => self.agent.stop(step.exits),
            Step::ReloadPolicy(step) => self.agent.reload_policy(step),
            Step::ReloadSettings(step) => self.agent.reload_settings(step),
            Step::KillAgent(_) => self.agent.kill(),
            Step::KillStartingAgent(_) => self.agent.kill_while_it_starts(),
            Step::StopStartingAgent(_) => self.agent.stop_while_it_starts(),
            Step::PauseAgent(step) => self.agent.pause(step),
            Step::ResumeAgent(_) => self.agent.resume(),
            Step::Snapshot(_) => self.agent.snapshots()?().context("cannot ask the agent for a snapshot"),
            Step::AgentThreads(step) => self.agent.check_threads(step),
            Step::AgentSays(step) => self.agent.wait_until_it_says(&step.text),
            Step::MakeRoom(_) => without::make_room(),
            Step::CheckBpf(_) => self.bpf_at_boot.check_more(),
            Step::CheckNoBpf(_) => self.bpf_at_boot.wait_for_nothing_more(),
            Step::Bench(_) => bench::run(self.hands.device()?),
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
            Step::MakeAsStranger(step) => self.hands.expect(squat::make_as_stranger(step)?, step.fails).map(drop),
            Step::MakePrecious(_) => squat::make_precious(),
            Step::CheckPrecious(_) => squat::check_precious(),
            Step::Remove(step) => squat::remove(&step.path),
            Step::Eventually(step) => self.perform_at_last(step),
            Step::Together(step) => self.together(step),
            Step::CreateSession(_)
            | Step::CreateMisnamed(_)
            | Step::CloseSession(_)
            | Step::RetrieveSession(_)
            | Step::Preserve(_)
            | Step::PreserveAgain(_)
            | Step::PreserveOther(_)
            | Step::PreserveDevice(_)
            | Step::Refill(_)
            | Step::Retrieve(_)
            | Step::RetrieveDevice(_)
            | Step::Finish(_)
            | Step::Failing(_) => bail!("the step is not done by the hands that it is for"),
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

    /// Has threads do steps side by side, and does what there is to do with the agent meanwhile.
    fn together(&mut self, step: &Together) -> Result<()> {
        let mut hands = mem::take(&mut self.hands);
        let done = thread::scope(|scope| {
            let threads = scope.spawn(|| hands.together(step));
            let meanwhile = step.meanwhile.iter().try_for_each(|step| self.perform_told(step));
            let threads = threads.join().map_err(|_| anyhow!("a thread panicked"))?;
            threads.and(meanwhile)
        });
        self.hands = hands;
        done
    }

    fn load(&self, step: &Load) -> Result<()> {
        let loaded = system::load_kernel(step)?;
        if self.hands.looks_only && step.fails.is_some() && loaded.is_ok() {
            system::unload_kernel(step.how)?.context("cannot take the image out again")?;
        }
        self.hands.expect(loaded, step.fails).map(drop)
    }

    fn in_both_modes(&mut self, step: &BothModes) -> Result<()> {
        for looks_only in [true, false] {
            self.hands.looks_only = looks_only;
            self.agent.reload_in_mode(step.policy.as_ref(), looks_only)?;
            step.steps.iter().try_for_each(|step| self.perform_told(step))?;
        }
        Ok(())
    }

    fn refused_throughout(&mut self, step: &RefusedThroughout) -> Result<()> {
        // The steps need the device, too, and the kernel lets nobody open it a second time.
        let device = self.hands.device()?.share()?;
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

    fn create_many(&mut self, many: &ManySessions) -> Result<()> {
        for index in 0..many.count {
            let name = name_of(many, index);
            let session = self
                .hands
                .device()?
                .create_session(&name)
                .with_context(|| format!("session {index}"))?;
            for file in 0..many.files {
                let memfd = files::create(&file_of(many, index, file))?;
                session
                    .preserve(&memfd, file.into())
                    .with_context(|| format!("session {index}, file {file}"))?;
            }
            self.hands.sessions.insert(name, session);
        }
        Ok(())
    }

    fn close_many(&mut self, many: &ManySessions) -> Result<()> {
        for index in 0..many.count {
            self.hands
                .sessions
                .remove(&name_of(many, index))
                .with_context(|| format!("session {index} is not open"))?;
        }
        Ok(())
    }

    fn retrieve_many(&mut self, many: &ManySessions) -> Result<()> {
        for index in 0..many.count {
            let session = self.hands.device()?.retrieve_session(&name_of(many, index));
            let session = session.with_context(|| format!("session {index}"))?;
            for file in 0..many.files {
                let context = || format!("session {index}, file {file}");
                let memfd = session.retrieve(file.into()).with_context(context)?;
                files::compare(&mut File::from(memfd), &file_of(many, index, file)).with_context(context)?;
            }
            session.finish().with_context(|| format!("session {index}, finish"))?;
        }
        Ok(())
    }

    fn churn(&mut self, step: &Churn) -> Result<()> {
        self.hands.device()?;
        let device = self.hands.device.as_ref().context("the device is not open")?;
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
}

/// Writes as an operator's shell would.
fn write(step: &WriteFile) -> Result<()> {
    match fs::write(&step.file, &step.text) {
        Err(error) if error.raw_os_error() == step.may_fail.map(|name| name.errno().raw_os_error()) => Ok(()),
        written => written.with_context(|| format!("cannot write {}", step.file)),
    }
}

/// A step as a scenario's author would know it again. Of the steps and the policies in it there is only the number, of a
/// policy's text nothing, so that what went wrong has room in a message, too.
pub(crate) fn describe(step: &Step) -> String {
    let Ok(mut shown) = serde_json::to_value(step) else {
        return format!("{step:?}");
    };
    for key in shown.as_object_mut().into_iter().flat_map(|step| step.values_mut()) {
        for list in ["steps", "policies", "threads"] {
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
        holes: false,
    }
}
