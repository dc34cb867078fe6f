//! Which boots are of one machine, by what their records say of it.

use std::collections::BTreeMap;
use std::fmt;

use super::{Boot, SOON_NS, join};
use crate::journal::Host;

/// What is known of the machines that records are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hosts {
    /// What the records themselves say.
    #[default]
    Told,
    /// All are of one, as whoever gives them says.
    One,
}

/// What keeps boots from being joined though they may be one machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// So many records do not say of which machine they are.
    Nameless(usize),
    /// These two boots, as their places in [`super::Chain::boots`], claim to be of one machine, and cannot be.
    Contradiction(usize, usize),
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nameless(1) => f.write_str(
                "one journal does not say of which machine it is, so that nothing joins it to another: if all are of one, say so with \
                 --one-host, and give the agent a --host-id where there is no machine id",
            ),
            Self::Nameless(journals) => write!(
                f,
                "{journals} journals do not say of which machine they are, so that nothing joins them to others: if all are of one, say \
                 so with --one-host, and give the agent a --host-id where there is no machine id"
            ),
            Self::Contradiction(a, b) => write!(
                f,
                "the journals of boots {} and {} have an id of a machine in common and cannot be of one, by another id or by their \
                 times, so that nothing joins those with that id: two machines have it, or a clock was far off; if all are of one \
                 machine, say so with --one-host",
                a + 1,
                b + 1
            ),
        }
    }
}

/// Boots, as their places, machine by machine. One of which no record tells whose it is stands alone.
pub(super) struct Machines {
    pub(super) machines: Vec<Vec<usize>>,
    pub(super) nameless: usize,
    pub(super) contradictions: Vec<(usize, usize)>,
}

impl Machines {
    pub(super) fn of(boots: &[Boot], hosts: Hosts) -> Self {
        if hosts == Hosts::One || boots.len() < 2 {
            return Self {
                machines: vec![(0..boots.len()).collect()],
                nameless: 0,
                contradictions: Vec::new(),
            };
        }
        let (mut machines, mut contradictions) = (Vec::new(), Vec::new());
        let mut groups = groups(boots);
        let nameless = groups.iter().filter(|group| is_nameless(boots, group)).count();
        while let Some(group) = groups.pop() {
            match examine(boots, &group) {
                Finding::OneMachine => machines.push(group),
                Finding::ToldApart(parts) => groups.extend(parts),
                Finding::Contradiction(a, b) => {
                    contradictions.push((a, b));
                    machines.extend(group.into_iter().map(|place| vec![place]));
                }
            }
        }
        machines.sort_by_key(|machine| machine.iter().map(|&place| join::began(&boots[place])).min());
        Self {
            machines,
            nameless,
            contradictions,
        }
    }

    /// What keeps boots from being joined; `given` are the places of the boots in their order.
    pub(super) fn strangers(&self, given: &[usize]) -> Vec<Stranger> {
        let place = |boot: usize| given.iter().position(|&place| place == boot).unwrap_or(boot);
        let nameless = Some(Stranger::Nameless(self.nameless)).filter(|_| self.nameless > 0);
        let contradictions = self.contradictions.iter();
        let contradictions = contradictions.map(|&(one, other)| Stranger::Contradiction(place(one), place(other)));
        nameless.into_iter().chain(contradictions).collect()
    }
}

/// Boots that are linked by an id that they have in common, or by the log that they lie in: one machine has written that.
fn groups(boots: &[Boot]) -> Vec<Vec<usize>> {
    let mut group: Vec<usize> = (0..boots.len()).collect();
    let mut first = BTreeMap::new();
    for (place, boot) in boots.iter().enumerate() {
        let ids = boot.host.ids().map(|(kind, id)| (kind, id.to_owned()));
        let log = boot.log.map(|log| ("log", log.to_string()));
        for id in ids.chain(log) {
            let other = *first.entry(id).or_insert(place);
            let (a, b) = (root(&group, place), root(&group, other));
            group[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for place in 0..boots.len() {
        groups.entry(root(&group, place)).or_default().push(place);
    }
    groups.into_values().collect()
}

fn root(group: &[usize], mut place: usize) -> usize {
    while group[place] != place {
        place = group[place];
    }
    place
}

fn is_nameless(boots: &[Boot], group: &[usize]) -> bool {
    matches!(group, [place] if boots[*place].host.ids().next().is_none())
}

/// What boots that have something in common are found to be.
enum Finding {
    OneMachine,
    /// Machines with an id in common, which another one tells apart, as where they are copies of one disk.
    ToldApart(Vec<Vec<usize>>),
    /// These two cannot be of one machine, and which the others are of is not known.
    Contradiction(usize, usize),
}

fn examine(boots: &[Boot], group: &[usize]) -> Finding {
    for kind in Host::KINDS {
        let mut parts: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for &place in group {
            parts.entry(boots[place].host.id(kind)).or_default().push(place);
        }
        let unknown = parts.remove(&None);
        let mut named = parts.values();
        if let (Some(one), Some(other)) = (named.next(), named.next()) {
            return match unknown {
                None => Finding::ToldApart(parts.into_values().collect()),
                Some(_) => Finding::Contradiction(one[0], other[0]),
            };
        }
    }
    match overlap(boots, group) {
        Some((one, other)) => Finding::Contradiction(one, other),
        None => Finding::OneMachine,
    }
}

/// Two boots that ran at the same time.
fn overlap(boots: &[Boot], group: &[usize]) -> Option<(usize, usize)> {
    let mut group = group.to_vec();
    group.sort_by_key(|&place| recorded(&boots[place]).0);
    // Of those that began before, the one that was recorded the longest.
    let mut longest = *group.first()?;
    for &place in &group[1..] {
        let (begins, ends) = recorded(&boots[place]);
        let (_, end) = recorded(&boots[longest]);
        // The clock that a kernel begins with may be a little off.
        if end > begins.saturating_add(SOON_NS) {
            return Some((longest, place));
        }
        if ends > end {
            longest = place;
        }
    }
    None
}

/// From when to when a boot was recorded, by the wall clock.
fn recorded(boot: &Boot) -> (u64, u64) {
    let end = join::began(boot).saturating_add(boot.latest);
    (boot.clock.realtime_ns, end.max(boot.clock.realtime_ns))
}
