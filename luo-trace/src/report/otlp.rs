//! The report as OpenTelemetry spans, in OTLP's JSON form: one trace for each update, over both its kernels.
//!
//! The form is that of `ExportTraceServiceRequest` in `opentelemetry/proto/collector/trace/v1/trace_service.proto`, by the
//! JSON mapping of the OTLP specification: ids in hexadecimal, 64-bit numbers as strings, enums as numbers. Each kernel is a
//! resource. A moment of policy is an event of the phase that it fell into, or else of a span of its own kernel's. Ids depend on nothing but the boots and what a span is of, so the same update always has the same ones.

use serde_json::{Value, json};

use super::Report;
use super::json::{File, Phase, Policy, Session, Stretch, Update};
use crate::chain::Fate;

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: u32 = 1;
/// `STATUS_CODE_OK` and `STATUS_CODE_ERROR`.
const STATUS: [u32; 2] = [1, 2];

/// The report as an OTLP export request.
pub fn otlp(report: &Report) -> Value {
    let mut spans: Vec<Vec<Value>> = vec![Vec::new(); report.kernels.len()];
    for (place, update) in report.updates.iter().enumerate() {
        for (kernel, span) in Trace::of(report, place, update).spans() {
            if let Some(spans) = spans.get_mut(kernel) {
                spans.push(span);
            }
        }
    }
    for (place, spans) in spans.iter_mut().enumerate() {
        spans.extend(policy(report, place));
    }
    let kernels = report.kernels.iter().zip(spans).filter(|(_, spans)| !spans.is_empty());
    let resources: Vec<Value> = kernels
        .map(|(kernel, spans)| {
            let attributes = [
                text("service.name", "luo-trace"),
                text("service.version", &kernel.agent_version),
                text("os.type", "linux"),
                text("os.version", &kernel.release),
                text("luo.boot_id", &kernel.boot_id),
            ];
            let scope = json!({ "name": "luo-trace", "version": env!("CARGO_PKG_VERSION") });
            let scopes = [json!({ "scope": scope, "spans": spans })];
            json!({ "resource": { "attributes": attributes }, "scopeSpans": scopes })
        })
        .collect();
    json!({ "resourceSpans": resources })
}

/// The span of what policy did in a kernel, an operator ordered and was found in images, while no update was under way: from the
/// first such moment to the last.
fn policy(report: &Report, place: usize) -> Option<Value> {
    let kernel = report.kernels.get(place)?;
    let in_update = |line: &Policy| {
        report
            .updates
            .iter()
            .any(|update| phase_of(update, place, line).is_some())
    };
    let lines: Vec<&Policy> = kernel.policy.iter().filter(|line| !in_update(line)).collect();
    let (first, last) = lines.first().zip(lines.last())?;
    let unix = |line: &Policy| u64::try_from(kernel.start_unix_ns.checked_add_unsigned(line.since_boot)?).ok();
    let id = hash(&format!("{}/policy", kernel.boot_id));
    Some(json!({
        "traceId": format!("{:032x}", id.max(1)),
        "spanId": format!("{:016x}", ((id >> 64) as u64).max(1)),
        "name": "policy",
        "kind": INTERNAL,
        "startTimeUnixNano": unix(first)?.to_string(),
        "endTimeUnixNano": unix(last)?.to_string(),
        "attributes": [number("luo.policy.more", kernel.policy_more)],
        "events": lines.iter().filter_map(|line| Some(event(unix(line)?, line))).collect::<Vec<_>>(),
        "status": { "code": STATUS[0] },
    }))
}

/// The phase of an update in which something was in one of its kernels.
fn phase_of(update: &Update, kernel: usize, line: &Policy) -> Option<usize> {
    let within = |start: i64, duration| start <= line.time_ns && line.time_ns < start.saturating_add_unsigned(duration);
    update
        .phases
        .iter()
        .position(|phase| kernel_of(update, phase) == Some(kernel) && within(phase.start_ns, phase.duration_ns))
}

/// The kernel that a phase is told of.
fn kernel_of(update: &Update, phase: &Phase) -> Option<usize> {
    phase.kernel.or(update.from).or(update.to)
}

/// A moment of policy, as an event of a span.
fn event(unix: u64, line: &Policy) -> Value {
    json!({
        "timeUnixNano": unix.to_string(),
        "name": format!("policy {}", line.what),
        "attributes": [text("luo.policy.what", line.what), text("luo.policy.text", &line.text)],
    })
}

