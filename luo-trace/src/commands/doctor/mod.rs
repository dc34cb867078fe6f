//! `luo-trace doctor`: can this host be traced, and if not, why; what it has; and what to do next.

mod next;

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use luo_trace_common::hooks::{Hook, KhoDetail};
use serde::Serialize;

use super::Socket;
use super::agent::{self, kho_detail};
use super::hooks::Report;
use super::policy::left_in_force;
use crate::exit::Exit;
use crate::host::{self, loading::Loading};
use crate::journal::HookState;
use crate::kernel::preflight::{self, Check, Obstacle, Types};
use crate::kernel::{AttachError, Tracer, Way, prospects};
use crate::sink::control::client;
use crate::status::{Session, Status};

/// How much room a trial attachment needs: the smallest ring there is.
const TRIAL_RING: u32 = 4096;

/// Options of `luo-trace doctor`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How to print what was found
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How closely preserved memory would be watched
    #[arg(long, value_name = "DETAIL", value_parser = kho_detail(), default_value = KhoDetail::Keys.name(), env = "LUO_TRACE_KHO")]
    kho: KhoDetail,
    #[command(flatten)]
    attach: agent::Attach,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For a person
    #[default]
    Text,
    /// One JSON object, as for an inventory: `host`, `kernel`, `lockdown`, `can_trace`, `obstacle`, `reason`, `left_in_force`, `checks`,
    /// `loading`, `attach`, `hooks`, `agent`, `next`
    Json,
}

#[derive(Serialize)]
struct Diagnosis {
    /// The host's name.
    host: String,
    /// `uname -r`.
    kernel: String,
    /// The mode in which the kernel is locked down, `none` too; null: it does not tell.
    lockdown: Option<String>,
    can_trace: bool,
    obstacle: Option<Obstacle>,
    reason: Option<String>,
    /// What is in force of another agent's policy, a sentence each.
    left_in_force: Vec<String>,
    checks: Vec<Check>,
    /// What speaks against loading an image to jump into, a sentence each.
    loading: Vec<String>,
    /// How the hooks are attached: `multi`, by links to many functions at once, or `each`, one by one. Not known where none was.
    attach: Option<&'static str>,
    hooks: Vec<Report>,
    /// What a running agent knows; null: none is running, or it may not be asked.
    agent: Option<Known>,
    /// What is to be done, a sentence each, in this order; empty: nothing.
    next: Vec<String>,
}

/// What a running agent knows of the host.
#[derive(Serialize)]
struct Known {
    /// As [`Status`] has them.
    luo_format: Option<String>,
    kho_format: Option<String>,
    kho_scratch_bytes: Option<u64>,
    image: Option<String>,
    /// How many sessions a live update would take along, those of the recorder's own left out.
    sessions: usize,
    /// The mode of its policy; null: it has none.
    policy: Option<String>,
    /// The names of the sessions that a live update would lose now; null: no image is loaded, or it is not known what becomes of them.
    would_lose: Option<Vec<String>>,
    /// Why not everything is seen, a sentence each.
    troubles: Vec<String>,
}

impl Known {
    fn of(status: &Status) -> Self {
        Self {
            luo_format: status.luo_format.clone(),
            kho_format: status.kho_format.clone(),
            kho_scratch_bytes: status.kho_scratch_bytes,
            image: status.image.as_deref().map(str::to_owned),
            sessions: outgoing(status).count(),
            policy: status.policy.as_ref().map(|policy| policy.mode.to_string()),
            would_lose: would_lose(status).map(|names| names.into_iter().map(str::to_owned).collect()),
            troubles: status.troubles.clone(),
        }
    }
}

/// The sessions that wait for a live update.
fn outgoing(status: &Status) -> impl Iterator<Item = &Session> {
    let sessions = status.sessions.iter();
    sessions.filter(|session| session.direction == "outgoing" && !session.own)
}

/// Those that a jump into the loaded image would lose: all of them or none. `None` where that is not known, or none is loaded.
fn would_lose(status: &Status) -> Option<Vec<&str>> {
    let is_lost = match status.image_word() {
        "carries" => false,
        "loses" | "panics" => true,
        _ => return None,
    };
    Some(
        outgoing(status)
            .filter(|_| is_lost)
            .map(|session| &*session.name)
            .collect(),
    )
}

impl Diagnosis {
    fn new(reason: Option<String>, obstacle: Option<Obstacle>, hooks: &[HookState]) -> Self {
        Self {
            host: host::name(),
            kernel: host::release(),
            lockdown: host::loading::lockdown(),
            can_trace: reason.is_none(),
            obstacle,
            reason,
            left_in_force: Vec::new(),
            checks: preflight::checks(),
            loading: objections(&host::loading::loading()),
            attach: None,
            hooks: Hook::ALL.iter().map(|&hook| Report::new(hook, hooks)).collect(),
            agent: None,
            next: Vec::new(),
        }
    }

