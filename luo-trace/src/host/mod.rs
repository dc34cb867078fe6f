//! What the host says of itself, for a journal's header: the boot, the kernel, the clocks.

pub mod files;
mod identity;
pub mod loading;
pub mod lock;
pub mod namespace;
pub mod owners;
pub mod privileges;
pub mod proc;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

use crate::journal::{Clock, Header, Kexec};
use crate::status::Facts;

/// The header of a journal that begins now, of the machine to which an operator may have given an id; the hooks are the agent's to fill in.
///
/// # Errors
/// Where `/proc` does not tell the boot id, without which a record cannot be told from another boot's.
pub fn header(host_id: Option<&str>) -> Result<Header> {
    Ok(Header {
        boot_id: boot_id()?,
        kernel_release: release(),
        kernel_version: sysctl("version").unwrap_or_default(),
        machine: std::env::consts::ARCH.into(),
        host: identity::host(host_id),
        kexec: kexec_metadata(),
        userspace_ns: userspace(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        abi_version: luo_trace_common::events::ABI_VERSION,
        ..Header::default()
    })
}

/// How large a page of the running kernel is, in bytes.
pub fn page_size() -> u64 {
    // SAFETY: a call without preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    size.unsigned_abs()
}

/// Has this thread run only where nothing else wants to.
pub fn give_way() {
    // Where that is refused, it competes like any other.
    _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
}

/// Which boot this is.
///
/// # Errors
/// Where `/proc` does not tell.
pub fn boot_id() -> Result<String> {
    read("/proc/sys/kernel/random/boot_id").context("/proc/sys/kernel/random/boot_id cannot be read: is /proc mounted?")
}

/// What a status says of the host now, with this kernel release and boot.
pub fn facts(kernel: String, boot_id: String) -> Facts {
    Facts {
        host: name(),
        kernel,
        boot_id,
        now_ns: monotonic_ns(),
        owners: owners::owners(),
    }
}

/// The running kernel's release, as `uname -r` has it; empty where `/proc` does not tell.
pub fn release() -> String {
    sysctl("osrelease").unwrap_or_default()
}

/// This machine's name; empty where `/proc` does not tell.
pub fn name() -> String {
    read("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// One of the kernel's own settings.
fn sysctl(name: &str) -> Option<String> {
    read(&format!("/proc/sys/kernel/{name}"))
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// KHO's own note of where this kernel came from, as far as debugfs shows it.
fn kexec_metadata() -> Option<Kexec> {
    const PATH: &str = "/sys/kernel/debug/kho/in/sub_fdts/kexec-metadata";
    parse_kexec_metadata(&fs::read(PATH).ok()?)
}

/// Mirrors `struct kho_kexec_metadata` in `include/linux/kho/abi/kexec_metadata.h` (7.3), version 1: a version, the
/// previous kernel's release in 65 bytes, and the number of kexecs since the last cold boot.
fn parse_kexec_metadata(bytes: &[u8]) -> Option<Kexec> {
    let (version, rest) = bytes.split_first_chunk::<4>()?;
    let (release, rest) = rest.split_first_chunk::<65>()?;
    let count = rest.first_chunk::<4>()?;
    (u32::from_le_bytes(*version) == 1).then(|| Kexec {
        previous_release: Some(luo_trace_common::text::Name(*release).to_string()),
        count: Some(u32::from_le_bytes(*count).into()),
    })
}

/// How many records of the kernel's log are searched for the start of init.
const LOG_RECORDS: usize = 100_000;

/// When the kernel ran init, as its log tells; `None` where the log cannot be read, or has forgotten its beginning.
fn userspace() -> Option<u64> {
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .ok()?;
    let mut record = [0; 8192];
    for _ in 0..LOG_RECORDS {
        match log.read(&mut record) {
            Ok(0) => return None,
            Ok(len) => {
                if let Some(time) = parse_init_started(&record[..len]) {
                    return Some(time);
                }
            }
            // EPIPE: the log dropped records before they were read, and reading goes on after them.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(_) => return None,
        }
    }
    None
}

/// Mirrors the record format of `Documentation/ABI/testing/dev-kmsg` (7.3), `LEVEL,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, and
/// what `run_init_process` in `init/main.c` logs.
fn parse_init_started(record: &[u8]) -> Option<u64> {
    let (head, text) = std::str::from_utf8(record).ok()?.split_once(';')?;
    let text = text.lines().next()?;
    let kernel = head.split(',').next()?.parse::<u32>().ok()? < 8;
    (kernel && text.starts_with("Run ") && text.ends_with(" as init process")).then_some(())?;
    head.split(',').nth(2)?.parse::<u64>().ok()?.checked_mul(1000)
}

/// How often the clocks are read for one reading that nothing came in between.
const READINGS: u32 = 5;

/// Reads the clocks, as close together as can be: the counter is read in the middle between two readings of
/// `CLOCK_MONOTONIC`, of several the pair that lay closest.
pub fn clock() -> Clock {
    let pair = || {
        let before = time(libc::CLOCK_MONOTONIC);
        let tsc = counter();
        let apart = time(libc::CLOCK_MONOTONIC).saturating_sub(before);
        (apart, before + apart / 2, tsc)
    };
    let (_, monotonic_ns, tsc) = (1..READINGS).fold(pair(), |best, _| best.min(pair()));
    // The others follow, and are told as they were then.
    let (realtime, boottime) = (time(libc::CLOCK_REALTIME), time(libc::CLOCK_BOOTTIME));
    let late = time(libc::CLOCK_MONOTONIC).saturating_sub(monotonic_ns);
    Clock {
        monotonic_ns,
        tsc,
        realtime_ns: realtime.saturating_sub(late),
        boottime_ns: boottime.saturating_sub(late),
        ..Clock::default()
    }
}

/// A later reading that also tells what is known of the CPU's counter: how fast it runs, from the time between the two, and
/// whether it always does.
pub fn clock_since(earlier: &Clock) -> Clock {
    let now = clock();
    let rate = |from: u64, to: u64| {
        let nanoseconds = now
            .monotonic_ns
            .checked_sub(earlier.monotonic_ns)
            .filter(|&ns| ns > 0)?;
        u64::try_from(u128::from(to.checked_sub(from)?) * 1_000_000 / u128::from(nanoseconds)).ok()
    };
    let measured = earlier.tsc.zip(now.tsc).and_then(|(from, to)| rate(from, to));
    Clock {
        tsc_khz: counter_khz().or(measured),
        counter_invariant: counter_invariant(),
        ..now
    }
}

/// `CLOCK_MONOTONIC` now, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    time(libc::CLOCK_MONOTONIC)
}

fn time(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux that has LUO, and the result goes to a valid timespec.
    unsafe { libc::clock_gettime(clock, &mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The CPU's counter, which goes on over a kexec.
#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: every x86-64 CPU has the instruction, and Linux does not forbid it unless asked per process.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

/// How fast the CPU itself says that it counts.
#[cfg(target_arch = "x86_64")]
fn counter_khz() -> Option<u64> {
    // Few CPUs say; the kernel finds out in better ways.
    None
}

/// Whether the CPU promises that its counter always runs at one rate.
#[cfg(target_arch = "x86_64")]
fn counter_invariant() -> Option<bool> {
    /// The leaf of CPUID that tells of power management, and the bit in its EDX.
    const LEAF: u32 = 0x8000_0007;
    const INVARIANT: u32 = 1 << 8;
    let highest = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    let promised = highest >= LEAF && core::arch::x86_64::__cpuid(LEAF).edx & INVARIANT != 0;
    promised.then_some(true)
}

/// The CPU's counter, which goes on over a kexec.
#[cfg(target_arch = "aarch64")]
fn counter() -> Option<u64> {
    let counter: u64;
    // SAFETY: reads a register that Linux lets userspace read.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) counter, options(nomem, nostack)) };
    Some(counter)
}

/// How fast the CPU itself says that it counts.
#[cfg(target_arch = "aarch64")]
fn counter_khz() -> Option<u64> {
    let hertz: u64;
    // SAFETY: reads a register that Linux lets userspace read.
    unsafe { core::arch::asm!("mrs {}, cntfrq_el0", out(reg) hertz, options(nomem, nostack)) };
    Some(hertz / 1000).filter(|&khz| khz > 0)
}

/// Whether the CPU promises that its counter always runs at one rate, which the architecture does.
#[cfg(target_arch = "aarch64")]
fn counter_invariant() -> Option<bool> {
    Some(true)
}

/// This architecture's counter is not known to go on over a kexec.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter() -> Option<u64> {
    None
}

/// Nothing is known of it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter_khz() -> Option<u64> {
    None
}

/// Nothing is known of it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter_invariant() -> Option<bool> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kexec_metadata_tells_the_kernel_before() {
        let mut bytes = 1u32.to_le_bytes().to_vec();
        let mut release = [0u8; 65];
        release[..10].copy_from_slice(b"7.3.4-luo\0");
        bytes.extend(release);
        bytes.extend(3u32.to_le_bytes());
        let kexec = parse_kexec_metadata(&bytes).expect("parses");
        assert_eq!(kexec.previous_release.as_deref(), Some("7.3.4-luo"));
        assert_eq!(kexec.count, Some(3));
        assert_eq!(parse_kexec_metadata(&bytes[..40]), None);
        assert_eq!(
            parse_kexec_metadata(&[9; 80]),
            None,
            "a version that is not known is not guessed at"
        );
    }

    #[test]
    fn the_log_tells_when_init_was_run() {
        let at = |record: &str| parse_init_started(record.as_bytes());
        assert_eq!(
            at("6,339,5140900,-;Run /init as init process\n SUBSYSTEM=x\n"),
            Some(5_140_900_000)
        );
        assert_eq!(at("6,340,5140999,-;  with arguments:\n"), None);
        // A process may write to the log, too, and is told from the kernel by its facility.
        assert_eq!(at("12,341,6000000,-;Run /init as init process\n"), None);
        assert_eq!(at("Run /init as init process"), None);
    }

    #[test]
    fn a_later_reading_tells_how_fast_the_counter_runs() {
        let now = clock();
        let earlier = Clock {
            monotonic_ns: now.monotonic_ns - 1_000_000_000,
            tsc: now.tsc.map(|tsc| tsc - 2_000_000_000),
            ..now
        };
        let khz = clock_since(&earlier).tsc_khz;
        assert!(khz.is_none_or(|khz| (1_000_000..=3_000_000).contains(&khz)), "{khz:?}");
    }
}
