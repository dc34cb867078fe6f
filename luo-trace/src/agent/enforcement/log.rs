//! What policy has to say to the user who runs the agent: a line for each refusal, and never a flood of them.

use std::io;

use crate::model::Id;
use crate::policy::tell::Refusal;
use crate::sink::Feed;
use crate::sink::log::{self, Entry};

/// How many refusals are told at once; after them, one a second.
const BURST: u32 = 10;
/// How many lines may wait for a slow terminal.
const QUEUE: usize = 64;

/// Lines on their way to stderr.
pub struct Log {
    feed: Feed<Option<Entry>>,
    /// How many refusals may be told now.
    room: u32,
    left_out: u64,
}

impl Log {
    /// Tells on stderr from now on.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start() -> io::Result<Self> {
        Self::to(|entry| entry.iter().for_each(log::write))
    }

    /// Tells it to another listener.
    fn to(tell: impl FnMut(Option<Entry>) + Send + 'static) -> io::Result<Self> {
        Ok(Self {
            feed: Feed::start("policy-log", QUEUE, tell)?,
            room: BURST,
            left_out: 0,
        })
    }

    /// Says something that happens seldom.
    pub fn say(&mut self, line: Option<&String>) {
        if let Some(line) = line {
            self.feed.send(Some(Entry::sentence(format_args!("policy: {line}"))), 1);
        }
    }

    /// Tells of a refusal by its id, or counts it where there were too many.
    pub fn refusal(&mut self, id: Id, refusal: &Refusal) {
        match self.room.checked_sub(1) {
            Some(room) => {
                self.room = room;
                self.feed.send(Some(Entry::refusal(id, refusal)), 1);
            }
            None => self.left_out += 1,
        }
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        if self.left_out > 0 {
            let line = format!("{} more refusals: `luo-trace status` counts them all", self.left_out);
            self.say(Some(&line));
            // Telling that takes the room which the second gave.
            self.left_out = 0;
        } else {
            self.room = (self.room + 1).min(BURST);
        }
    }

    /// Waits until everything is told.
    pub fn finish(self) {
        self.feed.finish(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_flood_of_refusals_is_some_lines_and_a_number() {
        let (sender, lines) = channel();
        let mut log = Log::to(move |entry| _ = sender.send(entry)).unwrap();
        // Given far more refusals in one second than anybody reads,
        let refusal = Refusal {
            op: "kexec-load".into(),
            decision: "deny".into(),
            rule: "legacy".into(),
            comm: "kexec".into(),
            pid: 71,
            ..Refusal::default()
        };
        (0..1000).for_each(|_| log.refusal(Id::default(), &refusal));
        log.tick();
        // when the flood is over, then each is told again;
        (0..3).for_each(|_| log.tick());
        log.refusal(Id::default(), &refusal);
        log.finish();
        let lines: Vec<String> = lines.iter().flatten().map(|entry| entry.message).collect();
        assert_eq!(lines.len(), BURST as usize + 2, "{lines:?}");
        let told = "policy: kexec-load by kexec[71] (user 0) refused by the rule \"legacy\". Id: 0000000000000000.";
        assert!(lines[..BURST as usize].iter().all(|line| line == told), "{lines:?}");
        assert!(
            lines[BURST as usize].starts_with("policy: 990 more refusals"),
            "{lines:?}"
        );
        assert_eq!(lines[BURST as usize + 1], told);
    }
}
