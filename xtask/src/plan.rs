//! Which scenario runs on which kernel, and in which order.

use std::collections::BTreeSet;
use std::str::FromStr;

use luo_trace::model::Invariant;
use testbed_guest::scenario::{Build, Root, Scenario};

use crate::invariants::breaks;

/// A scenario and its name.
pub(crate) type Named = (String, Scenario);

/// What the plain run has the second kernel do besides breaking each invariant once: together with those, they meet each hook. The
/// run itself proves it, see `met.rs`.
const HOOKS_ARE_MET: [&str; 9] = [
    "demo",
    "devices",
    "fail-nth-incoming",
    "fault-kho-order",
    "freeze-fails",
    "memory",
    "policy-matrix",
    "policy-product",
    "two-updates",
];

/// How much of the scenarios is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All on every kernel.
    All,
    /// All on the first kernel but for those of packages; on others what shows that nothing of luo-trace depends on the kernel's version.
    Plain,
    /// Those whose name contains this, on each kernel on which `Plain` or `All` would run any.
    Named(String),
}

/// One part of several that together are the whole: `2/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    number: usize,
    of: usize,
}

impl Shard {
    /// Whether what does not belong to one scenario is done here.
    pub(crate) fn is_first(self) -> bool {
        self.number == 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(format!("{text:?} is no part such as 2/4, the second of four")),
        }
    }
}

/// One scenario on one kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// The kernel's place among those of the run.
    pub(crate) kernel: usize,
    pub(crate) name: &'a str,
    pub(crate) scenario: &'a Scenario,
}

/// What is to be run on so many kernels: kernel by kernel, and on each the dearest first, so that none of them is left alone at the end.
pub(crate) fn plan<'a>(scenarios: &'a [Named], extent: &Extent, kernels: usize, shard: Option<Shard>) -> Vec<Run<'a>> {
    let essential = essential(scenarios);
    let mut runs = Vec::new();
    for kernel in 0..kernels {
        let mut here: Vec<_> = scenarios
            .iter()
            .filter(|(name, scenario)| match extent {
                Extent::All => true,
                Extent::Plain => (kernel == 0 && scenario.root != Root::Package) || essential.contains(name.as_str()),
                Extent::Named(text) => name.contains(text.as_str()) && (kernel == 0 || !is_costly(scenario)),
            })
            .collect();
        here.sort_by_key(|(_, scenario)| std::cmp::Reverse(weight(scenario)));
        runs.extend(here.into_iter().map(|(name, scenario)| Run { kernel, name, scenario }));
    }
    let part = |index: &usize| shard.is_none_or(|shard| index % shard.of == shard.number - 1);
    let parts = runs.into_iter().enumerate();
    parts.filter(|(index, _)| part(index)).map(|(_, run)| run).collect()
}

/// The scenarios that the second kernel runs in the plain run: for each invariant the cheapest that breaks it, and those that meet the
/// other hooks.
pub(crate) fn essential(scenarios: &[Named]) -> BTreeSet<&str> {
    let cheap = |invariant: &Invariant| {
        let breaking = scenarios
            .iter()
            .filter(|(_, scenario)| breaks(scenario, invariant.id()) && !is_costly(scenario));
        breaking.min_by_key(|(_, scenario)| weight(scenario))
    };
    let breaking = Invariant::ALL.iter().filter_map(cheap);
    breaking.map(|(name, _)| name.as_str()).chain(HOOKS_ARE_MET).collect()
}

/// Whether it takes another build of a kernel than one without LUO beside the usual one, or a whole system: that costs minutes, and
/// shows nothing that differs between versions.
fn is_costly(scenario: &Scenario) -> bool {
    let mut others = builds(scenario).filter(|build| *build != Build::WithoutLuo);
    scenario.root != Root::Init || scenario.kernel != Build::Testbed || others.next().is_some()
}

