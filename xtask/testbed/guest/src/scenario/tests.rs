use super::*;

fn parse(text: &str) -> Result<Scenario, String> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
    scenario.check().map(|()| scenario)
}

const SMALL: &str = r#"
summary = "one file over a kexec"
kexec = "file"
before = [
    { create-session = { name = "vm" } },
    { preserve = { session = "vm", token = 0x1A, memfd = { name = "ram", size = "2 MiB", seed = 7 } } },
    { preserve-again = { session = "vm", token = 2, memfd = "ram", fails = "EBUSY" } },
]
after = [{ retrieve-session = { name = "hex:ff01" } }]

[[expect.events]]
boot = 1
event = "file-preserve"
fields = { token = "0x1a", handler = "memfd-v2" }
"#;

#[test]
fn a_small_scenario_reads_as_it_was_meant_and_fills_in_the_defaults() {
    let scenario = parse(SMALL).unwrap();

    assert!(scenario.agent);
    assert_eq!((scenario.deadline_seconds, scenario.boots()), (900, 2));
    let Step::Preserve(preserve) = &scenario.before[1] else {
        panic!("{:?}", scenario.before[1])
    };
    assert_eq!((preserve.token, preserve.memfd.size.bytes()), (26, 2 << 20));
    let Step::PreserveAgain(again) = &scenario.before[2] else {
        panic!("{:?}", scenario.before[2])
    };
    assert_eq!(again.fails.unwrap().errno(), rustix::io::Errno::BUSY);
    let Step::RetrieveSession(retrieve) = &scenario.after[0] else {
        panic!("{:?}", scenario.after[0])
    };
    assert_eq!(retrieve.name.bytes(), [0xFF, 0x01]);
    assert_eq!(scenario.expect.events[0].fields["token"], "0x1a");
}

const FAULTY: &str = r#"
summary = "a kernel that misbehaves"
kexec = "none"
before = [
    { preserve-device = { session = "vm", token = 1, device = { node = "vfio", name = "gpu", size = "3000 B", seed = 2 } } },
    { fault = { name = "unpreserve_leaks" } },
    { fault = { name = "freeze_fails", value = 16 } },
    { load = { how = "file", cmdline = ["!liveupdate=on"] } },
    { reboot = { fails = "EBUSY" } },
    { fail-nth = { operation = "preserve-memfd", prefix = "vm", count = 60 } },
    { open-twice = {} },
]
"#;

#[test]
fn a_fault_is_set_to_one_unless_it_says_otherwise() {
    let scenario = parse(FAULTY).unwrap();

    let values = scenario.before.iter().filter_map(|step| match step {
        Step::Fault(fault) => Some((fault.name.as_str(), fault.value)),
        _ => None,
    });
    assert_eq!(
        values.collect::<Vec<_>>(),
        [("unpreserve_leaks", 1), ("freeze_fails", 16)]
    );
}

#[test]
fn steps_about_a_faulty_kernel_reach_the_guest_as_they_are() {
    let scenario = parse(FAULTY).unwrap();

    let sent: Scenario = serde_json::from_str(&serde_json::to_string(&scenario).unwrap()).unwrap();

    assert_eq!(sent.before, scenario.before);
}

const KEPT_BY_POLICY: &str = r#"
summary = "a policy and two others"
kexec = "none"
policy = "lockdown.toml"
before = [
    { as = { comm = "kexec", uid = 1000, cgroup = "/system.slice", steps = [
        { eventually = { load = { how = "legacy", fails = "EPERM" } } },
        { start-agent = { policy = "mode = 'audit'\n" } },
    ] } },
    { reload-policy = { policy = "mode = 'ENFORCE'\n", refused = "unknown here" } },
]
"#;

#[test]
fn the_policies_of_a_scenario_are_those_that_its_agents_take() {
    let scenario = parse(KEPT_BY_POLICY).unwrap();

    let policies = scenario.policies();

    let shown: Vec<_> = policies
        .iter()
        .map(|policy| (policy.shipped(), policy.text()))
        .collect();
    let shipped = (Some("lockdown.toml"), None);
    assert_eq!(shown, [shipped, shipped, (None, Some("mode = 'audit'\n"))]);
}

