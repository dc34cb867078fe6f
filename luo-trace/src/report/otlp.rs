//! The report as OpenTelemetry spans: one trace for each update, over both its kernels. A file has them in OTLP's JSON form, and what
//! the agent pushes in protobuf; both are made of the same messages.
//!
//! Each kernel is a resource. A moment of policy is an event of the phase that it fell into, or else of a span of its own kernel's.
//! Ids depend on nothing but the boots and what a span is of, so the same update always has the same ones.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::Report;
use super::json::{File, Kernel, Phase, Policy, Session, Stretch, Update};
use crate::chain::Fate;
use crate::text::hash::{fnv, fnv64};

/// The whole report as an export request.
pub fn export(report: &Report) -> ExportTraceServiceRequest {
    let mut spans: Vec<Vec<Span>> = vec![Vec::new(); report.kernels.len()];
    for place in 0..report.updates.len() {
        of_update(report, place, &mut spans);
    }
    for (place, spans) in spans.iter_mut().enumerate() {
        spans.extend(policy(report, place));
    }
    request(report, spans, &[])
}

/// The trace of the update at this place of the report. `about` tells more of the host that both kernels ran on.
pub fn update(report: &Report, place: usize, about: &[KeyValue]) -> ExportTraceServiceRequest {
    let mut spans = vec![Vec::new(); report.kernels.len()];
    of_update(report, place, &mut spans);
    request(report, spans, about)
}

fn of_update(report: &Report, place: usize, all: &mut [Vec<Span>]) {
    let Some(update) = report.updates.get(place) else {
        return;
    };
    for (kernel, span) in Trace::of(report, place, update).spans() {
        if let Some(spans) = all.get_mut(kernel) {
            spans.push(span);
        }
    }
}

fn request(report: &Report, spans: Vec<Vec<Span>>, about: &[KeyValue]) -> ExportTraceServiceRequest {
    let kernels = report.kernels.iter().zip(spans).filter(|(_, spans)| !spans.is_empty());
    let of_kernel = |(kernel, spans): (&Kernel, Vec<Span>)| ResourceSpans {
        resource: Some(resource(&kernel.agent_version, &kernel.release, &kernel.boot_id, about)),
        scope_spans: vec![ScopeSpans {
            scope: Some(scope()),
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: kernels.map(of_kernel).collect(),
    }
}

/// What a kernel is told as: the agent that watched it, its release and its boot; `about` tells more of the host.
pub fn resource(agent_version: &str, release: &str, boot_id: &str, about: &[KeyValue]) -> Resource {
    let mut attributes = vec![
        text("service.name", "luo-trace"),
        text("service.version", agent_version),
        text("os.type", "linux"),
        text("os.version", release),
        text("luo.boot_id", boot_id),
    ];
    attributes.extend_from_slice(about);
    Resource {
        attributes,
        ..Resource::default()
    }
}

/// Who says all this.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "luo-trace".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// The span of what policy did in a kernel, an operator ordered and was found in images, while no update was under way: from the
/// first such moment to the last.
fn policy(report: &Report, place: usize) -> Option<Span> {
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
    let path = format!("{}/policy", kernel.boot_id);
    Some(Span {
        trace_id: fnv(&path).max(1).to_be_bytes().to_vec(),
        span_id: fnv64(&path).max(1).to_be_bytes().to_vec(),
        name: "policy".into(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: unix(first)?,
        end_time_unix_nano: unix(last)?,
        attributes: vec![number("luo.policy.more", kernel.policy_more)],
        events: lines.iter().filter_map(|line| Some(event(unix(line)?, line))).collect(),
        status: Some(status(String::new())),
        ..Span::default()
    })
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
fn event(unix: u64, line: &Policy) -> Event {
    Event {
        time_unix_nano: unix,
        name: format!("policy {}", line.what),
        attributes: vec![text("luo.policy.what", line.what), text("luo.policy.text", &line.text)],
        ..Event::default()
    }
}

/// What went wrong; empty: nothing.
fn status(error: String) -> Status {
    let code = match error.is_empty() {
        true => StatusCode::Ok,
        false => StatusCode::Error,
    };
    Status {
        code: code.into(),
        message: error,
    }
}

/// The spans of one update, each with the kernel it belongs to.
struct Trace<'a> {
    report: &'a Report,
    update: &'a Update,
    id: u128,
    spans: Vec<(usize, Span)>,
}

/// What a span is of, besides its name and time.
struct Of<'a> {
    kernel: Option<usize>,
    /// Its place among the spans: the path of its names.
    path: &'a str,
    parent: Option<&'a str>,
    attributes: Vec<KeyValue>,
    /// What happened meanwhile.
    events: Vec<Event>,
    /// What went wrong; empty: nothing.
    error: String,
}

impl<'a> Trace<'a> {
    fn of(report: &'a Report, place: usize, update: &'a Update) -> Self {
        Self {
            report,
            update,
            id: report.update_id(place),
            spans: Vec::new(),
        }
    }

    fn spans(mut self) -> Vec<(usize, Span)> {
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
    fn events(&self, number: usize, phase: &Phase) -> Vec<Event> {
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

    fn about(&self) -> Vec<KeyValue> {
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
            let id = fnv64(format!("{:032x}/{path}", self.id)).max(1);
            id.to_be_bytes().to_vec()
        };
        let span = Span {
            trace_id: self.id.to_be_bytes().to_vec(),
            span_id: id(of.path),
            parent_span_id: of.parent.map(id).unwrap_or_default(),
            name: name.into(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: start.saturating_add(stretch.duration_ns),
            attributes: of.attributes,
            events: of.events,
            status: Some(status(of.error)),
            ..Span::default()
        };
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

/// An attribute that is text.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// One that is a number; OTLP has none above `i64::MAX`.
pub fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
