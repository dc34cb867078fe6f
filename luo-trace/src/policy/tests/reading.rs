//! What is read from a file, and what is said of one that is none.

use luo_trace_common::policy::{Aspect, CGROUP_DEPTH, Condition, Mode, Operation, VALUES};
use luo_trace_common::text::{Comm, Compatible, SessionName};

use crate::model::Severity;
use crate::policy::{MAX_FILE, Policy, Sessions};

const WHOLE: &str = r#"
mode = "enforce"
on_agent_loss = "closed"
stale_after = "1m 30s"

[[rule]]
name = "no-legacy-image"
on = ["kexec-reboot", "kexec-load"]
match = { comm = ["kexec", "systemd"], uid = [0, 4294967295], session = ["vm-*", "hex:ff2a", "*"], handler = "memfd-v2" }
unless = { cgroup = "/system.slice/luod.service" }
when = { legacy-image = true, sessions-over = 0, files-over = 10, invariant-violated = "error" }
action = "deny"
unknown = "passes"

[[rule]]
name = "tell"
on = "session-create"
action = "audit"
"#;

/// The mistakes in a text, each as `line:column: text`.
fn mistakes(text: &str) -> Vec<String> {
    let problems = Policy::read(text).expect_err(text);
    problems.to_string().lines().map(Into::into).collect()
}

/// The only mistake in a rule that is whole but for this line.
fn mistake(line: &str) -> String {
    let rest = ["name = \"r\"", "on = \"kexec-load\"", "action = \"deny\""];
    let key = |line: &str| line.split(' ').next().map(str::to_owned);
    let rest = rest.into_iter().filter(|other| key(other) != key(line));
    let text = ["[[rule]]", line]
        .into_iter()
        .chain(rest)
        .collect::<Vec<_>>()
        .join("\n");
    let mistakes = mistakes(&text);
    assert_eq!(mistakes.len(), 1, "{line}: {mistakes:?}");
    mistakes[0].clone()
}

#[test]
fn everything_a_file_says_is_in_the_policy() {
    let policy = Policy::read(WHOLE).unwrap();
    assert_eq!(
        (policy.mode, policy.closed, policy.stale_after),
        (Mode::Enforce, true, 90_000_000_000)
    );
    let [rule, tell] = policy.rules() else {
        panic!("{:?}", policy.rules())
    };
    assert_eq!(rule.name.to_string(), "no-legacy-image");
    assert_eq!(rule.on, [Operation::KexecLoad, Operation::KexecReboot]);
    assert_eq!(rule.matches.comm, [Comm::new("kexec"), Comm::new("systemd")]);
    assert_eq!(rule.matches.uid, [0, u32::MAX]);
    let beginning = |name| Sessions::Beginning(SessionName::new(name));
    let odd = Sessions::Named(SessionName::new(b"\xff*"));
    assert_eq!(rule.matches.session, [beginning("vm-"), odd, beginning("")]);
    assert_eq!(rule.matches.handler, [Compatible::new("memfd-v2")]);
    assert_eq!(
        rule.unless.cgroup[0]
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["system.slice", "luod.service"]
    );
    assert!(!rule.unless.names(Aspect::Comm) && rule.matches.cgroup.is_empty());
    assert_eq!(rule.when.simple, [Condition::LegacyImage]);
    assert_eq!((rule.when.sessions_over, rule.when.files_over), (Some(0), Some(10)));
    assert_eq!(rule.when.violated, Some(Severity::Error));
    assert!(rule.deny);
    assert_eq!(rule.unknown_applies, Some(false));
    assert!(tell.matches.is_empty() && !tell.deny && tell.on == [Operation::SessionCreate]);
}

#[test]
fn what_a_file_does_not_say_is_the_careful_default() {
    let policy = Policy::read("").unwrap();
    assert_eq!(
        (policy.mode, policy.closed, policy.stale_after),
        (Mode::Audit, false, 10_000_000_000)
    );
    let policy = Policy::read("[[rule]]\nname = \"a\"\non = \"kexec-load\"\naction = \"deny\"").unwrap();
    let applies = Operation::ALL
        .iter()
        .map(|&operation| policy.rules()[0].applies_unknown(operation));
    assert_eq!(applies.collect::<Vec<_>>(), [false, false, false, true]);
}