#[test]
fn a_step_within_a_step_is_looked_at_too() {
    for (wrong, told) in [
        ("comm = \"kexec\"", "comm = \"sixteen-is-a-lot\""),
        ("\"/system.slice\"", "\"system.slice\""),
        ("how = \"legacy\"", "how = \"none\""),
    ] {
        assert!(parse(&KEPT_BY_POLICY.replace(wrong, told)).is_err(), "{told}");
    }
}

#[test]
fn the_guest_reads_what_the_host_wrote_without_the_expectations() {
    let scenario = parse(SMALL).unwrap();

    let sent: Scenario = serde_json::from_str(&serde_json::to_string(&scenario).unwrap()).unwrap();

    assert_eq!(
        sent,
        Scenario {
            expect: Expect::default(),
            ..scenario
        }
    );
}

#[test]
fn a_size_is_written_with_the_unit_that_fits() {
    for text in ["0 B", "5000 B", "4 KiB", "1025 KiB", "64 MiB", "1 GiB"] {
        assert_eq!(String::from(Size::try_from(text.to_owned()).unwrap()), text);
    }
    assert!(
        Size::try_from("17179869184 GiB".to_owned()).is_err(),
        "more than 64 bits"
    );
}

#[test]
fn a_mistake_is_told_with_its_line() {
    for (wrong, told) in [
        (SMALL.replace("token = 2,", "tokn = 2,"), "unknown field `tokn`"),
        (
            SMALL.replace("create-session", "make-session"),
            "unknown variant `make-session`",
        ),
        (
            SMALL.replace("EBUSY", "EBUSSY"),
            "\"EBUSSY\" is not an error that a scenario can name",
        ),
        (SMALL.replace("2 MiB", "2MB"), "\"2MB\" is not a size"),
        (SMALL.replace("hex:ff01", "hex:ff0"), "two digits for each byte"),
        (SMALL.replace("hex:ff01", "hex:ff00"), "NUL byte"),
        (
            SMALL.replace("hex:ff01", &"x".repeat(64)),
            "holds 63 bytes, this one has 64",
        ),
    ] {
        let error = parse(&wrong).unwrap_err();
        assert!(error.contains(told), "{error}");
        assert!(error.contains("TOML parse error at line "), "{error}");
    }
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    for (wrong, told) in [
        (
            SMALL.replace("\"file\"", "\"none\""),
            "with kexec = \"none\" there is none",
        ),
        (format!("updates = 0\n{SMALL}"), "`updates` is 1 or more"),
        (
            format!("next = {{ panics = \"abi\" }}\n{SMALL}"),
            "the second kernel panics",
        ),
        (format!("root = \"systemd\"\n{SMALL}"), "no program does the steps"),
        (format!("agent = false\nagent_refuses = 4\n{SMALL}"), "need the agent"),
        (
            format!("agent = false\nagent_without = \"btf\"\n{SMALL}"),
            "need the agent",
        ),
        (
            SMALL.replace("retrieve-session = { name", "retrieve = { token = 1, session"),
            "either `memfd`",
        ),
        (FAULTY.replace("\"file\"", "\"none\""), "`how` is"),
        (
            FAULTY.replace(
                "preserve-device = { session",
                "retrieve-device = { fails = \"EIO\", session",
            ),
            "either `device`",
        ),
    ] {
        let error = parse(&wrong).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

/// A scenario that begins with this.
fn small(keys: &str) -> Scenario {
    parse(&format!("{keys}\n{SMALL}")).unwrap()
}

fn names<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<&'static str> {
    steps
        .map(|step| match step {
            Step::CreateSession(_) => "create",
            Step::RetrieveSession(_) => "retrieve",
            _ => "other",
        })
        .filter(|name| *name != "other")
        .collect()
}

#[test]
fn with_more_updates_the_kernels_between_do_what_the_last_one_does_and_then_what_the_first_one_does() {
    let scenario = small("updates = 2");
    assert_eq!(scenario.boots(), 3);
    assert_eq!(names(scenario.steps(1)), ["create"]);
    assert_eq!(names(scenario.steps(2)), ["retrieve", "create"]);
    assert_eq!(names(scenario.steps(3)), ["retrieve"]);
    assert!(scenario.is_followed(2) && !scenario.is_followed(3));
}

#[test]
fn the_steps_of_a_scenario_without_a_kexec_are_done_in_its_only_kernel() {
    let scenario = parse("summary = 's'\nkexec = 'none'\nbefore = [{ create-session = { name = 'a' } }]").unwrap();
    assert_eq!(names(scenario.steps(1)), ["create"]);
    assert!(!scenario.is_followed(1));
}

#[test]
fn the_agent_of_the_kernels_after_the_first_can_be_missing_or_refuse() {
    for (keys, agents) in [
        ("", [AgentIn::Runs, AgentIn::Runs]),
        ("next = { agent = 'none' }", [AgentIn::Runs, AgentIn::Nowhere]),
        ("next = { agent = 'refuses' }", [AgentIn::Runs, AgentIn::Refuses(4)]),
        ("agent = false", [AgentIn::Nowhere, AgentIn::Nowhere]),
        ("agent_refuses = 2", [AgentIn::Refuses(2), AgentIn::Refuses(2)]),
    ] {
        let scenario = small(keys);
        assert_eq!([1, 2].map(|boot| scenario.agent_in(boot)), agents, "{keys}");
    }
}

#[test]
fn a_kernel_that_panics_boots_to_no_step() {
    let scenario = parse("summary = 's'\nkexec = 'file'\nnext = { panics = 'abi' }").unwrap();
    assert_eq!(scenario.boots(), 1);
    assert!(scenario.is_followed(1));
}

#[test]
fn words_are_added_to_a_command_line_and_taken_out_of_it() {
    let changes = ["!kho=on".to_owned(), "quiet".to_owned()];
    assert_eq!(
        changed_words("kho=on kho=only panic=-1", &changes),
        "kho=only panic=-1 quiet"
    );
}

const STORY: &str = r#"
summary = "a list of steps for each kernel"
kexec = "file"
updates = 2
kernels = [
    [
        { create-session = { name = "a" } },
        { create-session = { name = "b" } },
        { together = { threads = [
            [{ failing = { nth = 3, step = { create-session = { name = "c" } } } }, { close-session = { name = "a" } }],
            [{ preserve-other = { session = "b", token = 1, what = "closed", fails = "EBADF" } }],
        ], meanwhile = [{ kill-agent = {} }] } },
    ],
    [{ retrieve-session = { name = "c" } }],
    [],
]
"#;

#[test]
fn each_kernel_can_have_steps_of_its_own() {
    let scenario = parse(STORY).unwrap();

    assert_eq!(scenario.boots(), 3);
    assert_eq!([1, 2, 3].map(|boot| scenario.steps(boot).count()), [3, 1, 0]);
    assert_eq!(scenario.all_steps().count(), 4);
    let sent: Scenario = serde_json::from_str(&serde_json::to_string(&scenario).unwrap()).unwrap();
    assert_eq!(sent, scenario);
}

#[test]
fn a_list_too_few_or_steps_besides_them_are_refused() {
    for wrong in [
        STORY.replace("updates = 2", "updates = 1"),
        format!("before = [{{ close-device = {{}} }}]\n{STORY}"),
    ] {
        let error = parse(&wrong).unwrap_err();
        assert!(error.contains("`kernels` has a list"), "{error}");
    }
}

#[test]
fn threads_beside_each_other_have_sessions_of_their_own_and_do_nothing_else() {
    for (right, wrong, told) in [
        (
            "session = \"b\"",
            "session = \"a\"",
            "two threads have the session \"a\"",
        ),
        (
            "{ close-session = { name = \"a\" } }",
            "{ kill-agent = {} }",
            "each step is about a session",
        ),
        (
            "[{ kill-agent = {} }]",
            "[{ start-agent = {} }]",
            "`meanwhile` the agent",
        ),
        ("nth = 3", "nth = 0", "`nth` counts from 1"),
    ] {
        let error = parse(&STORY.replace(right, wrong)).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}
