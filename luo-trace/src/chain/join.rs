//! Which boot followed which.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use super::{Boot, Fate, SOON_NS, Update};

/// What says that one boot followed another, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Basis {
    /// LUO's own number went up by one.
    Number,
    /// KHO's count of kexecs went up by one.
    Count,
    /// The wall clock: of what the records cover, it came next, and the one before had left.
    Clock,
}

impl Basis {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Count => "count",
            Self::Clock => "clock",
        }
    }

    /// What it is, in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Number => "LUO's number of the update",
            Self::Count => "KHO's count of kexecs",
            Self::Clock => "the wall clock",
        }
    }
}

/// Boots of which there is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The boot before it, as its place in [`super::Chain::boots`]; `None`: the hole comes before the first.
    pub after: Option<usize>,
    /// The boot after it; `None`: the hole comes after the last.
    pub before: Option<usize>,
    /// How many boots are missing; `None`: at least one.
    pub boots: Option<u64>,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.boots {
            Some(1) => f.write_str("the journal of one boot is missing")?,
            Some(boots) => write!(f, "the journals of {boots} boots are missing")?,
            None => f.write_str("the journal of at least one boot is missing")?,
        }
        match (self.after, self.before) {
            (Some(after), Some(before)) => write!(f, ", between boots {} and {}", after + 1, before + 1),
            (Some(after), None) => write!(f, ", after boot {}", after + 1),
            (None, Some(before)) => write!(f, ", before boot {}", before + 1),
            (None, None) => Ok(()),
        }
    }
}

/// Whether it came up by a live update, or by a kexec that handed memory over, as far as it says so itself.
fn came_by_update(boot: &Boot) -> bool {
    match boot.update_number {
        Some(number) => number > 0,
        None => boot.kexec_count.is_some_and(|count| count > 0),
    }
}

/// What says that `after` followed `before`, by what they say of themselves.
fn link(before: &Boot, after: &Boot) -> Option<Basis> {
    if after
        .previous_release
        .as_ref()
        .is_some_and(|release| *release != before.release)
    {
        return None;
    }
    let numbers = before.update_number.zip(after.update_number);
    let counts = after.kexec_count.map(|after| (before.kexec_count.unwrap_or(0), after));
    let next = |(before, after): (u64, u64)| before.checked_add(1) == Some(after);
    if numbers.is_some_and(next) {
        return Some(Basis::Number);
    }
    // A kernel that was handed nothing for LUO begins with number 0, and one may count wrong.
    counts.filter(|&counts| next(counts)).map(|_| Basis::Count)
}

/// When its kernel began, by the wall clock.
pub(super) fn began(boot: &Boot) -> u64 {
    boot.clock.realtime_ns.saturating_sub(boot.clock.monotonic_ns)
}

/// Whether the one kernel began soon after the other left, by the wall clock.
fn is_direct(from: &Boot, to: &Boot) -> bool {
    let left = from.freeze.map_or(from.latest, |freeze| freeze.end);
    began(to).abs_diff(began(from).saturating_add(left)) <= SOON_NS
}

/// For each boot of a machine, the one it followed. No boot was followed by two.
fn predecessors(boots: &[Boot], machine: &[usize]) -> HashMap<usize, usize> {
    let mut followed = HashSet::new();
    let mut links = HashMap::new();
    let mut places = machine.to_vec();
    places.sort_by_key(|&place| (began(&boots[place]), boots[place].update_number));
    for &after in &places {
        let boot = &boots[after];
        let candidates = places
            .iter()
            .copied()
            .filter(|&before| before != after && !followed.contains(&before));
        let linked = candidates.filter_map(|before| Some((before, link(&boots[before], boot)?)));
        // Of several chains on one machine, the boot belongs to the one that is nearest before it. A clock that was set
        // anew over the kexec may put it before: then the nearest of all.
        let best = linked.min_by_key(|&(before, basis)| {
            let (then, now) = (began(&boots[before]), began(boot));
            (basis, then > now, now.abs_diff(then))
        });
        if let Some((before, _)) = best {
            followed.insert(before);
            links.insert(after, before);
        }
    }
    links
}

