//! What is refused, and what is warned of, though it reads like a policy.

use crate::policy::Policy;

/// Rules of these lines, each under a heading of its own; `name` is their number, `action` is deny unless it is said.
fn rules(rules: &[&str]) -> String {
    let rule = |(number, lines): (usize, &&str)| {
        let action = if lines.contains("action") {
            ""
        } else {
            "action = \"deny\"\n"
        };
        format!("[[rule]]\nname = \"r{number}\"\n{lines}\n{action}")
    };
    rules.iter().enumerate().map(rule).collect()
}

fn refused(text: &str) -> String {
    let problems = Policy::read(text).expect_err(text);
    assert_eq!(problems.told.len(), 1, "{problems}");
    problems.to_string()
}

fn warned(text: &str) -> Vec<String> {
    let policy = Policy::read(text).unwrap_or_else(|problems| panic!("{text}\n{problems}"));
    policy.warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn the_shipped_policies_are_read_and_nothing_is_to_be_said_of_them() {
    for (name, text) in [
        ("safe-defaults", include_str!("../../../policies/safe-defaults.toml")),
        ("lockdown", include_str!("../../../policies/lockdown.toml")),
        (
            "maintenance-window",
            include_str!("../../../policies/maintenance-window.toml"),
        ),
    ] {
        assert_eq!(warned(text), [""; 0], "{name}");
        assert!(!Policy::read(text).unwrap().rules().is_empty(), "{name}");
    }
}

#[test]
fn a_rule_that_can_never_apply_is_refused_at_what_keeps_it_from_that() {
    for (lines, told) in [
        (
            "on = \"session-create\"\nwhen = { legacy-image = true }",
            "4:8: rule r0 can never apply: legacy-image is about an image",
        ),
        (
            "on = \"session-create\"\nmatch = { handler = \"memfd-v2\" }",
            "4:9: rule r0 can never apply: a handler is never known",
        ),
        (
            "on = \"kexec-load\"\nwhen = { target-incompatible = true }",
            "4:8: rule r0 can never apply: target-incompatible is never known",
        ),
        (
            "on = [\"session-create\", \"kexec-load\"]\nwhen = { cmdline-missing-liveupdate = true }",
            "4:8: rule r0 can never apply: cmdline-missing-liveupdate is about an image",
        ),
        (
            "on = \"kexec-reboot\"\nunknown = \"passes\"\nwhen = { legacy-image = true, target-incompatible = true }",
            "5:8: rule r0 can never apply: target-incompatible is never known of a legacy image",
        ),
        (
            "on = \"kexec-load\"\nmatch = { cgroup = \"/a/b\", uid = 0 }\nunless = { cgroup = \"/a\" }",
            "5:10: rule r0 can never apply: unless names all that match names",
        ),
        (
            "on = \"session-create\"\nmatch = { session = [\"vm-1\", \"vm-2*\"] }\nunless = { session = \"vm-*\" }",
            "5:10: rule r0 can never apply: unless names all that match names",
        ),
    ] {
        let refused = refused(&rules(&[lines]));
        assert!(refused.starts_with(told), "{refused}\n{told}");
    }
}

#[test]
fn a_handler_cannot_be_refused_before_the_kernel_has_chosen_it() {
    for (lines, told) in [
        (
            "match = { handler = \"memfd-v2\" }",
            "4:9: rule r0: match.handler can only audit on file-preserve",
        ),
        (
            "unless = { handler = \"memfd-v2\" }",
            "4:10: rule r0: unless.handler cannot be told on file-preserve",
        ),
        (
            "match = { handler = \"memfd-v2\", uid = 0 }\naction = \"audit\"",
            "4:9: rule r0: match.handler on file-preserve is told after the fact",
        ),
        (
            "match = { handler = \"memfd-v2\" }\nunless = { cgroup = \"/a\" }\naction = \"audit\"",
            "4:9: rule r0: match.handler on file-preserve is told after the fact",
        ),
    ] {
        let refused = refused(&rules(&[&format!("on = \"file-preserve\"\n{lines}")]));
        assert!(refused.starts_with(told), "{refused}\n{told}");
    }
    let audits = "on = \"file-preserve\"\nmatch = { handler = \"memfd-v2\", session = \"vm-*\", comm = \"x\" }\naction = \"audit\"";
    assert_eq!(warned(&rules(&[audits])), [""; 0]);
    let of_image = "on = \"kexec-load\"\nmatch = { handler = \"memfd-v2\" }";
    assert_eq!(warned(&rules(&[of_image])), [""; 0]);
}

#[test]
fn what_one_rule_alone_gets_wrong_is_warned_of() {
    for (lines, told) in [
        (
            "on = [\"session-create\", \"kexec-load\"]\nwhen = { legacy-image = true }",
            "3:6: rule r0 never applies on session-create: legacy-image is about an image",
        ),
        (
            "on = [\"kexec-load\", \"kexec-reboot\"]\nwhen = { target-incompatible = true }",
            "3:6: rule r0 never applies on kexec-load",
        ),
        (
            "on = \"kexec-load\"\nwhen = { target-incompatible = true }\nunknown = \"applies\"",
            "5:11: target-incompatible is never known on kexec-load, and unknown",
        ),
        (
            "on = [\"kexec-load\", \"kexec-reboot\"]\nwhen = { held = true }",
            "4:8: held: while the host is held, the hold itself refuses",
        ),
        (
            "on = \"session-create\"\nwhen = { agent-stale = true }",
            "4:8: agent-stale: on_agent_loss is open",
        ),
        (
            "on = \"session-create\"\nmatch = { comm = \"a\", session = \"vm-*\" }\nunless = { session = \"db\" }",
            "5:10: unless.session excepts nothing: match.session names other values",
        ),
        (
            "on = \"kexec-reboot\"\nmatch = { uid = 0 }",
            "3:6: rule r0 refuses on kexec-reboot alone",
        ),
    ] {
        let warned = warned(&rules(&[lines]));
        assert_eq!(warned.len(), 1, "{lines}: {warned:?}");
        assert!(warned[0].starts_with(told), "{}\n{told}", warned[0]);
    }
    let closed =
        "on_agent_loss = \"closed\"\n".to_owned() + &rules(&["on = \"kexec-load\"\nwhen = { agent-stale = true }"]);
    assert!(warned(&closed)[0].contains("on_agent_loss is closed, which itself refuses"));
    let off = "mode = \"off\"\n".to_owned() + &rules(&["on = \"kexec-load\""]);
    assert!(warned(&off)[0].contains("mode is off"));
    let both = "on = \"kexec-reboot\"\nwhen = { legacy-image = true, target-incompatible = true }";
    assert!(warned(&rules(&[both]))[0].contains("which counts as a yes here"));
    // Of an image, sessions are all that are preserved: one may match and another one be excepted.
    let two = "on = \"kexec-load\"\nmatch = { session = \"vm-*\" }\nunless = { session = \"db\" }";
    assert_eq!(warned(&rules(&[two])), [""; 0]);
    // The agent's own rules are about images: of a session these conditions tell something.
    let held = rules(&["on = \"session-create\"\nwhen = { held = true }"]);
    assert_eq!(warned(&held), [""; 0]);
    let stale =
        "on_agent_loss = \"closed\"\n".to_owned() + &rules(&["on = \"session-create\"\nwhen = { agent-stale = true }"]);
    assert_eq!(warned(&stale), [""; 0]);
}

#[test]
fn a_rule_behind_another_one_that_always_comes_first_is_warned_of() {
    let all = "on = [\"session-create\", \"kexec-load\"]";
    for (first, second, told) in [
        (
            all,
            "on = \"kexec-load\"\nmatch = { uid = 0 }",
            "r0 (line 2) comes first for all of those calls",
        ),
        (
            "on = \"kexec-load\"\nmatch = { uid = [0, 1] }\naction = \"audit\"",
            all,
            "on kexec-load, rule r1 (line 7) refuses those calls already",
        ),
        (
            all,
            "on = \"kexec-load\"\nmatch = { uid = 0 }\naction = \"audit\"",
            "on kexec-load, rule r0 (line 2) refuses those calls already",
        ),
        (
            "on = \"kexec-load\"\nwhen = { sessions-over = 3 }",
            "on = \"kexec-load\"\nwhen = { sessions-over = 5, legacy-image = true }",
            "r0",
        ),
        (
            "on = \"kexec-load\"\nwhen = { sessions-over = 5 }",
            "on = \"kexec-load\"\nwhen = { sessions-over = 3 }",
            "",
        ),
        (
            "on = \"session-create\"\nunless = { cgroup = \"/a/b\" }",
            "on = \"session-create\"\nmatch = { comm = \"x\" }\nunless = { cgroup = \"/a\" }",
            "r0",
        ),
        (
            "on = \"session-create\"\nunless = { cgroup = \"/a\" }",
            "on = \"session-create\"\nmatch = { comm = \"x\" }",
            "",
        ),
        // The second is judged when the handler is known, whatever was told when it was asked.
        (
            "on = \"file-preserve\"\naction = \"audit\"",
            "on = \"file-preserve\"\nmatch = { handler = \"memfd-v2\" }\naction = \"audit\"",
            "",
        ),
        // Where it never applies, nothing has to come before it.
        (
            "on = \"session-create\"",
            "on = [\"session-create\", \"kexec-load\"]\nwhen = { legacy-image = true }",
            "r1 never applies on session-create",
        ),
        // What is not known is a no to the first and a yes to the second.
        (
            "on = \"kexec-load\"\nwhen = { legacy-image = true }",
            "on = \"kexec-load\"\nwhen = { legacy-image = true }\nunknown = \"applies\"",
            "",
        ),
    ] {
        let warned = warned(&rules(&[first, second]));
        assert_eq!(warned.is_empty(), told.is_empty(), "{first}\n{second}\n{warned:?}");
        assert!(warned.iter().all(|warning| warning.contains(told)), "{warned:?}");
    }
}
