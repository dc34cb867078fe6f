//! One list of checks in every form, with texts that try to get out of it.

#![cfg(feature = "agent")]

use super::*;

fn check(group: Group, name: &str, answer: Answer, message: &str) -> Check {
    Check {
        group,
        name: name.into(),
        answer,
        message: message.into(),
        findings: Vec::new(),
        line: None,
    }
}

/// One of each answer; the names and messages hold what means something in one of the forms.
fn checks() -> Vec<Check> {
    let mut failed = check(
        Group::Expectation,
        "session \"a,b: <x>&y # SKIP\"",
        Answer::Fail,
        "100% lost\r\n::error::no, # TODO ]]> 'that'\u{1}",
    );
    failed.line = Some(7);
    vec![
        check(
            Group::Record,
            "record of boot 1 is whole",
            Answer::Inconclusive,
            "events lost: 3",
        ),
        check(Group::Invariant, "file-balance", Answer::Pass, "held 3 times"),
        check(Group::Invariant, "kho-balance", Answer::Skip, "not watched"),
        failed,
    ]
}

fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_worst_answer_counts() {
    let up_to = |number| outcome(&checks()[..number]);
    assert_eq!(up_to(0), Conclusion::Held);
    assert_eq!(up_to(3), Conclusion::Inconclusive);
    assert_eq!(up_to(4), Conclusion::Violated);
    assert_eq!(outcome(&checks()[1..3]), Conclusion::Held);
}

#[test]
fn sarif_has_a_result_with_a_rule_and_a_place_for_what_is_not_as_it_should_be() {
    let sarif = sarif(&checks(), "expect.toml");
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    let told: Vec<_> = results
        .iter()
        .map(|result| {
            let place = &result["locations"][0]["physicalLocation"];
            let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
            assert_eq!(rule["id"], result["ruleId"]);
            assert_eq!(place["artifactLocation"]["uri"], "expect.toml");
            (
                result["level"].as_str().unwrap(),
                place["region"]["startLine"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("warning", 1), ("error", 7)]);
}

#[test]
fn ktap_has_a_plan_and_one_point_for_each_check_whatever_the_texts_hold() {
    let text = text(|out| ktap(out, &checks()));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["KTAP version 1", "1..4"]);
    let points: Vec<_> = lines[2..].iter().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(points.len(), 4, "{text}");
    assert_eq!(
        *points[0],
        "ok 1 record: record of boot 1 is whole # SKIP inconclusive: events lost: 3"
    );
    assert_eq!(*points[1], "ok 2 invariant: file-balance");
    assert_eq!(*points[2], "ok 3 invariant: kho-balance # SKIP not watched");
    // A name cannot begin a directive, and a message no line.
    assert_eq!(*points[3], "not ok 4 expectation: session \"a,b: <x>&y \\x23 SKIP\"");
    assert!(text.contains("\n# 100% lost  ::error::no, \\x23 TODO"), "{text}");
}

#[test]
fn junit_counts_each_answer_and_escapes_what_is_markup() {
    let text = text(|out| junit(out, &checks()));
    let suite = "<testsuite name=\"luo-trace.invariant\" tests=\"2\" skipped=\"1\" errors=\"0\" failures=\"0\">";
    assert!(text.contains(suite), "{text}");
    let whole = "<testsuites name=\"luo-trace check\" tests=\"4\" failures=\"1\" errors=\"1\">";
    assert!(text.contains(whole), "{text}");
    assert!(
        text.contains("session &quot;a,b: &lt;x&gt;&amp;y # SKIP&quot;"),
        "{text}"
    );
    assert!(!text.contains('\u{1}') && !text.contains("]]>"), "{text}");
}

#[test]
fn github_gets_an_annotation_for_what_is_not_right_at_the_line_that_asks_for_it() {
    let text = text(|out| github(out, &checks(), Some("ci/a,b.toml")));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(
        lines[0],
        "::warning title=luo-trace record%3A record of boot 1 is whole::events lost: 3"
    );
    assert_eq!(
        lines[1],
        "::error file=ci/a%2Cb.toml,line=7,title=luo-trace expectation%3A session \"a%2Cb%3A <x>&y # SKIP\"\
         ::100%25 lost%0D%0A::error::no, # TODO ]]> 'that'\u{1}"
    );
    assert_eq!(
        lines[2],
        "::error title=luo-trace check::4 checks: 1 passed, 1 failed, 1 inconclusive, 1 skipped"
    );
}