/// The spans of one update, each with the kernel it belongs to.
struct Trace<'a> {
    report: &'a Report,
    update: &'a Update,
    id: u128,
    spans: Vec<(usize, Value)>,
}

/// What a span is of, besides its name and time.
struct Of<'a> {
    kernel: Option<usize>,
    /// Its place among the spans: the path of its names.
    path: &'a str,
    parent: Option<&'a str>,
    attributes: Vec<Value>,
    /// What happened meanwhile.
    events: Vec<Value>,
    /// What went wrong; empty: nothing.
    error: String,
}

impl<'a> Trace<'a> {
    fn of(report: &'a Report, place: usize, update: &'a Update) -> Self {
        let boot = |kernel: Option<usize>| Some(report.kernels.get(kernel?)?.boot_id.as_str());
        let tries = report.updates[..place]
            .iter()
            .filter(|other| other.from == update.from)
            .count();
        let parts = [
            boot(update.from).unwrap_or("?"),
            boot(update.to).unwrap_or("?"),
            &tries.to_string(),
        ];
        Self {
            report,
            update,
            id: hash(&parts.join("/")).max(1),
            spans: Vec::new(),
        }
    }

    fn spans(mut self) -> Vec<(usize, Value)> {
        let update = self.update;
        let Some((first, whole)) = update.phases.first().zip(update.whole_ns) else {
            return self.spans;
        };
        let root = Of {
            kernel: update.from.or(update.to),
            path: "update",
            parent: None,
            attributes: self.about(),
            events: Vec::new(),
            error: self.failure(),
        };
        let stretch = Stretch {
            start_ns: first.start_ns,
            duration_ns: whole,
        };
        self.push("live update", stretch, root);
        for (number, phase) in update.phases.iter().enumerate() {
            let of = Of {
                kernel: kernel_of(update, phase),
                path: &format!("phase/{}", phase.name),
                parent: Some("update"),
                attributes: vec![flag("luo.blackout", phase.blackout)],
                events: self.events(number, phase),
                error: String::new(),
            };
            let stretch = Stretch {
                start_ns: phase.start_ns,
                duration_ns: phase.duration_ns,
            };
            self.push(&phase.name, stretch, of);
        }
        for (place, session) in update.sessions.iter().enumerate() {
            self.session(place, session);
        }
        self.spans
    }

    /// A session's span goes from the first to the last thing that is known of it.
    fn session(&mut self, place: usize, session: &Session) {
        let update = self.update;
        let operations: Vec<(&File, &str, Option<usize>, Stretch)> = session
            .files
            .iter()
            .flat_map(|file| operations(update, file).map(move |(name, kernel, stretch)| (file, name, kernel, stretch)))
            .collect();
        let moments = [session.created_ns, session.retrieved_ns, session.finished_ns];
        let moment = |ns: i64| (ns, ns);
        let spans = operations.iter().map(|(.., stretch)| *stretch).chain(session.freeze);
        let ends = spans.map(|stretch| {
            (
                stretch.start_ns,
                stretch.start_ns.saturating_add_unsigned(stretch.duration_ns),
            )
        });
        let times: Vec<(i64, i64)> = ends.chain(moments.into_iter().flatten().map(moment)).collect();
        let Some((start_ns, end)) = times
            .iter()
            .map(|time| time.0)
            .min()
            .zip(times.iter().map(|time| time.1).max())
        else {
            return;
        };
        let path = format!("session/{place}");
        let mut attributes = vec![
            text("luo.session", &session.name),
            text("luo.fate", session.fate.describe()),
            number("luo.files", session.files.len() as u64),
            number("luo.bytes", session.bytes),
        ];
        attributes.extend(session.blackout_ns.map(|ns| number("luo.blackout_ns", ns)));
        let good = session.fate.is_good();
        let of = Of {
            kernel: Some(if session.outgoing { update.from } else { update.to }).flatten(),
            path: &path,
            parent: Some("update"),
            attributes,
            events: Vec::new(),
            error: if good {
                String::new()
            } else {
                session.fate.describe().into()
            },
        };
        let duration_ns = end.abs_diff(start_ns);
        self.push(
            &format!("session {}", session.name),
            Stretch { start_ns, duration_ns },
            of,
        );
        for (file, name, kernel, stretch) in operations {
            let attributes = vec![
                text("luo.session", &session.name),
                text("luo.token", &file.token),
                text("luo.handler", &file.handler),
                number("luo.bytes", file.bytes),
            ];
            let of = Of {
                kernel,
                path: &format!("{path}/{}/{name}", file.token),
                parent: Some(&path),
                attributes,
                events: Vec::new(),
                error: String::new(),
            };
            self.push(&format!("{name} {}", file.token), stretch, of);
        }
    }

