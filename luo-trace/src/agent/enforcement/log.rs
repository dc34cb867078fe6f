//! What policy has to say to the user who runs the agent: a line for each refusal, and never a flood of them.

use std::io;

use crate::policy::tell::Refusal;
use crate::sink::Feed;

/// How many refusals are told at once; after them, one a second.
const BURST: u32 = 10;
/// How many lines may wait for a slow terminal.
const QUEUE: usize = 64;

/// Lines on their way to stderr.
pub struct Log {
    feed: Feed<String>,
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
        Self::to(|line| {
            if line.is_empty() {
                return;
            }
            // When stderr is gone, no reader is left.
            _ = io::Write::write_all(&mut io::stderr(), format!("luo-trace: policy: {line}\n").as_bytes());
        })
    }

    /// Tells it to another listener.
    fn to(tell: impl FnMut(String) + Send + 'static) -> io::Result<Self> {
        Ok(Self {
            feed: Feed::start("policy-log", QUEUE, tell)?,
            room: BURST,
            left_out: 0,
        })
    }

    /// Says something that happens seldom.
    pub fn say(&mut self, line: Option<&String>) {
        if let Some(line) = line {
            self.feed.send(line.clone(), 1);
        }
    }

    /// Tells of a refusal, or counts it where there were too many.
    pub fn refusal(&mut self, refusal: &Refusal) {
        match self.room.checked_sub(1) {
            Some(room) => {
                self.room = room;
                self.feed.send(refusal.tell(), 1);
            }
            None => self.left_out += 1,
        }
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        if self.left_out > 0 {
            let line = format!("{} more refusals: `luo-trace status` counts them all", self.left_out);
            self.feed.send(line, 1);
            // Telling that takes the room which the second gave.
            self.left_out = 0;
        } else {
            self.room = (self.room + 1).min(BURST);
        }
    }

    /// Waits until everything is told.
    pub fn finish(self) {
        self.feed.finish(String::new());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_flood_of_refusals_is_some_lines_and_a_number() {
        let (sender, lines) = channel();
        let mut log = Log::to(move |line| _ = sender.send(line)).unwrap();
        // Given far more refusals in one second than anybody reads,
        let refusal = Refusal {
            op: "kexec-load".into(),
            decision: "deny".into(),
            rule: "legacy".into(),
            comm: "kexec".into(),
            pid: 71,
            ..Refusal::default()
        };
        (0..1000).for_each(|_| log.refusal(&refusal));
        log.tick();
        // when the flood is over, then each is told again;
        (0..3).for_each(|_| log.tick());
        log.refusal(&refusal);
        log.finish();
        let lines: Vec<String> = lines.iter().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), BURST as usize + 2, "{lines:?}");
        let told = "kexec-load by kexec[71] (user 0) refused by the rule \"legacy\"";
        assert!(lines[..BURST as usize].iter().all(|line| line == told), "{lines:?}");
        assert!(lines[BURST as usize].starts_with("990 more refusals"), "{lines:?}");
        assert_eq!(lines[BURST as usize + 1], told);
    }
}
