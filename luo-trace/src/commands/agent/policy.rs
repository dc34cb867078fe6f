//! Policy while the agent runs: its file, which is read again on SIGHUP, and an operator's orders.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use luo_trace_common::events::{POLICY_CLEAR, PolicyChange};
use luo_trace_common::policy::{Aspect, ImageBits, Mode, Selected};
use luo_trace_common::text::Name;
use tokio::sync::mpsc;
use zerocopy::FromZeros;

use super::super::policy::{left_in_force, read};
use super::aside::Aside;
use crate::agent::enforcement::{Adopted, Enforcement, Loaded, Lsm, Note, Store};
use crate::agent::live::Live;
use crate::agent::pipeline::Pipeline;
use crate::exit::Exit;
use crate::host;
use crate::kernel::lsm::LsmError;
use crate::kernel::{self, Tracer};
use crate::policy::orders::{Answer, Order};
use crate::policy::{Compiled, Policy};
use crate::sink::control::Request;
use crate::sink::log::tell;

/// Why an agent takes no orders.
const NO_POLICY: &str = "the agent runs without a policy: start it with --policy FILE";

/// The policy's file, and the thread that reads it again at this moment.
pub(super) struct File {
    path: Option<PathBuf>,
    reading: Aside<Policy>,
}

impl File {
    /// The file of this path, if any.
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            reading: Aside::default(),
        }
    }

    /// Reads it now.
    ///
    /// # Errors
    /// What is wrong with it, with line and column.
    pub(super) fn read(&self) -> Result<Option<Loaded>> {
        let Some(path) = &self.path else { return Ok(None) };
        Ok(Some(loaded(path, read(path)?)))
    }

    /// Whether the agent has a policy.
    pub(super) fn is_there(&self) -> bool {
        self.path.is_some()
    }

    /// Begins to read it again. Elsewhere: whatever the file is, nothing here waits for it.
    pub(super) fn read_again(&mut self) {
        let Some(path) = self.path.clone() else { return };
        self.reading.begin(move || read(&path));
    }

    /// Whether it is being read.
    pub(super) fn is_read(&self) -> bool {
        self.reading.is_on()
    }

    /// Waits until it is read.
    pub(super) async fn again(&mut self) -> Result<Loaded> {
        let read = self.reading.done().await;
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        Ok(loaded(path, read?))
    }
}

fn loaded(path: &Path, policy: Policy) -> Loaded {
    let file = path.display().to_string();
    Loaded { policy, file }
}

/// The programs that refuse, as this kernel has them, or why it has none, and what a lost agent left.
pub(super) struct Attached {
    lsm: Result<Box<dyn Lsm>, String>,
    adopted: Option<Adopted>,
}

/// Attaches the programs that a policy needs. Of a host where they are of no use to a policy that is to be enforced, gives how to
/// end.
///
/// # Errors
/// Where they cannot be attached, or what a lost agent left cannot be looked for.
pub(super) fn attach(tracer: &mut Tracer, loaded: &Loaded) -> Result<Result<Attached, Exit>> {
    let enforces = loaded.policy.mode == Mode::Enforce;
    let lsm = match tracer.lsm() {
        Ok(lsm) => lsm,
        Err(LsmError::Failed(error)) if enforces => return Err(error.context("the policy cannot be enforced")),
        Err(error) => {
            tell(&error);
            if enforces {
                return Ok(Err(Exit::CannotWork));
            }
            let left = left_in_force().map(|(policy, _)| policy.troubles.join("; "));
            left.iter().for_each(tell);
            let why: Vec<_> = [error.to_string()].into_iter().chain(left).collect();
            return Ok(Ok(Attached {
                lsm: Err(why.join("; ")),
                adopted: None,
            }));
        }
    };
    let adopted = lsm
        .adopt()
        .context("what an agent before left in force cannot be taken over")?;
    adopted.foreign.iter().for_each(tell);
    for orders in adopted.unreadable {
        tell(format_args!(
            "an agent before left programs in force whose orders are not known: {orders}"
        ));
    }
    Ok(Ok(Attached {
        lsm: Ok(Box::new(lsm)),
        adopted: adopted.state.map(|state| Adopted {
            held_until: state.held_until,
            allowed_until: state.allowed_until,
            violated: state.violated,
        }),
    }))
}

impl Lsm for kernel::lsm::LsmPrograms {
    fn enforce(&mut self, policy: &Compiled) -> Result<u64> {
        self.enforce(policy)
    }

    fn release(&mut self) -> Result<()> {
        self.release()
    }

    fn outlive(&mut self, outlives: bool) -> Result<()> {
        match outlives {
            true => self.pin(),
            false => self.unpin(),
        }
    }

    fn lapsed(&self) -> Option<String> {
        kernel::lsm::LsmPrograms::lapsed(self)
    }

    fn retire_others(&mut self) -> Result<()> {
        kernel::lsm::LsmPrograms::retire_others(self)
    }

    fn beat(&mut self, now: u64) {
        self.state().beat(now);
    }

