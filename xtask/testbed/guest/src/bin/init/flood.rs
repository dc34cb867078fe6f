//! Peers of the agent's port that mean it no good, and how long an order at its control socket takes meanwhile.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use testbed_guest::scenario::PortFloodedThroughout;

use crate::agent::{ADDRESS, SOCKET};

/// How many requests one of those who pipeline sends before it reads an answer.
const PIPELINED: usize = 100;

/// How long a peer waits for the port: it takes connections one after the other.
const FOR_THE_PORT: Duration = Duration::from_millis(100);

/// How long a pause is between two connections that are made again, and between two orders: the guest has other things to do, too.
const PAUSE: Duration = Duration::from_millis(5);

/// After so long an order will not be answered.
const FOR_AN_ANSWER: Duration = Duration::from_secs(30);

/// Orders that the agent carries out whenever they come, and that refuse nothing which is done meanwhile.
const ORDERS: [&str; 2] = [
    r#"{"order":"allow","reason":"the port is flooded","for_ns":60000000000}"#,
    r#"{"order":"clear"}"#,
];

/// Does some work while the port is flooded, and tells how it went.
///
/// # Errors
/// Those of the work; an order was not answered in time; or the flood was none.
pub(crate) fn throughout(step: &PortFloodedThroughout, work: impl FnOnce() -> Result<()>) -> Result<String> {
    let over = AtomicBool::new(false);
    let (silent, served) = (AtomicU64::new(0), AtomicU64::new(0));
    let orders = thread::scope(|scope| {
        let quiet = scope.spawn(|| keep_silent(step.silent, &silent, &over));
        let clients: Vec<_> = (0..step.pipelining)
            .map(|_| scope.spawn(|| pipeline(&served, &over)))
            .collect();
        // First the peers are there, and then what they shall not hold up.
        while silent.load(Ordering::Relaxed) < step.silent.into() && !quiet.is_finished() {
            thread::sleep(PAUSE);
        }
        let orders = scope.spawn(|| give_orders(step, &over));
        let done = work();
        over.store(true, Ordering::Relaxed);
        let panicked = || anyhow!("a thread panicked");
        let orders = orders.join().unwrap_or_else(|_| Err(panicked()));
        let peers = clients.into_iter().chain([quiet]);
        let peers = peers.map(|peer| peer.join().unwrap_or_else(|_| Err(panicked())));
        let peers = peers.collect::<Result<Vec<_>>>();
        done.and(orders).and_then(|orders| peers.map(|_| orders))
    })?;
    let served = served.into_inner();
    if served == 0 && step.pipelining > 0 {
        bail!("no client of the port had an answer");
    }
    let (middle, slowest) = (orders[orders.len() / 2], orders[orders.len() - 1]);
    Ok(format!(
        "{} orders answered, half of them within {middle:?}, all within {slowest:?}; {served} answers to clients that pipeline, {} \
         silent connections",
        orders.len(),
        silent.into_inner()
    ))
}

/// Holds so many connections that say nothing, and makes those again that the agent ends.
fn keep_silent(count: u32, made: &AtomicU64, over: &AtomicBool) -> Result<()> {
    let mut held = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        if held.len() < count as usize {
            held.push_back(say_nothing()?);
            made.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let oldest = held.pop_front().context("there is no connection to hold")?;
        if is_over(&oldest)? {
            drop(oldest);
            held.push_back(say_nothing()?);
            made.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        } else {
            held.push_back(oldest);
        }
    }
    Ok(())
}

/// A connection to the port, or one that may become one: the port's system keeps it waiting where it must.
fn say_nothing() -> Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    match connect(&socket, &ADDRESS.parse::<SocketAddr>()?) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error).context("cannot connect to the port"),
    }
    wait(&socket, PollFlags::OUT, FOR_THE_PORT)?;
    Ok(socket)
}

/// Whether the agent has ended this connection.
fn is_over(socket: &OwnedFd) -> io::Result<bool> {
    wait(socket, PollFlags::IN | PollFlags::RDHUP, Duration::ZERO)
}

fn wait(socket: &OwnedFd, flags: PollFlags, patience: Duration) -> io::Result<bool> {
    let patience = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: patience.subsec_nanos().into(),
    };
    Ok(poll(&mut [PollFd::new(socket, flags)], Some(&patience))? > 0)
}

/// Asks for the metrics again and again, many times before it reads, and counts what it is answered.
fn pipeline(served: &AtomicU64, over: &AtomicBool) -> Result<()> {
    let requests = format!("GET /metrics HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n").repeat(PIPELINED);
    while !over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect_timeout(&ADDRESS.parse()?, FOR_THE_PORT) else {
            continue;
        };
        stream.set_read_timeout(Some(FOR_AN_ANSWER))?;
        let mut answers = Vec::new();
        // The agent ends the connection when it likes, also in the middle of a request.
        _ = stream
            .write_all(requests.as_bytes())
            .and_then(|()| stream.read_to_end(&mut answers));
        if answers.starts_with(b"HTTP/1.1 200 ") {
            served.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Gives orders and gives back how long their answers took, the quickest first.
fn give_orders(step: &PortFloodedThroughout, over: &AtomicBool) -> Result<Vec<Duration>> {
    let within = Duration::from_millis(step.answered_within_ms);
    let mut took = Vec::new();
    for order in ORDERS.iter().cycle() {
        if over.load(Ordering::Relaxed) && took.len() >= step.orders.max(1) as usize {
            break;
        }
        let begun = Instant::now();
        give_order(order).with_context(|| format!("order {} after {:?}", took.len() + 1, begun.elapsed()))?;
        took.push(begun.elapsed());
        thread::sleep(PAUSE);
    }
    took.sort_unstable();
    match took.last() {
        Some(slowest) if *slowest > within => bail!(
            "an order was answered after {slowest:?} instead of within {within:?}, half of {} within {:?}",
            took.len(),
            took[took.len() / 2]
        ),
        _ => Ok(took),
    }
}

fn give_order(order: &str) -> Result<()> {
    let mut stream = UnixStream::connect(SOCKET).with_context(|| format!("cannot connect to {SOCKET}"))?;
    stream.set_read_timeout(Some(FOR_AN_ANSWER))?;
    // With HTTP/1.0 the answer ends where the connection does.
    write!(
        stream,
        "POST /policy HTTP/1.0\r\ncontent-length: {}\r\n\r\n{order}",
        order.len()
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("the control socket gives no answer")?;
    match answer.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => bail!(
            "the answer to an order is {:?}",
            answer.lines().next().unwrap_or_default()
        ),
    }
}
