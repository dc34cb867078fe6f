//! The journal as a sink: a thread of its own owns the file, so that a slow disk never stalls the drain of the ring.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::journal::{Clock, End, Store, Writer};

/// How many batches may wait for the disk before new ones are dropped.
pub const QUEUE: usize = 256;
/// How many records are kept back while that many batches wait; more, and all of them are dropped. A batch may hold one
/// record only, so that a disk that hangs for some milliseconds fills the queue with little.
pub const KEPT: usize = 1 << 16;

/// Kernel records, one after the other in one piece of memory.
#[derive(Clone, Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    /// Appends a record.
    pub fn push(&mut self, record: &[u8]) {
        self.bytes.extend(record);
        self.ends.push(self.bytes.len());
    }

    /// Appends the records of another.
    pub fn append(&mut self, more: &Records) {
        let start = self.bytes.len();
        self.bytes.extend(&more.bytes);
        self.ends.extend(more.ends.iter().map(|end| start + end));
    }

    /// Forgets them, and keeps the room that they had.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// How many bytes there is room for.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The records, in the order they were pushed.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |&end| &self.bytes[std::mem::replace(&mut start, end)..end])
    }
}

/// What is to be done once everything before it is written.
type Then = Box<dyn FnOnce() + Send>;

enum Message {
    Batch {
        records: Records,
        /// Records that were dropped before these because the queue was full.
        dropped: u64,
        sync: bool,
    },
    Clock(Clock),
    /// Nothing to write: the thread shows that it lives.
    Ping,
    Then(Then),
    End(End),
}

/// How many written batches leave their room to later ones; more were a burst.
const ROOMS: usize = 4;

/// What the journal's thread tells of itself.
#[derive(Debug, Default)]
struct Health {
    /// How many messages it is done with.
    done: AtomicU64,
    /// Why the last write failed; empty where it did not.
    failing: Mutex<String>,
}

/// The agent's end of the journal's thread.
#[derive(Debug)]
pub struct JournalSink {
    queue: SyncSender<Message>,
    /// Room that written batches had.
    rooms: Receiver<Records>,
    thread: JoinHandle<io::Result<()>>,
    /// Records for which the queue had no room, at most `most_kept` of them.
    kept: Records,
    most_kept: usize,
    /// Dropped since the last batch that went through.
    dropped: u64,
    dropped_in_all: u64,
    sync_wanted: bool,
    unwritten: Arc<AtomicU64>,
    health: Arc<Health>,
}

