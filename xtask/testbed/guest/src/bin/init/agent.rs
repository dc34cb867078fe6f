//! The agent as the guest's init runs it: started, waited for, asked for its metrics, stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid};
use serde_json::Value;
use testbed_guest::scenario::{
    AgentIn, AgentThreads, PauseAgent, PolicyFile, ReloadPolicy, ReloadSettings, Scenario, ScrapeMetrics, StartAgent,
    Without,
};

use crate::{bpf, without};

const READY_FILE: &str = "/run/luo-trace.ready";
pub(crate) const ADDRESS: &str = "127.0.0.1:9100";
/// Where its policy is.
const POLICY: &str = "/policy.toml";
/// Where it looks for its settings.
const SETTINGS: &str = "/etc/luo-trace/agent.toml";
/// Where it answers.
pub(crate) const SOCKET: &str = "/run/luo-trace/agent.sock";

/// How long one thing may take that is waited for: the agent's getting ready, its end, an answer of its, the kernel's freeing what
/// no process holds. Far more than a quiet host needs, since a guest without hardware virtualization is slow, a busy host makes it many
/// times slower, and waiting costs nothing where the thing happens.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The agent, running or not.
pub(crate) struct Agent<'a> {
    boot: u32,
    scenario: &'a Scenario,
    /// The exit status it must refuse with.
    refuses: Option<i32>,
    child: Option<Child>,
    /// Its port, where a scenario wants it taken.
    port: Option<TcpListener>,
    /// Whether there is a policy for it.
    has_policy: bool,
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
            has_policy: false,
        }
    }

    /// Starts it and waits until it is ready, or until it has refused where the scenario wants that.
    pub(crate) fn start(&mut self, step: &StartAgent) -> Result<()> {
        if self.child.is_some() {
            bail!("the agent runs already");
        }
        if let Some(policy) = &step.policy {
            self.lay_down(policy)?;
        }
        remove_if_there(READY_FILE)?;
        // The word of an agent before it is none on what happens from now on.
        let [status, metrics] = self.last_word();
        remove_if_there(&status)?;
        remove_if_there(&metrics)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let created = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, "/run", created)?;

        let refuses = step.refuses.or(self.refuses);
        let mut child = self.spawn(&step.args, !step.without_policy)?;
        let deadline = Instant::now() + PATIENCE;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        loop {
            if Path::new(READY_FILE).exists() {
                break;
            }
            if let Some(status) = child.try_wait()? {
                return self.judge_refusal(refuses, status);
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
        match refuses {
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

    /// A way to ask it, from any thread, to take a snapshot of LUO's lists.
    pub(crate) fn snapshots(&self) -> Result<impl Fn() -> io::Result<()> + Sync + use<>> {
        let pid = Pid::from_child(self.child.as_ref().context("the agent does not run")?);
        Ok(move || kill_process(pid, Signal::USR1).map_err(Into::into))
    }

    /// Gives it another policy, and waits until it has taken or, where that is wanted, refused it.
    pub(crate) fn reload_policy(&mut self, step: &ReloadPolicy) -> Result<()> {
        let said = fs::metadata(format!("/host/{}", self.log()))?.len();
        let before = generation()?;
        self.lay_down(&step.policy)?;
        self.signal(Signal::HUP)?;
        if let Some(text) = &step.refused {
            return self.wait_for_line(said, text);
        }
        // Its log may lag behind a flood of events, and leaves events out where it lags too far: so the agent is asked.
        let deadline = Instant::now() + PATIENCE;
        while generation()? == before {
            if Instant::now() > deadline {
                bail!(
                    "the agent did not take the policy within {PATIENCE:?}: see {}",
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Gives it another file of settings, and waits until it says what came of that.
    pub(crate) fn reload_settings(&mut self, step: &ReloadSettings) -> Result<()> {
        let said = fs::metadata(format!("/host/{}", self.log()))?.len();
        let path = Path::new(SETTINGS);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, &step.text).with_context(|| format!("cannot write {SETTINGS}"))?;
        self.signal(Signal::HUP)?;
        self.wait_for_line(said, &step.says)
    }

    /// Gives it a policy, or else the scenario's, perhaps one that only looks.
    pub(crate) fn reload_in_mode(&mut self, policy: Option<&PolicyFile>, looks_only: bool) -> Result<()> {
        let own = self.scenario.policy.as_ref();
        let policy = policy.or(own).context("the scenario has no policy")?;
        self.reload_policy(&ReloadPolicy {
            policy: if looks_only { policy.looking() } else { policy.clone() },
            refused: None,
        })
    }

    /// Puts a policy where it looks for one.
    fn lay_down(&mut self, policy: &PolicyFile) -> Result<()> {
        let text = match policy.shipped() {
            Some(name) => {
                fs::read_to_string(format!("/policies/{name}")).with_context(|| format!("no policy {name}"))?
            }
            None => policy.text().unwrap_or_default().to_owned(),
        };
        fs::write(POLICY, text).with_context(|| format!("cannot write {POLICY}"))?;
        self.has_policy = true;
        Ok(())
    }

    fn start_until_it_loads(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("the agent runs already");
        }
        remove_if_there(READY_FILE)?;
        let before = bpf::Objects::now()?;
        let mut child = self.spawn(&[], true)?;
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
    pub(crate) fn pause(&self, step: &PauseAgent) -> Result<()> {
        let pid = self.signal(Signal::STOP)?;
        // The signal is on its way: each of the agent's threads has to meet it.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED)?;
        // Here it is time itself that is waited for.
        thread::sleep(Duration::from_secs(step.silent_seconds));
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

    /// Checks what the kernel tells of each of its threads.
    pub(crate) fn check_threads(&self, step: &AgentThreads) -> Result<()> {
        let pid = self.child.as_ref().context("the agent does not run")?.id();
        let mut threads = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            // One of a pool may have ended since.
            let Ok(status) = fs::read_to_string(thread.join("status")) else {
                continue;
            };
            threads += 1;
            for (name, value) in &step.status {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
                if line != Some(value) {
                    bail!("{}: {name} is {line:?}, and should be {value}", thread.display());
                }
            }
        }
        if threads < 2 {
            bail!("the agent has {threads} threads, and there is one for its journal at least");
        }
        Ok(())
    }

    /// Waits until its log has this text.
    pub(crate) fn wait_until_it_says(&self, text: &str) -> Result<()> {
        self.wait_for_line(0, text)
    }

    /// Waits until its log, after so many bytes, has a line with this text.
    fn wait_for_line(&self, after: u64, text: &str) -> Result<()> {
        let log = format!("/host/{}", self.log());
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, log.as_str(), inotify::WatchFlags::MODIFY)?;
        let mut log = File::open(log)?;
        log.seek(SeekFrom::Start(after))?;
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            match log.read_to_end(&mut said) {
                // So 9p answers when the file grows while it is read; of that write the watch tells next.
                Err(error) if error.raw_os_error() != Some(libc::ENODATA) => return Err(error.into()),
                _ if has_line(&said, text) => return Ok(()),
                _ => {}
            }
            // A log is long where much happens: only the line that may go on is looked at again.
            let whole = said.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            said.drain(..whole);
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
        if Path::new(SOCKET).exists() && !self.scenario.serial_journal {
            self.keep_last_word()?;
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

    /// Where the last word of an agent in this kernel is kept: its status, and its metrics.
    fn last_word(&self) -> [String; 2] {
        let boot = self.boot;
        [
            format!("/host/status-{boot}.json"),
            format!("/host/last-metrics-{boot}.prom"),
        ]
    }

    /// Keeps what it knows at its end, once it has judged all that has happened; its metrics where its port answers.
    fn keep_last_word(&self) -> Result<()> {
        let [place, metrics_place] = self.last_word();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = status()?;
            let status: Value = serde_json::from_str(&text)?;
            if status["judging_updates"] == false {
                fs::write(&place, text)?;
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "within {PATIENCE:?} the agent did not judge its updates: see {}",
                    self.log()
                );
            }
            // A status cannot be waited on, so it is asked for again.
            thread::sleep(Duration::from_millis(20));
        }
        // A port that the scenario has taken from it is not its own, and never answers.
        if self.port.is_none()
            && let Ok(metrics) = get_metrics()
        {
            fs::write(&metrics_place, metrics)?;
        }
        Ok(())
    }

    /// Keeps its metrics as `metrics-BOOT.prom`, asking again until they show what the step wants.
    pub(crate) fn scrape(&self, step: &ScrapeMetrics) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = get_metrics().with_context(|| format!("cannot scrape http://{ADDRESS}/metrics"))?;
            fs::write(format!("/host/metrics-{}.prom", self.boot), &page)?;
            let Some(lacking) = lacking(&page, step) else {
                return Ok(());
            };
            if Instant::now() > deadline {
                bail!("within {PATIENCE:?} the metrics did not show {lacking}");
            }
            // A page of metrics cannot be waited on, so it is asked for again.
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn spawn(&mut self, more: &[String], with_policy: bool) -> Result<Child> {
        if let Some(policy) = self.scenario.policy.as_ref().filter(|_| !self.has_policy) {
            self.lay_down(policy)?;
        }
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
            .args(
                (with_policy && self.has_policy)
                    .then_some(["--policy", POLICY])
                    .into_iter()
                    .flatten(),
            )
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
            Some(Without::Descriptors) => without::descriptors(command),
        }
        Ok(())
    }

    fn judge_refusal(&self, refuses: Option<i32>, status: ExitStatus) -> Result<()> {
        match refuses {
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
    let stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    get(stream, "/metrics")
}

/// Its status, as JSON.
fn status() -> Result<String> {
    let stream = UnixStream::connect(SOCKET).with_context(|| format!("cannot ask the agent at {SOCKET}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    get(stream, "/status")
}

/// Which of its policies is in force; 0: none.
fn generation() -> Result<u64> {
    let status: Value = serde_json::from_str(&status()?)?;
    let generation = status["policy"]["generation"].as_u64();
    generation.context("the agent's status tells of no policy")
}

fn get(mut stream: impl Read + Write, path: &str) -> Result<String> {
    // With HTTP/1.0 the answer ends where the connection does.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("the answer is {:?}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// What a step wants of a page in Prometheus' text format and does not find there, or `None`.
fn lacking(page: &str, step: &ScrapeMetrics) -> Option<String> {
    let until = step.until.as_ref();
    if let Some(name) = until.filter(|name| sample(page, name).unwrap_or(0.0) == 0.0) {
        return Some(format!("{name}, or a zero"));
    }
    let wrong = |(name, value): &(&String, &f64)| sample(page, name) != Some(**value);
    let (name, value) = step.shows.iter().find(wrong)?;
    let found = sample(page, name).map_or("it is not there".into(), |found| format!("it has {found}"));
    Some(format!("{name} with {value}: {found}"))
}

/// The value of a sample.
fn sample(page: &str, name: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Whether one of the lines has this text.
fn has_line(said: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(said).lines().any(|line| line.contains(text))
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
    use super::*;

    #[test]
    fn a_sample_counts_when_its_whole_name_is_there_and_its_value_is_the_wanted_one() {
        let page = "# TYPE lost counter\nlost 12\nlost_too 0\nops{op=\"a\"} 3\n";
        let lacking = |until: Option<&str>, shows: &[(&str, f64)]| {
            let shows = shows.iter().map(|(name, value)| ((*name).to_owned(), *value));
            let step = ScrapeMetrics {
                until: until.map(str::to_owned),
                shows: shows.collect(),
            };
            lacking(page, &step)
        };
        assert_eq!(
            lacking(Some("lost"), &[("ops{op=\"a\"}", 3.0), ("lost_too", 0.0)]),
            None
        );
        assert!(lacking(Some("lost_too"), &[]).is_some(), "it is zero");
        assert!(lacking(Some("los"), &[]).is_some(), "it is another's beginning");
        assert!(lacking(None, &[("lost", 11.0)]).unwrap().contains("12"));
        assert!(lacking(None, &[("los", 12.0)]).unwrap().contains("not there"));
    }

    #[test]
    fn a_line_is_one_that_has_the_text() {
        assert!(has_line(b"one\ntwo three\n", "wo th"));
        assert!(!has_line(b"one\ntwo three\n", "one\ntwo"));
    }
}
