//! What Prometheus sees: one table gives every metric its name, type, labels and help.
//!
//! Labels are bounded. Sessions' names, tokens and process ids are never labels; the names of handlers and FLBs come from
//! the kernel and are cut off after [`NAMES`] different ones, the rest together being `other`.

mod backfill;
mod otlp;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use luo_trace_common::events::{ABI_VERSION, KhoBalance, Kind};
use luo_trace_common::policy::{Decision, Mode, Operation};
use luo_trace_common::text::Compatible;
use prometheus::core::{Atomic, GenericCounterVec, GenericGaugeVec};
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use backfill::{Backfill, is_label};

use crate::chain::Fate;
use crate::event::{Body, ByName, Event};
use crate::journal::HookState;
use crate::model::{Counts, Direction, Finding, Invariant, Status, Verdict};
use crate::policy::tell::rule_name;
use crate::report::{Row, UpdateOutcome};
use crate::text::errno;

/// How many different names of handlers, and of FLBs, get a label of their own.
pub const NAMES: usize = 64;

/// What can be known of the image that is loaded.
pub const IMAGE_VERDICTS: [&str; 6] = ["none", "pending", "carries", "loses", "panics", "unknown"];

/// The outcome where there was no live update.
const NO_UPDATE: &str = "none";

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells, in a sentence.
    pub help: &'static str,
}

/// A type of metric that a row of the table can have.
trait Family: Sized {
    const KIND: &'static str;
    fn make(row: &Metric) -> prometheus::Result<Self>;
}

impl<P: Atomic> Family for GenericCounterVec<P> {
    const KIND: &'static str = "counter";
    fn make(row: &Metric) -> prometheus::Result<Self> {
        Self::new(Opts::new(row.name, row.help), row.labels)
    }
}

impl<P: Atomic> Family for GenericGaugeVec<P> {
    const KIND: &'static str = "gauge";
    fn make(row: &Metric) -> prometheus::Result<Self> {
        Self::new(Opts::new(row.name, row.help), row.labels)
    }
}

impl Family for HistogramVec {
    const KIND: &'static str = "histogram";
    fn make(row: &Metric) -> prometheus::Result<Self> {
        // From a millisecond to ten seconds, by tens: each bucket is a series more for each operation of each host.
        let buckets = prometheus::exponential_buckets(1e-3, 10.0, 5)?;
        Self::new(HistogramOpts::new(row.name, row.help).buckets(buckets), row.labels)
    }
}

macro_rules! metrics {
    ($($field:ident: $family:ty = $name:literal [$($label:literal)*] $help:literal;)*) => {
        /// Every metric, in the order of the table.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name, kind: <$family as Family>::KIND, labels: &[$($label),*], help: $help,
        },)*];

        #[derive(Clone, Debug)]
        struct Families { $($field: $family,)* }

        impl Families {
            fn new(registry: &Registry) -> prometheus::Result<Self> {
                let mut rows = METRICS.iter();
                // One row for each field: both come from the same lines.
                let mut row = || rows.next().ok_or_else(|| prometheus::Error::Msg("a row is missing".into()));
                $(let $field = <$family>::make(row()?)?;
                registry.register(Box::new($field.clone()))?;)*
                Ok(Self { $($field,)* })
            }
        }
    };
}

/// The metric that tells of the build.
const BUILD_INFO: &str = "luo_trace_build_info";

impl Families {
    fn tell_build(&self) {
        set(
            &self.build_info,
            &[env!("CARGO_PKG_VERSION"), &ABI_VERSION.to_string()],
            1,
        );
    }
}