impl JournalSink {
    /// Starts the thread. `queue` is how many batches may wait, `most_kept` how many records besides; `tell` gets a sentence
    /// when writing begins to fail, and one when it works again.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start<S>(
        writer: Writer<S>,
        queue: usize,
        most_kept: usize,
        tell: impl FnMut(String) + Send + 'static,
    ) -> io::Result<Self>
    where
        S: Store + Send + 'static,
    {
        let (sender, receiver) = sync_channel(queue);
        let (written, rooms) = sync_channel(ROOMS);
        let unwritten = Arc::new(AtomicU64::new(0));
        let health = Arc::<Health>::default();
        let worker = Worker {
            writer,
            tell,
            written,
            failing: false,
            told_of: 0,
            is_removal_told: false,
            unwritten: unwritten.clone(),
            health: health.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || worker.run(receiver))?;
        Ok(Self {
            queue: sender,
            rooms,
            thread,
            kept: Records::default(),
            most_kept,
            dropped: 0,
            dropped_in_all: 0,
            sync_wanted: false,
            unwritten,
            health,
        })
    }

    /// Room for records: that of a batch that is written, where there is one.
    pub fn room(&mut self) -> Records {
        self.rooms.try_recv().unwrap_or_default()
    }

    /// Hands over records, after those that were kept back; with none it only tries those again. `sync` asks that they be on
    /// the disk soon: for the events of a freeze, after which the machine may jump at any moment. Never waits: where the
    /// queue is full the records are kept back, and where that are too many they are dropped, counted, and told in the
    /// journal at their place.
    pub fn send(&mut self, records: Records, sync: bool) {
        let waiting = if self.kept.is_empty() {
            records
        } else {
            let mut kept = std::mem::take(&mut self.kept);
            kept.append(&records);
            kept
        };
        self.sync_wanted |= sync;
        if waiting.is_empty() {
            return;
        }
        let batch = Message::Batch {
            records: waiting,
            dropped: self.dropped,
            sync: self.sync_wanted,
        };
        match self.queue.try_send(batch) {
            Ok(()) => {
                self.dropped = 0;
                self.sync_wanted = false;
            }
            Err(TrySendError::Full(Message::Batch { records, .. })) if records.len() <= self.most_kept => {
                self.kept = records;
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Batch { records, .. } = message {
                    self.dropped += records.len() as u64;
                    self.dropped_in_all += records.len() as u64;
                }
            }
        }
    }

    /// Hands over a reading of the clocks; where the queue is full it is left out.
    pub fn clock(&mut self, clock: Clock) {
        // Neither a full queue nor a thread that is gone is worse for a reading of clocks than for the records.
        _ = self.queue.try_send(Message::Clock(clock));
    }

    /// Gives the thread something to be done with, where it has nothing, and tells how much it is done with: a number that does
    /// not rise any more is that of a thread which is stuck or gone.
    pub fn ping(&mut self) -> u64 {
        // A queue that is full has enough to be done with.
        _ = self.queue.try_send(Message::Ping);
        self.health.done.load(Ordering::Relaxed)
    }

    /// Has the thread do this once everything that was handed over is written, or lost. Gives whether it will: a full queue has no room
    /// for it, and what is kept back would come after it.
    #[must_use]
    pub fn then(&mut self, then: impl FnOnce() + Send + 'static) -> bool {
        self.kept.is_empty() && self.queue.try_send(Message::Then(Box::new(then))).is_ok()
    }

    /// Why nothing is recorded at this moment, where that is so.
    pub fn trouble(&self) -> Option<String> {
        if self.thread.is_finished() {
            return Some(
                "nothing is recorded any more, since the journal's thread has ended: start the agent anew".into(),
            );
        }
        let failing = self.health.failing.lock().unwrap_or_else(PoisonError::into_inner);
        (!failing.is_empty()).then(|| format!("the journal cannot be written: {failing}"))
    }

    /// How many records did not get into the journal so far.
    pub fn dropped(&self) -> u64 {
        self.dropped_in_all + self.unwritten.load(Ordering::Relaxed)
    }

    /// Waits until all is written, marks the end, and waits for the disk. Gives how many records were lost in all.
    ///
    /// # Errors
    /// Where the end could not be marked: the journal then ends like that of a killed agent.
    pub fn end(mut self, end: End) -> io::Result<u64> {
        let gone = || io::Error::other("the journal's thread is gone; what it still had to write is lost");
        let (records, dropped) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.dropped));
        if dropped > 0 || !records.is_empty() {
            let rest = Message::Batch {
                records,
                dropped,
                sync: false,
            };
            self.queue.send(rest).map_err(|_| gone())?;
        }
        self.queue.send(Message::End(end)).map_err(|_| gone())?;
        drop(self.queue);
        self.thread.join().map_err(|_| gone())??;
        Ok(self.dropped_in_all + self.unwritten.load(Ordering::Relaxed))
    }
}

/// What the thread owns.
struct Worker<S, T> {
    writer: Writer<S>,
    tell: T,
    written: SyncSender<Records>,
    failing: bool,
    /// Records that the sender dropped and counts itself.
    told_of: u64,
    is_removal_told: bool,
    unwritten: Arc<AtomicU64>,
    health: Arc<Health>,
}

