//! Findings and refusals as log records of OTLP. Each has the id that every other telling of it has.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::model::{Finding, Id, Severity};
use crate::policy::tell::Refusal;
use crate::report::otlp::{number, scope, text};

/// The attribute that the conventions of OpenTelemetry have for what is the same record.
const ID: &str = "log.record.uid";

/// Something to tell.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Finding(Box<Finding>),
    Refusal(Id, Box<Refusal>),
}

/// All of these as one request. `zero` is when the kernel's clock was, in nanoseconds since 1970, and `now` what it is now.
pub(super) fn request(resource: Resource, told: &[Told], zero: u64, now: u64) -> ExportLogsServiceRequest {
    let record = |told: &Told| LogRecord {
        observed_time_unix_nano: now,
        ..match told {
            Told::Finding(found) => finding(found, zero),
            Told::Refusal(id, refused) => refusal(*id, refused, zero),
        }
    };
    let logs = ScopeLogs {
        scope: Some(scope()),
        log_records: told.iter().map(record).collect(),
        ..ScopeLogs::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![logs],
            ..ResourceLogs::default()
        }],
    }
}

fn finding(finding: &Finding, zero: u64) -> LogRecord {
    let severity = match finding.invariant.severity() {
        Severity::Critical => SeverityNumber::Fatal,
        Severity::Error => SeverityNumber::Error,
        Severity::Warning => SeverityNumber::Warn,
    };
    let attributes = vec![
        text("luo.invariant", finding.invariant.id()),
        text("luo.object", &finding.object.to_string()),
        text("luo.expected", &finding.expected),
        text("luo.seen", &finding.seen),
        text("luo.advice", finding.advice),
    ];
    LogRecord {
        time_unix_nano: zero.saturating_add(finding.time_ns),
        severity_text: finding.invariant.severity().name().into(),
        event_name: "luo.finding".into(),
        ..record(finding.id, severity, finding.to_string(), attributes)
    }
}

fn refusal(id: Id, refusal: &Refusal, zero: u64) -> LogRecord {
    let severity = match refusal.decision.as_ref() {
        "deny" => SeverityNumber::Warn,
        _ => SeverityNumber::Info,
    };
    let attributes = vec![
        text("luo.policy.op", &refusal.op),
        text("luo.policy.decision", &refusal.decision),
        text("luo.policy.rule", &refusal.rule),
        text("luo.session", &refusal.session),
        text("process.command", &refusal.comm),
        number("process.pid", refusal.pid.into()),
        number("process.real_user.id", refusal.uid.into()),
    ];
    LogRecord {
        time_unix_nano: zero.saturating_add(refusal.time_ns),
        severity_text: refusal.decision.to_string(),
        event_name: "luo.refusal".into(),
        ..record(id, severity, refusal.tell(), attributes)
    }
}

fn record(id: Id, severity: SeverityNumber, message: String, mut attributes: Vec<KeyValue>) -> LogRecord {
    attributes.insert(0, text(ID, &id.to_string()));
    LogRecord {
        severity_number: severity.into(),
        body: Some(AnyValue {
            value: Some(any_value::Value::StringValue(message)),
        }),
        attributes,
        ..LogRecord::default()
    }
}
