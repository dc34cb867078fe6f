use super::{Kernel, kernel, read, unified};
use crate::image::{Evidence, Forecast, Formats, InUse, Judgement, Machine, Platform, Preserved, judge};

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
    judge(
        &read(&kernel.bzimage()).unwrap(),
        preserved,
        running,
        &Platform::default(),
        line,
    )
}

/// The worst reason.
fn why(judgement: &Judgement) -> (Forecast, &str, Evidence) {
    let reason = &judgement.reasons[0];
    assert_eq!(reason.outcome, judgement.outcome);
    (reason.outcome, &reason.text, reason.source)
}

#[test]
fn the_same_kernel_will_carry() {
    let judgement = judged(&kernel(), &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(judgement.outcome, Forecast::Carries, "{judgement:?}");
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
        (
            Forecast::Loses,
            "KHO is not built in: everything is lost",
            Evidence::Types
        )
    );
    let only_kho = Kernel {
        functions: Some(vec!["kho_preserve_folio"]),
        ..kernel()
    };
    let judgement = judged(&only_kho, &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(
        why(&judgement),
        (
            Forecast::Loses,
            "LUO is not built in: everything is lost",
            Evidence::Types
        )
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
        .filter(|reason| reason.outcome == Forecast::Loses)
        .collect();
    assert_eq!(judgement.outcome, Forecast::Loses);
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
    assert_eq!(judgement.outcome, Forecast::Unknown);
    assert!(why(&judgement).1.contains("a module may bring it"), "{judgement:?}");
}

#[test]
fn another_format_of_luo_panics_and_another_of_kho_is_ignored() {
    let by = |luo, kho, line: &[u8]| judged(&kernel(), &host(), &formats(luo, kho), Some(line));
    let panics = by("luo-v6", "kho-v4", LINE);
    assert_eq!(panics.outcome, Forecast::Panics);
    assert!(
        why(&panics).1.contains("writes luo-v6 and the image's reads luo-v5"),
        "{panics:?}"
    );
    // Where KHO's differs, or KHO is off, LUO sees nothing that it could panic over.
    for judgement in [by("luo-v6", "kho-v5", LINE), by("luo-v5", "kho-v5", LINE)] {
        assert_eq!(
            (judgement.outcome, judgement.kernel),
            (Forecast::Loses, Forecast::Loses)
        );
    }
    let off = by("luo-v6", "kho-v4", b"kho=off liveupdate=on");
    assert_eq!((off.outcome, off.kernel), (Forecast::Loses, Forecast::Panics));
}

#[test]
fn a_host_that_runs_luo_panics_the_next_kernel_even_with_nothing_preserved() {
    let judgement = judged(
        &kernel(),
        &Preserved::default(),
        &formats("luo-v6", "kho-v4"),
        Some(LINE),
    );
    assert_eq!(judgement.outcome, Forecast::Panics);
}

#[test]
fn where_nothing_is_preserved_nothing_is_lost() {
    for (kernel, line) in [
        (Kernel::plain(), Some(LINE)),
        (kernel(), Some(&b"quiet"[..])),
        (kernel(), None),
    ] {
        let judgement = judged(&kernel, &Preserved::default(), &Formats::default(), line);
        assert_eq!(judgement.outcome, Forecast::Carries);
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
        assert_eq!(judgement.outcome, Forecast::Unknown);
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
    assert_eq!(default(b"liveupdate=on"), Forecast::Carries);
    assert_eq!(default(b"liveupdate=on kho=off"), Forecast::Loses);
    assert_eq!(default(b"quiet"), Forecast::Loses);
    assert_eq!(built_in(b"quiet"), Forecast::Carries);
    assert_eq!(built_in(b"liveupdate=off"), Forecast::Loses);
}

const LUO: &str = "CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n";

/// What becomes of a line that is given to a kernel of this configuration, and why.
fn given(line: Option<&[u8]>, config: &str) -> (Forecast, String, Evidence) {
    let kernel = Kernel {
        config: Some(format!("{LUO}{config}").leak()),
        ..kernel()
    };
    let judgement = judged(&kernel, &host(), &formats("luo-v5", "kho-v4"), line);
    let (outcome, text, source) = why(&judgement);
    (outcome, text.to_owned(), source)
}

#[test]
fn a_kernel_that_throws_the_given_line_away_is_judged_by_its_own() {
    // Given builds that have a line of their own in the place of the given one, as x86 and as others have it,
    for (option, how) in [
        ("CONFIG_CMDLINE_OVERRIDE", "CONFIG_CMDLINE_BOOL=y\n"),
        ("CONFIG_CMDLINE_FORCE", ""),
    ] {
        let build = |own: &str| format!("{how}CONFIG_CMDLINE=\"{own}\"\n{option}=y\n");
        // then without LUO on it everything is lost, whatever is given,
        for line in [Some(LINE), None] {
            let (outcome, text, source) = given(line, &build("quiet console=ttyS0"));
            assert_eq!((outcome, source), (Forecast::Loses, Evidence::Configuration));
            assert!(text.contains("ignores the line it is given"), "{text}");
            assert!(text.contains(option), "{text}");
        }
        // and with LUO on it nothing is, whatever is given.
        for line in [Some(&b"quiet"[..]), None] {
            let (outcome, text, _) = given(line, &build("kho=on liveupdate=on name=\\\"a b\\\""));
            assert_eq!(outcome, Forecast::Carries, "{text}");
        }
    }
}

#[test]
fn a_built_in_line_goes_where_the_architecture_puts_it() {
    let off = "CONFIG_CMDLINE=\"liveupdate=off\"\n";
    // Of a parameter that is there twice the last one counts: x86 puts its own line first,
    let before = format!("CONFIG_CMDLINE_BOOL=y\n{off}");
    assert_eq!(given(Some(LINE), &before).0, Forecast::Carries);
    // what extends a line comes last,
    let after = format!("CONFIG_ARM64=y\nCONFIG_ARM64_4K_PAGES=y\n{off}CONFIG_CMDLINE_EXTEND=y\n");
    assert_eq!(given(Some(LINE), &after).0, Forecast::Loses);
    // and where it is for want of another, it is not there with another.
    let want = "CONFIG_CMDLINE=\"kho=on liveupdate=on\"\nCONFIG_CMDLINE_FROM_BOOTLOADER=y\n";
    assert_eq!(given(Some(b"quiet"), want).0, Forecast::Loses);
    assert_eq!(given(Some(b""), want).0, Forecast::Carries);
    assert_eq!(given(None, want).0, Forecast::Unknown);
    // What x86 does not switch on is not there.
    assert_eq!(
        given(Some(LINE), "# CONFIG_CMDLINE_BOOL is not set\n").0,
        Forecast::Carries
    );
}

#[test]
fn what_does_not_fit_behind_a_built_in_line_is_cut() {
    let long = format!("CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE=\"{}\"\n", "x".repeat(2030));
    assert_eq!(given(Some(LINE), &long).0, Forecast::Loses);
}

#[test]
fn an_embedded_bootconfig_leaves_open_what_the_line_does_not_set() {
    let rendered = "CONFIG_BOOT_CONFIG=y\nCONFIG_BOOT_CONFIG_EMBED=y\nCONFIG_CMDLINE_FROM_BOOTCONFIG=y\n";
    let always = format!("{rendered}CONFIG_BOOT_CONFIG_FORCE=y\nCONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT=y\n");
    let (outcome, text, _) = given(Some(b"quiet"), &always);
    assert_eq!(outcome, Forecast::Unknown);
    assert!(text.contains("CONFIG_CMDLINE_FROM_BOOTCONFIG"), "{text}");
    assert_eq!(given(Some(b"liveupdate=on"), &always).0, Forecast::Unknown);
    assert_eq!(given(Some(LINE), &always).0, Forecast::Carries);
    assert_eq!(given(Some(b"liveupdate=off"), &always).0, Forecast::Loses);
    // Unless the build forces it, the line has to ask for it,
    assert_eq!(given(Some(b"kho=on"), rendered).0, Forecast::Loses);
    assert_eq!(given(Some(b"kho=on -- bootconfig"), rendered).0, Forecast::Loses);
    assert_eq!(given(Some(b"kho=on bootconfig"), rendered).0, Forecast::Unknown);
    // and one that is read at boot alone comes too late for LUO.
    let at_boot = "CONFIG_BOOT_CONFIG=y\nCONFIG_BOOT_CONFIG_EMBED=y\nCONFIG_BOOT_CONFIG_FORCE=y\n";
    assert_eq!(given(Some(b"kho=on"), at_boot).0, Forecast::Loses);
}

#[test]
fn without_a_configuration_it_is_said_that_the_kernels_own_line_is_not_known() {
    let judgement = judged(&kernel(), &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    let says = |reason: &crate::image::Reason| reason.text.contains("one of its own built in");
    assert!(judgement.reasons.iter().any(says), "{judgement:?}");
}

#[test]
fn another_machines_kernel_and_one_with_other_pages_lose() {
    // Given kernels for arm64, whose header has the size of a page, or whose configuration alone has it,
    let on = |image: &[u8], machine, page_size| {
        let here = Platform { machine, page_size };
        let contents = read(image).unwrap();
        let judgement = judge(&contents, &host(), &formats("luo-v5", "kho-v4"), &here, Some(LINE));
        let reason = judgement.reasons[0].text.clone();
        (judgement.outcome, reason)
    };
    let (x86, arm) = (Some(Machine::X86_64), Some(Machine::Arm64));
    let sized = |flags| kernel().arm64_with(flags);
    for (flags, kib) in [(2, 4), (4, 16), (6, 64)] {
        // then it runs where pages have the same size,
        assert_eq!(on(&sized(flags), arm, Some(kib << 10)).0, Forecast::Carries, "{kib}");
        let (outcome, text) = on(&sized(flags), arm, Some(8 << 10));
        assert_eq!(outcome, Forecast::Loses);
        assert!(
            text.contains(&format!("its pages have {kib} KiB, and this host's 8 KiB")),
            "{text}"
        );
        // never on x86,
        let (outcome, text) = on(&sized(flags), x86, Some(4096));
        assert_eq!(outcome, Forecast::Loses);
        assert!(text.contains("another machine's kernel"), "{text}");
    }
    // and x86's not on arm64, whatever its pages.
    let (outcome, text) = on(&kernel().elf_of(62), arm, Some(4096));
    assert_eq!(outcome, Forecast::Loses);
    assert!(text.contains("it is for x86-64, and this host is arm64"), "{text}");
    assert_eq!(on(&kernel().elf_of(62), x86, Some(4096)).0, Forecast::Carries);
    // Where the header leaves it out the configuration has it; where neither does, it cannot be told.
    let configured = Kernel {
        config: Some("CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\nCONFIG_ARM64=y\nCONFIG_PAGE_SHIFT=16\n"),
        ..kernel()
    };
    assert_eq!(on(&configured.arm64_with(0), arm, Some(4096)).0, Forecast::Loses);
    assert_eq!(on(&configured.elf_of(183), arm, Some(64 << 10)).0, Forecast::Carries);
    assert_eq!(on(&sized(0), arm, Some(4096)).0, Forecast::Unknown);
    assert_eq!(on(&sized(2), arm, None).0, Forecast::Unknown);
}

/// What becomes of what is preserved by a unified image with these sections.
fn by_unified(sections: &[(&str, &[u8])], line: Option<&[u8]>) -> (Forecast, String) {
    let contents = read(&unified(sections)).unwrap();
    let judgement = judge(
        &contents,
        &host(),
        &formats("luo-v5", "kho-v4"),
        &Platform::default(),
        line,
    );
    (judgement.outcome, judgement.reasons[0].text.clone())
}

#[test]
fn a_unified_image_is_judged_by_the_kernel_and_the_line_inside() {
    let image = kernel().bzimage();
    let linux = (".linux", &image[..]);
    let on = (".cmdline", &b"quiet kho=on\nliveupdate=on\n\0"[..]);
    let off = (".cmdline", &b"quiet"[..]);
    // Given an image with a line, then that one counts where none is said,
    assert_eq!(
        by_unified(&[on, linux, (".initrd", b"cpio")], None).0,
        Forecast::Carries
    );
    assert_eq!(by_unified(&[off, linux], None).0, Forecast::Loses);
    // of two the first,
    assert_eq!(by_unified(&[on, linux, off], None).0, Forecast::Carries);
    // without one it is not known,
    assert_eq!(by_unified(&[linux], None).0, Forecast::Unknown);
    assert_eq!(by_unified(&[linux], Some(LINE)).0, Forecast::Carries);
    // and one that is said and decides otherwise leaves it open which of them counts.
    assert_eq!(by_unified(&[on, linux], Some(LINE)).0, Forecast::Carries);
    let (outcome, text) = by_unified(&[on, linux], Some(b"quiet"));
    assert_eq!(outcome, Forecast::Unknown);
    assert!(text.contains("loader's choice"), "{text}");
    // A kernel that loses does so in there, too.
    let plain = Kernel::plain().bzimage();
    assert_eq!(by_unified(&[on, (".linux", &plain)], None).0, Forecast::Loses);
}

#[test]
fn of_a_unified_images_profiles_the_first_counts_where_they_agree() {
    let image = kernel().bzimage();
    let linux = (".linux", &image[..]);
    let on = (".cmdline", LINE);
    let off = (".cmdline", &b"quiet"[..]);
    let profile = (".profile", &b"ID=x\n"[..]);
    // Given a line that all share, a profile without one of its own, and one whose line says the same,
    assert_eq!(
        by_unified(&[linux, on, profile, profile, on], None).0,
        Forecast::Carries
    );
    // or profiles that differ, then it is not known which is taken;
    let (outcome, text) = by_unified(&[linux, on, profile, profile, off], None);
    assert_eq!(outcome, Forecast::Unknown);
    assert!(text.contains("profiles whose lines differ"), "{text}");
    // a profile's own line goes before the shared one,
    assert_eq!(by_unified(&[linux, off, profile, on], None).0, Forecast::Carries);
    // and a kernel in another profile was not looked into.
    let (outcome, text) = by_unified(&[linux, on, profile, profile, linux], None);
    assert_eq!(outcome, Forecast::Unknown);
    assert!(text.contains("other kernels"), "{text}");
}

#[test]
fn what_will_be_refused_is_refused_whatever_it_would_do_and_what_may_be_is_not_known() {
    let carries = || judged(&kernel(), &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    let refused = carries().objected(true, "no".into());
    assert_eq!(why(&refused), (Forecast::Refused, "no", Evidence::Host));
    let doubtful = carries().objected(false, "perhaps".into());
    assert_eq!(why(&doubtful), (Forecast::Unknown, "perhaps", Evidence::Host));
    let loses = judged(&Kernel::plain(), &host(), &formats("luo-v5", "kho-v4"), Some(LINE));
    assert_eq!(loses.clone().objected(false, "perhaps".into()).outcome, Forecast::Loses);
    assert_eq!(loses.objected(true, "no".into()).outcome, Forecast::Refused);
}
