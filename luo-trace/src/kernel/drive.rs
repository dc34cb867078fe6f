//! Has a program of the binary walk: run as often as it takes, and anew where it was disturbed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use luo_trace_common::events::SNAPSHOT_CHANGED;
use luo_trace_common::snapshot::{ABANDON, DIFFERS, FINISH, GO_ON, START, WALKED};

/// How often a walk is repeated that was disturbed.
const WALKS: u32 = 5;
/// How many walks must find the same before it is believed that the kernel counts wrong.
const BELIEVED: u32 = 3;
/// When a walk is given up. The longest ones, over some hundred thousand files, take a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has a program walk from its beginning to its end, with `drain` in between, which empties the ring and gives whether to go
/// on; gives what the program told at the end, or nothing where the walk was given up. `number` goes with [`START`], `how`
/// with [`FINISH`].
pub(super) fn drive(
    program: &RawTracePoint,
    number: u64,
    how: u64,
    drain: &mut impl FnMut() -> bool,
) -> Result<Option<u32>> {
    let deadline = Instant::now() + PATIENCE;
    let mut go_on = drain();
    let mut result = run(program, START, number)?;
    loop {
        go_on &= drain();
        if result & WALKED != 0 || !go_on || Instant::now() > deadline {
            break;
        }
        result = run(program, GO_ON, 0)?;
    }
    let given_up = result & WALKED == 0;
    let result = run(program, FINISH, if given_up { ABANDON } else { how })?;
    drain();
    Ok((!given_up).then_some(result))
}

/// Repeats a walk until it was not disturbed and `settled` agrees, or until it is given up. `walk` is told whether to believe
/// that the kernel counts wrong.
pub(super) fn repeat(
    mut walk: impl FnMut(bool) -> Result<Option<u32>>,
    mut settled: impl FnMut() -> bool,
) -> Result<()> {
    let mut alike = 0;
    for _ in 0..WALKS {
        let Some(result) = walk(alike + 1 >= BELIEVED)? else {
            return Ok(());
        };
        alike = if result & DIFFERS != 0 { alike + 1 } else { 0 };
        if settled() && result & SNAPSHOT_CHANGED == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Has a program do one part of a walk; gives what it answers.
pub(super) fn run(program: &RawTracePoint, what: u64, how: u64) -> Result<u32> {
    let mut options = RawTracePointRunOptions::new();
    options.args[0] = what;
    options.args[1] = how;
    let result = program
        .test_run(options)
        .context("the kernel does not run the program")?;
    Ok(result.return_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has these results come of walks, one after the other; gives for each whether it was to believe a wrong count.
    fn walks(results: &[u32]) -> Vec<bool> {
        let mut told = Vec::new();
        let walk = |believe| {
            told.push(believe);
            Ok(results.get(told.len() - 1).copied())
        };
        repeat(walk, || true).expect("no walk fails");
        told
    }

    #[test]
    fn a_walk_that_was_not_disturbed_is_the_last() {
        assert_eq!(walks(&[0, 0]).len(), 1);
        assert_eq!(walks(&[SNAPSHOT_CHANGED, 0, 0]).len(), 2);
    }

    #[test]
    fn a_walk_that_is_always_disturbed_is_not_repeated_for_ever() {
        assert_eq!(walks(&[SNAPSHOT_CHANGED; 100]).len(), 5);
    }

    #[test]
    fn a_walk_that_is_given_up_is_the_last() {
        assert_eq!(walks(&[SNAPSHOT_CHANGED]).len(), 2);
    }

    #[test]
    fn a_wrong_count_is_believed_when_three_walks_running_found_it() {
        const WRONG: u32 = SNAPSHOT_CHANGED | DIFFERS;
        // Given a count that stays wrong, then the third walk may say so, which the program does by not marking it.
        assert_eq!(walks(&[WRONG, WRONG, DIFFERS, 0]), [false, false, true]);
        // Given one between two others that was disturbed, then the three are not running.
        assert_eq!(
            walks(&[WRONG, SNAPSHOT_CHANGED, WRONG, WRONG, DIFFERS]),
            [false, false, false, false, true]
        );
    }
}