metrics! {
    sessions: IntGaugeVec = "luo_sessions" ["direction"] "Sessions that exist now.";
    files: IntGaugeVec = "luo_files" ["direction" "handler" "state"] "Files held by sessions now.";
    preserved_bytes: IntGaugeVec = "luo_preserved_bytes" ["handler"] "Bytes of the files that are preserved now.";
    kho_scratch: IntGaugeVec = "luo_kho_scratch_bytes" [] "Scratch memory that KHO keeps for the next kernel to start in; left out where it is not known.";
    flb_users: IntGaugeVec = "luo_flb_users" ["flb" "direction"] "Files that use a global state (FLB) now.";
    operations: IntCounterVec = "luo_operations_total" ["op" "result"] "Operations of LUO that ended, by result: ok or an errno's name.";
    durations: HistogramVec = "luo_operation_duration_seconds" ["op"] "How long operations of LUO took.";
    kho_pages: IntCounterVec = "luo_kho_pages_total" ["op"] "Pages that went through KHO's interface, once for each object; with --kho keys also through its tree.";
    kho_failures: IntCounterVec = "luo_kho_failures_total" ["op"] "Calls of KHO's interface that failed, and with --kho keys ranges that could not be added to its tree.";
    kernel_info: IntGaugeVec = "luo_kernel_info" ["release"] "Always 1; the label tells the release of the running kernel.";
    update_number: IntGaugeVec = "luo_update_number" [] "Number of the live update that brought this kernel; 0 after a cold boot.";
    update_outcome: IntGaugeVec = "luo_update_outcome" ["outcome"] "What the last live update came to: 1 for its outcome, 0 for the others; none: there was none.";
    update_info: IntGaugeVec = "luo_update_info" ["from" "to" "outcome"] "Always 1; the labels tell the releases of the last live update's kernels, and what it came to.";
    update_blackout: GaugeVec = "luo_update_blackout_seconds" [] "How long guests had no service in the last live update, from the beginning of the freeze to the last file brought back; left out where it is not known.";
    update_phase: GaugeVec = "luo_update_phase_seconds" ["phase"] "How long each phase of the last live update took, as far as that is known; phases that cannot be told apart are one.";
    update_timestamp: GaugeVec = "luo_update_last_timestamp_seconds" [] "When the last live update began to freeze, in seconds since 1970; left out where it is not known.";
    update_lost: IntGaugeVec = "luo_update_lost" ["kind"] "Sessions and files that were lost over the live update that brought this kernel.";
    update_unclaimed: IntGaugeVec = "luo_update_unclaimed" ["kind"] "Sessions and files that arrived with this kernel and were finished though no process had asked for them, or that wait beyond --arrival-deadline.";
    previous_violations: IntGaugeVec = "luo_previous_kernel_violations" ["invariant" "severity"] "Violations that the record of the kernel before shows, up to its last moment.";
    invariant_status: IntGaugeVec = "luo_invariant_status" ["invariant"] "Verdict on an invariant: 0 ok, 1 violated, 2 unknown, 3 not watched, since no option asks for it.";
    violations: IntCounterVec = "luo_invariant_violations_total" ["invariant" "severity"] "Violations of an invariant that were found.";
    incoming_pending: IntGaugeVec = "luo_incoming_pending" ["kind"] "Sessions and files of the previous kernel that are still to be retrieved.";
    oldest_pending: GaugeVec = "luo_incoming_oldest_pending_seconds" [] "How long the oldest of them has waited: since this kernel booted, or 0 where none waits.";
    image_verdict: IntGaugeVec = "luo_image_verdict" ["verdict"] "What is known of the image that is loaded: 1 for one of none, pending, carries, loses, panics or unknown, 0 for the others.";
    policy_mode: IntGaugeVec = "luo_policy_mode" ["mode"] "What policy does: 1 for off, audit or enforce, 0 for the other two; off without a policy.";
    policy_decisions: IntCounterVec = "luo_policy_decisions_total" ["rule" "op" "decision"] "Calls that policy was asked about, by the rule that decided (none: empty), and what became of them.";
    policy_held: IntGaugeVec = "luo_policy_held" [] "Whether an operator holds this host: 1 or 0.";
    policy_allowed: GaugeVec = "luo_policy_allowed_seconds" [] "For how long an operator's allowance still lets everything pass; 0: there is none.";
    policy_troubles: IntGaugeVec = "luo_policy_troubles" [] "Why not everything is as the policy's file says, or another agent's policy is in force without one: how many reasons status gives.";
    settings_refused: IntGaugeVec = "luo_trace_settings_refused" [] "Whether the file of settings had a mistake when it was last read again, so that the old ones stay: 1 or 0.";
    build_info: IntGaugeVec = "luo_trace_build_info" ["version" "abi"] "Always 1; the labels tell the agent's version and that of its event ABI.";
    hook_attached: IntGaugeVec = "luo_trace_hook_attached" ["hook"] "Whether a hook tells all it has to: 1, or 0 where it could not be attached. Those switched off are left out.";
    events: IntCounterVec = "luo_trace_events_total" ["kind"] "Events that came from the kernel.";
    lost_events: IntCounterVec = "luo_trace_lost_events_total" [] "Events that were lost before the agent could read them.";
    denied_loads: IntCounterVec = "luo_trace_denied_loads_total" [] "Calls of kexec_load(2) and kexec_file_load(2) by processes that may not load an image, of which no event tells.";
    decode_errors: IntCounterVec = "luo_trace_decode_errors_total" [] "Records from the kernel that the agent could not decode.";
    push_batches: IntCounterVec = "luo_trace_push_batches_total" ["signal" "result"] "What came of batches that --otlp pushes: sent; failed, to be tried again; refused by the collector; or dropped, for want of room.";
    push_spool: IntGaugeVec = "luo_trace_push_spool_bytes" [] "Bytes that wait for the collector of --otlp.";
    sink_dropped: IntCounterVec = "luo_trace_sink_dropped_total" ["sink"] "Items that a sink was too slow for, or could not write.";
}

