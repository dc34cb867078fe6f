//! Can this host be traced, and if not, why not and what to do about it.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::btf::Btf;

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
    /// The kernel has no `bpf(2)`.
    NoBpf,
    /// The kernel carries no type information.
    NoBtf,
    /// The kernel was built without LUO.
    NoLuo,
    /// LUO is built in and switched off.
    LuoOff,
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
            Self::NoBpf => "this kernel has no bpf(2) system call: it needs CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y",
            Self::NoBtf => "this kernel carries no type information in /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF=y, and /sys mounted",
            Self::NoLuo => "this kernel has no Live Update Orchestrator: it needs Linux 6.19 or later with CONFIG_LIVEUPDATE=y",
            Self::LuoOff => {
                "the Live Update Orchestrator is switched off, /dev/liveupdate does not exist: boot with `kho=on liveupdate=on`"
            }
        })
    }
}

/// The first obstacle there is, in the order an operator would remove them; `None` where tracing can work.
pub fn obstacle() -> Option<Obstacle> {
    if super::OBJECT.is_empty() {
        return Some(Obstacle::NoPrograms);
    }
    if !privileged() {
        return Some(Obstacle::NoPrivilege);
    }
    if !has_bpf() {
        return Some(Obstacle::NoBpf);
    }
    let Ok(bytes) = fs::read(VMLINUX_BTF) else {
        return Some(Obstacle::NoBtf);
    };
    let Ok(btf) = Btf::parse(&bytes) else {
        return Some(Obstacle::NoBtf);
    };
    if !btf.has_function("luo_preserve_file") {
        return Some(Obstacle::NoLuo);
    }
    if !Path::new(DEVICE).exists() {
        return Some(Obstacle::LuoOff);
    }
    None
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Whether the effective capabilities are those that loading and attaching need.
fn privileged() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok());
    // Without /proc nothing can be told: the attempt will.
    effective.is_none_or(|caps| {
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