#[test]
fn what_just_fits_is_read_and_what_is_said_twice_is_said_once() {
    let read = |path: &str| {
        let loads = "[\"kexec-load\", \"kexec-load\"]";
        let rule = format!("[[rule]]\nname = \"a\"\non = {loads}\nmatch.cgroup = \"{path}\"\naction = \"deny\"");
        Policy::read(&rule)
    };
    let deepest = "/c".repeat(CGROUP_DEPTH);
    let policy = read(&deepest).unwrap();
    assert_eq!(policy.rules()[0].on, [Operation::KexecLoad]);
    assert_eq!(policy.rules()[0].matches.cgroup[0].len(), CGROUP_DEPTH);
    assert!(read(&format!("{deepest}/c")).is_err());
}

#[test]
fn mistakes_are_told_all_at_once_and_each_where_it_is() {
    let text = r#"
mode = "enforced"
stale_after = "soon"
[[rule]]
name = "a"
on = ["kexec-laod", "session-create"]
matches = { comm = "x" }
action = "deny"
[[rule]]
name = "a"
on = "kexec-load"
match = { user = 0 }
when = { legacy-image = false }
action = "deny"
[[rule]]
on = "kexec-load"
"#;
    let told = mistakes(text);
    let begins = [
        "2:8: \"enforced\" is unknown here: did you mean enforce?",
        "3:15: \"soon\" is no time",
        "6:7: \"kexec-laod\" is unknown here: did you mean kexec-load?",
        "7:1: a rule has no key matches: did you mean match?",
        "10:8: rule a has the name of the one in line 5",
        "12:11: match and unless has no key user: there are comm, uid, cgroup, session, handler",
        "13:25: write legacy-image = true, or leave it out",
        "15:1: this rule has no name: name = \"no-legacy-image\"",
        "15:1: this rule has no action: action = \"deny\", or \"audit\"",
    ];
    assert_eq!(told.len(), begins.len(), "{told:#?}");
    for (told, begins) in told.iter().zip(begins) {
        assert!(told.starts_with(begins), "{told}\n{begins}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_or_size_is_told_with_what_belongs_there() {
    for (line, told) in [
        ("name = \"\"", "a rule's name is not empty"),
        (
            "name = \"123456789012345678901234567890123456789012345678\"",
            "a rule's name holds 47 bytes, this one has 48",
        ),
        ("name = \"hold\"", "the name hold is taken"),
        ("name = \"agent-loss\"", "the name agent-loss is taken"),
        ("name = 1", "here belongs a text"),
        ("on = []", "this list is empty"),
        (
            "on = \"session-retrieve\"",
            "\"session-retrieve\" is never refused: what is preserved would leak",
        ),
        (
            "on = \"x\"",
            "there are session-create, file-preserve, kexec-load, kexec-reboot",
        ),
        ("match = {}", "this names nothing"),
        ("match = \"kexec\"", "match and unless is a table"),
        ("match = { comm = \"a-name-of-16-byte\" }", "keeps 15 bytes"),
        ("match = { uid = -1 }", "here belongs a whole number"),
        (
            "match = { uid = \"root\" }",
            "here belongs a whole number, from 0 on: a user id such as 0",
        ),
        ("match = { uid = 4294967296 }", "4294967296 is no user id"),
        ("match = { session = \"\" }", "a session's name is not empty"),
        ("match = { session = \"hex:4\" }", "hex:4 is no name"),
        ("match = { cgroup = \"luod.service\" }", "its path begins with /"),
        ("match = { cgroup = \"/\" }", "every process is in it"),
        ("match = { cgroup = \"/a//b\" }", "write its path without //"),
        ("match = { cgroup = \"/a/\" }", "without / at its end"),
        ("match = { cgroup = \"/a/../b\" }", "without . or .."),
        (
            "match = { cgroup = \"/1/2/3/4/5/6/7/8/9\" }",
            "it lies 9 deep, and at most 8 are looked at",
        ),
        (
            "match = { cgroup = \"/sys/fs/cgroup/a\" }",
            "not where it is mounted: /a",
        ),
        ("when = {}", "this asks for nothing"),
        (
            "when = { sessions-over = true }",
            "a whole number, from 0 on: a number of sessions",
        ),
        (
            "when = { sessions-over = 9223372036854775808 }",
            "here belongs a whole number",
        ),
        (
            "when = { invariant-violated = \"fatal\" }",
            "there are warning, error, critical",
        ),
        ("when = { heldd = true }", "did you mean held?"),
        ("action = \"refuse\"", "there are deny, audit"),
        ("unknown = \"deny\"", "there are applies, passes"),
        ("name = \"a\" \"b\"", "no TOML"),
    ] {
        let mistake = mistake(line);
        assert!(mistake.contains(told), "{line}: {mistake}");
    }
    let long = format!("match = {{ session = \"{}\" }}", "s".repeat(64));
    assert!(mistake(&long).contains("holds 63 bytes, this one has 64"));
    let deep = format!("match = {{ cgroup = \"/{}\" }}", "c".repeat(128));
    assert!(mistake(&deep).contains("holds 127 bytes, this one has 128"));
    assert!(mistakes("stale_after = \"10ms\"")[0].contains("from 1s to 24h"));
    assert!(mistakes("rule = 1")[0].contains("[[rule]]"));
}

#[test]
fn what_does_not_fit_into_the_kernels_tables_is_refused() {
    let rule =
        |i: usize, rest: &str| format!("[[rule]]\nname = \"r{i}\"\non = \"kexec-load\"\naction = \"deny\"\n{rest}\n");
    let rules =
        |count: usize, rest: &dyn Fn(usize) -> String| (0..count).map(|i| rule(i, &rest(i))).collect::<String>();
    // As many as fit,
    let limit = |i: usize| format!("when = {{ sessions-over = {} }}", i % 8);
    assert_eq!(Policy::read(&rules(64, &limit)).unwrap().rules().len(), 64);
    // and one too many of each.
    assert!(mistakes(&rules(65, &|_| String::new()))[0].contains("at most 64 rules, this one has 65"));
    for over in ["sessions-over", "files-over"] {
        let limit = |i: usize| format!("when = {{ {over} = {i} }}");
        let told = format!("9 different numbers for {over}, and there is room for 8");
        assert!(mistakes(&rules(9, &limit))[0].contains(&told));
    }
    for (of, told) in [
        ("comm", "1200 different thread names"),
        ("cgroup", "1200 different control groups"),
        ("session", "1200 different session names"),
        ("handler", "1200 different handlers"),
    ] {
        let value = |i: usize| format!("\"{}{i}\"", if of == "cgroup" { "/" } else { "" });
        let values = |from: usize| (from..from + 600).map(value).collect::<Vec<_>>().join(", ");
        let list = |i: usize| format!("match = {{ {of} = [{}] }}", values(i * 600));
        let mistakes = mistakes(&rules(2, &list));
        assert!(mistakes[0].contains(told), "{mistakes:?}");
    }
    let users = |from: usize, to: usize| (from..to).map(|uid| uid.to_string()).collect::<Vec<_>>().join(", ");
    let list = |i: usize| format!("match = {{ uid = [{}] }}", users(i * 600, i * 600 + 600));
    assert!(mistakes(&rules(2, &list))[0].contains("1200 different users, and there is room for 1024"));
    let list = |_: usize| format!("match = {{ uid = [{}] }}", users(0, VALUES + 1));
    assert!(mistakes(&rules(1, &list))[0].contains("a list has at most 1024 values, this one has 1025"));
}

#[test]
fn texts_that_mean_harm_are_refused_and_most_of_their_mistakes_only_counted() {
    let long = "#".repeat(MAX_FILE as usize + 1);
    assert!(mistakes(&long)[0].contains("at most 1048576 bytes, this text has 1048577"));
    let rules = "[[rule]]\n".repeat(100_000);
    let told = mistakes(&rules);
    assert!(
        told.iter()
            .any(|line| line.contains("at most 64 rules, this one has 100000")),
        "{told:?}"
    );
    assert_eq!((told.len(), told[20].as_str()), (21, "and 173 more"));
    for nested in [
        "[".repeat(100_000),
        "{a=".repeat(100_000),
        format!("a{} = 1", ".a".repeat(100_000)),
    ] {
        let nested = format!("rule = {nested}");
        assert_eq!(mistakes(&nested).len(), 1);
    }
    let keys: String = (0..50_000).map(|i| format!("k{i} = 1\n")).collect();
    assert_eq!(mistakes(&keys).len(), 21);
}
