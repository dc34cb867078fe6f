//! What is read on a thread of its own, so that the agent never waits for a file, whatever that is.

use std::future::pending;
use std::thread;

use anyhow::Result;
use tokio::sync::oneshot;

/// A reading that may be under way.
pub(super) struct Aside<T>(Option<oneshot::Receiver<Result<T>>>);

impl<T> Default for Aside<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> Aside<T> {
    /// Begins to read. What another thread reads at this moment may be older than what is wanted, and is forgotten; the agent waits
    /// for neither when it ends.
    pub(super) fn begin(&mut self, read: impl FnOnce() -> Result<T> + Send + 'static) {
        let (sender, receiver) = oneshot::channel();
        thread::spawn(move || sender.send(read()));
        self.0 = Some(receiver);
    }

    /// Whether a reading is under way.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until it is done; for ever, where none is under way.
    pub(super) async fn done(&mut self) -> Result<T> {
        let read = match &mut self.0 {
            Some(reading) => reading.await.unwrap_or_else(|gone| Err(gone.into())),
            None => pending().await,
        };
        self.0 = None;
        read
    }
}
