//! A flood of operations, in which the agent may be disturbed.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use testbed_guest::luo::Device;
use testbed_guest::scenario::{Churn, Memfd, ReloadPolicy};

use crate::agent::Agent;
use crate::driver;

/// Has threads make sessions as fast as they can, and gives the agent its policies meanwhile.
pub(crate) fn churn(step: &Churn, device: &Device, agent: &mut Agent<'_>) -> Result<()> {
    let look = step.looks.then(|| agent.looker()).transpose()?;
    thread::scope(|scope| {
        let look = look.as_ref();
        let threads: Vec<_> = (0..step.threads)
            .map(|thread| (thread, look.filter(|_| thread == 0)))
            .map(|(thread, look)| scope.spawn(move || rounds(device, thread, step, look)))
            .collect();
        for policy in step.policies.iter().cycle() {
            if threads.iter().all(thread::ScopedJoinHandle::is_finished) {
                break;
            }
            agent.reload_policy(&ReloadPolicy {
                policy: policy.clone(),
                refused: None,
            })?;
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

fn rounds(
    device: &Device,
    thread: u32,
    step: &Churn,
    look: Option<&(impl Fn() -> io::Result<()> + Sync)>,
) -> Result<()> {
    let memfd = Memfd {
        name: format!("churn-{thread}"),
        size: 4096.into(),
        seed: 0,
        sealed: false,
    };
    let memfd = driver::create(&memfd)?;
    let may_be_refused = !step.policies.is_empty();
    let until = Instant::now() + Duration::from_secs(step.seconds);
    for round in (0..).take_while(|&round| round < step.rounds || Instant::now() < until) {
        let context = || format!("thread {thread}, round {round}");
        let name = format!("churn-{thread}-{round}");
        let session = device.create_session(name.as_bytes()).with_context(context)?;
        match session.preserve(&memfd, 0) {
            Err(Errno::PERM) if may_be_refused => {}
            preserved => preserved.with_context(context)?,
        }
        look.map_or(Ok(()), |look| look()).with_context(context)?;
        if round >= step.rounds {
            // All that is wanted now is that time passes and something happens, not a flood.
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
