//! A collector of OpenTelemetry's that takes everything, and keeps it for the host as it came.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use testbed_guest::scenario::Collected;

use crate::agent::PATIENCE;

/// Where it listens.
const ADDRESS: &str = "127.0.0.1:4318";
/// Where each request's body goes, as `BOOT-NUMBER-SIGNAL.gz`.
const KEPT: &str = "/host/otlp";

/// One that runs.
pub(crate) struct Collector {
    /// The signal of each request, as it comes, or why it could not be taken.
    came: Receiver<Result<String>>,
    requests: BTreeMap<String, u32>,
}

impl Collector {
    /// Takes what comes from now on, in the kernel of this number.
    pub(crate) fn start(boot: u32) -> Result<Self> {
        fs::create_dir_all(KEPT).with_context(|| format!("cannot make {KEPT}"))?;
        let listener = TcpListener::bind(ADDRESS).with_context(|| format!("cannot listen at {ADDRESS}"))?;
        let (sender, came) = channel();
        thread::spawn(move || take_all(&listener, boot, &sender));
        Ok(Self {
            came,
            requests: BTreeMap::new(),
        })
    }

    /// Waits until so many requests of each signal have come.
    pub(crate) fn wait_for(&mut self, wanted: &Collected) -> Result<()> {
        let wanted = [
            ("traces", wanted.traces),
            ("logs", wanted.logs),
            ("metrics", wanted.metrics),
        ];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let came = |signal| self.requests.get(signal).copied().unwrap_or_default();
            let Some((signal, least)) = wanted.iter().find(|(signal, least)| came(*signal) < *least) else {
                return Ok(());
            };
            match self
                .came
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(signal) => *self.requests.entry(signal?).or_default() += 1,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "within {PATIENCE:?} {} of {least} requests of {signal} came",
                        came(*signal)
                    )
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the collector has ended"),
            }
        }
    }
}

/// Takes one request after the other.
fn take_all(listener: &TcpListener, boot: u32, came: &Sender<Result<String>>) {
    for (number, stream) in (1..).zip(listener.incoming()) {
        let taken = stream
            .context("no connection")
            .and_then(|stream| take(stream, boot, number));
        if came.send(taken).is_err() {
            return;
        }
    }
}

/// Takes a request, and gives its signal.
fn take(mut stream: TcpStream, boot: u32, number: u32) -> Result<String> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default();
    let signal = path
        .strip_prefix("/v1/")
        .with_context(|| format!("no request of OTLP: {line:?}"))?
        .to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    fs::write(format!("{KEPT}/{boot}-{number:03}-{signal}.gz"), body)?;
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )?;
    Ok(signal)
}
