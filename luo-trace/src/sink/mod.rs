//! Where events and findings go. Sinks never import each other, and none can stall the drain of the ring: each that may be
//! slow has a thread of its own behind a bounded queue, drops what does not fit, and counts it.

use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

pub mod console;
pub mod control;
pub mod journal;
pub mod metrics;
pub mod web;

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
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(item) {
            self.dropped += weight;
        }
    }

    /// How much was dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Waits until everything is consumed.
    pub fn finish(self) {
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
        // then the rest is dropped and counted, and what was accepted arrives.
        assert_eq!(feed.dropped(), 10);
        drop(release);
        feed.finish();
        assert_eq!(*seen.lock().unwrap(), [1, 2]);
    }
}
