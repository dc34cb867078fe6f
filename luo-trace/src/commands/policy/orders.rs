//! `luo-trace policy hold`, `allow`, `clear` and `status`: what an operator orders on this host, and how it stands.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args as ClapArgs;

use super::super::Socket;
use super::{Format, left_in_force};
use crate::agent::enforcement::Store;
use crate::exit::Exit;
use crate::host;
use crate::kernel::lsm;
use crate::policy::orders::{Answer, Order};
use crate::sink::control::client;
use crate::sink::log::tell;
use crate::status::policy::Policy;

/// Options of `luo-trace policy hold`.
#[derive(Debug, ClapArgs)]
pub(super) struct Hold {
    /// Why, for the person who meets the hold
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, such as 2h; until `luo-trace policy clear` unless given
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
    #[command(flatten)]
    socket: Socket,
}

/// Options of `luo-trace policy allow`.
#[derive(Debug, ClapArgs)]
pub(super) struct Allow {
    /// For how long, such as 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    span: Duration,
    /// Why, for the person who reviews what passed
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    socket: Socket,
}

/// Options of `luo-trace policy clear`.
#[derive(Debug, ClapArgs)]
pub(super) struct Clear {
    #[command(flatten)]
    socket: Socket,
}

/// Options of `luo-trace policy status`.
#[derive(Debug, ClapArgs)]
pub(super) struct Status {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

/// Holds this host.
///
/// # Errors
/// Where the order makes no sense, or the agent does not answer.
pub(super) fn hold(args: &Hold) -> Result<Exit> {
    let order = Order::Hold {
        reason: args.reason.clone(),
        for_ns: args.span.map(nanoseconds),
    };
    give(&args.socket, &order)
}

/// Lets everything pass for a time.
///
/// # Errors
/// As for [`hold`].
pub(super) fn allow(args: &Allow) -> Result<Exit> {
    let order = Order::Allow {
        reason: args.reason.clone(),
        for_ns: nanoseconds(args.span),
    };
    give(&args.socket, &order)
}

/// Takes hold and allowance back; where no agent runs, removes what a lost one left in force.
///
/// # Errors
/// Where the agent does not answer, or what is left cannot be removed.
pub(super) fn clear(args: &Clear) -> Result<Exit> {
    match client::order(&args.socket.path, &Order::Clear)? {
        Some(result) => say(result),
        None => clear_what_is_left(&args.socket.path, &mut super::super::stdout()),
    }
}

fn clear_what_is_left(socket: &Path, out: &mut impl Write) -> Result<Exit> {
    writeln!(out, "no agent runs on this host")?;
    // First what is in force, whatever becomes of the rest.
    let programs = lsm::clear()?;
    let orders = Store::beside(socket).remove()?;
    if programs > 0 {
        writeln!(
            out,
            "the policy that an earlier one left in force is removed: nothing is refused any more"
        )?;
    }
    if orders {
        writeln!(out, "the orders that were kept for the next one are removed")?;
    }
    if programs == 0 && !orders {
        writeln!(out, "nothing is left of an earlier one")?;
    }
    Ok(Exit::Held)
}

/// Shows how policy stands on this host.
///
/// # Errors
/// Where the agent does not answer, or stdout cannot be written.
pub(super) fn status(args: &Status) -> Result<Exit> {
    let Some(status) = client::status(&args.socket.path)? else {
        let now = host::monotonic_ns();
        if let Some((policy, standing)) = left_in_force() {
            show(
                &mut super::super::stdout(),
                Some(&policy.with(&standing)),
                now,
                args.format,
            )?;
        }
        tell(without_agent(&args.socket.path));
        return Ok(Exit::CannotWork);
    };
    let policy = status.policy.as_ref();
    show(&mut super::super::stdout(), policy, status.time_ns, args.format)?;
    Ok(Exit::Held)
}

fn show(out: &mut impl Write, policy: Option<&Policy>, now_ns: u64, format: Format) -> io::Result<()> {
    match (format, policy) {
        (Format::Json, policy) => {
            serde_json::to_writer_pretty(&mut *out, &policy)?;
            writeln!(out)
        }
        (Format::Text, Some(policy)) => policy.lines(now_ns).iter().try_for_each(|line| writeln!(out, "{line}")),
        (Format::Text, None) => writeln!(out, "the agent runs without a policy"),
    }
}

/// Gives an order to the running agent.
fn give(socket: &Socket, order: &Order) -> Result<Exit> {
    order.check().map_err(anyhow::Error::msg)?;
    match client::order(&socket.path, order)? {
        Some(result) => say(result),
        None => {
            tell(without_agent(&socket.path));
            Ok(Exit::CannotWork)
        }
    }
}

fn say(result: Result<Answer, String>) -> Result<Exit> {
    match result {
        Ok(answer) => {
            let mut out = super::super::stdout();
            answer.told.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(Exit::Held)
        }
        Err(why) => {
            tell(why);
            Ok(Exit::CannotWork)
        }
    }
}

/// That no agent runs, and what an earlier one left for the next.
fn without_agent(socket: &Path) -> String {
    let none = "no agent runs on this host, and orders are the agent's to keep: start `luo-trace agent --policy FILE`";
    let boot = host::boot_id().unwrap_or_default();
    let (standing, _) = Store::beside(socket).read(&boot, host::monotonic_ns());
    match standing.hold {
        Some(hold) => format!("{none}. The next agent will hold this host: {hold}"),
        None => none.into(),
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::policy::orders::Standing;

    fn socket(dir: &tempfile::TempDir) -> Socket {
        Socket {
            path: dir.path().join("agent.sock"),
        }
    }

    fn hold_args(dir: &tempfile::TempDir, reason: &str) -> Hold {
        Hold {
            reason: reason.into(),
            span: Some(Duration::from_secs(60)),
            socket: socket(dir),
        }
    }

    #[test]
    fn without_an_agent_nothing_is_held_and_the_exit_status_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hold(&hold_args(&dir, "disk swap")).unwrap(), Exit::CannotWork);
        let args = Allow {
            span: Duration::from_secs(60),
            reason: "the fix".into(),
            socket: socket(&dir),
        };
        assert_eq!(allow(&args).unwrap(), Exit::CannotWork);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_order_that_makes_no_sense_is_not_even_sent() {
        // Given an agent that would answer,
        let dir = tempfile::tempdir().unwrap();
        let agent = UnixListener::bind(socket(&dir).path).unwrap();
        agent.set_nonblocking(true).unwrap();
        // when there is no reason, then no client connects.
        let error = hold(&hold_args(&dir, " ")).unwrap_err().to_string();
        assert!(error.contains("reason is empty"), "{error}");
        assert_eq!(agent.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_a_lost_agent_kept_is_told_and_cleared_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = socket(&dir).path;
        let order = Order::Hold {
            reason: "disk swap".into(),
            for_ns: None,
        };
        let mut standing = Standing::default();
        standing.take(&order, 7, luo_trace_common::policy::Mode::Enforce, 1);
        Store::beside(&socket)
            .write(&standing, &host::boot_id().unwrap())
            .unwrap();
        assert!(without_agent(&socket).contains("will hold this host: disk swap (user 7)"));
        let mut out = Vec::new();
        assert_eq!(clear_what_is_left(&socket, &mut out).unwrap(), Exit::Held);
        assert!(String::from_utf8(out).unwrap().contains("are removed"));
        assert!(!without_agent(&socket).contains("disk swap"));
        let mut out = Vec::new();
        clear_what_is_left(&socket, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("nothing is left"));
    }

    #[test]
    fn how_policy_stands_is_shown_in_sentences_and_as_json() {
        let policy = Policy {
            mode: "enforce".into(),
            rules: 3,
            file: "p.toml".into(),
            on_agent_loss: "open".into(),
            hold: Some(crate::status::policy::Order {
                until_ns: Some(61_000_000_000),
                uid: Some(7),
                reason: "disk swap".into(),
                ..Default::default()
            }),
            ..Policy::default()
        };
        let shown = |policy, format| {
            let mut out = Vec::new();
            show(&mut out, policy, 1_000_000_000, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = shown(Some(&policy), Format::Text);
        assert_eq!(
            text,
            "mode enforce: 3 rules of p.toml, open on agent loss\nHELD for another 1m: disk swap (user 7)\n"
        );
        let json = shown(Some(&policy), Format::Json);
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert_eq!(shown(None, Format::Json), "null\n");
    }
}
