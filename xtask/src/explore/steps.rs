//! Steps of a scenario, as the rules need them.

use testbed_guest::scenario::{ErrnoName, Fault, Kexec, Load, Reboot, Retrieve, Step};

use super::deed::{Name, TOKENS, Token, name};

/// A retrieve that must fail.
pub(super) fn retrieve_fails(session: Name, token: Token, why: &str) -> Step {
    Step::Retrieve(Retrieve {
        session: name(session),
        token: TOKENS[usize::from(token)],
        memfd: None,
        fails: Some(errno(why)),
    })
}

/// Loads the next kernel, or what is none.
pub(super) fn load(how: Kexec, image: Option<&str>, fails: Option<&str>) -> Step {
    Step::Load(Load {
        how,
        image: image.map(str::to_owned),
        crash: false,
        cmdline: Vec::new(),
        fails: fails.map(errno),
    })
}

/// Asks for the jump, which must fail.
pub(super) fn reboot(fails: &str) -> Step {
    Step::Reboot(Reboot {
        fails: errno(fails),
        by: Default::default(),
    })
}

/// Sets a switch of the testbed's.
pub(super) fn fault(name: &str, value: u32) -> Step {
    let name = name.into();
    Step::Fault(Fault { name, value })
}

/// An error's number, which a switch takes.
pub(super) fn number(name: &str) -> u32 {
    errno(name).errno().raw_os_error().unsigned_abs()
}

/// An error that the scenario language knows, as a test sees of each.
pub(super) fn errno(name: &str) -> ErrnoName {
    ErrnoName::try_from(name.to_owned()).unwrap_or_else(|why| unreachable!("{why}"))
}