    /// The same with what the agent knows, and with what to do next.
    fn with(self, agent: &Result<Option<Status>>) -> Self {
        let obstacles = preflight::obstacles(&self.checks);
        let status = agent.as_ref().ok().and_then(Option::as_ref);
        Self {
            left_in_force: left(status),
            next: next::steps(&obstacles, self.reason.as_deref(), agent, &self.loading),
            agent: status.map(Known::of),
            ..self
        }
    }
}

/// What speaks against loading any image. Where it depends on the image, `preflight` tells.
fn objections(loading: &Loading) -> Vec<String> {
    let objections = loading.objections(None).into_iter();
    objections.map(|objection| objection.text).collect()
}

/// Looks at the host, attaches every hook for a moment, and tells what would not work. Without the privilege for that it
/// tells what the kernel's type information promises.
///
/// # Errors
/// Where stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let agent = client::status(&args.socket.path);
    let diagnosis = diagnose(args.kho, args.attach.way).with(&agent);
    let mut out = super::stdout();
    match args.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&diagnosis)?)?,
        Format::Text => print(&mut out, &diagnosis)?,
    }
    Ok(if diagnosis.can_trace {
        Exit::Held
    } else {
        Exit::CannotWork
    })
}

/// What is in force of another agent's policy. One that runs with a policy knows its own.
fn left(agent: Option<&Status>) -> Vec<String> {
    let policy = agent.and_then(|status| status.policy.as_ref());
    if policy.is_some_and(|policy| policy.generation != 0) {
        return Vec::new();
    }
    left_in_force().map_or_else(Vec::new, |(policy, standing)| {
        policy.with(&standing).lines(host::monotonic_ns())
    })
}

fn diagnose(detail: KhoDetail, way: Option<Way>) -> Diagnosis {
    let types = Types::read();
    let btf = types.btf();
    if let Some(obstacle) = preflight::obstacle_to(btf.as_ref().ok()) {
        return Diagnosis::new(Some(obstacle.to_string()), Some(obstacle), &prospects());
    }
    let attached = btf.and_then(|btf| Tracer::attach(&btf, TRIAL_RING, detail, way));
    match attached {
        Ok(tracer) => Diagnosis {
            attach: Some(tracer.way().name()),
            ..Diagnosis::new(None, None, tracer.hooks())
        },
        Err(error) => {
            let reason = format!("{error:#}");
            // What failed is known for sure, of the rest what the type information promises.
            let failed = error
                .downcast::<AttachError>()
                .map(|error| error.failed)
                .unwrap_or_default();
            let others = prospects()
                .into_iter()
                .filter(|state| failed.iter().all(|f| f.id != state.id));
            let hooks: Vec<HookState> = failed.iter().cloned().chain(others).collect();
            Diagnosis::new(Some(reason), None, &hooks)
        }
    }
}

fn print(out: &mut impl Write, diagnosis: &Diagnosis) -> io::Result<()> {
    for check in &diagnosis.checks {
        let mark = if check.ok { "ok" } else { "no" };
        writeln!(out, "{mark}  {}", check.what)?;
    }
    writeln!(out)?;
    diagnosis.hooks.iter().try_for_each(|hook| hook.print(out))?;
    let count = |word: &str| diagnosis.hooks.iter().filter(|hook| hook.state == word).count();
    let states = [
        "attached",
        "partly attached",
        "attachable",
        "missing",
        "switched off",
        "nothing to tell",
        "unknown",
    ];
    let counts = states.iter().filter(|state| count(state) > 0);
    let counts: Vec<String> = counts.map(|state| format!("{} {state}", count(state))).collect();
    writeln!(out, "\n{} hooks: {}", diagnosis.hooks.len(), counts.join(", "))?;
    if let Some(way) = Way::ALL.iter().find(|way| Some(way.name()) == diagnosis.attach) {
        writeln!(out, "hooks are attached {}", way.what())?;
    }
    for objection in &diagnosis.loading {
        writeln!(out, "live update: {objection}")?;
    }
    for line in &diagnosis.left_in_force {
        writeln!(out, "policy: {line}")?;
    }
    match &diagnosis.reason {
        Some(reason) => writeln!(out, "this host cannot be traced: {reason}")?,
        None => writeln!(out, "this host can be traced")?,
    }
    if !diagnosis.next.is_empty() {
        writeln!(out, "\nNext:")?;
    }
    let mut steps = (1..).zip(&diagnosis.next);
    steps.try_for_each(|(number, step)| writeln!(out, "{number}. {step}"))
}