/// The builds of a kernel that a scenario needs besides the usual one.
pub(crate) fn builds(scenario: &Scenario) -> impl Iterator<Item = Build> {
    let all = [scenario.kernel, scenario.next.kernel]
        .into_iter()
        .chain(scenario.images.iter().copied());
    all.filter(|build| *build != Build::Testbed)
}

/// About how long a scenario takes, in seconds of a machine with nothing else to do: what is measured changes from machine to machine,
/// and only the order counts.
fn weight(scenario: &Scenario) -> u64 {
    let system = if scenario.root.is_system() { 60 } else { 0 };
    // In scenarios with a policy the guest's CPUs take turns.
    let policy = if scenario.policies().is_empty() { 0 } else { 10 };
    let steps = scenario.all_steps().count();
    let memory = scenario.memory.bytes() >> 30;
    system + policy + 10 * u64::from(scenario.boots()) + steps as u64 / 4 + 10 * (memory - memory.min(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::scenario;

    fn names<'a>(runs: &[Run<'a>]) -> BTreeSet<&'a str> {
        runs.iter().map(|run| run.name).collect()
    }

    #[test]
    fn the_second_kernel_breaks_every_invariant_that_a_scenario_can_break() {
        let scenarios = scenario::all().unwrap();
        let second = essential(&scenarios);
        for invariant in Invariant::ALL {
            let breaking = |on: &dyn Fn(&str) -> bool| {
                let breaking = |(name, scenario): &&Named| on(name) && breaks(scenario, invariant.id());
                scenarios.iter().find(breaking).map(|(name, _)| name.clone())
            };
            let elsewhere = breaking(&|_| true);
            let here = breaking(&|name| second.contains(name));
            assert_eq!(elsewhere.is_some(), here.is_some(), "{}: {elsewhere:?}", invariant.id());
        }
        assert!(
            2 * second.len() < scenarios.len(),
            "{} of {}",
            second.len(),
            scenarios.len()
        );
        let unknown = HOOKS_ARE_MET
            .iter()
            .find(|name| !scenarios.iter().any(|(known, _)| known == *name));
        assert_eq!(unknown, None);
    }

    #[test]
    fn without_the_only_scenario_that_breaks_an_invariant_the_second_kernel_does_not_break_it() {
        let mut scenarios = scenario::all().unwrap();
        scenarios.retain(|(_, scenario)| !breaks(scenario, "file-token-unique"));
        let second = essential(&scenarios);
        let broken = scenarios
            .iter()
            .any(|(name, scenario)| second.contains(name.as_str()) && breaks(scenario, "file-token-unique"));
        assert!(!broken);
    }

    #[test]
    fn shards_are_the_whole_together_and_have_nothing_in_common() {
        let scenarios = scenario::all().unwrap();
        let whole = plan(&scenarios, &Extent::All, 2, None).len();
        let shards = (1..=3).map(|number| plan(&scenarios, &Extent::All, 2, Some(Shard { number, of: 3 })).len());
        assert_eq!(shards.sum::<usize>(), whole);
        assert_eq!(whole, 2 * scenarios.len());
        for wrong in ["0/4", "5/4", "1", "1/0", "a/b"] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains("2/4"), "{wrong}");
        }
        assert_eq!("2/4".parse(), Ok(Shard { number: 2, of: 4 }));
    }

    #[test]
    fn the_dearest_come_first_on_each_kernel_and_a_name_picks_its_scenarios() {
        let scenarios = scenario::all().unwrap();
        let runs = plan(&scenarios, &Extent::Plain, 2, None);
        assert!(names(&runs[..3]).contains("systemd"), "it takes minutes");
        assert!(runs.is_sorted_by_key(|run| run.kernel));
        let named = plan(&scenarios, &Extent::Named("two-up".into()), 2, None);
        assert_eq!((named.len(), names(&named)), (2, BTreeSet::from(["two-updates"])));
    }
}
