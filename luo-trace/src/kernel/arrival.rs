//! What the previous kernel left for LUO, as long as no process has read it in: the walk of the program `arrival`, which needs no
//! hook.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::RawTracePoint;

const PROGRAM: &str = "arrival";

/// Loads the program, which must be while all of its maps are at their place.
///
/// # Errors
/// Where the kernel refuses it.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<()> {
    program(ebpf)?.load().map_err(super::verifier::explain)
}

/// Walks once, and unloads the program; what is found comes through the ring. Whether it is everything the last record tells.
/// `drain` empties the ring, and gives whether to go on.
///
/// # Errors
/// Where the kernel does not run the program.
pub(super) fn take(ebpf: &mut Ebpf, mut drain: impl FnMut() -> bool) -> Result<()> {
    let program = program(ebpf)?;
    super::drive::drive(program, 0, 0, &mut drain)?;
    program.unload()?;
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut RawTracePoint> {
    let program = ebpf.program_mut(PROGRAM).context("the binary lacks the program")?;
    Ok(program.try_into()?)
}
