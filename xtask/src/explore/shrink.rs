//! Makes a story that fails smaller, as long as it fails in the same way.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;

use super::story::Story;

/// In which way a scenario failed: what stays the same when nothing is left of it but the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// By these findings, which were not expected or did not come.
    Findings(BTreeSet<String>),
    /// By what the kernel, the guest or a journal said: its first line without numbers and names.
    Words(String),
}

impl Way {
    /// The way in which this failed.
    pub(super) fn of(failures: &[String]) -> Way {
        let findings = failures.iter().filter_map(|failure| {
            let (_, rest) = failure.split_once("a finding of ")?;
            rest.split([',', ' ']).next()
        });
        let findings: BTreeSet<_> = findings.map(str::to_owned).collect();
        if !findings.is_empty() {
            return Way::Findings(findings);
        }
        let first = failures.first().map_or("", String::as_str);
        // What went wrong comes after what was being done, which differs; a kernel's trouble is told in the lines that follow.
        let trouble = first
            .lines()
            .find_map(|line| line.split_once("WARNING: ").or(line.split_once("BUG: ")));
        let line = trouble.map_or(first.lines().next().unwrap_or_default(), |(_, what)| what);
        let words = line.rsplit("}: ").next().unwrap_or(line);
        Way::Words(words.chars().filter(|c| !c.is_ascii_digit()).collect())
    }
}

/// The smallest story that `fails` says of that it does; it is asked until the time is over.
///
/// # Errors
/// Those of `fails`.
pub(super) fn shrink(story: Story, until: Instant, mut fails: impl FnMut(&Story) -> Result<bool>) -> Result<Story> {
    let mut smallest = story;
    // Kernels at the end that have nothing to do with it.
    while smallest.kernels.len() > 1 && Instant::now() < until {
        let mut fewer = smallest.clone();
        fewer.kernels.pop();
        if !fails(&fewer)? {
            break;
        }
        smallest = fewer;
    }
    let mut chunk = smallest.acts().div_ceil(2);
    while chunk > 0 {
        let (mut at, mut dropped) = (0, false);
        while at < smallest.acts() {
            if Instant::now() >= until {
                return Ok(smallest);
            }
            let fewer = smallest.without(at, chunk);
            if fails(&fewer)? {
                (smallest, dropped) = (fewer, true);
            } else {
                at += chunk;
            }
        }
        // Once more with single ones, until none of them can be left out.
        chunk = if chunk > 1 { chunk / 2 } else { usize::from(dropped) };
    }
    Ok(smallest)
}

impl Story {
    fn acts(&self) -> usize {
        self.kernels.iter().map(|kernel| kernel.acts.len()).sum()
    }

    /// The same without so many acts from that one on.
    fn without(&self, from: usize, count: usize) -> Story {
        let mut fewer = self.clone();
        let mut place = 0;
        for kernel in &mut fewer.kernels {
            kernel.acts.retain(|_| {
                place += 1;
                !(from..from + count).contains(&(place - 1))
            });
        }
        fewer
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::deed::{Act, Deed};
    use super::super::story::Kernel;
    use super::*;

    fn story(deeds: &[&[Deed]]) -> Story {
        let act = |deed: &Deed| Act {
            thread: 0,
            deed: deed.clone(),
        };
        let kernel = |deeds: &&[Deed]| Kernel {
            acts: deeds.iter().map(act).collect(),
            leaves: false,
        };
        Story {
            seed: 0,
            kernels: deeds.iter().map(kernel).collect(),
        }
    }

    #[test]
    fn what_is_left_is_what_it_takes_to_fail() {
        let many: Vec<_> = (0..40).map(|name| Deed::Create(name % 9)).collect();
        let (first, second) = (
            [&many[..], &[Deed::Snapshot, Deed::Status]].concat(),
            [&many[..], &[Deed::Shut]].concat(),
        );
        let whole = story(&[&first, &second, &many]);
        let until = Instant::now() + Duration::from_secs(60);
        let mut asked = 0;
        let left = shrink(whole, until, |story| {
            asked += 1;
            let has = |deed: &Deed| {
                story
                    .kernels
                    .iter()
                    .flat_map(|kernel| &kernel.acts)
                    .any(|act| act.deed == *deed)
            };
            Ok(has(&Deed::Snapshot) && has(&Deed::Shut))
        });
        assert_eq!(left.unwrap(), story(&[&[Deed::Snapshot], &[Deed::Shut]]));
        assert!(asked < 60, "{asked}");
    }

    #[test]
    fn without_time_the_whole_is_left() {
        let whole = story(&[&[Deed::Snapshot]]);
        assert_eq!(shrink(whole.clone(), Instant::now(), |_| Ok(true)).unwrap(), whole);
    }

    #[test]
    fn the_way_of_a_failure_is_what_does_not_change_with_the_story() {
        let way = |failure: &str| Way::of(&[failure.to_owned()]);
        let found = way("there is a finding of file-balance, which was not expected");
        assert_eq!(found, Way::Findings(["file-balance".to_owned()].into()));
        assert_ne!(found, way("expected a finding of kho-balance, and there is none"));
        let refused = way("kernel 1: {\"finish\":{\"session\":\"a\"}}: the kernel refused with \"EBUSY\"");
        assert_eq!(
            refused,
            way("kernel 2: {\"finish\":{\"session\":\"b\"}}: the kernel refused with \"EBUSY\"")
        );
        let warned = way("kernel 1, {}: the kernel warned:\n    [    1.5] x\n    [   2.5] WARNING: mm/memfd.c:12 at f");
        assert_eq!(
            warned,
            way("kernel 2, {}: the kernel warned:\n    [   2.5] WARNING: mm/memfd.c:12 at f")
        );
    }
}
