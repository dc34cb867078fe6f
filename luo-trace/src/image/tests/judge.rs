use super::{Kernel, kernel, read};
use crate::image::{Formats, InUse, Judgement, Outcome, Preserved, Source, judge};

const LINE: &[u8] = b"quiet kho=on liveupdate=on";

fn used(names: &[(&str, u64)]) -> Vec<InUse> {
    let used = |&(name, count): &(&str, u64)| InUse {
        name: name.into(),
        count,
    };
    names.iter().map(used).collect()
}

/// A host with two sessions, whose files the made-up kernel knows.
fn host() -> Preserved {
    Preserved {
        sessions: 2,
        handlers: used(&[("memfd-v2", 3), ("vfio-pci-v1", 1)]),
        flbs: used(&[("pci-v1", 1)]),
        incomplete: None,
    }
}

fn formats(luo: &str, kho: &str) -> Formats {
    Formats {
        luo: Some(luo.into()),
        kho: Some(kho.into()),
    }
}

fn judged(kernel: &Kernel, preserved: &Preserved, running: &Formats, line: Option<&[u8]>) -> Judgement {
    judge(&read(&kernel.bzimage()).unwrap(), preserved, running, line)
}

/// The worst reason.
fn why(judgement: &Judgement) -> (Outcome, &str, Source) {
    let reason = &judgement.reasons[0];
    assert_eq!(reason.outcome, judgement.outcome);
    (reason.outcome, &reason.text, reason.source)
}

#[test]
fn the_same_kernel_will_carry() {
    let judgement = judged(&kernel(), &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(judgement.outcome, Outcome::Carries, "{judgement:?}");
    // Every answer says what it rests on, and every handler and global state has one.
    let texts: Vec<_> = judgement.reasons.iter().map(|reason| reason.text.as_str()).collect();
    for name in ["memfd-v2", "vfio-pci-v1", "pci-v1", "luo-v5", "kho-v4"] {
        assert!(texts.iter().any(|text| text.contains(name)), "{name}: {texts:?}");
    }
}

#[test]
fn a_kernel_without_luo_or_kho_loses_everything() {
    let judgement = judged(&Kernel::plain(), &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(
        why(&judgement),
        (Outcome::Loses, "KHO is not built in: everything is lost", Source::Types)
    );
    let only_kho = Kernel {
        functions: Some(vec!["kho_preserve_folio"]),
        ..kernel()
    };
    let judgement = judged(&only_kho, &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(
        why(&judgement),
        (Outcome::Loses, "LUO is not built in: everything is lost", Source::Types)
    );
}

#[test]
fn a_handler_or_a_global_state_that_is_missing_is_named() {
    // Given a host that uses a handler and a global state that the image does not have,
    let without = Kernel::with_luo(&["memfd-v2"]);
    let judgement = judged(&without, &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    // then each is lost, by name, and what is known is not.
    let lost: Vec<_> = judgement
        .reasons
        .iter()
        .filter(|reason| reason.outcome == Outcome::Loses)
        .collect();
    assert_eq!(judgement.outcome, Outcome::Loses);
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(
        lost[0].text.contains("file handler vfio-pci-v1: its file is lost"),
        "{lost:?}"
    );
    assert!(lost[1].text.contains("global state pci-v1"), "{lost:?}");
}

#[test]
fn where_modules_may_bring_handlers_a_missing_one_is_not_known_to_be_lost() {
    let modular = Kernel::with_luo(&["memfd-v2", "liveupdate_register_file_handler"]);
    let judgement = judged(&modular, &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(judgement.outcome, Outcome::Unknown);
    assert!(why(&judgement).1.contains("a module may bring it"), "{judgement:?}");
}

#[test]
fn another_format_of_luo_panics_and_another_of_kho_is_ignored() {
    let by = |luo, kho, line: &[u8]| judged(&kernel(), &host(), &formats(luo, kho), Some(line));
    let panics = by("luo-v6", "kho-v4", LINE);
    assert_eq!(panics.outcome, Outcome::Panics);
    assert!(
        why(&panics).1.contains("writes luo-v6 and the image's reads luo-v5"),
        "{panics:?}"
    );
    // Where KHO's differs, or KHO is off, LUO sees nothing that it could panic over.
    for judgement in [by("luo-v6", "kho-v5", LINE), by("luo-v5", "kho-v5", LINE)] {
        assert_eq!((judgement.outcome, judgement.kernel), (Outcome::Loses, Outcome::Loses));
    }
    let off = by("luo-v6", "kho-v4", b"kho=off liveupdate=on");
    assert_eq!((off.outcome, off.kernel), (Outcome::Loses, Outcome::Panics));
}

#[test]
fn a_host_that_runs_luo_panics_the_next_kernel_even_with_nothing_preserved() {
    let judgement = judged(
        &kernel(),
        &Preserved::default(),
        &formats("luo-v6", "kho-v4"),
        Some(LINE),
    );
    assert_eq!(judgement.outcome, Outcome::Panics);
}

#[test]
fn where_nothing_is_preserved_nothing_is_lost() {
    for (kernel, line) in [
        (Kernel::plain(), Some(LINE)),
        (kernel(), Some(&b"quiet"[..])),
        (kernel(), None),
    ] {
        let judgement = judged(&kernel, &Preserved::default(), &Formats::default(), line);
        assert_eq!(judgement.outcome, Outcome::Carries);
        assert_eq!(why(&judgement).1, "nothing is preserved, so nothing would be lost");
    }
}

#[test]
fn what_is_not_known_is_never_said_to_be_lost() {
    // Given a host whose formats are not known, one with files of no known handler, and no command line,
    let known = formats("luo-v5", "kho-v4");
    let nameless = Preserved {
        handlers: used(&[("", 1)]),
        ..host()
    };
    let cases = [
        (
            host(),
            Formats::default(),
            Some(LINE),
            "cannot tell whether the format is the same",
        ),
        (
            nameless,
            known.clone(),
            Some(LINE),
            "of some files cannot be looked for",
        ),
        (host(), known.clone(), None, "--cmdline"),
        (host(), known, Some(&b"liveupdate=on"[..]), "has no kho=on"),
    ];
    for (preserved, running, line, expected) in cases {
        let judgement = judged(&kernel(), &preserved, &running, line);
        assert_eq!(judgement.outcome, Outcome::Unknown);
        assert!(why(&judgement).1.contains(expected), "{judgement:?}");
    }
}

#[test]
fn the_command_line_and_what_the_build_has_for_it_decide_together() {
    // Given kernels with KHO on by default and with a part of the command line built in,
    let with = |config| {
        let kernel = Kernel {
            config: Some(config),
            ..kernel()
        };
        move |line: &'static [u8]| judged(&kernel, &host(), &formats("luo-v5", "kho-v4"), Some(line)).command_line
    };
    let default = with("CONFIG_KEXEC_HANDOVER=y\nCONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT=y\nCONFIG_LIVEUPDATE=y\n");
    let built_in = with(
        "CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\nCONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE=\"kho=on liveupdate=on\"\n",
    );
    // then the first needs no kho=on, and the second nothing at all.
    assert_eq!(default(b"liveupdate=on"), Outcome::Carries);
    assert_eq!(default(b"liveupdate=on kho=off"), Outcome::Loses);
    assert_eq!(default(b"quiet"), Outcome::Loses);
    assert_eq!(built_in(b"quiet"), Outcome::Carries);
    assert_eq!(built_in(b"liveupdate=off"), Outcome::Loses);
}