/// Prints the table, one metric a line: what `luo-trace metrics` shows.
pub fn print(out: &mut impl std::io::Write) -> std::io::Result<()> {
    for Metric {
        name,
        kind,
        labels,
        help,
    } in METRICS
    {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        writeln!(out, "{:<52} {kind:<10} {help}", format!("{name}{labels}"))?;
    }
    Ok(())
}

/// The agent's metrics. Every method may be called from any thread; none of them fails or panics whatever the kernel says.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// How many events there were, by kind; none of a number that is no kind, and unset of a kind that has not come yet.
    events: Vec<OnceLock<Option<IntCounter>>>,
    operations: Mutex<ByName<Operated>>,
    balance: OnceLock<Option<Balanced>>,
    /// Held while gauges are set anew and while all are rendered, so that no reader sees half of a state.
    names: Mutex<Names>,
}

/// The metrics of an operation that were looked up by their labels before: most events look up none.
#[derive(Debug, Default)]
struct Operated {
    /// How it ended, by the result: 0 for every success, and errnos that have a name.
    ended: Vec<(i64, IntCounter)>,
    duration: Option<Histogram>,
    pages: Option<IntCounter>,
}

impl Operated {
    /// Counts an end with this result.
    fn end(&mut self, families: &Families, op: &'static str, result: i64) {
        let result = result.min(0);
        if let Some((_, ended)) = self.ended.iter().find(|(known, _)| *known == result) {
            return ended.inc();
        }
        let label = result_label(result);
        if let Ok(ended) = families.operations.get_metric_with_label_values(&[op, label]) {
            ended.inc();
            if label != OTHER {
                self.ended.push((result, ended));
            }
        }
    }

    fn took(&mut self, families: &Families, op: &'static str, nanoseconds: u64) {
        if self.duration.is_none() {
            self.duration = families.durations.get_metric_with_label_values(&[op]).ok();
        }
        if let Some(duration) = &self.duration {
            duration.observe(nanoseconds as f64 / 1e9);
        }
    }

    fn pages(&mut self, families: &Families, op: &'static str, pages: u64) {
        if self.pages.is_none() {
            self.pages = families.kho_pages.get_metric_with_label_values(&[op]).ok();
        }
        if let Some(metric) = &self.pages {
            metric.inc_by(pages);
        }
    }
}

/// The metrics of what was done to KHO's keys, once any is told.
#[derive(Debug)]
struct Balanced {
    pages: [IntCounter; 3],
    failures: IntCounter,
}

impl Balanced {
    fn of(families: &Families) -> Option<Self> {
        let pages = |op| families.kho_pages.get_metric_with_label_values(&[op]).ok();
        Some(Self {
            pages: [pages("kho-key-add")?, pages("kho-key-del")?, pages("kho-restore-page")?],
            failures: families
                .kho_failures
                .get_metric_with_label_values(&["kho-key-add"])
                .ok()?,
        })
    }

    fn count(&self, p: &KhoBalance) {
        for (metric, keys) in self.pages.iter().zip([p.added, p.removed, p.restored]) {
            metric.inc_by(keys.pages);
        }
        self.failures.inc_by(p.failures);
    }
}

#[derive(Debug, Default)]
struct Names {
    handlers: Bounded,
    flbs: Bounded,
    /// The rules of the policy in force.
    rules: BTreeSet<String>,
    /// What was counted by rule, operation and decision.
    decisions: BTreeSet<(String, Operation, Decision)>,
}

/// Names that get labels of their own.
#[derive(Debug, Default)]
struct Bounded(BTreeSet<String>);

