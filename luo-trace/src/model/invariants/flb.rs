//! Invariants of global state: `kernel/liveupdate/luo_flb.c` (7.3).

use super::super::court::Court;
use super::super::state::{Scene, State};

pub(super) fn create_on_first(_state: &State, _scene: &Scene, _court: &mut Court) {}
pub(super) fn destroy_on_last(_state: &State, _scene: &Scene, _court: &mut Court) {}
