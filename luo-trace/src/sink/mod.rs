//! Where events and findings go. Sinks never import each other, and none can stall the drain of the ring: each that may be
//! slow has a thread of its own behind a bounded queue, drops what does not fit, and counts it.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::status::Status;

#[cfg(feature = "agent")]
pub mod console;
#[cfg(feature = "agent")]
pub mod control;
#[cfg(feature = "agent")]
pub mod journal;
#[cfg(feature = "agent")]
pub mod log;
#[cfg(feature = "agent")]
pub mod metrics;
#[cfg(feature = "agent")]
pub mod push;
#[cfg(feature = "agent")]
pub mod tables;
pub mod web;

/// What a sink that is asked shows.
pub trait StatusSource: Send + Sync + 'static {
    /// The state of things. It may take a while.
    fn status(&self) -> Status;
}

/// A thread that consumes what it is fed.
#[derive(Debug)]
pub struct Feed<T> {
    queue: SyncSender<T>,
    thread: JoinHandle<()>,
    dropped: u64,
}

impl<T: Send + 'static> Feed<T> {
    /// Starts the thread. `queue` is how many items may wait.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start(name: &str, queue: usize, mut consume: impl FnMut(T) + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(queue);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || receiver.into_iter().for_each(&mut consume))?;
        Ok(Self {
            queue: sender,
            thread,
            dropped: 0,
        })
    }

    /// Feeds an item that counts as `weight`; where the queue is full, it is dropped and counted.
    pub fn send(&mut self, item: T, weight: u64) {
        if self.offer(item).is_err() {
            self.dropped += weight;
        }
    }

    /// Feeds an item, or gives it back where the queue is full.
    ///
    /// # Errors
    /// The item.
    pub fn offer(&mut self, item: T) -> Result<(), T> {
        self.queue.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) | TrySendError::Disconnected(item) => item,
        })
    }

    /// Whether there is still a consumer.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// How much was dropped so far by [`Feed::send`].
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Feeds a last item, however long that takes, and waits until everything is consumed.
    pub fn finish(self, last: T) {
        // Where no consumer is left, it goes nowhere.
        _ = self.queue.send(last);
        drop(self.queue);
        // A consumer that panicked has said so itself; there is nothing left to wait for.
        _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[test]
    fn a_slow_consumer_costs_items_and_never_the_feeder_its_time() {
        // Given a consumer that has taken one item and is held up,
        let (taken, wait_taken) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let mut feed = Feed::start("slow", 1, move |item: u32| {
            _ = taken.send(());
            _ = held.recv();
            log.lock().unwrap().push(item);
        })
        .unwrap();
        feed.send(1, 1);
        wait_taken.recv().unwrap();
        // when more is fed than its queue holds,
        feed.send(2, 1);
        feed.send(3, 10);
        // then the rest is dropped and counted, or given back, and what was accepted arrives, with what it is fed at the end.
        assert_eq!(feed.dropped(), 10);
        assert_eq!(feed.offer(5), Err(5));
        drop(release);
        feed.finish(4);
        assert_eq!(*seen.lock().unwrap(), [1, 2, 4]);
    }
}