/// The order in which a machine's boots ran, as far as their records tell: their places.
pub(super) fn order(boots: &[Boot], machine: &[usize]) -> Vec<usize> {
    let links = predecessors(boots, machine);
    let next: HashMap<usize, usize> = links.iter().map(|(&after, &before)| (before, after)).collect();
    let mut heads = machine.to_vec();
    heads.retain(|place| !links.contains_key(place));
    heads.sort_by_key(|&place| {
        (
            began(&boots[place]),
            boots[place].update_number,
            boots[place].boot_id.clone(),
        )
    });
    let mut order = Vec::with_capacity(machine.len());
    for head in heads {
        order.extend(std::iter::successors(Some(head), |place| next.get(place).copied()));
    }
    // Links that lead in a circle have no head: numbers that no kernel gives. They keep the order they came in.
    let ordered: HashSet<usize> = order.iter().copied().collect();
    order.extend(machine.iter().filter(|place| !ordered.contains(place)));
    order
}

/// The updates between those of the boots that are one machine's, in their order, and where boots are missing.
pub(super) fn updates(boots: &[Boot], machine: Range<usize>) -> (Vec<Update>, Vec<Hole>) {
    let (mut updates, mut holes) = (Vec::new(), Vec::new());
    for to in machine.clone() {
        let boot = &boots[to];
        let from = to.checked_sub(1).filter(|from| machine.contains(from));
        let before = from.and_then(|from| boots.get(from));
        let basis = before.and_then(|before| follows(before, boot));
        if basis.is_some() {
            depart(boots, &mut updates, to - 1, Some((to, basis)));
        } else {
            if let Some(from) = from {
                depart(boots, &mut updates, from, None);
            }
            if came_by_update(boot) {
                holes.push(hole(before, boot, from, to));
                updates.push(Update {
                    to: Some(to),
                    ..Update::new(boot.update_number, Fate::Arrived)
                });
            }
        }
    }
    if let Some(last) = machine.last() {
        depart(boots, &mut updates, last, None);
    }
    (updates, holes)
}

/// What says that of two boots that are next to each other the one followed the other.
fn follows(before: &Boot, after: &Boot) -> Option<Basis> {
    let known = link(before, after);
    // A kernel jumped into by kexec_load(2) is handed nothing, and so says that it came from nowhere.
    let legacy = before.departs()
        && !came_by_update(after)
        && before.attempts.last().is_some_and(|attempt| attempt.carries_nothing());
    // Kernels of old journals say nothing of what was before them.
    let silent = before.departs() && after.update_number.is_none() && after.kexec_count.is_none();
    known.or((legacy || silent).then_some(Basis::Clock))
}

/// The attempts of a boot to leave: all but the last were given up, and the last perhaps too.
fn depart(boots: &[Boot], updates: &mut Vec<Update>, from: usize, to: Option<(usize, Option<Basis>)>) {
    let boot = &boots[from];
    let number = boot.update_number.map(|number| number.saturating_add(1));
    for (place, _) in boot
        .attempts
        .iter()
        .enumerate()
        .filter(|(_, attempt)| attempt.is_over())
    {
        updates.push(Update {
            from: Some(from),
            attempt: Some(place),
            ..Update::new(number, Fate::Aborted)
        });
    }
    let last = boot.attempts.len().checked_sub(1);
    let open = last.filter(|&last| !boot.attempts[last].is_over());
    match to {
        Some((to, basis)) => updates.push(Update {
            from: Some(from),
            to: Some(to),
            attempt: open,
            basis,
            // What the wall clock alone has joined may be two machines' as well.
            direct: basis != Some(Basis::Clock) && is_direct(boot, &boots[to]),
            ..Update::new(
                boots[to].update_number.filter(|&number| number > 0).or(number),
                Fate::Completed,
            )
        }),
        None if boot.departs() => updates.push(Update {
            from: Some(from),
            attempt: open,
            ..Update::new(number, Fate::Departed)
        }),
        None => {}
    }
}

fn hole(before: Option<&Boot>, after: &Boot, from: Option<usize>, to: usize) -> Hole {
    let number = |boot: &Boot| boot.update_number.or(boot.kexec_count);
    // Numbers that begin anew tell of a cold boot in between.
    let since = match before.and_then(number) {
        Some(before) if number(after) > Some(before) => before.saturating_add(1),
        _ => 0,
    };
    let boots = number(after).map(|after| after.saturating_sub(since));
    Hole {
        after: from,
        before: Some(to),
        boots: boots.filter(|&boots| boots > 0),
    }
}
