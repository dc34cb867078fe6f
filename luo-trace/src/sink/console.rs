//! Events and findings on a terminal or in a pipe, one a line.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

use luo_trace_common::policy::Decision;

use crate::event::{Body, Event, is_usual_refusal};
use crate::model::Finding;
use crate::text::errno;
use crate::text::units::span;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    Text {
        /// With colours.
        colour: bool,
    },
    /// One JSON object a line: an event has the key `event`, a finding the key `invariant`.
    Json,
}

impl Format {
    /// Text for `out`: coloured where it is a terminal and `NO_COLOR` is not set.
    pub fn text(out: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::Text {
            colour: out.is_terminal() && !refused,
        }
    }

    /// Adds the line of an event.
    pub fn event(self, line: &mut String, event: &Event) {
        match self {
            Format::Text { colour } => text(line, event, colour),
            Format::Json => json(line, event),
        }
    }

    /// Adds the line of a finding.
    pub fn finding(self, line: &mut String, finding: &Finding) {
        match self {
            Format::Text { colour } => {
                let (red, plain) = if colour { (RED, PLAIN) } else { ("", "") };
                // Writing to a String cannot fail.
                let _ = writeln!(line, "{red}VIOLATED{plain} {finding}");
            }
            Format::Json => json(line, finding),
        }
    }

    /// Adds the line that stands for findings which no reader took in time.
    pub fn left_out(self, line: &mut String, findings: u64) {
        match self {
            Format::Text { colour } => {
                let (red, plain) = if colour { (RED, PLAIN) } else { ("", "") };
                // Writing to a String cannot fail.
                let _ = writeln!(
                    line,
                    "{red}VIOLATED{plain} {findings} times more: these lines were taken too slowly. The journal and the metrics \
                     have them all"
                );
            }
            Format::Json => json(
                line,
                &LeftOut {
                    findings_left_out: findings,
                },
            ),
        }
    }
}

/// How many findings are missing here.
#[derive(serde::Serialize)]
struct LeftOut {
    findings_left_out: u64,
}

fn json(line: &mut String, value: &impl serde::Serialize) {
    // Events and findings are numbers and text under keys of text: nothing in them has no JSON form.
    line.push_str(&serde_json::to_string(value).unwrap_or_default());
    line.push('\n');
}

/// Writes lines to `out`, which may be slow and may be closed at any time.
#[derive(Debug)]
pub struct Console<W: Write> {
    /// None after it failed.
    out: Option<BufWriter<W>>,
    format: Format,
    line: String,
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

impl<W: Write> Console<W> {
    /// A console that writes to `out`.
    pub fn new(out: W, format: Format) -> Self {
        Self {
            out: Some(BufWriter::new(out)),
            format,
            line: String::new(),
        }
    }

    /// Writes an event. It may stay in memory until [`Console::flush`].
    ///
    /// # Errors
    /// The first time that `out` fails, such as a closed pipe; from then on nothing is written and nothing fails, so
    /// that a caller which tells of errors tells of this one once.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.line.clear();
        self.format.event(&mut self.line, event);
        self.write()
    }

    /// Writes a finding.
    ///
    /// # Errors
    /// As for [`Console::event`].
    pub fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        self.line.clear();
        self.format.finding(&mut self.line, finding);
        self.write()
    }

    /// Writes how many findings are missing here.
    ///
    /// # Errors
    /// As for [`Console::event`].
    pub fn left_out(&mut self, findings: u64) -> io::Result<()> {
        self.line.clear();
        self.format.left_out(&mut self.line, findings);
        self.write()
    }

    /// Hands everything to the system: after a batch, before waiting for the next.
    ///
    /// # Errors
    /// As for [`Console::event`].
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.out.as_mut().map_or(Ok(()), BufWriter::flush);
        self.or_stop(result)
    }

    fn write(&mut self) -> io::Result<()> {
        let result = self
            .out
            .as_mut()
            .map_or(Ok(()), |out| out.write_all(self.line.as_bytes()));
        self.or_stop(result)
    }

    fn or_stop(&mut self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            // Taken apart, so that dropping does not try to write what is left.
            drop(self.out.take().map(BufWriter::into_parts));
        }
        result
    }
}

