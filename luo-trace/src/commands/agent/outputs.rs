//! Where the agent's output goes, as its options say.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Args, Format};
use crate::agent::keep::{keep_within, tell_newer};
use crate::agent::live::Live;
use crate::agent::pipeline::Outputs;
use crate::journal::serial::Serial;
use crate::journal::{Header, Limits, Tty, Writer};
use crate::sink::console;
use crate::sink::control::{Control, Request, Streams};
use crate::sink::journal::{JournalSink, KEPT, QUEUE};
use crate::sink::log::tell;

/// How long readers at the socket may take for the last lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// A journal that is open, and whose thread is to be started.
pub(super) type Opened = Box<dyn FnOnce() -> io::Result<JournalSink>>;

/// Starts the threads of all outputs.
pub(super) fn outputs(args: &Args, journal: Option<Opened>) -> Result<Outputs> {
    let mut outputs = Outputs::default();
    match args.format {
        Format::Text => outputs.print(console::Format::text(&io::stdout()))?,
        Format::Json => outputs.print(console::Format::Json)?,
        // A command that only watches has the terminal to itself.
        Format::None if args.control.is_some() => outputs.log()?,
        Format::None => {}
    }
    if let Some(start) = journal {
        outputs.record(start()?);
    }
    Ok(outputs)
}

/// Opens the journal. A user who asked for a record must know at once that there will be none.
pub(super) fn journal(place: &Path, header: &Header, limits: Option<Limits>) -> Result<Opened> {
    let Some(line) = serial_line(place) else {
        let most = limits.map_or(u64::MAX, |limits| limits.of_boot());
        let (writer, path) = Writer::open_within(place, header, most).with_context(|| {
            format!(
                "cannot write a journal in {}: choose another --journal directory",
                place.display()
            )
        })?;
        tell(format_args!("recording into {}", path.display()));
        if let Some(limits) = limits {
            keep_within(place, &header.boot_id, &limits);
        }
        tell_newer(place);
        return Ok(Box::new(|| JournalSink::start(writer, QUEUE, KEPT, tell)));
    };
    let context = || {
        format!(
            "cannot record through {}: choose another --journal serial:LINE",
            line.display()
        )
    };
    let tty = Tty::open(line).with_context(context)?;
    let mut writer = Writer::begin(Serial::new(tty), header)?;
    writer.flush_first().with_context(context)?;
    tell(format_args!("recording through {}", line.display()));
    Ok(Box::new(|| JournalSink::start(writer, QUEUE, KEPT, tell)))
}

/// The serial line that `--journal` names, where it names one.
pub(super) fn serial_line(journal: &Path) -> Option<&Path> {
    journal.to_str()?.strip_prefix("serial:").map(Path::new)
}

/// The socket while it is served.
pub(super) struct Socket {
    control: Control,
    server: JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Socket {
    pub(super) fn serve(
        control: Control,
        live: Arc<Live>,
        orders: mpsc::Sender<Request>,
        outputs: &mut Outputs,
    ) -> Result<Self> {
        let streams = Streams::default();
        let (stop, stopped) = oneshot::channel();
        let server = control.serve(live, orders, &streams, async { _ = stopped.await });
        let server = tokio::spawn(server.context("the socket cannot be served")?);
        outputs.stream(streams)?;
        Ok(Self { control, server, stop })
    }

    /// Lets readers have the last lines, those who take them in time.
    pub(super) async fn finish(self) {
        _ = self.stop.send(());
        _ = tokio::time::timeout(FAREWELL, self.server).await;
        drop(self.control);
    }
}
