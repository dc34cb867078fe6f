//! Asking a running agent at its socket, as `luo-trace status`, `watch` and `top` do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::policy::orders::{Answer, Order};
use crate::sink::control::Form;
use crate::status::Status;

/// How long an agent may take to answer. It is busy for longer only while the machine is about to jump, or so busy that nothing on it
/// gets on.
const PATIENCE: Duration = Duration::from_secs(60);
/// More bytes than any answer to an order has.
const LONGEST_ANSWER: u64 = 1 << 16;

/// The state as the agent at this socket knows it; `None` where no agent runs.
///
/// # Errors
/// Where the agent may not be asked, or does not answer as one does.
pub fn status(socket: &Path) -> Result<Option<Status>> {
    let Some(answer) = ask(socket, "/status", Some(PATIENCE))? else {
        return Ok(None);
    };
    let status = serde_json::from_reader(answer).context("the agent's answer is cut short, or not a status")?;
    Ok(Some(status))
}

/// What happens from now on, line by line, until the agent ends; `None` where no agent runs.
///
/// # Errors
/// As for [`status`].
pub fn events(socket: &Path, form: Form) -> Result<Option<impl BufRead + use<>>> {
    ask(socket, form.path(), None)
}

/// What becomes of an order: the answer, or why the agent does not carry it out; `None` where no agent runs.
///
/// # Errors
/// As for [`status`].
pub fn order(socket: &Path, order: &Order) -> Result<Option<Result<Answer, String>>> {
    let body = serde_json::to_string(order)?;
    let request = format!("POST /policy HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let Some(Reply { status, mut body, .. }) = request_of(socket, &request)? else {
        return Ok(None);
    };
    let mut text = String::new();
    body.by_ref()
        .take(LONGEST_ANSWER)
        .read_to_string(&mut text)
        .with_context(|| silent(socket))?;
    match status.as_str() {
        "200" => {
            let answer = serde_json::from_str(&text).context("the agent's answer is cut short, or none to an order")?;
            Ok(Some(Ok(answer)))
        }
        "400" | "409" => Ok(Some(Err(text.trim().to_owned()))),
        _ => bail!("the agent at {} answers {status}: {}", socket.display(), text.trim()),
    }
}

/// Asks for a path, and gives the body of the answer. With HTTP/1.0 it ends where the connection does.
fn ask(socket: &Path, path: &str, patience: Option<Duration>) -> Result<Option<BufReader<UnixStream>>> {
    let Some(Reply { status, head, body }) = request_of(socket, &format!("GET {path} HTTP/1.0\r\n\r\n"))? else {
        return Ok(None);
    };
    if status != "200" {
        bail!("the agent at {} answers {:?}", socket.display(), head.trim());
    }
    body.get_ref()
        .set_read_timeout(patience)
        .with_context(|| silent(socket))?;
    Ok(Some(body))
}

/// What an agent answers.
struct Reply {
    /// The number of its first line.
    status: String,
    /// Its first line.
    head: String,
    /// What follows the head.
    body: BufReader<UnixStream>,
}

fn silent(socket: &Path) -> String {
    format!("the agent at {} does not answer", socket.display())
}

/// Sends a request; `None` where no agent runs.
fn request_of(socket: &Path, request: &str) -> Result<Option<Reply>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| {
                let socket = socket.display();
                format!("the agent's socket {socket} cannot be used: run this as the user that runs the agent")
            });
        }
    };
    let failed = || silent(socket);
    stream.set_read_timeout(Some(PATIENCE)).with_context(failed)?;
    stream.write_all(request.as_bytes()).with_context(failed)?;
    let mut body = BufReader::new(stream);
    let mut head = String::new();
    body.read_line(&mut head).with_context(failed)?;
    let mut line = head.clone();
    while !line.trim().is_empty() {
        line.clear();
        body.read_line(&mut line).with_context(failed)?;
    }
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok(Some(Reply { status, head, body }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use super::*;

    /// An agent that gives one answer, whatever it is asked.
    fn agent(socket: &Path, answer: &'static str) -> JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            question
        })
    }

    #[test]
    fn the_state_is_asked_for_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        let agent = agent(
            &socket,
            "HTTP/1.0 200 OK\r\ncontent-type: x\r\n\r\n{\"host\":\"node-7\"}",
        );
        assert_eq!(status(&socket).unwrap().unwrap().host, "node-7");
        assert_eq!(agent.join().unwrap(), "GET /status HTTP/1.0\r\n");
    }

    #[test]
    fn without_an_agent_there_is_no_answer_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        assert!(status(&socket).unwrap().is_none());
        // What a killed agent leaves: a socket at which no process listens.
        drop(UnixListener::bind(&socket).unwrap());
        assert!(events(&socket, Form::Json).unwrap().is_none());
    }

    #[test]
    fn what_is_no_answer_of_an_agent_is_an_error_that_says_so() {
        for (answer, why) in [
            ("HTTP/1.0 404 Not Found\r\n\r\n", "404"),
            ("", "answers"),
            ("HTTP/1.0 200 OK\r\n\r\n{\"host\":", "cut short"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("sock");
            let agent = agent(&socket, answer);
            let error = format!("{:#}", status(&socket).unwrap_err());
            assert!(error.contains(why), "{answer:?}: {error}");
            agent.join().unwrap();
        }
    }

    #[test]
    fn an_order_is_answered_or_refused_with_the_agents_reason() {
        let order = Order::Allow {
            reason: "the fix".into(),
            for_ns: 7,
        };
        let answers: [(&'static str, Result<Answer, String>); 2] = [
            (
                "HTTP/1.0 200 OK\r\n\r\n{\"told\":[\"done\"]}",
                Ok(Answer {
                    told: vec!["done".into()],
                }),
            ),
            ("HTTP/1.0 409 Conflict\r\n\r\nno policy\n", Err("no policy".into())),
        ];
        for (answer, becomes) in answers {
            let dir = tempfile::tempdir().unwrap();
            let socket = dir.path().join("sock");
            let agent = agent(&socket, answer);
            assert_eq!(super::order(&socket, &order).unwrap(), Some(becomes));
            assert_eq!(agent.join().unwrap(), "POST /policy HTTP/1.0\r\n");
        }
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(super::order(&empty.path().join("sock"), &order).unwrap(), None);
    }

    #[test]
    fn events_are_read_to_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        let agent = agent(&socket, "HTTP/1.0 200 OK\r\n\r\none\ntwo\n");
        let mut lines = String::new();
        let mut events = events(&socket, Form::Colour).unwrap().unwrap();
        events.read_to_string(&mut lines).unwrap();
        assert_eq!(lines, "one\ntwo\n");
        assert_eq!(agent.join().unwrap(), "GET /events/colour HTTP/1.0\r\n");
    }
}
