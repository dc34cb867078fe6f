//! The unit that ships: how far it is confined, as systemd judges it.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]

use std::path::Path;
use std::process::Command;

/// The worst that it may be, in tenths: 10.0 is no confinement at all.
const WORST: u32 = 45;

#[test]
fn systemd_finds_the_unit_well_confined() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/luo-trace.service");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=yes", "--no-pager"]).arg(unit);
    // A machine without systemd cannot judge it.
    let Ok(output) = analyze.output() else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    let level = text
        .lines()
        .find_map(|line| line.split("exposure level for luo-trace.service: ").nth(1));
    let level = level.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let (whole, tenths) = level.split(' ').next().unwrap().split_once('.').unwrap();
    let exposure: u32 = format!("{whole}{tenths}").parse().unwrap();
    assert!(exposure <= WORST, "{text}");
}
