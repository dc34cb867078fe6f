//! Bringing the journal over a kexec, as far as an option asks for it.

use std::sync::Arc;

use anyhow::Result;

use super::Args;
use crate::agent::carry::Carry;
use crate::agent::live::Live;
use crate::agent::pipeline::{Outputs, Pipeline};
use crate::journal::Header;

/// Bringing the journal over a kexec, as far as an option asks for it.
pub(super) struct Carrying {
    carry: Option<Carry>,
    live: Arc<Live>,
}

impl Carrying {
    pub(super) fn begin(args: &Args, header: &Header, live: Arc<Live>, outputs: &mut Outputs) -> Result<Self> {
        let dir = args.journal.clone().unwrap_or_default();
        let begun = Carry::begin(args.carry, args.carry_kib as usize * 1024, header, dir, args.limits())?;
        let carry = begun.map(|(carry, recorder)| {
            outputs.carry(recorder);
            carry
        });
        Ok(Self { carry, live })
    }

    pub(super) fn attempt(&mut self, pipeline: &Pipeline) {
        if let Some(carry) = &mut self.carry {
            carry.attempt(pipeline.foreign());
            self.live.set_carry_trouble(carry.trouble());
        }
    }

    /// Time passes. Close to a jump LUO may hold its locks for good, and a caller that asks it for something then waits for ever.
    pub(super) fn tick(&mut self, pipeline: &mut Pipeline) {
        if !pipeline.jump_is_near() && self.carry.as_mut().is_some_and(Carry::is_due) {
            self.attempt(pipeline);
            // What came may be the record of the kernel before.
            pipeline.ask_for_updates();
        }
    }
}
