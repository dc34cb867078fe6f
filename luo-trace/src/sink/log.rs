//! What the agent says on stderr: of itself, of what it finds and of what policy refuses. For a person, or for what collects logs.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use serde::Serialize;

use crate::model::{Finding, Id, Severity};
use crate::policy::tell::Refusal;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Sentences
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// How urgent a line is, by the numbers of syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    /// A promise was broken without which an update loses everything.
    Critical = 2,
    /// A promise was broken.
    Error = 3,
    /// A promise of little weight was broken, or a call was refused.
    Warning = 4,
    /// A call passed that a rule says no to.
    Notice = 5,
    /// Everything else.
    Info = 6,
}

impl From<Severity> for Priority {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Critical => Self::Critical,
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How urgent it is.
    pub priority: Priority,
    /// What it says, in sentences.
    pub message: String,
    /// What it is about.
    pub about: About,
}

/// What a line is about, in JSON by the keys of what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum About {
    /// The agent itself.
    Agent {},
    /// A promise that was broken.
    Finding(Box<Finding>),
    /// A call to which a rule of policy said no.
    Refusal {
        /// Its name.
        id: Id,
        /// What it was.
        #[serde(flatten)]
        refusal: Box<Refusal>,
    },
}

impl Entry {
    /// A sentence of the agent's.
    pub fn sentence(sentence: impl Display) -> Self {
        Self {
            priority: Priority::Info,
            message: sentence.to_string(),
            about: About::Agent {},
        }
    }

    /// A promise that was broken.
    pub fn finding(finding: &Finding) -> Self {
        Self {
            priority: finding.invariant.severity().into(),
            message: finding.to_string(),
            about: About::Finding(Box::new(finding.clone())),
        }
    }

    /// A call to which a rule said no.
    pub fn refusal(id: Id, refusal: &Refusal) -> Self {
        let priority = match refusal.decision.as_ref() {
            "deny" => Priority::Warning,
            _ => Priority::Notice,
        };
        Self {
            priority,
            message: format!("policy: {}. Id: {id}.", refusal.tell()),
            about: About::Refusal {
                id,
                refusal: Box::new(refusal.clone()),
            },
        }
    }
}

/// How this process tells what it says.
#[derive(Debug, Default)]
struct Style {
    form: Form,
    /// Whether journald reads it, which takes a line's priority from its beginning.
    journald: bool,
    host: String,
    boot: String,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// Has everything told in this form from now on; JSON says of which host, and of which boot. Only the first call counts.
pub fn begin(form: Form, host: String, boot: String) {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    // Where it was set before, that stands.
    _ = STYLE.set(Style {
        form,
        journald: stream.is_some_and(|stream| is_stream(&io::stderr(), &stream)),
        host,
        boot,
    });
}

/// Whether this is the stream that systemd names in the environment, by device and inode: see systemd.exec(5).
fn is_stream(out: &impl AsFd, stream: &str) -> bool {
    rustix::fs::fstat(out).is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == stream)
}

/// Says a sentence to the user who runs luo-trace, on stderr.
pub fn tell(sentence: impl Display) {
    write(&Entry::sentence(sentence));
}

/// Writes a line to stderr. It goes out in one write: where stdout ends in the same file, the lines of both stay whole.
pub fn write(entry: &Entry) {
    let plain = Style::default();
    let line = STYLE.get().unwrap_or(&plain).line(entry);
    // When stderr is gone, no reader is left.
    _ = io::stderr().write_all(line.as_bytes());
}

#[derive(Serialize)]
struct Object<'a> {
    priority: u8,
    message: &'a str,
    host: &'a str,
    boot: &'a str,
    #[serde(flatten)]
    about: &'a About,
}

impl Style {
    fn line(&self, entry: &Entry) -> String {
        let Entry {
            priority,
            message,
            about,
        } = entry;
        let text = match self.form {
            Form::Text => format!("luo-trace: {message}"),
            // Text under keys of text: nothing in it has no JSON form.
            Form::Json => serde_json::to_string(&Object {
                priority: *priority as u8,
                message,
                host: &self.host,
                boot: &self.boot,
                about,
            })
            .unwrap_or_default(),
        };
        match self.journald {
            // journald takes each line for a message of its own.
            true => text
                .lines()
                .map(|line| format!("<{}>{line}\n", *priority as u8))
                .collect(),
            false => text + "\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;

    use serde_json::Value;

    use super::*;
    use crate::model::{Invariant, Subject};

    fn finding() -> Finding {
        Finding {
            id: Id::default(),
            invariant: Invariant::FileBalance,
            object: Subject::Update,
            expected: "every file is given back".into(),
            seen: "one is not".into(),
            advice: "Look at its handler.",
            evidence: Vec::new(),
            time_ns: 7,
        }
    }

    #[test]
    fn a_finding_is_an_object_with_its_priority_host_and_boot() {
        let style = Style {
            form: Form::Json,
            host: "rack-7".into(),
            boot: "b".into(),
            ..Style::default()
        };
        let line = style.line(&Entry::finding(&finding()));
        let json: Value = serde_json::from_str(&line).unwrap();
        let of = |key: &str| json[key].clone();
        assert_eq!(of("priority"), Entry::finding(&finding()).priority as u8);
        assert_eq!(
            (of("invariant"), of("host"), of("boot")),
            ("file-balance".into(), "rack-7".into(), "b".into())
        );
        assert_eq!(of("id"), Id::default().to_string());
        assert_eq!(of("severity"), finding().invariant.severity().name());
        assert_eq!(line.matches('\n').count(), 1);
        // A sentence of the agent's is one, too.
        let json: Value = serde_json::from_str(&style.line(&Entry::sentence("recording"))).unwrap();
        assert_eq!(
            (&json["message"], &json["priority"], &json["id"]),
            (&"recording".into(), &6.into(), &Value::Null)
        );
    }

    #[test]
    fn a_refusal_has_its_id_in_both_forms() {
        let refusal = Refusal {
            op: "kexec-load".into(),
            decision: "deny".into(),
            rule: "legacy".into(),
            comm: "kexec".into(),
            ..Refusal::default()
        };
        let entry = Entry::refusal(Id::default(), &refusal);
        let text = Style::default().line(&entry);
        assert!(text.starts_with("luo-trace: policy: kexec-load by kexec[0]"), "{text}");
        assert!(text.ends_with("Id: 0000000000000000.\n"), "{text}");
        let style = Style {
            form: Form::Json,
            ..Style::default()
        };
        let json: Value = serde_json::from_str(&style.line(&entry)).unwrap();
        assert_eq!(
            (&json["id"], &json["rule"]),
            (&"0000000000000000".into(), &"legacy".into())
        );
    }

    #[test]
    fn journald_is_told_the_priority_of_every_line() {
        let style = Style {
            journald: true,
            ..Style::default()
        };
        assert_eq!(style.line(&Entry::sentence("a\nb")), "<6>luo-trace: a\n<6>b\n");
        let critical = Entry {
            priority: Priority::Critical,
            ..Entry::sentence("c")
        };
        assert_eq!(style.line(&critical), "<2>luo-trace: c\n");
    }

    #[test]
    fn a_stream_of_journald_is_known_by_its_inode() {
        let file = tempfile::tempfile().unwrap();
        let stat = file.metadata().unwrap();
        let stream = format!("{}:{}", stat.st_dev(), stat.st_ino());
        assert!(is_stream(&file, &stream));
        assert!(!is_stream(&file, "8:1"));
    }
}
