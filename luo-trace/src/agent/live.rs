//! What the agent knows at this moment, for clients at its port.
//!
//! One task writes, between two waits for the ring; readers come in between, so no reader waits long for the lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use luo_trace_common::events::{self as abi, HooksBlind};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::agent::updates::Word;
use crate::event::{Body, Event};
use crate::host;
use crate::image::Preserved;
use crate::journal::{Header, HookState};
use crate::model::{self, Finding, Model, Verdict};
use crate::policy::orders::{Entry, Standing};
use crate::sink::log::tell;
use crate::sink::metrics::Metrics;
use crate::sink::push::{self, Signal};
use crate::sink::{self, web};
use crate::status::{self, Digest, Facts, Losses, Status};

/// How many findings are kept for the page.
const FINDINGS: usize = 50;

/// The model, the metrics, and the last findings.
pub struct Live {
    /// The metrics; counts and verdicts are brought up to date when they are asked for.
    pub metrics: Metrics,
    kernel: String,
    boot_id: String,
    luo_format: Option<String>,
    kho_format: Option<String>,
    kho_scratch_bytes: Option<u64>,
    troubles: Vec<String>,
    hooks: Vec<HookState>,
    attach: Option<String>,
    place: Place,
    state: Mutex<State>,
    /// A reader was told that updates are still to be judged.
    looked: Condvar,
}

/// Where and when it all happens.
enum Place {
    /// On this host, now.
    Here,
    /// On a host of this name, at this time of its `CLOCK_MONOTONIC`, in nanoseconds: in a recording.
    Recorded(String, AtomicU64),
}

struct State {
    model: Model,
    digest: Digest,
    findings: VecDeque<Finding>,
    /// Why the journal is not carried over a kexec, where it should be.
    carry_trouble: Option<String>,
    /// Why the settings that are in the file now are not the agent's.
    settings_trouble: Option<String>,
    /// Why what the agent sees does not get where it should: to the journal, or to another output.
    output_troubles: Vec<String>,
    /// Why what should be pushed to a collector is not.
    push_trouble: Option<String>,
    /// The policy with an operator's orders, where there is one.
    policy: Option<(status::policy::Policy, Standing)>,
    /// What was lost on this side of the ring.
    losses: Losses,
    /// The hooks that are attached and see nothing, where there are any.
    blind: Option<Blind>,
    /// What is known of live updates, where they are judged.
    word: Option<Word>,
    /// How often that was called for, and up to which call it is known.
    asked: u64,
    answered: u64,
    /// Whether a reader was told since then that it is not known yet.
    looked_at: bool,
}

impl Live {
    /// Knows nothing but what the record begins with.
    ///
    /// # Errors
    /// Where the metrics' table is wrong, which a test rules out.
    pub fn new(header: &Header) -> Result<Self> {
        Self::at(Place::Here, header)
    }

    /// The same on a host of which these labels say more.
    ///
    /// # Errors
    /// As [`Live::new`], and where a label cannot be one.
    pub fn labelled(header: &Header, labels: &[(String, String)]) -> Result<Self> {
        let mut live = Self::new(header)?;
        live.metrics.label(labels).context("the labels cannot be used")?;
        Ok(live)
    }

    /// The same of a recording, at its beginning: see [`Live::is_now`].
    ///
    /// # Errors
    /// As [`Live::new`].
    pub fn recorded(header: &Header) -> Result<Self> {
        let now = AtomicU64::new(header.clock.monotonic_ns);
        Self::at(Place::Recorded(header.host.name.clone(), now), header)
    }

    /// So late it is in the recording, in nanoseconds of its `CLOCK_MONOTONIC`.
    pub fn is_now(&self, time: u64) {
        if let Place::Recorded(_, now) = &self.place {
            now.store(time, Ordering::Relaxed);
        }
    }

