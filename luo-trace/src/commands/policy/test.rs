//! `luo-trace policy test`: what would a policy have decided in recorded updates?

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use luo_trace_common::policy::Decision;
use serde_json::{Value, json};

use super::Format;
use crate::exit::Exit;
use crate::journal::{Opened, each};
use crate::policy::{Policy, Replay, Replayed};

/// Options of `luo-trace policy test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The policy, a TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Journals to try it on: files, directories of them, or logs of a serial line that carried some
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A journal, and what would have become of its calls.
struct Tried {
    journal: PathBuf,
    boot_id: String,
    calls: Vec<Replayed>,
    /// Events that are missing, and may have told of more calls.
    lost: u64,
    damaged: u64,
}

/// Prints one line for each call that the policy would have been asked about: seconds since boot, operation, decision, rule (`-`:
/// none), thread, and the session where it is about one. What the record does not tell is `cannot-tell`.
///
/// With `--format json` the output is one object: `mode`, and `journals`, for each `journal` (its path), `boot_id`, `lost` and
/// `damaged` (events and places that are missing) and `decisions`: `time_ns`, `pid`, `comm`, `operation`, `session` (or null),
/// `decision` (null: cannot tell) and `rule` (or null); and `unreadable`: journals of a directory that could not be read, with
/// `journal` and `reason`.
///
/// The exit status is 1 where the policy says no to a call, 3 where it does not as far as the records tell, and 0 where it does
/// not.
///
/// # Errors
/// Where the policy or a journal cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let policy = super::read(&args.file)?;
    let mut tried = Vec::new();
    let mut unreadable = Vec::new();
    for path in &args.journals {
        unreadable.extend(each(path, |source| tried.push(replay(&policy, source)))?);
    }
    let mut out = super::super::stdout();
    match args.format {
        Format::Json => {
            let object = json!({
                "mode": policy.mode.name(),
                "journals": tried.iter().map(as_json).collect::<Vec<_>>(),
                "unreadable": unreadable,
            });
            writeln!(out, "{object:#}")?;
        }
        Format::Text => {
            tried.iter().try_for_each(|tried| as_text(&mut out, tried))?;
            for unreadable in &unreadable {
                writeln!(out, "cannot be read, and is left out: {unreadable}")?;
            }
        }
    }
    out.flush().context("cannot write to stdout")?;
    // What cannot be read may tell of calls that the policy refuses.
    let exit = exit(&tried);
    Ok(match exit {
        Exit::Held if !unreadable.is_empty() => Exit::Inconclusive,
        exit => exit,
    })
}

fn replay(policy: &Policy, source: Opened) -> Tried {
    let mut events = source.events;
    let mut run = events.run();
    let mut replay = Replay::new(policy, &events.header().coverage());
    while let Some(event) = events.next() {
        if events.run() != run {
            run = events.run();
            replay.run(&events.header().coverage());
        }
        replay.apply(&event);
    }
    Tried {
        journal: source.name,
        boot_id: events.header().boot_id.clone(),
        calls: replay.finish(),
        lost: events.summary().lost,
        damaged: events.summary().damaged,
    }
}

fn exit(tried: &[Tried]) -> Exit {
    let rulings = || {
        tried
            .iter()
            .flat_map(|tried| tried.calls.iter().map(|call| call.ruling))
    };
    let no = |ruling| matches!(ruling, Some((Decision::Deny | Decision::WouldDeny, _)));
    if rulings().any(no) {
        Exit::Violated
    } else if rulings().any(|ruling| ruling.is_none()) || tried.iter().any(|tried| tried.lost > 0 || tried.damaged > 0)
    {
        Exit::Inconclusive
    } else {
        Exit::Held
    }
}

fn as_text(out: &mut impl Write, tried: &Tried) -> io::Result<()> {
    writeln!(out, "{}", tried.journal.display())?;
    for call in &tried.calls {
        let rule = match call.ruling {
            Some((_, rule)) if !rule.is_empty() => rule.to_string(),
            _ => "-".into(),
        };
        let decision = call.ruling.map_or("cannot-tell", |(decision, _)| decision.name());
        let (seconds, micros) = (call.time / 1_000_000_000, call.time / 1000 % 1_000_000);
        let (operation, comm, pid) = (call.operation.name(), call.comm, call.pid);
        write!(
            out,
            "{seconds:>6}.{micros:06} {operation:<14} {decision:<11} {rule} {comm}[{pid}]"
        )?;
        match call.session.is_empty() {
            true => writeln!(out)?,
            false => writeln!(out, " session \"{}\"", call.session)?,
        }
    }
    if tried.lost > 0 || tried.damaged > 0 {
        let (lost, damaged) = (tried.lost, tried.damaged);
        writeln!(
            out,
            "missing: {lost} events, {damaged} damaged places: there may have been more calls"
        )?;
    }
    Ok(())
}

fn as_json(tried: &Tried) -> Value {
    let call = |call: &Replayed| {
        let name = call.ruling.map(|(_, rule)| rule).filter(|rule| !rule.is_empty());
        json!({
            "time_ns": call.time,
            "pid": call.pid,
            "comm": call.comm.to_string(),
            "operation": call.operation.name(),
            "session": Some(call.session).filter(|session| !session.is_empty()).map(|session| session.to_string()),
            "decision": call.ruling.map(|(decision, _)| decision.name()),
            "rule": name.map(|rule| rule.to_string()),
        })
    };
    json!({
        "journal": tried.journal.display().to_string(),
        "boot_id": tried.boot_id,
        "lost": tried.lost,
        "damaged": tried.damaged,
        "decisions": tried.calls.iter().map(call).collect::<Vec<_>>(),
    })
}
