//! What the kernel says of itself for a journal's header: the program `facts`, which needs no hook.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::Array;
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use luo_trace_common::facts::{Facts, Format, NOT_TOLD};
use zerocopy::FromBytes;

use crate::image::Formats;
use crate::journal::{Header, Kexec};

const PROGRAM: &str = "facts";
const MAP: &str = "FACTS";

/// Has the program note the facts, and reads them.
pub(super) fn read(ebpf: &mut Ebpf) -> Result<Facts> {
    let program: &mut RawTracePoint = ebpf
        .program_mut(PROGRAM)
        .context("the binary lacks the program")?
        .try_into()?;
    program.load().map_err(super::verifier::explain)?;
    program
        .test_run(RawTracePointRunOptions::new())
        .context("the kernel does not run the program")?;
    program.unload()?;
    let map = ebpf.map(MAP).context("the binary lacks the map")?;
    let bytes = Array::<_, [u8; size_of::<Facts>()]>::try_from(map)?.get(&0, 0)?;
    Facts::read_from_bytes(&bytes)
        .ok()
        .context("the map's values have another size")
}

/// Writes into a header what the kernel told. What it did not tell stays as it is.
pub(super) fn fill(facts: &Facts, header: &mut Header) {
    let told = |number: u64| Some(number).filter(|&number| number != NOT_TOLD);
    header.update_number = told(facts.update_number).or(header.update_number);
    header.kho_scratch_bytes = told(facts.scratch_bytes).or(header.kho_scratch_bytes);
    // The first kernel after a cold boot counts none, and has none before it.
    if let Some(count) = told(facts.kexec_count).filter(|&count| count > 0) {
        header.kexec = Some(Kexec {
            previous_release: Some(facts.previous_release.to_string()).filter(|release| !release.is_empty()),
            count: Some(count),
        });
    }
    let Formats { luo, kho } = formats(facts);
    header.luo_format = luo.or(header.luo_format.take());
    header.kho_format = kho.or(header.kho_format.take());
    if facts.counter_khz > 0 {
        header.clock.tsc_khz = Some(facts.counter_khz.into());
    }
    if facts.counter_unstable != 0 {
        header.clock.counter_invariant = Some(false);
    }
    header.late |= facts.in_use != 0;
}

/// The formats that this kernel writes for the next one, as far as it told.
fn formats(facts: &Facts) -> Formats {
    let told = |format: &Format| Some(format.to_string()).filter(|name| !name.is_empty());
    Formats {
        luo: told(&facts.luo_format),
        // Where a kernel has another property first, that is no format.
        kho: told(&facts.kho_format).filter(|name| name.starts_with("kho-v")),
    }
}

#[cfg(test)]
mod tests {
    use luo_trace_common::facts::{Format, Release};

    use super::*;
    use crate::journal::Clock;

    /// What a kernel says that says nothing.
    const SILENT: Facts = Facts {
        update_number: NOT_TOLD,
        kexec_count: NOT_TOLD,
        previous_release: Release::EMPTY,
        counter_khz: 0,
        counter_unstable: 0,
        in_use: 0,
        reserved: 0,
        scratch_bytes: NOT_TOLD,
        luo_format: Format::EMPTY,
        kho_format: Format::EMPTY,
    };

    /// A header as the host alone can fill it in.
    fn header() -> Header {
        Header {
            kexec: Some(Kexec {
                previous_release: None,
                count: Some(3),
            }),
            clock: Clock {
                tsc_khz: Some(2_400_123),
                counter_invariant: Some(true),
                ..Clock::default()
            },
            ..Header::default()
        }
    }

    fn filled(facts: &Facts) -> Header {
        let mut header = header();
        fill(facts, &mut header);
        header
    }

    #[test]
    fn what_the_kernel_tells_goes_before_what_was_measured() {
        let told = filled(&Facts {
            update_number: 0,
            kexec_count: 2,
            scratch_bytes: 64 << 20,
            previous_release: Release::new("7.3.4-luo"),
            luo_format: Format::new("luo-v5"),
            kho_format: Format::new("kho-v4"),
            counter_khz: 2_400_000,
            counter_unstable: 1,
            in_use: 1,
            ..SILENT
        });
        assert_eq!(told.update_number, Some(0));
        assert_eq!(told.kho_scratch_bytes, Some(64 << 20));
        let kexec = told.kexec.expect("the kernel told");
        assert_eq!(
            (kexec.previous_release.as_deref(), kexec.count),
            (Some("7.3.4-luo"), Some(2))
        );
        assert_eq!(told.luo_format.as_deref(), Some("luo-v5"));
        assert_eq!(told.kho_format.as_deref(), Some("kho-v4"));
        assert_eq!(told.clock.tsc_khz, Some(2_400_000));
        assert_eq!(told.clock.counter_invariant, Some(false));
        assert!(told.late);
    }

    #[test]
    fn a_kernel_that_says_nothing_changes_nothing() {
        assert_eq!(filled(&SILENT), header());
        assert_eq!(formats(&SILENT), Formats::default());
    }

    #[test]
    fn formats_are_told_as_they_are_written() {
        let told = |luo: &str, kho: &str| {
            let (luo_format, kho_format) = (Format::new(luo), Format::new(kho));
            formats(&Facts {
                luo_format,
                kho_format,
                ..SILENT
            })
        };
        let known = told("luo-v5", "kho-v4");
        assert_eq!(
            (known.luo.as_deref(), known.kho.as_deref()),
            (Some("luo-v5"), Some("kho-v4"))
        );
        // LUO's has a place of its own; KHO's is the first property of a tree, and may be another one.
        let odd = told("xuo-v5", "preserved");
        assert_eq!((odd.luo.as_deref(), odd.kho), (Some("xuo-v5"), None));
    }
}