impl<S: Store, T: FnMut(String)> Worker<S, T> {
    /// Works until the sender is gone; the result is that of marking the end.
    fn run(mut self, queue: Receiver<Message>) -> io::Result<()> {
        let mut ended = Ok(());
        for message in queue {
            let result = match message {
                Message::Batch {
                    mut records,
                    dropped,
                    sync,
                } => {
                    let result = self.batch(&records, dropped, sync);
                    records.clear();
                    // Where there is room enough, this goes.
                    _ = self.written.try_send(records);
                    result
                }
                Message::Clock(clock) => self.writer.clock(&clock),
                Message::Ping => {
                    self.health.done.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Message::Then(then) => {
                    then();
                    continue;
                }
                Message::End(end) => {
                    ended = self.writer.end(&end);
                    continue;
                }
            };
            self.unwritten
                .store(self.writer.lost() - self.told_of, Ordering::Relaxed);
            self.say(result);
            self.say_removed();
            self.health.done.fetch_add(1, Ordering::Relaxed);
        }
        ended
    }

    fn batch(&mut self, records: &Records, dropped: u64, sync: bool) -> io::Result<()> {
        if dropped > 0 {
            self.told_of += dropped;
            self.writer.lose(
                dropped,
                "the journal's queue was full: the disk was slower than the events",
            );
        }
        self.writer.append(records.iter())?;
        if sync { self.writer.sync() } else { Ok(()) }
    }

    /// Tells once that the journal's middle goes; how much of it the journal itself tells.
    fn say_removed(&mut self) {
        if !self.is_removal_told && self.writer.removed() > 0 {
            self.is_removal_told = true;
            (self.tell)(
                "this boot's journal has filled a quarter of --journal-max-size: its beginning and its end are kept, the middle is \
                 removed, and the journal says how much that is"
                    .into(),
            );
        }
    }

    fn set_failing(&self, why: String) {
        *self.health.failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Tells of the first failure and of the first success after it, and of nothing in between.
    fn say(&mut self, result: io::Result<()>) {
        match result {
            Err(error) if !self.failing => {
                self.failing = true;
                self.set_failing(error.to_string());
                (self.tell)(format!(
                    "cannot write the journal: {error}; the agent goes on, and what is lost is counted. \
                     Make room or mend the disk, and the journal goes on by itself"
                ));
            }
            Ok(()) if self.failing => {
                self.failing = false;
                self.set_failing(String::new());
                let lost = self.writer.lost();
                (self.tell)(format!(
                    "the journal is being written again; it lacks {lost} records so far"
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;
    use crate::journal::{Frame, Header, Reader};

    const DEADLINE: Duration = Duration::from_secs(300);

    /// A disk that writes only when the test lets it, and may be full.
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        allowed: Receiver<io::Result<()>>,
        syncs: Sender<()>,
    }

    impl Write for Disk {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.allowed.recv().unwrap()?;
            self.bytes.lock().unwrap().extend(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Store for Disk {
        fn cut(&mut self, len: u64) -> io::Result<()> {
            self.bytes.lock().unwrap().truncate(len as usize);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            let _ = self.syncs.send(());
            Ok(())
        }
    }

    struct Stage {
        sink: JournalSink,
        allow: Sender<io::Result<()>>,
        bytes: Arc<Mutex<Vec<u8>>>,
        syncs: Receiver<()>,
        told: Receiver<String>,
    }

    fn given_a_queue_of(queue: usize) -> Stage {
        given_a_queue_and_room(queue, 0)
    }

    fn given_a_queue_and_room(queue: usize, most_kept: usize) -> Stage {
        let (allow, allowed) = channel();
        let (syncs, synced) = channel();
        let (tell, told) = channel();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let disk = Disk {
            bytes: bytes.clone(),
            allowed,
            syncs,
        };
        let header = Header {
            boot_id: "b".into(),
            ..Header::default()
        };
        let writer = Writer::begin(disk, &header).unwrap();
        let sink = JournalSink::start(writer, queue, most_kept, move |text| tell.send(text).unwrap()).unwrap();
        Stage {
            sink,
            allow,
            bytes,
            syncs: synced,
            told,
        }
    }

    fn records(names: &[&str]) -> Records {
        let mut records = Records::default();
        names.iter().for_each(|name| records.push(name.as_bytes()));
        records
    }

    /// The frames as words: a record's own bytes, `-n` for n lost ones, `end`.
    fn frames(bytes: &[u8]) -> Vec<String> {
        let mut reader = Reader::new(bytes).unwrap();
        let mut words = Vec::new();
        while let Some(frame) = reader.next() {
            words.push(match frame {
                Frame::Event(record) => String::from_utf8(record.to_vec()).unwrap(),
                Frame::Lost(lost) => format!("-{}", lost.records),
                Frame::End(_) => "end".into(),
                other => format!("{other:?}"),
            });
        }
        words
    }

    #[test]
    fn batches_reach_the_file_in_order_and_before_the_end() {
        let mut stage = given_a_queue_of(8);
        (0..3).for_each(|_| stage.allow.send(Ok(())).unwrap());
        stage.sink.send(records(&["a", "b"]), false);
        stage.sink.send(records(&["c"]), false);
        assert_eq!(stage.sink.end(End::default()).unwrap(), 0);
        assert_eq!(frames(&stage.bytes.lock().unwrap()), ["a", "b", "c", "end"]);
    }

    #[test]
    fn a_disk_that_hangs_costs_records_that_are_counted_and_told_at_their_place_but_never_a_wait() {
        // Given a disk that hangs,
        let mut stage = given_a_queue_of(1);
        // when more batches come than fit into the queue,
        let names = ["a", "b", "c", "d", "e", "f"];
        names.iter().for_each(|name| stage.sink.send(records(&[name]), false));
        // then sending went on, and the records without room are counted.
        let dropped = stage.sink.dropped();
        assert!(
            (4..=5).contains(&dropped),
            "one batch waits, one may be with the disk, {dropped} are dropped"
        );
        (0..4).for_each(|_| stage.allow.send(Ok(())).unwrap());
        assert_eq!(stage.sink.end(End::default()).unwrap(), dropped);
        let written = frames(&stage.bytes.lock().unwrap());
        assert_eq!(written[written.len() - 2..], [format!("-{dropped}"), "end".into()]);
    }

    #[test]
    fn what_has_no_room_in_the_queue_is_kept_in_order_and_dropped_only_when_it_is_too_much() {
        // Given a disk that hangs, a queue of one batch, and room for three records besides,
        let mut stage = given_a_queue_and_room(1, 3);
        stage.sink.send(records(&["a"]), true);
        // when three more single records come,
        ["b", "c", "d"]
            .iter()
            .for_each(|name| stage.sink.send(records(&[name]), true));
        // then nothing is dropped,
        assert_eq!(stage.sink.dropped(), 0);
        // and when more come than there is room for, all that had to wait is, and is told at its place.
        stage.sink.send(records(&["e", "f", "g", "h"]), false);
        let dropped = stage.sink.dropped();
        assert!((4..=7).contains(&dropped), "{dropped} are dropped");
        (0..8).for_each(|_| stage.allow.send(Ok(())).unwrap());
        assert_eq!(stage.sink.end(End::default()).unwrap(), dropped);
        let mut wanted: Vec<_> = ["a", "b", "c", "d"].map(str::to_owned).into();
        wanted.truncate(8 - dropped as usize);
        wanted.extend([format!("-{dropped}"), "end".into()]);
        assert_eq!(frames(&stage.bytes.lock().unwrap()), wanted);
    }

    #[test]
    fn what_was_kept_is_written_at_the_end() {
        let mut stage = given_a_queue_and_room(1, 8);
        let names = ["a", "b", "c", "d"];
        names.iter().for_each(|name| stage.sink.send(records(&[name]), false));
        (0..5).for_each(|_| stage.allow.send(Ok(())).unwrap());
        assert_eq!(stage.sink.end(End::default()).unwrap(), 0);
        assert_eq!(frames(&stage.bytes.lock().unwrap()), ["a", "b", "c", "d", "end"]);
    }

    #[test]
    fn what_was_dropped_is_told_once_before_the_next_batch_that_has_room() {
        // Given a disk that hung until batches were dropped, and has caught up.
        let mut stage = given_a_queue_of(1);
        let names = ["a", "b", "c", "d", "e", "f"];
        names.iter().for_each(|name| stage.sink.send(records(&[name]), true));
        let dropped = stage.sink.dropped();
        let caught_up = |stage: &Stage| stage.syncs.recv_timeout(DEADLINE).unwrap();
        for _ in dropped..6 {
            stage.allow.send(Ok(())).unwrap();
            caught_up(&stage);
        }
        // When more is sent,
        for name in ["g", "h"] {
            stage.allow.send(Ok(())).unwrap();
            stage.sink.send(records(&[name]), true);
            caught_up(&stage);
        }
        stage.allow.send(Ok(())).unwrap();
        assert_eq!(stage.sink.end(End::default()).unwrap(), dropped);
        // then the loss stands before the first of it only.
        let written = frames(&stage.bytes.lock().unwrap());
        let tail: Vec<_> = written[written.len() - 4..].iter().map(String::as_str).collect();
        assert_eq!(tail, [&format!("-{dropped}"), "g", "h", "end"]);
    }

    #[test]
    fn a_freeze_is_on_the_disk_as_soon_as_it_is_written() {
        let mut stage = given_a_queue_of(8);
        stage.allow.send(Ok(())).unwrap();
        stage.sink.send(records(&["freeze"]), true);
        stage.syncs.recv_timeout(DEADLINE).unwrap();
        assert_eq!(frames(&stage.bytes.lock().unwrap()), ["freeze"]);
    }

    #[test]
    fn a_full_disk_is_told_once_and_again_when_it_has_room() {
        let mut stage = given_a_queue_of(8);
        // No room for a, nor for b; room is looked for before c and found, and c and the end are written.
        for room in [false, false, true, true, true] {
            let answer = if room {
                Ok(())
            } else {
                Err(io::ErrorKind::StorageFull.into())
            };
            stage.allow.send(answer).unwrap();
        }
        ["a", "b", "c"]
            .iter()
            .for_each(|name| stage.sink.send(records(&[name]), false));
        assert_eq!(stage.sink.end(End::default()).unwrap(), 2);
        let told: Vec<_> = stage.told.iter().collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("no storage space") && told[1].contains("lacks 2 records"),
            "{told:?}"
        );
        assert_eq!(frames(&stage.bytes.lock().unwrap()), ["-2", "c", "end"]);
    }

    /// Waits for something that a thread brings about.
    #[track_caller]
    fn comes_true(mut what: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + DEADLINE;
        while !what() {
            assert!(std::time::Instant::now() < deadline, "it does not come");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_room_of_a_batch_that_is_written_is_used_again() {
        let mut stage = given_a_queue_of(8);
        assert_eq!(stage.sink.room().capacity(), 0);
        stage.allow.send(Ok(())).unwrap();
        stage.sink.send(records(&["a"]), false);
        let mut room = Records::default();
        comes_true(|| {
            room = stage.sink.room();
            room.capacity() > 0
        });
        // Nothing of what was in it is still there.
        assert!(room.is_empty());
        stage.allow.send(Ok(())).unwrap();
        stage.sink.end(End::default()).unwrap();
    }

    #[test]
    fn a_thread_with_nothing_to_write_answers_a_ping_and_one_that_is_gone_is_told() {
        let mut stage = given_a_queue_of(8);
        let before = stage.sink.ping();
        comes_true(|| stage.sink.ping() > before);
        assert_eq!(stage.sink.trouble(), None);
        // Given a mistake that ends the thread, which a disk without a test behind it does here,
        drop(stage.allow);
        stage.sink.send(records(&["a"]), false);
        comes_true(|| stage.sink.trouble().is_some_and(|why| why.contains("thread has ended")));
        // then a ping is not answered.
        assert_eq!(stage.sink.ping(), stage.sink.ping());
    }

    #[test]
    fn a_full_disk_is_a_trouble_until_it_has_room() {
        let mut stage = given_a_queue_of(8);
        let full = || Err(io::ErrorKind::StorageFull.into());
        stage.allow.send(full()).unwrap();
        stage.sink.send(records(&["a"]), false);
        comes_true(|| stage.sink.trouble().is_some_and(|why| why.contains("no storage space")));
        (0..2).for_each(|_| stage.allow.send(Ok(())).unwrap());
        stage.sink.send(records(&["b"]), false);
        comes_true(|| stage.sink.trouble().is_none());
        stage.allow.send(Ok(())).unwrap();
        stage.sink.end(End::default()).unwrap();
    }
}