    /// Which boot it is of.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn now(&self) -> u64 {
        match &self.place {
            Place::Here => host::monotonic_ns(),
            Place::Recorded(_, now) => now.load(Ordering::Relaxed),
        }
    }

    fn facts(&self) -> Facts {
        let (kernel, boot_id) = (self.kernel.clone(), self.boot_id.clone());
        match &self.place {
            Place::Here => host::facts(kernel, boot_id),
            Place::Recorded(host, _) => Facts {
                host: host.clone(),
                kernel,
                boot_id,
                now_ns: self.now(),
                ..Facts::default()
            },
        }
    }

    fn at(place: Place, header: &Header) -> Result<Self> {
        let foreign = matches!(place, Place::Here) && host::namespace::is_foreign();
        let metrics = Metrics::new().context("the metrics cannot be set up")?;
        metrics.set_hooks(&header.hooks);
        metrics.set_kernel(&header.kernel_release);
        if let Some(number) = header.update_number {
            metrics.set_update_number(number);
        }
        if let Some(bytes) = header.kho_scratch_bytes {
            metrics.set_kho_scratch(bytes);
        }
        let missing = header.hooks.iter().filter(|hook| hook.is_missing());
        Ok(Self {
            metrics,
            kernel: header.kernel_release.clone(),
            boot_id: header.boot_id.clone(),
            luo_format: header.luo_format.clone(),
            kho_format: header.kho_format.clone(),
            kho_scratch_bytes: header.kho_scratch_bytes,
            troubles: missing
                .map(|hook| {
                    format!(
                        "hook {} is missing: {}",
                        hook.id,
                        hook.reason.as_deref().unwrap_or("not attached")
                    )
                })
                .chain(foreign.then(|| host::namespace::FOREIGN.to_owned()))
                .collect(),
            hooks: header.hooks.clone(),
            attach: header.attach.clone(),
            place,
            state: Mutex::new(State {
                model: header.model(),
                digest: Digest::default(),
                findings: VecDeque::new(),
                carry_trouble: None,
                settings_trouble: None,
                output_troubles: Vec::new(),
                push_trouble: None,
                policy: None,
                losses: Losses::default(),
                blind: None,
                word: None,
                asked: 0,
                answered: 0,
                looked_at: false,
            }),
            looked: Condvar::new(),
        })
    }

    /// Takes in an event; gives what it proves.
    pub fn apply(&self, event: &Event) -> Vec<Finding> {
        self.metrics.observe(event);
        let mut state = self.state();
        if let Body::SnapshotBegin(begin) = &event.body
            && let Some(number) = begin.known_update_number()
        {
            self.metrics.set_update_number(number);
        }
        if let Body::HooksBlind(p) = &event.body {
            let since_ns = state.blind.as_ref().map_or(event.header.ktime, |blind| blind.since_ns);
            state.blind = (p.hooks != 0).then_some(Blind { what: *p, since_ns });
            self.metrics.set_hooks(&self.hooks(&state));
        }
        state.digest.observe(event);
        let findings = state.model.apply(event);
        if findings.is_empty() {
            return Vec::new();
        }
        let findings = findings.to_vec();
        self.keep(&mut state, &findings);
        findings
    }

    /// The record ends; gives what that proves.
    pub fn finish(&self) -> Vec<Finding> {
        let mut state = self.state();
        let findings = state.model.finish().to_vec();
        self.keep(&mut state, &findings);
        findings
    }

    /// Records could not be decoded.
    pub fn undecodable(&self, records: u64) {
        self.metrics.decode_errors(records);
        if records > 0 {
            self.state().losses.undecodable += records;
        }
    }

    /// A sink dropped items; with 0 it is known to exist.
    pub fn dropped(&self, sink: &'static str, items: u64) {
        self.metrics.sink_dropped(sink, items);
        if items > 0 {
            *self.state().losses.dropped.entry(sink.into()).or_default() += items;
        }
    }

    /// The journal is not carried over a kexec, and why; `None`: it is, or no option asked for it.
    pub fn set_carry_trouble(&self, trouble: Option<String>) {
        self.state().carry_trouble = trouble;
    }

    /// The file of settings was read again and cannot be used, and why; `None`: it can.
    pub fn set_settings_trouble(&self, trouble: Option<String>) {
        self.metrics.set_settings_refused(trouble.is_some());
        self.state().settings_trouble = trouble;
    }

    /// What the agent sees does not get where it should, and why: a sentence for each output.
    pub fn set_output_troubles(&self, troubles: Vec<String>) {
        self.state().output_troubles = troubles;
    }

    /// Live updates are to be judged anew; gives the number of this call.
    pub fn ask_for_updates(&self) -> u64 {
        let mut state = self.state();
        state.asked += 1;
        state.asked
    }

    /// What is known of live updates, up to this call.
    pub fn set_updates(&self, word: Word, call: u64) {
        self.metrics.set_updates(&word.updates, &word.before);
        let mut state = self.state();
        state.word = Some(word);
        state.answered = call;
        state.looked_at = false;
    }

    /// Waits for so long, or until a reader is told that updates are still to be judged.
    pub fn rest(&self, time: Duration) {
        let waits = |state: &mut State| !state.looked_at;
        // Whatever ended it, the rest is over.
        _ = self.looked.wait_timeout_while(self.state(), time, waits);
    }

    /// The policy and an operator's orders are these from now on.
    pub fn set_policy(&self, policy: status::policy::Policy, standing: Standing) {
        self.metrics.set_policy_troubles(policy.troubles.len());
        self.state().policy = Some((policy, standing));
    }

    /// There is no policy, but for what another agent left in force, if anything.
    pub fn set_left_policy(&self, left: Option<(status::policy::Policy, Standing)>) {
        self.metrics
            .set_policy_troubles(left.iter().map(|(policy, _)| policy.troubles.len()).sum());
        if left.is_none() {
            self.metrics.set_orders(false, 0);
        }
        self.state().policy = left;
    }

    /// The policy as it stands, where there is one.
    pub fn policy(&self) -> Option<status::policy::Policy> {
        self.state().policy()
    }

    /// Shows the model to what is kept up to date by it.
    pub fn with_model<T>(&self, look: impl FnOnce(&Model) -> T) -> T {
        look(&self.state().model)
    }

    /// Why not everything is as it should be, in sentences.
    fn troubles(&self, state: &State) -> Vec<String> {
        let mut troubles = self.blind(state);
        troubles.extend(state.carry_trouble.clone());
        troubles.extend(state.settings_trouble.clone());
        troubles.extend(state.push_trouble.clone());
        troubles
    }

    /// What of them keeps the agent from seeing, or from telling what it sees.
    fn blind(&self, state: &State) -> Vec<String> {
        let missing = self.troubles.iter().cloned();
        let blind = state.blind.as_ref().map(|blind| blind.trouble(self.now()));
        // A policy's programs hang on functions of the kernel as the hooks do; kprobes alone are no matter to them.
        let off = |blind: &&Blind| blind.what.cause == abi::BLIND_FTRACE_OFF && state.policy.is_some();
        let policy = state.blind.as_ref().filter(off).map(|_| POLICY_IS_BLIND.to_owned());
        missing
            .chain(blind)
            .chain(policy)
            .chain(state.output_troubles.iter().cloned())
            .collect()
    }

    /// The hooks as they are now.
    fn hooks(&self, state: &State) -> Vec<HookState> {
        let Some(blind) = &state.blind else {
            return self.hooks.clone();
        };
        let now = |hook: &HookState| match blind.what.ids().any(|id| id == hook.id) {
            true => HookState {
                attached: false,
                reason: Some(format!("it is attached and sees nothing: {}", blind.why())),
                ..hook.clone()
            },
            false => hook.clone(),
        };
        self.hooks.iter().map(now).collect()
    }

    /// What is preserved now. The recorder's own session counts where there are others: the kernel that cannot take that brings
    /// back none of them.
    pub fn preserved(&self) -> Preserved {
        Preserved::of_model(&self.state().model)
    }

    fn keep(&self, state: &mut State, findings: &[Finding]) {
        for finding in findings {
            self.metrics.found(finding);
            state.findings.push_front(finding.clone());
        }
        state.findings.truncate(FINDINGS);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told of a policy where function tracing is off.
const POLICY_IS_BLIND: &str =
    "the policy refuses nothing: the kernel does not call its programs while its function tracing is off";

/// Hooks that are attached and see nothing.
struct Blind {
    what: HooksBlind,
    since_ns: u64,
}

impl Blind {
    /// Why, and what to do.
    fn why(&self) -> &'static str {
        match self.what.cause {
            abi::BLIND_KPROBES_OFF => {
                "the kernel's kprobes are switched off; write 1 to kprobes/enabled in debugfs, then take a snapshot"
            }
            abi::BLIND_FTRACE_OFF => {
                "the kernel's function tracing is switched off; set kernel.ftrace_enabled to 1, then take a snapshot"
            }
            abi::BLIND_FTRACE_DEAD => {
                "the kernel shut its function tracing down after a fault of its own (see its log), until the next boot"
            }
            abi::BLIND_FOR_A_MOMENT => "the kernel's kprobes or its function tracing were switched off and on again",
            _ => {
                "the kernel's functions do not call them any more, and what undid that is not known; start the agent anew"
            }
        }
    }

    fn trouble(&self, now_ns: u64) -> String {
        let ids: Vec<_> = self.what.ids().collect();
        let all = ids.len() > 3;
        format!(
            "{} {} nothing, for {} s: {}",
            if all {
                format!("{} hooks, {} among them,", ids.len(), ids[0])
            } else {
                format!("hook {}", ids.join(" and hook "))
            },
            if ids.len() == 1 { "sees" } else { "see" },
            now_ns.saturating_sub(self.since_ns) / 1_000_000_000,
            self.why(),
        )
    }
}

