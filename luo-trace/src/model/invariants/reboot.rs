//! Invariants of the freeze and the jump: `kernel/liveupdate/luo_core.c` and `kernel/kexec_core.c` (7.3).

use super::super::court::Court;
use super::super::state::{Scene, State};

pub(super) fn no_return(_state: &State, _scene: &Scene, _court: &mut Court) {}