impl Bounded {
    /// A name as a label; the empty name, "not known", is `unknown`.
    fn label(&mut self, name: Compatible) -> String {
        if name.is_empty() {
            return "unknown".into();
        }
        let name = name.to_string();
        if self.0.contains(&name) || (self.0.len() < NAMES && self.0.insert(name.clone())) {
            return name;
        }
        "other".into()
    }
}

impl Metrics {
    /// All metrics at their start.
    ///
    /// # Errors
    /// Where the table names a metric twice or in a way that Prometheus does not take; a test keeps it from that.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let families = Families::new(&registry)?;
        let metrics = Self {
            families,
            registry,
            events: vec![OnceLock::new(); Kind::SPAN],
            operations: Mutex::default(),
            balance: OnceLock::new(),
            names: Mutex::default(),
        };
        let f = &metrics.families;
        f.tell_build();
        add(&f.lost_events, &[], 0);
        add(&f.denied_loads, &[], 0);
        add(&f.decode_errors, &[], 0);
        set(&f.update_number, &[], 0);
        metrics.set_policy(Mode::Off, &[]);
        metrics.set_orders(false, 0);
        metrics.set_policy_troubles(0);
        metrics.set_settings_refused(false);
        Ok(metrics)
    }

    /// Counts calls of processes that may not load an image.
    pub fn denied_loads(&self, calls: u64) {
        add(&self.families.denied_loads, &[], calls);
    }

    /// Counts an event.
    pub fn observe(&self, event: &Event) {
        let f = &self.families;
        if let Body::Gap { lost } = event.body {
            add(&f.lost_events, &[], lost);
        }
        if let Some(kind) = event.body.kind()
            && let Some(events) = self.events.get(kind as usize)
            && let Some(events) = events.get_or_init(|| f.events.get_metric_with_label_values(&[kind.name()]).ok())
        {
            events.inc();
        }
        if let Body::PolicyDecision(operation, decision, p) = &event.body {
            self.decided(rule_name(p), *operation, *decision, 1);
        }
        if let Body::KhoBalance(p) = &event.body
            && let Some(balance) = self.balance.get_or_init(|| Balanced::of(f))
        {
            balance.count(p);
        }
        // The entry of an operation is not its end, and a sum is no operation.
        let Some(outcome) = event.outcome().filter(|_| is_operation(&event.body)) else {
            return;
        };
        let op = event.name();
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        let operated = operations.of(event);
        operated.end(f, op, outcome.result);
        if outcome.duration > 0 {
            operated.took(f, op, outcome.duration);
        }
        match &event.body {
            Body::KhoOp(_, p) if outcome.is_ok() => operated.pages(f, op, p.pages),
            Body::KhoOp(..) => add(&f.kho_failures, &[op], 1),
            _ => {}
        }
    }

    /// Tells what there is now, in nanoseconds of `CLOCK_MONOTONIC`. What has gone is gone from the metrics too.
    pub fn set_counts(&self, counts: &Counts, now_ns: u64) {
        let f = &self.families;
        let mut names = self.names();
        for direction in Direction::ALL {
            set(&f.sessions, &[direction.name()], signed(counts.sessions(direction)));
        }
        set(&f.incoming_pending, &["session"], signed(counts.pending_sessions));
        set(&f.incoming_pending, &["file"], signed(counts.pending_files()));
        let waits = counts.pending_sessions > 0 || counts.pending_files() > 0;
        if let Ok(metric) = f.oldest_pending.get_metric_with_label_values::<&str>(&[]) {
            metric.set(if waits { now_ns as f64 / 1e9 } else { 0.0 });
        }
        for family in [&f.files, &f.preserved_bytes, &f.flb_users] {
            family.reset();
        }
        for count in counts.files().filter(|count| count.files > 0) {
            let handler = names.handlers.label(count.handler);
            let labels = [count.state.direction().name(), &handler, count.state.name()];
            grow(&f.files, &labels, count.files);
            grow(&f.preserved_bytes, &[&handler], count.bytes);
        }
        for count in counts.flbs() {
            let flb = names.flbs.label(count.name);
            grow(&f.flb_users, &[&flb, count.direction.name()], count.users);
        }
    }

    /// Tells which policy is in force, with each rule that may decide, and how. What rules that are gone decided goes.
    pub fn set_policy(&self, mode: Mode, rules: &[(String, Operation, Decision)]) {
        let f = &self.families;
        for other in Mode::ALL {
            set(&f.policy_mode, &[other.name()], i64::from(*other == mode));
        }
        let mut names = self.names();
        names.rules = rules.iter().map(|(rule, ..)| rule.clone()).collect();
        let Names {
            rules: known,
            decisions,
            ..
        } = &mut *names;
        decisions.retain(|(rule, operation, decision)| {
            let stays = rule.is_empty() || known.contains(rule);
            if !stays {
                // It is there: it was counted.
                _ = f
                    .policy_decisions
                    .remove_label_values(&[rule, operation.name(), decision.name()]);
            }
            stays
        });
        drop(names);
        for (rule, operation, decision) in rules {
            self.decided(rule.clone(), *operation, *decision, 0);
        }
    }

    fn decided(&self, rule: String, operation: Operation, decision: Decision, number: u64) {
        let mut names = self.names();
        // A decision by a policy that was replaced may still be on its way.
        let rule = match rule.is_empty() || names.rules.contains(&rule) {
            true => rule,
            false => "other".into(),
        };
        let labels = [&rule, operation.name(), decision.name()];
        add(&self.families.policy_decisions, &labels, number);
        names.decisions.insert((rule, operation, decision));
    }

    /// Tells how an operator's orders stand: whether the host is held, and for how long everything passes yet.
    pub fn set_orders(&self, held: bool, allowed_ns: u64) {
        set(&self.families.policy_held, &[], held.into());
        if let Ok(metric) = self.families.policy_allowed.get_metric_with_label_values::<&str>(&[]) {
            metric.set(allowed_ns as f64 / 1e9);
        }
    }

    /// Tells how many reasons there are why not everything is as the policy's file says.
    pub fn set_policy_troubles(&self, reasons: usize) {
        set(&self.families.policy_troubles, &[], signed(reasons as u64));
    }

    /// Tells whether the file of settings could not be used when it was last read again.
    pub fn set_settings_refused(&self, refused: bool) {
        set(&self.families.settings_refused, &[], refused.into());
    }

    /// Tells what is known about the invariants.
    pub fn set_verdicts(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            let status = match verdict.status {
                Status::Unknown if verdict.is_unwatched() => 3,
                Status::Ok => 0,
                Status::Violated => 1,
                Status::Unknown => 2,
            };
            set(&self.families.invariant_status, &[verdict.invariant.id()], status);
        }
    }

    /// Tells of live updates, the newest first, and of what was violated in the kernel before.
    pub fn set_updates(&self, updates: &[Row], before: &[(Invariant, u64)]) {
        let f = &self.families;
        let seconds = |family: &GaugeVec, labels: &[&str], seconds: f64| {
            if let Ok(metric) = family.get_metric_with_label_values(labels) {
                metric.set(seconds);
            }
        };
        let _whole = self.names();
        for family in [&f.update_blackout, &f.update_phase, &f.update_timestamp] {
            family.reset();
        }
        f.update_info.reset();
        let last = updates.first();
        let outcome = last.map_or(NO_UPDATE, |update| &update.outcome);
        for known in UpdateOutcome::ALL
            .map(UpdateOutcome::name)
            .into_iter()
            .chain([NO_UPDATE])
        {
            set(&f.update_outcome, &[known], i64::from(known == outcome));
        }
        if let Some(update) = last {
            let [from, to] = [&update.from, &update.to].map(|release| release.as_deref().unwrap_or_default());
            set(&f.update_info, &[from, to, outcome], 1);
            if let Some(blackout) = update.blackout_ns {
                seconds(&f.update_blackout, &[], blackout as f64 / 1e9);
            }
            for phase in &update.phases {
                seconds(&f.update_phase, &[&phase.phase], phase.duration_ns as f64 / 1e9);
            }
            if let Some(time) = update.time_unix_ns {
                seconds(&f.update_timestamp, &[], time as f64 / 1e9);
            }
        }
        // One that is given up later takes nothing back of what was lost before.
        let brought = updates.iter().find(|update| update.fate != Fate::Aborted.name());
        let brought = brought.cloned().unwrap_or_default();
        let late = brought.outcome == UpdateOutcome::Unclaimed.name();
        for (kind, lost, unclaimed, pending) in [
            (
                "session",
                brought.lost_sessions,
                brought.unclaimed_sessions,
                brought.pending_sessions,
            ),
            (
                "file",
                brought.lost_files,
                brought.unclaimed_files,
                brought.pending_files,
            ),
        ] {
            let waits = if late { pending } else { 0 };
            set(&f.update_lost, &[kind], signed(lost as u64));
            set(&f.update_unclaimed, &[kind], signed((unclaimed + waits) as u64));
        }
        f.previous_violations.reset();
        for (invariant, violations) in before {
            let labels = [invariant.id(), invariant.severity().name()];
            set(&f.previous_violations, &labels, signed(*violations));
        }
    }

    /// Tells what is known of the image that is loaded: one of [`IMAGE_VERDICTS`].
    pub fn set_image(&self, verdict: &str) {
        for known in IMAGE_VERDICTS {
            set(&self.families.image_verdict, &[known], i64::from(known == verdict));
        }
    }

    /// Counts a finding.
    pub fn found(&self, finding: &Finding) {
        let invariant = finding.invariant;
        let labels = [invariant.id(), invariant.severity().name()];
        add(&self.families.violations, &labels, 1);
    }

    /// Tells which hooks are attached.
    pub fn set_hooks(&self, hooks: &[HookState]) {
        for hook in hooks.iter().filter(|hook| !hook.switched_off) {
            set(&self.families.hook_attached, &[&hook.id], i64::from(!hook.is_missing()));
        }
    }

    /// Tells the release of the running kernel.
    pub fn set_kernel(&self, release: &str) {
        set(&self.families.kernel_info, &[release], 1);
    }

    /// Tells the number of the live update that brought this kernel.
    pub fn set_update_number(&self, number: u64) {
        set(&self.families.update_number, &[], signed(number));
    }

    /// Tells how much scratch memory KHO keeps.
    pub fn set_kho_scratch(&self, bytes: u64) {
        set(&self.families.kho_scratch, &[], signed(bytes));
    }

    /// Counts records that could not be decoded.
    pub fn decode_errors(&self, records: u64) {
        add(&self.families.decode_errors, &[], records);
    }

    /// Counts batches that are pushed, by what came of them; with 0 it makes the counter appear.
    pub fn pushed(&self, signal: &str, result: &str, batches: u64) {
        add(&self.families.push_batches, &[signal, result], batches);
    }

    /// Tells how much waits to be pushed.
    pub fn set_push_spool(&self, bytes: u64) {
        set(&self.families.push_spool, &[], signed(bytes));
    }

    /// Has the information on the build say this of the host, too.
    ///
    /// # Errors
    /// Where a name is one that Prometheus does not take, or the table has already.
    pub fn label(&mut self, labels: &[(String, String)]) -> prometheus::Result<()> {
        let Some(row) = METRICS.iter().find(|row| row.name == BUILD_INFO) else {
            return Ok(());
        };
        let labels = labels.iter().cloned().collect();
        let labelled = IntGaugeVec::new(Opts::new(row.name, row.help).const_labels(labels), row.labels)?;
        self.registry.unregister(Box::new(self.families.build_info.clone()))?;
        self.registry.register(Box::new(labelled.clone()))?;
        self.families.build_info = labelled;
        self.families.tell_build();
        Ok(())
    }

    /// Counts what a sink dropped; with 0 it makes the sink appear.
    pub fn sink_dropped(&self, sink: &str, items: u64) {
        add(&self.families.sink_dropped, &[sink], items);
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        let _whole = self.names();
        // Encoding into memory fails only for a metric without a value, which the registry leaves out by itself.
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an event that has an outcome tells the end of an operation.
fn is_operation(body: &Body) -> bool {
    !matches!(body, Body::KexecEnter(_) | Body::KhoBalance(_) | Body::KhoAnomaly(_))
}

/// The label of what has no name of its own.
const OTHER: &str = "other";

/// `ok`, an errno's name where it is a known one, else [`OTHER`].
fn result_label(result: i64) -> &'static str {
    match errno::result(result) {
        Cow::Borrowed(known) => known,
        Cow::Owned(_) => OTHER,
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Adds to a gauge: several names may share the label `other`.
fn grow(family: &IntGaugeVec, labels: &[&str], value: u64) {
    if let Ok(metric) = family.get_metric_with_label_values(labels) {
        metric.set(metric.get().saturating_add(signed(value)));
    }
}

fn set(family: &IntGaugeVec, labels: &[&str], value: i64) {
    if let Ok(metric) = family.get_metric_with_label_values(labels) {
        metric.set(value);
    }
}

fn add(family: &IntCounterVec, labels: &[&str], value: u64) {
    if let Ok(metric) = family.get_metric_with_label_values(labels) {
        metric.inc_by(value);
    }
}

#[cfg(test)]
mod tests;
