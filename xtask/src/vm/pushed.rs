//! Holds what a collector in the guest got of the agents against what their journals tell.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use luo_trace::chain::case::Case;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message;
use serde_json::Value;

use crate::run;

/// The attribute of a log record that has its id.
const ID: &str = "log.record.uid";

/// The ids that were told, and how many metrics.
#[derive(Debug, Default)]
struct Told {
    traces: BTreeSet<String>,
    findings: BTreeSet<String>,
    metrics: usize,
}

/// How what came differs from what the journals tell.
///
/// # Errors
/// What came cannot be read, or the agent not be started.
pub(super) fn compare(agent: &Path, case: &Case, output: &Path) -> Result<Vec<String>> {
    Ok(differences(&came(&output.join("otlp"))?, &recorded(agent, case)?))
}

/// How what came differs from what is recorded, in a sentence each.
fn differences(came: &Told, recorded: &Told) -> Vec<String> {
    let mut failures = Vec::new();
    for (what, came, recorded) in [
        ("traces", &came.traces, &recorded.traces),
        ("findings", &came.findings, &recorded.findings),
    ] {
        if came != recorded {
            failures.push(format!(
                "the collector has {what} {came:?}, the journals tell {recorded:?}"
            ));
        }
    }
    if came.metrics == 0 {
        failures.push("the collector has no metrics".into());
    }
    failures
}

/// What the collector has kept.
fn came(directory: &Path) -> Result<Told> {
    let mut told = Told::default();
    let context = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let name = path.display().to_string();
        let mut body = Vec::new();
        GzDecoder::new(File::open(&path).with_context(context)?)
            .read_to_end(&mut body)
            .with_context(|| format!("{name} is not packed by gzip"))?;
        let damaged = || format!("{name} cannot be decoded");
        if name.ends_with("-traces.gz") {
            let request = ExportTraceServiceRequest::decode(&*body).with_context(damaged)?;
            let spans = request.resource_spans.iter().flat_map(|of| &of.scope_spans);
            told.traces
                .extend(spans.flat_map(|of| &of.spans).map(|span| hex(&span.trace_id)));
        } else if name.ends_with("-logs.gz") {
            let request = ExportLogsServiceRequest::decode(&*body).with_context(damaged)?;
            let records = request.resource_logs.iter().flat_map(|of| &of.scope_logs);
            for attribute in records
                .flat_map(|of| &of.log_records)
                .flat_map(|record| &record.attributes)
            {
                let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
                if let (ID, Some(Any::StringValue(id))) = (attribute.key.as_str(), value) {
                    told.findings.insert(id.clone());
                }
            }
        } else {
            let request = ExportMetricsServiceRequest::decode(&*body).with_context(damaged)?;
            let scopes = request.resource_metrics.iter().flat_map(|of| &of.scope_metrics);
            told.metrics += scopes.map(|of| of.metrics.len()).sum::<usize>();
        }
    }
    Ok(told)
}

/// What the agent makes of the journals: the ids in its report.
fn recorded(agent: &Path, case: &Case) -> Result<Told> {
    let report = |format: &str| -> Result<Value> {
        let mut command = Command::new(agent);
        command.args(["report", "--format", format]);
        command.args(case.records.iter().map(|record| &record.journal));
        serde_json::from_str(&run::output(&mut command)?).context("the report is not JSON")
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (spans, report) = (report("otlp")?, report("json")?);
    let scopes = list(&spans["resourceSpans"])
        .into_iter()
        .flat_map(|of| list(&of["scopeSpans"]));
    let ids = |of: Vec<Value>, key: &str| -> BTreeSet<String> {
        of.iter().filter_map(|of| Some(of[key].as_str()?.to_owned())).collect()
    };
    Ok(Told {
        traces: ids(scopes.flat_map(|of| list(&of["spans"])).collect(), "traceId"),
        findings: ids(list(&report["findings"]), "id"),
        metrics: 0,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(traces: &[&str], findings: &[&str], metrics: usize) -> Told {
        let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect();
        Told {
            traces: set(traces),
            findings: set(findings),
            metrics,
        }
    }

    #[test]
    fn what_did_not_come_and_what_is_in_no_journal_is_a_failure() {
        let recorded = told(&["a"], &["1", "2"], 0);
        assert_eq!(differences(&told(&["a"], &["1", "2"], 1), &recorded), [""; 0]);
        for other in [
            told(&[], &["1", "2"], 1),
            told(&["a", "b"], &["1", "2"], 1),
            told(&["a"], &["1"], 1),
            told(&["a"], &["1", "2", "3"], 1),
            told(&["a"], &["1", "2"], 0),
        ] {
            assert_eq!(differences(&other, &recorded).len(), 1, "{other:?}");
        }
    }
}