impl State {
    /// The verdicts on this kernel, and on the update that brought it. Of one that both give the worse counts: an image is judged when it
    /// is loaded, and again by what becomes of it.
    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = self.model.verdicts();
        for over in self.word.iter().flat_map(|word| &word.verdicts) {
            match verdicts.iter_mut().find(|verdict| verdict.invariant == over.invariant) {
                Some(verdict) if over.status == model::Status::Violated || verdict.status == model::Status::Ok => {
                    *verdict = over.clone()
                }
                Some(_) => {}
                None => verdicts.push(over.clone()),
            }
        }
        verdicts
    }

    fn policy(&self) -> Option<status::policy::Policy> {
        let (policy, standing) = self.policy.clone()?;
        Some(self.digest.policy(policy.with(&standing)))
    }
}

impl sink::StatusSource for Live {
    fn status(&self) -> Status {
        let facts = self.facts();
        let mut state = self.state();
        let source = match self.place {
            Place::Here => "agent",
            Place::Recorded(..) => "recording",
        };
        let status = Status::new(source, facts, &state.model, &state.digest);
        let losses = state.losses.clone();
        let troubles = self.troubles(&state);
        let hooks = self.hooks(&state);
        let word = state.word.as_ref();
        let over_updates = word.into_iter().flat_map(|word| &word.findings);
        let findings = over_updates.chain(&state.findings).map(Into::into).collect();
        let updates = word.map(|word| word.updates.clone()).unwrap_or_default();
        let verdicts = state.verdicts().iter().map(Into::into).collect();
        let judging_updates = state.answered < state.asked;
        state.looked_at |= judging_updates;
        self.looked.notify_all();
        let policy = state.policy();
        drop(state);
        Status {
            updates,
            judging_updates,
            verdicts,
            findings,
            losses: Losses {
                events: status.losses.events,
                ..losses
            },
            troubles: troubles.into_iter().chain(status.troubles).collect(),
            hooks,
            attach: self.attach.clone(),
            policy,
            luo_format: self.luo_format.clone(),
            kho_format: self.kho_format.clone(),
            kho_scratch_bytes: self.kho_scratch_bytes,
            ..status
        }
    }
}

