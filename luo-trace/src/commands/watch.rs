//! `luo-trace watch`: events and findings as they happen, one a line.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};
use tokio::sync::oneshot;

use super::{Socket, agent};
use crate::exit::Exit;
use crate::sink::console;
use crate::sink::control::Form;
use crate::sink::control::client;

/// Options of `luo-trace watch`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How to print events and findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// One line each, for a person
    #[default]
    Text,
    /// One JSON object each; `{"dropped":N}` stands for lines that came too fast
    Json,
}

/// Shows what a running agent sees until it ends or the reader has enough; where none runs, traces by itself.
///
/// # Errors
/// Where the agent does not answer, or nothing can be traced.
pub fn run(args: &Args) -> Result<Exit> {
    let stdout = io::stdout();
    let form = match (args.format, console::Format::text(&stdout)) {
        (Format::Json, _) => Form::Json,
        (Format::Text, console::Format::Text { colour: true }) => Form::Colour,
        (Format::Text, _) => Form::Text,
    };
    match client::events(&args.socket.path, form)? {
        Some(events) => pass_on(events, stdout.lock()),
        None => trace(args.format, &stdout),
    }
}

/// Writes what comes at once: a line that waits for the next is a line too late.
fn pass_on(mut events: impl Read, mut out: impl Write) -> Result<Exit> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match events.read(&mut buffer) {
            Ok(0) => return Ok(Exit::Held),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.context("the agent stopped in the middle of a line")?,
        };
        match out.write_all(&buffer[..read]).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Held),
            written => written.context("stdout cannot be written")?,
        }
    }
}

fn trace(format: Format, stdout: &(impl AsRawFd + IsTerminal)) -> Result<Exit> {
    let format = match format {
        Format::Text => agent::Format::Text,
        Format::Json => agent::Format::Json,
    };
    let stdout = stdout.as_raw_fd();
    agent::run_alone(format, async |_| reader_has_left(stdout).await)
}

/// Waits until no process reads what is written to this pipe.
async fn reader_has_left(descriptor: i32) {
    let (left, wait) = oneshot::channel();
    // The system waits for it in a thread of its own, which ends with the process.
    std::thread::spawn(move || {
        let mut pipe = libc::pollfd {
            fd: descriptor,
            events: 0,
            revents: 0,
        };
        // SAFETY: one pollfd is handed over, and it lives until the call returns.
        while unsafe { libc::poll(&raw mut pipe, 1, -1) } < 0 {}
        _ = left.send(());
    });
    _ = wait.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that goes away after its first line.
    struct Head(Vec<u8>);

    impl Write for Head {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.contains(&b'\n') {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_passed_on_until_the_reader_has_enough() {
        let mut head = Head(Vec::new());
        let events = io::Cursor::new("one\n").chain(io::Cursor::new("two\n"));
        assert_eq!(pass_on(events, &mut head).unwrap(), Exit::Held);
        assert_eq!(head.0, b"one\n");
    }

    #[tokio::test]
    async fn a_pipe_that_nobody_reads_any_more_is_noticed() {
        let (reader, writer) = io::pipe().unwrap();
        let left = reader_has_left(writer.as_raw_fd());
        drop(reader);
        left.await;
    }
}
