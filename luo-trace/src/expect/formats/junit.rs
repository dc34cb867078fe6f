//! JUnit's XML, which GitLab, Jenkins and many others show. It is valid by `junit-10.xsd` of Jenkins' xUnit plugin.

use std::io::{self, Write};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{Answer, Check, Group};

/// Writes the checks as a report of a suite for each group. What cannot be told is an error, which is neither a pass nor a
/// failure.
///
/// # Errors
/// Where `out` cannot be written.
pub fn junit(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    let mut report = Report::new("luo-trace check");
    for group in Group::ALL {
        let mut suite = TestSuite::new(format!("luo-trace.{}", group.name()));
        let cases = checks.iter().filter(|check| check.group == group).map(case);
        suite.add_test_cases(cases);
        if suite.tests > 0 {
            report.add_test_suite(suite);
        }
    }
    let xml = report.to_string().map_err(io::Error::other)?;
    // Readers that hold it against Jenkins' schema take this attribute for suites, and refuse it for the whole.
    let skipped = format!(" skipped=\"{}\"", report.skipped);
    out.write_all(xml.replacen(&skipped, "", 1).as_bytes())
}

fn case(check: &Check) -> TestCase {
    let message = check.message.as_str();
    let bad = |kind, name: &str| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(message).set_type(name);
        status
    };
    let status = match check.answer {
        Answer::Pass => TestCaseStatus::success(),
        Answer::Fail => bad(NonSuccessKind::Failure, check.answer.name()),
        Answer::Inconclusive => bad(NonSuccessKind::Error, check.answer.name()),
        Answer::Skip => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(message);
            status
        }
    };
    let mut case = TestCase::new(check.name.as_str(), status);
    case.set_classname(format!("luo-trace.{}", check.group.name()));
    case
}