impl Live {
    /// Brings the metrics up to date that are gauges of what is known.
    fn measure(&self) {
        let state = self.state();
        self.metrics.set_counts(&state.model.counts_of_others(), self.now());
        self.metrics.set_verdicts(&state.verdicts());
        self.metrics.set_image(state.digest.image_word());
        if let Some((_, standing)) = &state.policy {
            let now = self.now();
            let left = |order: Option<&Entry>| order.map_or(0, |order| order.until().saturating_sub(now));
            let (held, allowed) = (left(standing.hold.as_ref()), left(standing.allowance.as_ref()));
            self.metrics.set_orders(held > 0, allowed);
        }
    }

    /// All metrics as an export request: see [`Metrics::export`].
    pub fn export_metrics(&self, resource: Resource, began: u64, now: u64) -> ExportMetricsServiceRequest {
        self.measure();
        self.metrics.export(resource, began, now)
    }
}

impl push::Watch for Live {
    fn exists(&self, signal: Signal, fate: push::Fate) {
        self.metrics.pushed(signal.name(), fate.name(), 0);
    }

    fn batch(&self, signal: Signal, fate: push::Fate) {
        self.metrics.pushed(signal.name(), fate.name(), 1);
    }

    fn spooled(&self, bytes: u64) {
        self.metrics.set_push_spool(bytes);
    }

    fn trouble(&self, why: Option<String>) {
        let before = std::mem::replace(&mut self.state().push_trouble, why.clone());
        match (before, why) {
            (None, Some(why)) => tell(why),
            (Some(_), None) => tell("the collector takes what is pushed again"),
            _ => {}
        }
    }
}

impl web::PageSource for Live {
    fn metrics(&self) -> String {
        self.measure();
        self.metrics.render()
    }

    fn ready(&self) -> Result<(), String> {
        // No agent can be asked before the hooks are attached: the port is opened after that.
        let state = self.state();
        let troubles = self.blind(&state);
        match troubles.is_empty() {
            true => Ok(()),
            false => Err(troubles.join("\n")),
        }
    }
}