/// One line: when, what, how it ended, how long it took, who did it, and to what.
fn text(line: &mut String, event: &Event, colour: bool) {
    let micros = event.header.ktime / 1000;
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (result, duration) = match event.outcome() {
        Some(outcome) => (errno::result(outcome.result), duration(outcome.duration)),
        None => ("".into(), String::new()),
    };
    let paint = match (&event.body, event.outcome()) {
        (Body::PolicyDecision(_, Decision::Deny, _), _) => Some(RED),
        (Body::PolicyDecision(_, decision, _), _) => decision.is_no().then_some(YELLOW),
        (Body::PolicyChange(_), _) => None,
        (_, Some(outcome)) if outcome.is_ok() => None,
        (Body::FilePreserve(_), Some(outcome)) if is_usual_refusal(event.header.tgid, outcome.result) => Some(DIM),
        (_, Some(_)) => Some(YELLOW),
        (_, None) => Some(RED),
    };
    let paint = paint.filter(|_| colour);
    let (dim, plain) = if colour { (DIM, PLAIN) } else { ("", "") };
    let who = format!("{}[{}]", event.header.comm, event.header.tgid);
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "{dim}{seconds:>6}.{micros:06}{plain}  {}",
        paint.unwrap_or_default()
    );
    let _ = write!(line, "{:<22} {result:<8}", event.name());
    let _ = write!(
        line,
        "{} {duration:>9}  {who:<22}",
        if paint.is_some() { PLAIN } else { "" }
    );
    for (key, value) in event.details() {
        let _ = write!(line, " {key}={value}");
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
}

/// A duration; nothing for 0, which stands for "not known".
fn duration(ns: u64) -> String {
    if ns == 0 { String::new() } else { span(ns) }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use luo_trace_common::events::{self as abi, Kind, Outcome, SessionOp, SessionRef};
    use luo_trace_common::text::{Comm, SessionName};

    use super::*;
    use crate::event::Body;

    /// A pipe that the other end may have closed.
    #[derive(Clone, Default)]
    struct Pipe(Rc<RefCell<(Vec<u8>, bool)>>);

    impl Pipe {
        fn close(&self) {
            self.0.borrow_mut().1 = true;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().0.clone()).unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let mut pipe = self.0.borrow_mut();
            if pipe.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            pipe.0.extend(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn create(name: impl AsRef<[u8]>, result: i64) -> Event {
        let header = abi::Header {
            kind: Kind::SessionCreate as u16,
            size: 0,
            cpu: 1,
            seq: 5,
            lost: 0,
            ktime: 12_345_678_901,
            pid: 71,
            tgid: 70,
            comm: Comm::new("vmm"),
        };
        let session = SessionRef {
            id: 1,
            name: SessionName::new(name),
        };
        let outcome = Outcome {
            result,
            duration: 4_560,
        };
        Event {
            header,
            body: Body::SessionCreate(SessionOp { session, outcome }),
        }
    }

    fn written(format: Format, event: &Event) -> String {
        let pipe = Pipe::default();
        let mut console = Console::new(pipe.clone(), format);
        console.event(event).unwrap();
        console.flush().unwrap();
        pipe.text()
    }

    #[test]
    fn an_event_is_a_line_of_columns() {
        let line = written(Format::Text { colour: false }, &create("vm-web", -17));
        let expected =
            "    12.345678  session-create         EEXIST     4.56 µs  vmm[70]                session=vm-web\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn columns_stay_where_they_are_in_colour() {
        let plain = written(Format::Text { colour: false }, &create("vm-web", -17));
        let coloured = written(Format::Text { colour: true }, &create("vm-web", -17));
        assert!(coloured.contains(YELLOW));
        let stripped = [YELLOW, DIM, PLAIN]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }

    #[test]
    fn an_event_is_one_json_object_a_line_whatever_its_session_is_called() {
        let name: Vec<u8> = (1..=63).chain([255]).collect();
        let line = written(Format::Json, &create(&name[1..], 0));
        assert_eq!(line.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&json["event"], &json["result"]),
            (&"session-create".into(), &"ok".into())
        );
        assert!(!line.chars().any(|c| c.is_control() && c != '\n'), "{line:?}");
    }

    #[test]
    fn a_closed_pipe_is_told_once_and_ends_the_console_only() {
        let pipe = Pipe::default();
        let mut console = Console::new(pipe.clone(), Format::Json);
        pipe.close();
        console.event(&create("a", 0)).unwrap();
        assert_eq!(console.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        console.event(&create("b", 0)).unwrap();
        console.flush().unwrap();
    }
}
