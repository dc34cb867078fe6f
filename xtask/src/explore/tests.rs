use std::collections::BTreeSet;

use testbed_guest::scenario::{Scenario, Step};

use super::deed::{Act, Deed, Handler, Made, NAMES, Name, TOKENS, name};
use super::rules::Rules;
use super::story::{Kernel, Story};
use super::tamper::{self, Tampering};
use crate::vm::scenario;

fn tamperings() -> Vec<Tampering> {
    tamper::all(scenario::all().unwrap())
}

/// So many seeds' stories and what they come to.
fn told(seeds: u64) -> impl Iterator<Item = (Story, super::story::Told)> {
    let tamperings = tamperings();
    (0..seeds).map(move |seed| {
        let story = Story::of(seed, &tamperings);
        let told = story.tell(&tamperings);
        (story, told)
    })
}

fn leaves<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Vec<&'a Step> {
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Together(together) => {
                all.extend(leaves(together.threads.iter().flatten().chain(&together.meanwhile)));
            }
            Step::Failing(failing) => all.push(&*failing.step),
            step => all.push(step),
        }
    }
    all
}

#[test]
fn a_seed_is_always_the_same_story_and_another_seed_another_one() {
    let tamperings = tamperings();
    for seed in 0..50 {
        assert_eq!(Story::of(seed, &tamperings), Story::of(seed, &tamperings));
        assert_ne!(
            Story::of(seed, &tamperings).kernels,
            Story::of(seed + 1, &tamperings).kernels
        );
    }
}

#[test]
fn every_story_is_a_scenario_that_its_file_has_whole() {
    for (story, told) in told(400) {
        let text = scenario::write(&told.scenario).unwrap();
        let read: Scenario = toml::from_str(&text).unwrap_or_else(|why| panic!("seed {}: {why}\n{text}", story.seed));
        read.check().unwrap();
        assert_eq!(read, told.scenario, "seed {}", story.seed);
    }
}

#[test]
fn every_scenario_of_the_testbed_can_be_written_and_read_again() {
    for (name, wanted) in scenario::all().unwrap() {
        let text = scenario::write(&wanted).unwrap();
        assert_eq!(toml::from_str::<Scenario>(&text).unwrap(), wanted, "{name}\n{text}");
    }
}

