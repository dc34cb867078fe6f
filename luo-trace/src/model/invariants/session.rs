//! Invariants of sessions: `kernel/liveupdate/luo_session.c` (7.3).

use super::super::court::Court;
use super::super::state::{Scene, State};

pub(super) fn name_unique(_state: &State, _scene: &Scene, _court: &mut Court) {}
pub(super) fn balance(_state: &State, _scene: &Scene, _court: &mut Court) {}
pub(super) fn retrieve_once(_state: &State, _scene: &Scene, _court: &mut Court) {}
