//! `luo-trace doctor`: can this host be traced, and if not, why and what to do.

use std::fs;
use std::io::{self, Write};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use luo_trace_common::hooks::{Hook, KhoDetail};
use serde::Serialize;

use super::agent::kho_detail;
use crate::exit::Exit;
use crate::journal::HookState;
use crate::kernel::preflight::{self, Obstacle, VMLINUX_BTF};
use crate::kernel::{AttachError, Tracer};

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
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For a person
    #[default]
    Text,
    /// One JSON object: `can_trace`, `obstacle`, `reason`, `hooks`
    Json,
}

#[derive(Serialize)]
struct Diagnosis {
    can_trace: bool,
    obstacle: Option<Obstacle>,
    reason: Option<String>,
    hooks: Vec<HookState>,
}

/// Looks at the host, attaches every hook for a moment, and tells what would not work.
///
/// # Errors
/// Where stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let diagnosis = diagnose(args.kho);
    let mut out = io::stdout().lock();
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

fn diagnose(detail: KhoDetail) -> Diagnosis {
    if let Some(obstacle) = preflight::obstacle() {
        return Diagnosis {
            can_trace: false,
            reason: Some(obstacle.to_string()),
            obstacle: Some(obstacle),
            hooks: Vec::new(),
        };
    }
    let attached = fs::read(VMLINUX_BTF)
        .map_err(Into::into)
        .and_then(|btf| Tracer::attach(&btf, TRIAL_RING, detail));
    match attached {
        Ok(tracer) => Diagnosis {
            can_trace: true,
            obstacle: None,
            reason: None,
            hooks: tracer.hooks().to_vec(),
        },
        Err(error) => Diagnosis {
            can_trace: false,
            obstacle: None,
            reason: Some(format!("{error:#}")),
            hooks: error
                .downcast::<AttachError>()
                .map(|error| error.failed)
                .unwrap_or_default(),
        },
    }
}

fn print(out: &mut impl Write, diagnosis: &Diagnosis) -> io::Result<()> {
    for state in &diagnosis.hooks {
        let hook = Hook::ALL.iter().find(|hook| hook.id() == state.id);
        let mark = match state {
            _ if state.attached => "ok",
            _ if state.switched_off => "off",
            _ if state.nothing_to_tell => "-",
            _ => "no",
        };
        write!(
            out,
            "{mark:<3} {:<20} {:<9} {}",
            state.id,
            hook.map_or("", |&hook| super::hooks::need(hook)),
            state.targets.join(" ")
        )?;
        match &state.reason {
            Some(reason) => writeln!(out, " ({reason})")?,
            None => writeln!(out)?,
        }
    }
    match &diagnosis.reason {
        Some(reason) => writeln!(out, "this host cannot be traced: {reason}"),
        None => {
            let count = |is: fn(&HookState) -> bool| diagnosis.hooks.iter().filter(|state| is(state)).count();
            writeln!(
                out,
                "this host can be traced: {} hooks attached, {} missing, {} switched off, {} with nothing to tell",
                count(|state| state.attached),
                count(HookState::is_missing),
                count(|state| state.switched_off),
                count(|state| state.nothing_to_tell)
            )
        }
    }
}
