//! SARIF 2.1.0, which code scanning takes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, Check};

/// What a result's fingerprint is of: the finding's id.
const FINGERPRINT: &str = "luoTraceFinding/v1";

/// The checks that failed or that cannot be told, as results, and what they are about, as rules. A check against which something was
/// found has a result for each finding, which its id makes known again. `place` is the file that they point into, as readers want a
/// place of each: that of the expectations, at their lines, or else a journal.
pub fn sarif(checks: &[Check], place: &str) -> Value {
    let bad = |check: &&Check| matches!(check.answer, Answer::Fail | Answer::Inconclusive);
    let id = |check: &Check| format!("{}/{}", check.group.name(), check.name);
    let rules: BTreeMap<String, &Check> = checks.iter().filter(bad).map(|check| (id(check), check)).collect();
    let places: BTreeMap<&String, usize> = rules.keys().zip(0..).collect();
    let rule = |(id, check): (&String, &&Check)| json!({ "id": id, "name": check.name, "shortDescription": { "text": format!("{}: {}", check.group.name(), check.name) } });
    let result = |check: &Check, message: &str| {
        let id = id(check);
        json!({
            "ruleId": id,
            "ruleIndex": places.get(&id),
            "level": if check.answer == Answer::Fail { "error" } else { "warning" },
            "message": { "text": message },
            "locations": [{ "physicalLocation": {
                "artifactLocation": { "uri": place },
                "region": { "startLine": check.line.unwrap_or(1) },
            } }],
        })
    };
    let results = |check: &Check| -> Vec<Value> {
        if check.findings.is_empty() {
            return vec![result(check, &check.message)];
        }
        let findings = check.findings.iter().map(|finding| {
            let mut result = result(check, &finding.to_string());
            result["partialFingerprints"] = json!({ FINGERPRINT: finding.id });
            result
        });
        findings.collect()
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "luo-trace",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(rule).collect::<Vec<_>>(),
            } },
            "results": checks.iter().filter(bad).flat_map(results).collect::<Vec<_>>(),
        }],
    })
}