#[test]
fn stories_are_long_and_use_every_step_that_there_is_for_them() {
    let (mut kinds, mut names, mut tampered, mut operations, mut updates) = (BTreeSet::new(), BTreeSet::new(), 0, 0, 0);
    let mut wanted_failures = 0;
    for (_, told) in told(400) {
        for step in leaves(told.scenario.all_steps()) {
            let shown = serde_json::to_value(step).unwrap();
            kinds.extend(shown.as_object().unwrap().keys().cloned());
            wanted_failures += usize::from(shown.to_string().contains("\"fails\":\"E"));
        }
        names.extend(told.tampering.clone());
        tampered += usize::from(told.tampering.is_some());
        operations += told.operations;
        updates += told.scenario.boots() as usize - 1;
    }
    for kind in [
        "create-session",
        "create-misnamed",
        "close-session",
        "preserve",
        "preserve-again",
        "preserve-other",
        "preserve-device",
        "refill",
        "retrieve-session",
        "retrieve",
        "retrieve-device",
        "finish",
        "open-twice",
        "close-device",
        "load",
        "unload",
        "reboot",
        "run",
        "snapshot",
        "stop-agent",
        "kill-agent",
        "start-agent",
    ] {
        assert!(kinds.contains(kind), "{kind} of {kinds:?}");
    }
    assert!(
        operations > 400 * 80 && updates > 400,
        "{operations} operations, {updates} updates"
    );
    assert!(
        wanted_failures * 10 > operations,
        "{wanted_failures} of {operations} must fail"
    );
    assert!((180..300).contains(&tampered), "{tampered}");
    let unused: Vec<_> = tamperings()
        .into_iter()
        .map(|t| t.name)
        .filter(|name| !names.contains(name))
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn a_story_without_some_of_its_deeds_is_a_scenario_still() {
    let tamperings = tamperings();
    for seed in 0..100 {
        let mut story = Story::of(seed, &tamperings);
        let mut place = 0;
        for kernel in &mut story.kernels {
            kernel.acts.retain(|_| {
                place += 1;
                (place + seed) % 3 == 0
            });
        }
        story
            .tell(&tamperings)
            .scenario
            .check()
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn names_and_files_of_stories_are_none_of_a_tampering() {
    let own: BTreeSet<_> = (0..NAMES).map(name).collect();
    assert_eq!(own.len(), usize::from(NAMES), "each is another one");
    for tampering in tamperings() {
        for step in tampering.scenario.all_steps() {
            let is_own = step.session().is_some_and(|session| own.contains(session));
            assert!(!is_own, "{}: {step:?}", tampering.name);
            assert!(
                !serde_json::to_string(step).unwrap().contains("\"file-"),
                "{}",
                tampering.name
            );
        }
    }
}

#[test]
fn what_a_tampering_breaks_is_expected_and_nothing_else() {
    let tamperings = tamperings();
    for (number, tampering) in tamperings.iter().enumerate() {
        let act = |deed| Act { thread: 0, deed };
        let kernel = Kernel {
            acts: vec![act(Deed::Create(0)), act(Deed::Tamper(number)), act(Deed::Create(1))],
            leaves: false,
        };
        let story = Story {
            seed: 0,
            kernels: vec![kernel, Kernel::default()],
        };
        let told = story.tell(&tamperings);
        told.scenario.check().unwrap();
        let found: BTreeSet<_> = told.scenario.expect.findings.iter().collect();
        assert_eq!(
            found,
            tampering.scenario.expect.findings.iter().collect(),
            "{}",
            tampering.name
        );
        assert_eq!(told.tampering.as_ref(), Some(&tampering.name));
        assert!(told.scenario.all_steps().any(|step| matches!(step, Step::Fault(_))));
    }
}

/// The errors that these deeds must have, one after the other; `-` where there is no step.
fn answers(rules: &mut Rules, deeds: &[Deed]) -> Vec<String> {
    let answer = |steps: Vec<Step>| match steps.iter().find(|step| !matches!(step, Step::Fault(_))) {
        None => "-".to_owned(),
        Some(step) => {
            let shown = serde_json::to_value(step).unwrap();
            let keys = shown.as_object().unwrap().values().next().unwrap();
            keys["fails"].as_str().unwrap_or("ok").to_owned()
        }
    };
    deeds.iter().map(|deed| answer(rules.apply(deed))).collect()
}

const PAGE: Made = Made::Memfd {
    size: 4096,
    sealed: false,
    holes: false,
};
const VFIO: Made = Made::Device { node: 0, size: 8 };
const IOMMUFD: Made = Made::Device { node: 1, size: 8 };

fn preserve(session: Name, token: u8, file: u32, made: Made) -> Deed {
    Deed::Preserve {
        session,
        token,
        file,
        made,
    }
}

fn during(handler: Handler, deed: Deed) -> Deed {
    Deed::While {
        handler,
        deed: Box::new(deed),
    }
}

#[test]
fn a_preserve_is_refused_for_its_token_before_its_file() {
    let again = |session, token| Deed::PreserveAgain {
        session,
        token,
        file: 1,
    };
    let mut rules = Rules::default();
    let deeds = [
        preserve(0, 0, 1, PAGE),
        Deed::Create(0),
        Deed::Create(0),
        preserve(0, 0, 1, PAGE),
        again(0, 0),
        again(0, 1),
        Deed::Create(1),
        again(1, 0),
        Deed::Close(0),
        again(1, 0),
        Deed::Finish(1),
        Deed::Retrieve { session: 1, token: 0 },
    ];
    let wanted = [
        "-", "ok", "EEXIST", "ok", "EEXIST", "EBUSY", "ok", "EBUSY", "ok", "ok", "EINVAL", "EINVAL",
    ];
    assert_eq!(answers(&mut rules, &deeds), wanted);
}

#[test]
fn global_state_is_made_for_its_first_file_only() {
    let fails = |passes, file, made| {
        during(
            Handler::CannotMakeFlb(passes, "EIO"),
            preserve(0, file as u8, file, made),
        )
    };
    let mut rules = Rules::default();
    let deeds = [
        Deed::Create(0),
        fails(0, 1, IOMMUFD),
        fails(1, 2, VFIO),
        fails(1, 3, IOMMUFD),
        // Of the two that it needs one is there already.
        fails(1, 4, VFIO),
        fails(0, 5, IOMMUFD),
    ];
    assert_eq!(answers(&mut rules, &deeds), ["ok", "EIO", "EIO", "ok", "ok", "ok"]);
}

#[test]
fn what_was_preserved_arrives_and_a_retrieve_that_failed_has_failed_for_good() {
    let retrieve = |token| Deed::Retrieve { session: 0, token };
    let mut rules = Rules::default();
    answers(
        &mut rules,
        &[Deed::Create(0), preserve(0, 0, 1, VFIO), preserve(0, 1, 2, PAGE)],
    );
    rules.kexec(false);
    let deeds = [
        Deed::RetrieveSession(1),
        retrieve(0),
        Deed::RetrieveSession(0),
        Deed::RetrieveSession(0),
        during(Handler::CannotRetrieve("EACCES"), retrieve(0)),
        retrieve(0),
        during(Handler::CannotRetrieve("EACCES"), retrieve(1)),
        retrieve(2),
        preserve(0, 5, 9, PAGE),
        during(Handler::RefusesToFinish, Deed::Finish(0)),
        Deed::Finish(0),
        Deed::RetrieveSession(0),
    ];
    let wanted = [
        "ENOENT", "-", "ok", "EINVAL", "EACCES", "EACCES", "ok", "ENOENT", "EINVAL", "EBUSY", "ok", "ENOENT",
    ];
    assert_eq!(answers(&mut rules, &deeds), wanted);
    assert!(rules.findings.is_empty());
}

#[test]
fn what_is_left_behind_is_a_finding_and_else_is_finished_before_the_kexec() {
    let arrived = || {
        let mut rules = Rules::default();
        answers(&mut rules, &[Deed::Create(0), preserve(0, 0, 1, PAGE)]);
        rules.kexec(false);
        rules
    };
    let mut rules = arrived();
    assert_eq!(rules.kexec(true).len(), 0);
    let wanted = ["incoming-finished-first", "kexec-files-accounted"].map(str::to_owned);
    assert_eq!(rules.findings, wanted.into());
    let mut rules = arrived();
    assert_eq!(rules.kexec(false).len(), 2, "it is retrieved and finished");
    assert!(rules.findings.is_empty());
}

#[test]
fn a_reboot_fails_where_a_file_can_make_it_fail() {
    let freeze = |passes| Deed::FreezeFails { passes, errno: "EIO" };
    let fails = |steps: Vec<Step>| steps.iter().any(|step| matches!(step, Step::Reboot(_)));
    let mut rules = Rules::default();
    answers(&mut rules, &[Deed::Create(0), preserve(0, 0, 1, PAGE)]);
    assert!(!fails(rules.apply(&freeze(0))), "a memfd freezes, and it would jump");
    answers(&mut rules, &[preserve(0, 1, 2, VFIO)]);
    assert!(fails(rules.apply(&Deed::RebootToNothing)));
    assert!(fails(rules.apply(&freeze(0))) && !fails(rules.apply(&freeze(1))));
    assert!(!fails(rules.apply(&Deed::RebootToNothing)), "there is an image now");
}

#[test]
fn tokens_can_be_named_in_a_scenario() {
    assert!(TOKENS.iter().all(|token| i64::try_from(*token).is_ok()));
}
