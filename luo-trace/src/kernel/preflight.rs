//! Can this host be traced, and if not, why not and what to do about it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::host::{self, proc};
use crate::image::btf::Btf;
use crate::image::command_line::Switches;

/// Where the running kernel's type information lies.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// The orchestrator's device. It is looked at, never opened: its one opener is the orchestrator.
const DEVICE: &str = "/dev/liveupdate";

/// What keeps luo-trace from working on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// The binary carries no programs.
    NoPrograms,
    /// The process may not load programs.
    NoPrivilege,
    /// The kernel keeps its memory confidential.
    LockedDown,
    /// The kernel has no `bpf(2)`.
    NoBpf,
    /// The kernel carries no type information.
    NoBtf,
    /// The kernel's type information cannot be read.
    UnknownBtf,
    /// The kernel was built without LUO.
    NoLuo,
    /// LUO is built in and switched off.
    LuoOff,
    /// LUO was asked for, and the kernel has switched it off.
    KhoFailed,
}

impl Obstacle {
    /// Whether it is told by what comes before it: types tell of LUO, and LUO of its switch.
    fn is_chained(self) -> bool {
        matches!(
            self,
            Self::NoBtf | Self::UnknownBtf | Self::NoLuo | Self::KhoFailed | Self::LuoOff
        )
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPrograms => {
                "this debug build carries no eBPF programs, since the BPF toolchain was missing: run `cargo xtask setup` and build again"
            }
            Self::NoPrivilege => {
                "this process may not load eBPF programs: run it as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN"
            }
            Self::LockedDown => {
                "this kernel is locked down (confidentiality), and lets no eBPF program read its memory: boot it without lockdown=confidentiality"
            }
            Self::NoBpf => "this kernel has no bpf(2) system call: it needs CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y",
            Self::NoBtf => "this kernel carries no type information in /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF=y, and /sys mounted",
            Self::UnknownBtf => {
                "this kernel's type information in /sys/kernel/btf/vmlinux cannot be read, so that nothing is known of the kernel: a newer luo-trace may read it"
            }
            Self::NoLuo => "this kernel has no Live Update Orchestrator: it needs Linux 6.19 or later with CONFIG_LIVEUPDATE=y",
            Self::LuoOff => {
                "the Live Update Orchestrator is switched off, /dev/liveupdate does not exist: boot with `kho=on liveupdate=on`"
            }
            Self::KhoFailed => {
                "the command line asks for KHO and LUO, and /dev/liveupdate does not exist: the kernel has switched KHO off, as it does where it cannot reserve scratch memory (`dmesg | grep -i kho` says so; give it less with kho_scratch=), or this /dev is not the host's"
            }
        })
    }
}

/// Something that tracing needs of a host.
struct Need {
    /// What is in the way without it.
    obstacle: Obstacle,
    /// What it is, in words.
    what: &'static str,
    is_there: fn(Option<&Btf<'_>>) -> bool,
}

const fn need(obstacle: Obstacle, what: &'static str, is_there: fn(Option<&Btf<'_>>) -> bool) -> Need {
    Need {
        obstacle,
        what,
        is_there,
    }
}

/// All of it, in the order in which an operator would see to it.
const NEEDS: &[Need] = &[
    need(Obstacle::NoPrograms, "this binary carries the eBPF programs", |_| {
        !super::OBJECT.is_empty()
    }),
    need(Obstacle::NoPrivilege, "this process may load eBPF programs", |_| {
        privileged()
    }),
    need(
        Obstacle::LockedDown,
        "the kernel lets eBPF programs read its memory",
        |_| !is_confidential(host::loading::lockdown().as_deref()),
    ),
    need(Obstacle::NoBpf, "the kernel has bpf(2)", |_| has_bpf()),
    need(Obstacle::NoBtf, "the kernel carries type information", |_| {
        Path::new(VMLINUX_BTF).exists()
    }),
    need(
        Obstacle::UnknownBtf,
        "the kernel's type information can be read",
        |btf| btf.is_some(),
    ),
    need(Obstacle::NoLuo, "the Live Update Orchestrator is built in", |btf| {
        btf.is_some_and(|btf| btf.has_function("luo_preserve_file"))
    }),
    need(
        Obstacle::KhoFailed,
        "the kernel has not switched off what its command line switches on",
        |_| Path::new(DEVICE).exists() || !asks_for_luo(&fs::read("/proc/cmdline").unwrap_or_default()),
    ),
    need(Obstacle::LuoOff, "the Live Update Orchestrator is switched on", |_| {
        Path::new(DEVICE).exists()
    }),
];

/// Whether one thing that tracing needs is there.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What, in words.
    pub what: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// What is in the way where it is not.
    #[serde(skip)]
    pub obstacle: Obstacle,
}

