//! The agent as the guest's init runs it: started, waited for, asked for its metrics, stopped.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid};
use testbed_guest::scenario::{AgentIn, Scenario, Without};

use crate::{bpf, without};

const READY_FILE: &str = "/run/luo-trace.ready";
const ADDRESS: &str = "127.0.0.1:9100";

/// How long the agent may take for one thing: to get ready, to stop, to answer. Generous, since a guest
/// without hardware virtualization is slow and a busy host makes it slower.
const PATIENCE: Duration = Duration::from_secs(60);

/// The agent, running or not.
pub(crate) struct Agent<'a> {
    boot: u32,
    scenario: &'a Scenario,
    /// The exit status it must refuse with.
    refuses: Option<i32>,
    child: Option<Child>,
    /// Its port, where a scenario wants it taken.
    port: Option<TcpListener>,
}

impl Agent<'_> {
    /// An agent that does not run yet.
    pub(crate) fn new(boot: u32, scenario: &Scenario) -> Agent<'_> {
        let refuses = match scenario.agent_in(boot) {
            AgentIn::Refuses(status) => Some(status),
            AgentIn::Runs | AgentIn::Nowhere => None,
        };
        Agent {
            boot,
            scenario,
            refuses,
            child: None,
            port: None,
        }
    }

    /// Starts it and waits until it is ready, or until it has refused where the scenario wants that.
    pub(crate) fn start(&mut self, more: &[String]) -> Result<()> {
        if self.child.is_some() {
            bail!("the agent runs already");
        }
        remove_if_there(READY_FILE)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let created = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, "/run", created)?;

        let mut child = self.spawn(more)?;
        let deadline = Instant::now() + PATIENCE;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        loop {
            if Path::new(READY_FILE).exists() {
                break;
            }
            if let Some(status) = child.try_wait()? {
                return self.judge_refusal(status);
            }
            let mut events = [PollFd::new(&watch, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
            if poll(&mut events, Some(&time_left(deadline)))? == 0 {
                bail!("the agent was not ready within {PATIENCE:?}: see {}", self.log());
            }
            if events[0].revents().contains(PollFlags::IN) {
                rustix::io::read(&watch, &mut [0; 4096])?;
            }
        }
        self.child = Some(child);
        match self.refuses {
            Some(wanted) => bail!("the agent got ready, but it had to refuse with exit status {wanted}"),
            None => Ok(()),
        }
    }

    /// Starts it and asks it to stop when the first BPF object exists, long before it is ready.
    pub(crate) fn stop_while_it_starts(&mut self) -> Result<()> {
        self.start_until_it_loads()?;
        self.stop(0)
    }

    /// Starts it and kills it when the first BPF object exists, long before it is ready.
    pub(crate) fn kill_while_it_starts(&mut self) -> Result<()> {
        self.start_until_it_loads()?;
        self.kill()
    }

    /// Ends it by a signal that it cannot know of.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        let status = self.child.take().context("the agent does not run")?.wait()?;
        match status.signal() {
            Some(libc::SIGKILL) => Ok(()),
            _ => bail!("the agent ended with {status} before it was killed: see {}", self.log()),
        }
    }

    /// A way to ask it, from any thread, to look at LUO's lists again.
    pub(crate) fn looker(&self) -> Result<impl Fn() -> io::Result<()> + Sync + use<>> {
        let pid = Pid::from_child(self.child.as_ref().context("the agent does not run")?);
        Ok(move || kill_process(pid, Signal::USR1).map_err(Into::into))
    }

    fn start_until_it_loads(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("the agent runs already");
        }
        remove_if_there(READY_FILE)?;
        let before = bpf::Objects::now()?;
        let mut child = self.spawn(&[])?;
        let deadline = Instant::now() + PATIENCE;
        while before.more()?.is_empty() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the agent ended with {status} before it had loaded anything: see {}",
                    self.log()
                );
            }
            if Instant::now() > deadline {
                bail!("the agent has loaded nothing within {PATIENCE:?}: see {}", self.log());
            }
            // The kernel tells nobody of a new object.
            thread::yield_now();
        }
        if Path::new(READY_FILE).exists() {
            bail!("the agent was ready before it could be asked to stop");
        }
        self.child = Some(child);
        Ok(())
    }

    /// Keeps it from running until [`Agent::resume`].
    pub(crate) fn pause(&self) -> Result<()> {
        let pid = self.signal(Signal::STOP)?;
        // The signal is on its way: each of the agent's threads has to meet it.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED)?;
        Ok(())
    }

    /// Lets it run again.
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT).map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<Pid> {
        let pid = Pid::from_child(self.child.as_ref().context("the agent does not run")?);
        kill_process(pid, signal)?;
        Ok(pid)
    }

    /// Waits until its log has this text.
    pub(crate) fn wait_until_it_says(&self, text: &str) -> Result<()> {
        let log = format!("/host/{}", self.log());
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, log.as_str(), inotify::WatchFlags::MODIFY)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::read(&log) {
                Ok(said) if String::from_utf8_lossy(&said).contains(text) => return Ok(()),
                // So 9p answers when the file grows while it is read; of that write the watch tells next.
                Err(error) if error.raw_os_error() != Some(libc::ENODATA) => return Err(error.into()),
                _ => {}
            }
            if poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&time_left(deadline)))? == 0 {
                bail!("the agent did not say {text:?} within {PATIENCE:?}: see {}", self.log());
            }
            rustix::io::read(&watch, &mut [0; 4096])?;
        }
    }

    /// Asks it to stop and checks how it ended; does nothing when it does not run.
    pub(crate) fn stop(&mut self, exits: i32) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        if let Some(status) = child.try_wait()? {
            bail!(
                "the agent had ended before it was asked to, with {status}: see {}",
                self.log()
            );
        }
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        if poll(
            &mut [PollFd::new(&ended, PollFlags::IN)],
            Some(&time_left(Instant::now() + PATIENCE)),
        )? == 0
        {
            bail!(
                "the agent did not stop within {PATIENCE:?} of SIGTERM: see {}",
                self.log()
            );
        }
        let status = child.wait()?;
        if status.code() != Some(exits) {
            bail!(
                "after SIGTERM the agent ended with {status} instead of exit status {exits}: see {}",
                self.log()
            );
        }
        if Path::new(READY_FILE).exists() {
            bail!("the agent has ended, but {READY_FILE} still says that it is ready");
        }
        if let Some(Without::Room | Without::Disk) = self.scenario.agent_without {
            without::bring_journals_home()?;
        }
        Ok(())
    }

    /// Keeps its metrics as `metrics-BOOT.prom`, asking again until the sample `until` is there and not zero.
    pub(crate) fn scrape(&self, until: Option<&str>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = get_metrics().with_context(|| format!("cannot scrape http://{ADDRESS}/metrics"))?;
            fs::write(format!("/host/metrics-{}.prom", self.boot), &page)?;
            let Some(sample) = until else { return Ok(()) };
            if has_sample(&page, sample) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{sample} stayed absent or zero for {PATIENCE:?}");
            }
            // A page of metrics cannot be waited on, so it is asked for again.
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn spawn(&mut self, more: &[String]) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(format!("/host/{}", self.log()))?;
        let journal = match self.scenario.serial_journal {
            true => "serial:/dev/ttyS1",
            false => without::JOURNALS,
        };
        let mut command = Command::new("/luo-trace");
        command
            .args([
                "agent",
                "--journal",
                journal,
                "--ready-file",
                READY_FILE,
                "--listen",
                ADDRESS,
            ])
            .args(["--format", "json"])
            .args(&self.scenario.agent_args)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .uid(self.scenario.agent_uid);
        self.take_away(&mut command)?;
        command.spawn().context("cannot start /luo-trace")
    }

    /// Takes away what the scenario wants it to do without.
    fn take_away(&mut self, command: &mut Command) -> Result<()> {
        match self.scenario.agent_without {
            None => {}
            Some(Without::Btf) => without::btf(command),
            Some(Without::Bpf) => without::bpf(command),
            Some(Without::Port) if self.port.is_some() => {}
            Some(Without::Port) => {
                self.port = Some(TcpListener::bind(ADDRESS).context("cannot take the agent's port")?)
            }
            Some(Without::Stdout) => drop(command.stdout(without::reader()?)),
            Some(Without::Room) => without::room()?,
            Some(Without::Disk) => without::disk()?,
        }
        Ok(())
    }

    fn judge_refusal(&self, status: ExitStatus) -> Result<()> {
        match self.refuses {
            Some(wanted) if status.code() == Some(wanted) => Ok(()),
            Some(wanted) => bail!("the agent had to refuse with exit status {wanted}, and ended with {status}"),
            None => {
                let how = status
                    .signal()
                    .map_or(status.to_string(), |signal| format!("signal {signal}"));
                bail!(
                    "the agent ended with {how} instead of getting ready: see {}",
                    self.log()
                )
            }
        }
    }

    fn log(&self) -> String {
        format!("agent-{}.log", self.boot)
    }
}

fn get_metrics() -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // With HTTP/1.0 the answer ends where the connection does.
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("the answer is {:?}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// Whether a page in Prometheus' text format has this sample with a value other than zero.
fn has_sample(page: &str, sample: &str) -> bool {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.trim().parse::<f64>().ok());
    value.is_some_and(|value| value != 0.0)
}

fn time_left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}

fn remove_if_there(path: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::has_sample;

    #[test]
    fn a_sample_counts_when_its_whole_name_is_there_and_its_value_is_not_zero() {
        let page = "# TYPE lost counter\nlost 12\nlost_too 0\nops{op=\"a\"} 3\n";
        assert!(has_sample(page, "lost"));
        assert!(has_sample(page, "ops{op=\"a\"}"));
        assert!(!has_sample(page, "lost_too"));
        assert!(!has_sample(page, "los"));
    }
}
