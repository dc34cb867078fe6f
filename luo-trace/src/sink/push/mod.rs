//! Pushes what the agent knows to a collector, OTLP over HTTP: an update's trace once it is decided, findings and refusals as logs,
//! metrics at an interval.
//!
//! All of it is done by a thread that gives way to everything else on the machine. What it is handed goes through a queue of a fixed
//! length, and then to the spool, where it waits for the collector. A batch stays the same, byte by byte, however often it is sent.

mod client;
mod records;
mod sender;
mod spool;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

pub use client::Address;

use crate::host;
use crate::model::{Finding, Id};
use crate::policy::tell::Refusal;
use client::Client;
use records::Told;
use sender::Sender;
use spool::Spool;

/// How much may wait for the collector, in bytes: on a disk, ...
const MOST_ON_DISK: u64 = 16 << 20;
/// ... and where there is no directory of journals, in memory.
const MOST_IN_MEMORY: u64 = 4 << 20;
/// How many items may wait for the thread.
const QUEUE: usize = 4096;
/// How many findings and refusals are one batch at most.
const MOST_RECORDS: usize = 512;
/// How long the last batches may take when the agent ends, each of them ...
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// ... and together.
const FAREWELL: Duration = Duration::from_secs(5);

/// A kind of thing that is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Updates.
    Traces,
    /// Findings and refusals.
    Logs,
    /// Metrics.
    Metrics,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Logs, Self::Metrics];

    /// The name users see, which is the last of its path, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
        }
    }
}

/// What came of a batch, or of a try to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// The collector has it.
    Sent,
    /// A try failed, and another will follow.
    Failed,
    /// The collector does not want it, ever.
    Refused,
    /// There was no room for it, or it was damaged.
    Dropped,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Failed, Self::Refused, Self::Dropped];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

/// What is told of how it goes.
pub trait Watch: Send + Sync + 'static {
    /// This may come of a batch, and none has come to it yet.
    fn exists(&self, signal: Signal, fate: Fate);
    /// This came of a batch.
    fn batch(&self, signal: Signal, fate: Fate);
    /// So many bytes wait.
    fn spooled(&self, bytes: u64);
    /// Why what should be pushed is not, in a sentence; `None`: the collector takes it.
    fn trouble(&self, why: Option<String>);
}

/// What the thread is handed.
enum Item {
    Trace(Box<ExportTraceServiceRequest>),
    Record(Told),
    End,
}

/// Where things to push are handed in. It never waits: what has no room is dropped and counted.
#[derive(Clone)]
pub struct Push {
    queue: SyncSender<Item>,
    watch: Arc<dyn Watch>,
}

impl Push {
    /// Pushes an update's trace.
    pub fn trace(&self, trace: ExportTraceServiceRequest) {
        self.offer(Signal::Traces, Item::Trace(Box::new(trace)));
    }

    /// Pushes a finding.
    pub fn finding(&self, finding: &Finding) {
        self.offer(Signal::Logs, Item::Record(Told::Finding(Box::new(finding.clone()))));
    }

    /// Pushes a refusal, by its id.
    pub fn refusal(&self, id: Id, refusal: Refusal) {
        self.offer(Signal::Logs, Item::Record(Told::Refusal(id, Box::new(refusal))));
    }

    fn offer(&self, signal: Signal, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.watch.batch(signal, Fate::Dropped);
        }
    }
}

/// What is pushed, and how often.
pub struct Plan {
    /// Where to.
    pub address: Address,
    /// How far apart metrics are.
    pub interval: Duration,
    /// Of whom it tells.
    pub resource: Resource,
    /// When the kernel's clock was zero, in nanoseconds since 1970.
    pub zero_unix_ns: u64,
    /// All metrics, as they are at this time, in nanoseconds since 1970.
    pub metrics: Box<dyn Fn(u64) -> ExportMetricsServiceRequest + Send>,
    /// Who is told how it goes.
    pub watch: Arc<dyn Watch>,
}

/// The thread that pushes.
pub struct Pusher {
    push: Push,
    thread: JoinHandle<()>,
}

