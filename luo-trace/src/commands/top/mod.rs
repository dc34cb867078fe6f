//! `luo-trace top`: LUO's state in a terminal, as it changes.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::oneshot;

use super::{Socket, agent};
use crate::agent::live::Live;
use crate::exit::Exit;
use crate::sink::StatusSource;
use crate::sink::control::client;
use crate::status::Status;

mod view;

use view::{View, draw, rows};

/// How often the state is asked for.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a key is waited for before signals and the state are looked at.
const BLINK: Duration = Duration::from_millis(100);
/// How many rows a page is.
const PAGE: isize = 10;

/// Options of `luo-trace top`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    socket: Socket,
}

/// Shows what a running agent knows, until a key or a signal ends it; where none runs, traces by itself meanwhile.
///
/// # Errors
/// Where there is no terminal, the agent does not answer, or nothing can be traced.
pub fn run(args: &Args) -> Result<Exit> {
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal: use `luo-trace status` for a pipe or a file");
    }
    let socket = args.socket.path.clone();
    if let Some(first) = client::status(&socket)? {
        return show(first, move || ask(&socket));
    }
    match Own::start()? {
        Ok(own) => {
            let live = own.live.clone();
            let result = show(live.status(), move || Ok(live.status()));
            own.stop()?;
            result
        }
        Err(exit) => Ok(exit),
    }
}

fn ask(socket: &Path) -> Result<Status> {
    client::status(socket)?.context("the agent has ended; this is what it knew last")
}

/// Tracing of our own, in a thread, while no agent does.
struct Own {
    live: Arc<Live>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<Exit>>,
}

impl Own {
    /// Traces from now on; gives the exit status where this host cannot be traced, after that was said.
    fn start() -> Result<Result<Self, Exit>> {
        let (tell, told) = sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            agent::run_alone(agent::Format::None, async move |live| {
                _ = tell.send(live);
                _ = stopped.await;
            })
        });
        match told.recv() {
            Ok(live) => Ok(Ok(Self { live, stop, thread })),
            Err(_) => ended(thread).map(Err),
        }
    }

    fn stop(self) -> Result<Exit> {
        _ = self.stop.send(());
        ended(self.thread)
    }
}

fn ended(thread: JoinHandle<Result<Exit>>) -> Result<Exit> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("tracing stopped by an internal error, which is told above"),
    }
}

/// Shows states, one after the other, until the user wants no more.
fn show(first: Status, next: impl FnMut() -> Result<Status> + Send + 'static) -> Result<Exit> {
    let (states, ended) = refresh(REFRESH, next)?;
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal_hook::flag::register(signal, signalled.clone()).context("cannot wait for signals")?;
    }
    // From here on a panic puts the terminal back before it is told.
    let mut terminal = ratatui::try_init().context("this terminal cannot be used")?;
    let result = run_until(&mut terminal, first, &states, &signalled);
    ratatui::try_restore().context("the terminal cannot be put back: `reset` does")?;
    drop(ended);
    result.context("the terminal failed")?;
    Ok(Exit::Held)
}

/// Asks again and again in a thread of its own, since the answer may take a while; ends when the sender is dropped.
fn refresh(
    every: Duration,
    mut next: impl FnMut() -> Result<Status> + Send + 'static,
) -> Result<(Receiver<Result<Status>>, Sender<()>)> {
    let (send, states) = channel();
    let (end, ended) = channel();
    thread::Builder::new().name("refresh".into()).spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(every) {
            if send.send(next()).is_err() {
                return;
            }
        }
    })?;
    Ok((states, end))
}

fn run_until(
    terminal: &mut DefaultTerminal,
    mut status: Status,
    states: &Receiver<Result<Status>>,
    signalled: &AtomicBool,
) -> io::Result<()> {
    let mut view = View::default();
    let mut trouble: Option<String> = None;
    let mut changed = true;
    while !signalled.load(Ordering::Relaxed) {
        for next in states.try_iter() {
            changed = true;
            match next {
                Ok(next) => (status, trouble) = (next, None),
                Err(error) => trouble = Some(format!("{error:#}")),
            }
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| draw(frame, &status, trouble.as_deref(), &view))?;
        }
        if !event::poll(BLINK)? {
            continue;
        }
        changed = true;
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match press(&mut view, key, &status) {
                Pressed::Quit => return Ok(()),
                Pressed::Redraw => terminal.clear()?,
                Pressed::Moved => {}
            },
            _ => {}
        }
    }
    Ok(())
}

/// What a key has done.
#[derive(Debug, PartialEq, Eq)]
enum Pressed {
    Moved,
    Redraw,
    Quit,
}

fn press(view: &mut View, key: KeyEvent, status: &Status) -> Pressed {
    let rows = rows(status, view.tab);
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Pressed::Quit,
        KeyCode::Char('l') if key.modifiers.contains(KeyModifiers::CONTROL) => return Pressed::Redraw,
        // Any key takes the help away.
        _ if view.help => view.help = false,
        KeyCode::Char('q') | KeyCode::Esc => return Pressed::Quit,
        KeyCode::Tab | KeyCode::Right => view.turn(1),
        KeyCode::BackTab | KeyCode::Left => view.turn(view::Tab::ALL.len() - 1),
        KeyCode::Down | KeyCode::Char('j') => view.move_by(1, rows),
        KeyCode::Up | KeyCode::Char('k') => view.move_by(-1, rows),
        KeyCode::PageDown => view.move_by(PAGE, rows),
        KeyCode::PageUp => view.move_by(-PAGE, rows),
        KeyCode::Home => view.move_by(isize::MIN, rows),
        KeyCode::End => view.move_by(isize::MAX, rows),
        KeyCode::Char('s') => view.sort_by_next(),
        KeyCode::Char('r') => view.reverse = !view.reverse,
        KeyCode::Char('?' | 'h') => view.help = true,
        _ => {}
    }
    Pressed::Moved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(view: &mut View, code: KeyCode) -> Pressed {
        press(view, KeyEvent::new(code, KeyModifiers::NONE), &Status::default())
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut view = View::default();
        key(&mut view, KeyCode::Tab);
        assert_eq!(view.tab, view::Tab::Files);
        key(&mut view, KeyCode::Left);
        key(&mut view, KeyCode::Left);
        assert_eq!(view.tab, view::Tab::Findings);
        key(&mut view, KeyCode::Char('s'));
        key(&mut view, KeyCode::Char('r'));
        assert_eq!((view.sort, view.reverse), (1, true));
        // Another list has other columns.
        key(&mut view, KeyCode::Tab);
        assert_eq!((view.sort, view.reverse), (0, false));
        key(&mut view, KeyCode::Char('?'));
        assert!(view.help);
        assert_eq!(
            key(&mut view, KeyCode::Char('q')),
            Pressed::Moved,
            "it takes the help away"
        );
        assert!(!view.help);
        assert_eq!(key(&mut view, KeyCode::Char('q')), Pressed::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut view, control_c, &Status::default()), Pressed::Quit);
    }

    #[test]
    fn states_come_until_nobody_wants_any_and_a_failure_is_one_of_them() {
        let mut answers = vec![Err(anyhow::anyhow!("no answer")), Ok(Status::default())];
        let (states, end) = refresh(Duration::ZERO, move || {
            answers.pop().unwrap_or_else(|| bail!("no more"))
        })
        .unwrap();
        assert!(states.recv().unwrap().is_ok());
        assert!(states.recv().unwrap().is_err());
        drop(end);
        // The thread lets go of its sender when it ends.
        while states.recv().is_ok() {}
    }
}