    fn order(&mut self, held_until: u64, allowed_until: u64) {
        self.state().hold(held_until);
        self.state().allow(allowed_until);
    }

    fn violated(&mut self, severity: u64) {
        self.state().violated(severity);
    }

    fn preserved(&mut self, selected: [Selected; Aspect::COUNT]) {
        kernel::lsm::LsmPrograms::preserved(self, &selected);
    }

    fn judge(&mut self, image: u64, verdict: ImageBits) {
        self.state().judge(image, verdict);
    }
}

/// Keeps this host by a policy from now on.
///
/// # Errors
/// Where the policy cannot be enforced.
pub(super) fn begin(
    attached: Attached,
    loaded: Loaded,
    socket: Option<&Path>,
    live: Arc<Live>,
    boot_id: &str,
    pipeline: &mut Pipeline,
) -> Result<()> {
    let Attached { lsm, adopted } = attached;
    let store = socket.map(Store::beside);
    let now = host::monotonic_ns();
    let (enforcement, notes) = Enforcement::begin(loaded, lsm, adopted, store, live, boot_id.to_owned(), now)
        .context("the policy cannot be put in force")?;
    pipeline.keep(enforcement, notes);
    Ok(())
}

/// What another agent left in force, while this one has no policy to take its place.
pub(super) struct Left {
    live: Arc<Live>,
    /// Beside it lies what was kept of orders.
    socket: Option<PathBuf>,
    is_there: bool,
}

impl Left {
    /// Nothing was looked for yet.
    pub(super) fn new(live: Arc<Live>, socket: Option<&Path>) -> Self {
        Self {
            live,
            socket: socket.map(Path::to_owned),
            is_there: false,
        }
    }

    /// Looks for it, lets clients know, and tells when it was not there before.
    pub(super) fn look(&mut self, pipeline: &mut Pipeline) {
        if pipeline.policy().is_some() {
            return;
        }
        let left = left_in_force();
        if !mem::replace(&mut self.is_there, left.is_some()) {
            left.iter().flat_map(|(policy, _)| &policy.troubles).for_each(tell);
        }
        self.live.set_left_policy(left);
    }

    /// Removes it, and what was kept of orders, on an operator's behalf.
    fn clear(&self, uid: u32) -> Result<(Answer, Note), String> {
        // First what is in force, whatever becomes of the rest.
        let programs = kernel::lsm::clear().map_err(|error| format!("{error:#}"))? > 0;
        let orders = self
            .socket
            .as_ref()
            .map_or(Ok(false), |socket| Store::beside(socket).remove());
        let orders = orders.map_err(|error| format!("{error:#}"))?;
        let removed = [
            programs.then_some("the policy that another agent left in force is removed"),
            orders.then_some("the orders that were kept for the next agent are removed"),
        ];
        let told: Vec<String> = removed.into_iter().flatten().map(Into::into).collect();
        if told.is_empty() {
            return Err(NO_POLICY.into());
        }
        let change = PolicyChange {
            what: POLICY_CLEAR,
            uid,
            text: Name::new(told.join("; ")),
            ..PolicyChange::new_zeroed()
        };
        Ok((Answer { told }, Note::Change(Box::new(change))))
    }
}

/// Puts what was read into force, or tells why not.
pub(super) fn swap(read: Result<Loaded>, pipeline: &mut Pipeline) {
    let Some(enforcement) = pipeline.policy() else { return };
    match read.and_then(|loaded| enforcement.swap(loaded)) {
        Ok(note) => pipeline.note_one(note),
        Err(error) => enforcement.refuse(&format!("{error:#}")),
    }
}

/// Carries out an order.
pub(super) fn carry_out(request: Request, left: &mut Left, pipeline: &mut Pipeline) {
    let Request { order, uid, answer } = request;
    let now = host::monotonic_ns();
    let ended = pipeline.policy().map(|enforcement| enforcement.expire(now));
    ended.into_iter().flatten().for_each(|note| pipeline.note_one(note));
    let result = match pipeline.policy() {
        Some(enforcement) if enforcement.can_refuse() => enforcement.take(&order, uid, now),
        _ if order == Order::Clear => left.clear(uid),
        Some(enforcement) => enforcement.take(&order, uid, now),
        None => Err(NO_POLICY.into()),
    };
    let answered = result.map(|(answer, note)| {
        pipeline.note_one(note);
        answer
    });
    left.look(pipeline);
    // The client that asked may be gone. The order stands all the same.
    _ = answer.send(answered);
}

/// The agent ends in order.
pub(super) fn end(pipeline: &mut Pipeline) {
    let Some(enforcement) = pipeline.policy() else { return };
    match enforcement.end() {
        Ok(note) => note.into_iter().for_each(|note| pipeline.note_one(note)),
        Err(error) => tell(format_args!("the policy cannot be let go of: {error:#}")),
    }
}

/// The next order; waits for ever where there is no socket.
pub(super) async fn next(orders: &mut Option<mpsc::Receiver<Request>>) -> Request {
    if let Some(receiver) = orders
        && let Some(request) = receiver.recv().await
    {
        return request;
    }
    *orders = None;
    std::future::pending().await
}
