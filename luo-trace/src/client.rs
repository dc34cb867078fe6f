//! Asking a running agent at its socket, as `luo-trace status`, `watch` and `top` do.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sink::control::Form;
use crate::status::Status;

/// How long an agent may take to answer. It is busy for longer only while the machine is about to jump.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Asks for a path, and gives the body of the answer. With HTTP/1.0 it ends where the connection does.
fn ask(socket: &Path, path: &str, patience: Option<Duration>) -> Result<Option<BufReader<UnixStream>>> {
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
    let failed = || format!("the agent at {} does not answer", socket.display());
    stream.set_read_timeout(Some(PATIENCE)).with_context(failed)?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .with_context(failed)?;
    let mut answer = BufReader::new(stream);
    let mut head = String::new();
    answer.read_line(&mut head).with_context(failed)?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("the agent at {} answers {:?}", socket.display(), head.trim());
    }
    while !head.trim().is_empty() {
        head.clear();
        answer.read_line(&mut head).with_context(failed)?;
    }
    answer.get_ref().set_read_timeout(patience).with_context(failed)?;
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
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
        // What a killed agent leaves: a socket that nobody listens at.
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