/// Everything that tracing needs of a host, and whether it is there.
pub fn checks() -> Vec<Check> {
    let types = Types::read();
    let btf = types.btf().ok();
    let check = |need: &Need| Check {
        what: need.what,
        ok: (need.is_there)(btf.as_ref()),
        obstacle: need.obstacle,
    };
    NEEDS.iter().map(check).collect()
}

/// The first obstacle there is; `None` where tracing can work.
pub fn obstacle() -> Option<Obstacle> {
    obstacle_to(Types::read().btf().ok().as_ref())
}

/// The same for the running kernel with this type information.
pub fn obstacle_to(btf: Option<&Btf<'_>>) -> Option<Obstacle> {
    let missing = NEEDS.iter().find(|need| !(need.is_there)(btf));
    missing.map(|need| need.obstacle)
}

/// All obstacles that these checks met, in the order in which an operator would see to them. Of those that hang on each other, from the
/// kernel's type information to LUO's switch, it is the first: what comes after it cannot be told.
pub fn obstacles(checks: &[Check]) -> Vec<Obstacle> {
    let mut chained = false;
    let missing = checks.iter().filter(|check| !check.ok).map(|check| check.obstacle);
    missing
        .filter(|obstacle| !(obstacle.is_chained() && std::mem::replace(&mut chained, true)))
        .collect()
}

/// The running kernel's type information, as it lies there: reading it costs the kernel a copy of some megabytes.
pub struct Types(io::Result<Vec<u8>>);

impl Types {
    /// Reads it.
    pub fn read() -> Self {
        Self(fs::read(VMLINUX_BTF))
    }

    /// What is in it.
    ///
    /// # Errors
    /// Where it could not be read, or is not understood.
    pub fn btf(&self) -> Result<Btf<'_>> {
        match &self.0 {
            Ok(bytes) => Btf::parse(bytes),
            Err(error) => bail!("cannot read {VMLINUX_BTF}: {error}"),
        }
    }
}

/// Whether a kernel with this command line switches LUO on. Mirrors `kho_reserve_scratch` in
/// `kernel/liveupdate/kexec_handover.c` and `luo_early_startup` in `kernel/liveupdate/luo_core.c` (7.3): without scratch memory KHO
/// goes off, and LUO with it.
fn asks_for_luo(line: &[u8]) -> bool {
    let switches = Switches::read(line);
    switches.kho == Some(true) && switches.liveupdate == Some(true)
}

/// Mirrors `LOCKDOWN_BPF_READ_KERNEL` in `kernel/bpf/helpers.c` (7.3), which comes with the stricter of the two modes.
fn is_confidential(lockdown: Option<&str>) -> bool {
    lockdown == Some("confidentiality")
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Whether the effective capabilities are those that loading and attaching need.
fn privileged() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Without /proc nothing can be told: the attempt will.
    proc::effective_capabilities(&status).is_none_or(|caps| {
        let has = |cap: u32| caps >> cap & 1 != 0;
        has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))
    })
}

/// Whether `bpf(2)` exists: a call that asks for nothing fails, but not with ENOSYS.
fn has_bpf() -> bool {
    // SAFETY: command 0 with a null attribute of size 0; the kernel rejects it without touching memory.
    let result = unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) };
    result >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_switches_both_on_and_a_kernel_without_them_is_no_line_without_them() {
        assert!(asks_for_luo(b"quiet kho=on liveupdate=on"));
        // What is not asked for was not switched off.
        for line in ["", "kho=on", "kho=on liveupdate=off", "kho=off liveupdate=on"] {
            assert!(!asks_for_luo(line.as_bytes()), "{line}");
        }
        let said = Obstacle::KhoFailed.to_string();
        assert!(said.contains("scratch memory") && said.contains("dmesg"), "{said}");
    }

    #[test]
    fn of_what_hangs_on_each_other_the_first_is_in_the_way() {
        // Given a kernel without type information, which then tells nothing of LUO, and a process without the privilege,
        let missing = [
            Obstacle::NoPrivilege,
            Obstacle::NoBtf,
            Obstacle::UnknownBtf,
            Obstacle::NoLuo,
            Obstacle::LuoOff,
        ];
        let checks = NEEDS.iter().map(|need| Check {
            what: need.what,
            ok: !missing.contains(&need.obstacle),
            obstacle: need.obstacle,
        });
        let checks: Vec<_> = checks.collect();
        assert_eq!(obstacles(&checks), [Obstacle::NoPrivilege, Obstacle::NoBtf]);
    }

    #[test]
    fn only_the_stricter_lockdown_keeps_programs_from_reading() {
        assert!(is_confidential(Some("confidentiality")));
        assert!(!is_confidential(Some("integrity")));
        assert!(!is_confidential(Some("none")));
        assert!(!is_confidential(None));
    }
}
