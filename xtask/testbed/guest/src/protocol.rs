//! The lines by which the guest tells the host how far it is.
//!
//! They go through `/dev/kmsg`, so that the kernel writes each in one piece between its own messages, with
//! its own time stamp: `[    1.234567] testbed: {"boot":{...}}`.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

/// What a protocol line begins with, after the kernel's time stamp.
pub const PREFIX: &str = "testbed: ";

/// The kernel cuts a longer record.
const MAX_LINE: usize = 900;

/// One thing the guest has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// Init runs and has mounted what it needs.
    Boot {
        /// 1 before the kexec, 2 after it.
        boot: u32,
        /// The kernel's release, as `uname -r` has it.
        release: String,
    },
    /// A step begins.
    Step {
        /// The step, as the scenario has it.
        doing: String,
    },
    /// The next kernel is loaded, and `reboot(KEXEC)` is the next system call.
    Kexec,
    /// The last kernel's steps are done, and the agent is asked to end.
    Stop,
    /// The scenario failed; the guest powers off.
    Failed {
        /// What, and why.
        why: String,
    },
    /// Every step of the scenario did what it should; the guest powers off.
    Done,
}

impl Message {
    /// The line for this message, short enough for one record of the kernel's log.
    pub fn line(&self) -> String {
        let line = self.encode();
        let excess = line.len().saturating_sub(MAX_LINE);
        if excess == 0 {
            return line;
        }
        match self {
            Message::Step { doing } => Message::Step {
                doing: shorten(doing, excess),
            }
            .encode(),
            Message::Failed { why } => Message::Failed {
                why: shorten(why, excess),
            }
            .encode(),
            Message::Boot { .. } | Message::Kexec | Message::Stop | Message::Done => line,
        }
    }

    /// The message of a line's text after the kernel's time stamp; `None` when it is not one of ours, an
    /// error when it should be and cannot be read.
    pub fn parse(text: &str) -> Option<Result<Message, serde_json::Error>> {
        text.strip_prefix(PREFIX).map(serde_json::from_str)
    }

    fn encode(&self) -> String {
        // A message holds strings and numbers only, which always have a JSON form.
        format!("{PREFIX}{}", serde_json::to_string(self).unwrap_or_default())
    }
}

/// Says something to the host. Nothing can be done when that fails but to try the console.
pub fn say(message: &Message) {
    let line = message.line();
    // In one write: the kernel makes one record of it.
    let record = format!("<6>{line}\n");
    let told = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(record.as_bytes()));
    if told.is_err() {
        eprintln!("{line}");
    }
}

/// Takes `excess` bytes, and room for a mark, from the end of `text`; escapes in JSON only make it shorter
/// than it had to be.
fn shorten(text: &str, excess: usize) -> String {
    let mark = " [...]";
    let mut end = text.len().saturating_sub(excess + mark.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_console() {
        for message in [
            Message::Boot {
                boot: 2,
                release: "7.3.4-luo".into(),
            },
            Message::Kexec,
            Message::Stop,
            Message::Failed {
                why: "token 1: \"EEXIST\"\nand a second line".into(),
            },
            Message::Done,
        ] {
            let line = message.line();
            assert!(!line.contains('\n'), "one record: {line}");
            assert_eq!(Message::parse(&line).unwrap().unwrap(), message);
        }
    }

    #[test]
    fn a_long_reason_is_shortened_and_still_readable() {
        let line = Message::Failed {
            why: "\"ä\n".repeat(1000),
        }
        .line();
        assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
        let Message::Failed { why } = Message::parse(&line).unwrap().unwrap() else {
            panic!("{line}")
        };
        assert!(why.ends_with("[...]"));
    }

    #[test]
    fn other_lines_are_not_messages_and_a_torn_one_is_an_error() {
        assert!(Message::parse("random: crng init done").is_none());
        assert!(Message::parse("testbed: {\"step\":{\"doi").unwrap().is_err());
    }
}
