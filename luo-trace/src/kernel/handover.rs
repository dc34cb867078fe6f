//! What the previous kernel left for LUO, as long as no process has read it in: the walk of the program `handover`, which needs no
//! hook.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::RawTracePoint;
use luo_trace_common::snapshot::{START, WALKED};

use super::drive::{drive, run};

/// What walks, and what is there instead of it where there was no live update.
const WALK: &str = "handover";
const NOTHING: &str = "no_handover";

/// The program that is loaded.
#[derive(Debug)]
pub(super) struct Handover(&'static str);

impl Handover {
    /// Loads the program that this boot takes, which must be while all of its maps are at their place.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self> {
        load(ebpf, NOTHING)?;
        if run(program(ebpf, NOTHING)?, START, 0)? & WALKED != 0 {
            return Ok(Self(NOTHING));
        }
        program(ebpf, NOTHING)?.unload()?;
        load(ebpf, WALK)?;
        Ok(Self(WALK))
    }

    /// Walks once, and unloads the program; what is found comes through the ring. Whether it is everything the last record tells.
    /// `drain` empties the ring, and gives whether to go on.
    ///
    /// # Errors
    /// Where the kernel does not run the program.
    pub(super) fn take(&self, ebpf: &mut Ebpf, mut drain: impl FnMut() -> bool) -> Result<()> {
        let program = program(ebpf, self.0)?;
        drive(program, 0, 0, &mut drain)?;
        program.unload()?;
        Ok(())
    }
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    program(ebpf, name)?.load().map_err(super::verifier::explain)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint> {
    let program = ebpf.program_mut(name);
    let program = program.with_context(|| format!("the binary lacks program {name}"))?;
    Ok(program.try_into()?)
}