    /// What policy did in a phase.
    fn events(&self, number: usize, phase: &Phase) -> Vec<Value> {
        let (report, update) = (self.report, self.update);
        let place = kernel_of(update, phase);
        let lines = place.and_then(|place| Some((place, &report.kernels.get(place)?.policy)));
        let Some((place, lines)) = lines else { return Vec::new() };
        let lines = lines
            .iter()
            .filter(|line| phase_of(update, place, line) == Some(number));
        lines
            .filter_map(|line| Some(event(report.unix(update, line.time_ns)?, line)))
            .collect()
    }

    fn about(&self) -> Vec<Value> {
        let update = self.update;
        let [from, to] = self.report.releases(update);
        let mut attributes = vec![
            text("luo.update.fate", update.fate.name()),
            text("luo.result", self.report.result.name()),
            number("luo.sessions", update.sessions.len() as u64),
            number("luo.files", update.files() as u64),
            number("luo.bytes", update.bytes()),
        ];
        attributes.extend(update.number.map(|n| number("luo.update.number", n)));
        attributes.extend(update.blackout_ns.map(|ns| number("luo.blackout_ns", ns)));
        attributes.extend(from.map(|release| text("luo.kernel.from", release)));
        attributes.extend(to.map(|release| text("luo.kernel.to", release)));
        if let Some(clock) = update.clock {
            attributes.push(text("luo.clock.basis", clock.basis));
            attributes.push(number("luo.clock.uncertainty_ns", clock.uncertainty_ns));
        }
        attributes
    }

    /// What went wrong with the update: it was aborted, or promises were broken in its kernels or over them.
    fn failure(&self) -> String {
        let update = self.update;
        let of = |kernel: Option<usize>| kernel.is_none() || kernel == update.from || kernel == update.to;
        let found = self.report.findings.iter().filter(|found| of(found.kernel));
        let mut wrong: Vec<&str> = found.map(|found| found.finding.invariant.id()).collect();
        wrong.dedup();
        if update.fate == Fate::Aborted {
            wrong.insert(0, "aborted");
        }
        wrong.join(", ")
    }

    fn push(&mut self, name: &str, stretch: Stretch, of: Of<'_>) {
        let Some((kernel, start)) = of.kernel.zip(self.report.unix(self.update, stretch.start_ns)) else {
            return;
        };
        let id = |path: &str| {
            format!(
                "{:016x}",
                ((hash(&format!("{:032x}/{path}", self.id)) >> 64) as u64).max(1)
            )
        };
        let end = start.saturating_add(stretch.duration_ns);
        let status = if of.error.is_empty() {
            json!({ "code": STATUS[0] })
        } else {
            json!({ "code": STATUS[1], "message": of.error })
        };
        let mut span = json!({
            "traceId": format!("{:032x}", self.id),
            "spanId": id(of.path),
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": start.to_string(),
            "endTimeUnixNano": end.to_string(),
            "attributes": of.attributes,
            "status": status,
        });
        if !of.events.is_empty() {
            span["events"] = of.events.into();
        }
        if let Some(parent) = of.parent {
            span["parentSpanId"] = id(parent).into();
        }
        self.spans.push((kernel, span));
    }
}

/// What was done to a file, and in which kernel.
fn operations<'a>(
    update: &Update,
    file: &'a File,
) -> impl Iterator<Item = (&'a str, Option<usize>, Stretch)> + use<'a> {
    let all = [
        ("preserve", update.from, file.preserve),
        ("freeze", update.from, file.freeze),
        ("retrieve", update.to, file.retrieve),
        ("finish", update.to, file.finish),
    ];
    all.into_iter()
        .filter_map(|(name, kernel, stretch)| Some((name, kernel, stretch?)))
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": i64::try_from(value).unwrap_or(i64::MAX).to_string() } })
}

fn flag(key: &str, value: bool) -> Value {
    json!({ "key": key, "value": { "boolValue": value } })
}

/// FNV-1a over 128 bits: ids have to be the same every time, and different from each other, and nothing more.
fn hash(text: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes()
        .fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}
