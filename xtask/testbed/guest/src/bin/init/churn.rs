//! A flood of operations, in which the agent may be disturbed.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use testbed_guest::luo::{Device, Session};
use testbed_guest::scenario::{Churn, Memfd, ReloadPolicy};

use crate::agent::Agent;
use crate::files;

/// Has threads make sessions as fast as they can, and gives the agent its policies meanwhile.
pub(crate) fn churn(step: &Churn, device: &Device, agent: &mut Agent<'_>) -> Result<()> {
    let snapshot = step.snapshots.then(|| agent.snapshots()).transpose()?;
    let swaps = AtomicU32::new(0);
    thread::scope(|scope| {
        let (snapshot, swaps) = (snapshot.as_ref(), &swaps);
        let threads: Vec<_> = (0..step.threads)
            .map(|thread| (thread, snapshot.filter(|_| thread == 0)))
            .map(|(thread, snapshot)| scope.spawn(move || rounds(device, thread, step, snapshot, swaps)))
            .collect();
        for policy in step.policies.iter().cycle() {
            if threads.iter().all(thread::ScopedJoinHandle::is_finished) {
                break;
            }
            let reloaded = agent.reload_policy(&ReloadPolicy {
                policy: policy.clone(),
                refused: None,
            });
            if reloaded.is_err() {
                // No other comes: nobody waits for it.
                swaps.store(u32::MAX, Ordering::Relaxed);
                return reloaded;
            }
            swaps.fetch_add(1, Ordering::Relaxed);
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
    snapshot: Option<&(impl Fn() -> io::Result<()> + Sync)>,
    swaps: &AtomicU32,
) -> Result<()> {
    let memfd = Memfd {
        name: format!("churn-{thread}"),
        size: 4096.into(),
        seed: 0,
        sealed: false,
        holes: false,
    };
    let memfd = files::create(&memfd)?;
    let may_be_refused = !step.policies.is_empty();
    let until = Instant::now() + Duration::from_secs(step.seconds);
    let is_due =
        |round: &u32| *round < step.rounds || Instant::now() < until || swaps.load(Ordering::Relaxed) < step.swaps;
    for round in (0..).take_while(is_due) {
        let context = || format!("thread {thread}, round {round}");
        let name = format!("churn-{thread}-{round}");
        let session = device.create_session(name.as_bytes()).with_context(context)?;
        match preserve(&session, &memfd) {
            Err(Errno::PERM) if may_be_refused => {}
            preserved => preserved.with_context(context)?,
        }
        snapshot.map_or(Ok(()), |snapshot| snapshot()).with_context(context)?;
        if round >= step.rounds || may_be_refused {
            // All that is wanted is that time passes and something happens, not a flood.
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Preserves a file that the round before preserved in a session of its own, and that is busy for as long as this session lives.
///
/// A `close` ends the session only where no other process holds a reference to it, and one that reads `/proc/PID/fd` holds one for a
/// moment (the agent does, for an order of status): then the session ends when that process is done.
fn preserve(session: &Session, memfd: &File) -> Result<(), Errno> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match session.preserve(memfd, 0) {
            Err(Errno::BUSY) if Instant::now() < until => thread::yield_now(),
            preserved => return preserved,
        }
    }
}