impl Pusher {
    /// Starts the thread; what waits is kept in a directory below `dir`.
    ///
    /// # Errors
    /// Where that directory cannot be used, or the system has no thread or descriptors to give.
    pub fn start(plan: Plan, dir: Option<&Path>) -> io::Result<Self> {
        let most = if dir.is_some() { MOST_ON_DISK } else { MOST_IN_MEMORY };
        let (spool, lost) = Spool::open(dir.map(|dir| dir.join(spool::DIR)), most)?;
        for (signal, fate) in Signal::ALL
            .into_iter()
            .flat_map(|signal| Fate::ALL.map(|fate| (signal, fate)))
        {
            plan.watch.exists(signal, fate);
        }
        lost.into_iter()
            .for_each(|signal| plan.watch.batch(signal, Fate::Dropped));
        let Plan {
            address,
            interval,
            resource,
            zero_unix_ns,
            metrics,
            watch,
        } = plan;
        let sender = Sender::new(spool, Client::new(address)?, watch.clone(), host::clock().realtime_ns);
        let (queue, items) = sync_channel(QUEUE);
        let worker = Worker {
            sender,
            interval,
            resource,
            zero_unix_ns,
            metrics,
            watch: watch.clone(),
        };
        let thread = thread::Builder::new()
            .name("push".into())
            .spawn(move || worker.run(&items))?;
        Ok(Self {
            push: Push { queue, watch },
            thread,
        })
    }

    /// Where to hand things in.
    pub fn push(&self) -> Push {
        self.push.clone()
    }

    /// Sends what can be sent in short time, with the metrics as they are at the end, and waits for that. The rest stays on the disk.
    pub fn finish(self) {
        // A thread that is gone has said so itself.
        _ = self.push.queue.send(Item::End);
        _ = self.thread.join();
    }
}

struct Worker {
    sender: Sender<Client>,
    interval: Duration,
    resource: Resource,
    zero_unix_ns: u64,
    metrics: Box<dyn Fn(u64) -> ExportMetricsServiceRequest + Send>,
    watch: Arc<dyn Watch>,
}

impl Worker {
    fn run(mut self, items: &Receiver<Item>) {
        host::give_way();
        let began = Instant::now();
        // The first soon, so that a mistake in the address shows at once.
        let mut measure = Duration::ZERO;
        loop {
            let now = began.elapsed();
            if measure <= now {
                self.measure();
                measure = now + self.interval;
            }
            let send = self.sender.wait(now).map(|wait| now + wait);
            let wake = send.unwrap_or(measure).min(measure);
            let goes_on = match items.recv_timeout(wake.saturating_sub(now)) {
                Ok(item) => self.take(item, items),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !goes_on {
                break;
            }
            let now = began.elapsed();
            if self.sender.wait(now) == Some(Duration::ZERO) {
                self.sender.step(now);
            }
        }
        self.measure();
        let end = Instant::now() + FAREWELL;
        self.sender.wire().be_patient(LAST_PATIENCE);
        while self.sender.wait(Duration::MAX).is_some() && Instant::now() < end && self.sender.step(began.elapsed()) {}
    }

    /// Takes this and all that waits behind it; gives whether more may come.
    fn take(&mut self, first: Item, items: &Receiver<Item>) -> bool {
        let mut records = Vec::new();
        let mut goes_on = true;
        for item in std::iter::once(first).chain(items.try_iter()) {
            match item {
                Item::Record(told) => records.push(told),
                Item::Trace(trace) => self.put(Signal::Traces, &*trace),
                Item::End => goes_on = false,
            }
            if !goes_on || records.len() == MOST_RECORDS {
                break;
            }
        }
        if !records.is_empty() {
            let now = host::clock().realtime_ns;
            let request = records::request(self.resource.clone(), &records, self.zero_unix_ns, now);
            self.put(Signal::Logs, &request);
        }
        goes_on
    }

    fn measure(&mut self) {
        let request = (self.metrics)(host::clock().realtime_ns);
        self.put(Signal::Metrics, &request);
    }

    fn put(&mut self, signal: Signal, request: &impl Message) {
        if let Err(error) = self.sender.put(signal, &request.encode_to_vec()) {
            let why = format!(
                "what is to be pushed waits in memory, and would not outlive the agent: the disk fails ({error})"
            );
            self.watch.trouble(Some(why));
        }
    }
}

/// A push that reaches no collector, and what was handed to it since the last call: the traces.
#[cfg(test)]
pub(crate) fn unsent(watch: Arc<dyn Watch>) -> (Push, impl Fn() -> Vec<ExportTraceServiceRequest>) {
    let (queue, items) = sync_channel(QUEUE);
    let traces = move || {
        let trace = |item| match item {
            Item::Trace(trace) => Some(*trace),
            Item::Record(_) | Item::End => None,
        };
        items.try_iter().filter_map(trace).collect()
    };
    (Push { queue, watch }, traces)
}
