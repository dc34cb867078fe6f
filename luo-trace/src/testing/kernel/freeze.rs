//! The freeze of the made-up kernel, and what undoes it.

use luo_trace_common::events::{FileCall, Plain};

use super::super::plan::Fault;
use super::super::story::flb_record;
use super::bodies::{file_call, files_op, flb_name};
use super::{EIO, FLBS, KSession, Kernel, Lock, Step};
use crate::event::Body;

/// What a made-up kernel serialized for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The sessions, with their files' tokens.
    pub sessions: Vec<(String, Vec<u64>)>,
    /// The global states in use, with their users.
    pub flbs: Vec<(String, u64)>,
}

impl Kernel {
    /// `luo_session_serialize` with its lock held, and what follows it in `liveupdate_reboot` and `kernel_kexec`.
    pub(super) fn freeze(&mut self, task: usize, fault: Fault) {
        let sessions: Vec<KSession> = self.sessions.values().filter(|s| !s.incoming).cloned().collect();
        let fails = fault == Fault::Handler && sessions.last().is_some_and(|s| !s.files.is_empty());
        let mut steps = Vec::new();
        for (i, kept) in sessions.iter().enumerate() {
            let last = i + 1 == sessions.len();
            steps.push(Step::Enter);
            for (k, file) in kept.files.iter().enumerate() {
                let refuses = fails && last && k + 1 == kept.files.len();
                let called = file_call(FileCall::Freeze, kept.name, None, *file);
                steps.extend([Step::Enter, Step::Leave(called, if refuses { EIO } else { 0 })]);
            }
            if fails && last {
                // In the order of the list, but for the one that failed.
                steps.extend(unfreeze(kept, kept.files.len() - 1));
            }
            let result = if fails && last { EIO } else { 0 };
            steps.push(Step::Leave(
                Body::FilesFreeze(files_op(kept.name, kept.files.len())),
                result,
            ));
        }
        let result = if fails { EIO } else { 0 };
        if fails {
            for kept in sessions.iter().rev().skip(1) {
                let event = Body::FilesUnfreeze(files_op(kept.name, kept.files.len()));
                steps.push(Step::Enter);
                steps.extend(unfreeze(kept, kept.files.len()));
                steps.push(Step::Leave(event, 0));
            }
            steps.push(Step::Give(Lock::Write));
        }
        steps.push(Step::Leave(Body::SessionSerialize(Plain::default()), result));
        if !fails {
            let name = |kept: &KSession| kept.name.name.to_string();
            let tokens = |kept: &KSession| kept.files.iter().map(|file| file.token).collect();
            let used = (0..FLBS).filter(|&flb| self.flbs[flb].outgoing > 0);
            let users = |flb: usize| (flb_name(flb).to_string(), self.flbs[flb].outgoing.unsigned_abs());
            self.left = Some(Left {
                sessions: sessions.iter().map(|kept| (name(kept), tokens(kept))).collect(),
                flbs: used.map(users).collect(),
            });
            steps.push(Step::Enter);
            for flb in (0..FLBS).filter(|&flb| self.flbs[flb].outgoing > 0) {
                let users = self.flbs[flb].outgoing.unsigned_abs();
                let record = flb_record(&flb_name(flb).to_string(), users);
                steps.push(Step::Tell(Body::FlbRecord(record)));
            }
            steps.push(Step::Leave(Body::FlbSerialize(Plain::default()), 0));
        }
        steps.push(Step::Leave(Body::LiveupdateReboot(Plain::default()), result));
        if fails {
            steps.push(Step::Leave(Body::KexecReturn(Plain::default()), result));
            steps.push(Step::Give(Lock::Transition));
        } else {
            // The jump: this task does nothing more.
            self.tasks[task].steps.clear();
        }
        self.first(task, steps);
    }
}

/// The first files of a session are unfrozen.
fn unfreeze(kept: &KSession, files: usize) -> Vec<Step> {
    let called = |file| Step::Leave(file_call(FileCall::Unfreeze, kept.name, None, file), 0);
    let files = kept.files.iter().take(files);
    files.flat_map(|&file| [Step::Enter, called(file)]).collect()
}
