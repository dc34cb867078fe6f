//! A policy in the form in which the kernel decides by it: one table, and maps from a value to the rules that name it.

use std::collections::BTreeMap;

use luo_trace_common::policy::{
    Aspect, CgroupKey, CgroupName, CgroupNode, Condition, LIMITS, Limit, Operation, RULES, RuleName, RuleSet, Selected,
    Table,
};
use luo_trace_common::text::{Comm, Compatible, SessionName};

use super::{Policy, Rule, Selection, Sessions};
use crate::model::{Direction, FileCount, Model, SessionView, Severity};

/// What the agent lays down in the kernel's maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The table; its generation is 0.
    pub table: Table,
    /// The rules' names, by number.
    pub names: Vec<RuleName>,
    /// The rules that name each thread name.
    pub comms: Vec<(Comm, Selected)>,
    /// The rules that name each user.
    pub uids: Vec<(u32, Selected)>,
    /// The control groups that rules name, and those above them, parents first; their generation is 0. A node has what the nodes
    /// above it have, too.
    pub cgroups: Vec<(CgroupKey, CgroupNode)>,
    /// Beginnings of session names.
    pub sessions: Vec<SessionPrefix>,
}

/// An entry of the trie of session names. An exact name is one that goes on with its NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPrefix {
    /// How many bits of the name count, without what comes before it in the key.
    pub bits: u32,
    /// The beginning, filled up with zeros.
    pub name: [u8; 64],
    /// The rules that name it, or a shorter beginning of it.
    pub selected: Selected,
}

impl Policy {
    /// The same for the kernel.
    pub fn compile(&self) -> Compiled {
        let mut compiled = Compiled {
            table: self.table(),
            names: self.rules.iter().map(|rule| rule.name).collect(),
            ..Compiled::default()
        };
        let (mut comms, mut uids) = (BTreeMap::new(), BTreeMap::new());
        let (mut cgroups, mut sessions) = (BTreeMap::new(), BTreeMap::new());
        for (selection, of_rule) in self.selections() {
            note(&mut comms, selection.comm.iter().copied(), of_rule);
            note(&mut uids, selection.uid.iter().copied(), of_rule);
            note(&mut cgroups, selection.cgroup.iter().cloned(), of_rule);
            note(&mut sessions, selection.session.iter().copied(), of_rule);
        }
        compiled.comms = comms.into_iter().collect();
        compiled.uids = uids.into_iter().collect();
        compiled.cgroups = nodes(&cgroups);
        compiled.sessions = prefixes(&sessions);
        compiled
    }

    /// The rules that name a session or a handler that is preserved now, for [`Table::preserved`].
    pub fn preserved(
        &self,
        sessions: impl IntoIterator<Item = SessionName>,
        handlers: impl IntoIterator<Item = Compatible>,
    ) -> [Selected; Aspect::COUNT] {
        let mut preserved = [Selected::default(); Aspect::COUNT];
        for name in sessions {
            let named = self.selected(|selection| selection.session.iter().any(|sessions| sessions.mean(&name)));
            preserved[Aspect::Session as usize] = preserved[Aspect::Session as usize].or(named);
        }
        for handler in handlers {
            let named = self.selected(|selection| selection.handler.contains(&handler));
            preserved[Aspect::Handler as usize] = preserved[Aspect::Handler as usize].or(named);
        }
        preserved
    }

    /// The same of what the model knows to be preserved, but for the recorder's own session.
    pub fn preserved_in(&self, model: &Model) -> [Selected; Aspect::COUNT] {
        let outgoing = |session: &SessionView<'_>| session.direction() == Direction::Outgoing && !session.is_own();
        let counts = model.counts_of_others();
        let files = |files: &FileCount| files.files > 0 && files.state.direction() == Direction::Outgoing;
        self.preserved(
            model.sessions().filter(outgoing).map(|session| session.name()),
            counts.files().filter(files).map(|files| files.handler),
        )
    }

    /// The rules of which what they match, or except, is so.
    pub(super) fn selected(&self, is: impl Fn(&Selection) -> bool) -> Selected {
        let chosen = self.selections().filter(|(selection, _)| is(selection));
        chosen.fold(Selected::default(), |all, (_, of_rule)| all.or(of_rule))
    }

    /// What each rule matches and excepts, with the rule as the set to note it in.
    fn selections(&self) -> impl Iterator<Item = (&Selection, Selected)> {
        numbered(&self.rules).flat_map(|(bit, rule)| {
            let matched = Selected {
                matched: bit,
                excepted: 0,
            };
            let excepted = Selected {
                matched: 0,
                excepted: bit,
            };
            [(&rule.matches, matched), (&rule.unless, excepted)]
        })
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table {
            mode: self.mode as u32,
            closed: self.closed.into(),
            stale_after: self.stale_after,
            ..Table::default()
        };
        for (bit, rule) in numbered(&self.rules) {
            for &operation in rule.on.iter().filter(|&&operation| !rule.is_after_the_fact(operation)) {
                table.on[operation as usize] |= bit;
            }
            for &operation in Operation::ALL.iter().filter(|&&of| !rule.applies_unknown(of)) {
                table.unknown_passes[operation as usize] |= bit;
            }
            for &aspect in Aspect::ALL {
                table.matches[aspect as usize] |= bit * RuleSet::from(rule.matches.names(aspect));
                table.unless[aspect as usize] |= bit * RuleSet::from(rule.unless.names(aspect));
            }
            for &condition in Condition::ALL {
                table.when[condition as usize] |= bit * RuleSet::from(rule.when.names(condition));
            }
            limit(&mut table.sessions_over, rule.when.sessions_over, bit);
            limit(&mut table.files_over, rule.when.files_over, bit);
            if let Some(severity) = rule.when.violated {
                table.violated[level(severity) as usize - 1] |= bit;
            }
            if rule.deny {
                table.deny |= bit;
            }
        }
        table
    }
}

/// A severity as the kernel knows it: from 1.
pub const fn level(severity: Severity) -> u64 {
    match severity {
        Severity::Warning => 1,
        Severity::Error => 2,
        Severity::Critical => 3,
    }
}

/// Rules with the set that has nothing but them.
fn numbered(rules: &[Rule]) -> impl Iterator<Item = (RuleSet, &Rule)> {
    rules
        .iter()
        .take(RULES)
        .enumerate()
        .map(|(number, rule)| (1 << number, rule))
}

fn note<V: Ord>(map: &mut BTreeMap<V, Selected>, values: impl Iterator<Item = V>, of_rule: Selected) {
    for value in values {
        let selected = map.entry(value).or_default();
        *selected = selected.or(of_rule);
    }
}

/// Notes a rule under its limit: at the place of that number, else at the first free one.
fn limit(limits: &mut [Limit; LIMITS], over: Option<u64>, bit: RuleSet) {
    let Some(over) = over else { return };
    let free = |limit: &&mut Limit| limit.rules == 0 || limit.over == over;
    if let Some(limit) = limits.iter_mut().find(free) {
        limit.over = over;
        limit.rules |= bit;
    }
}

/// The nodes on the ways to some control groups, which are in the order of their paths.
fn nodes(named: &BTreeMap<Vec<CgroupName>, Selected>) -> Vec<(CgroupKey, CgroupNode)> {
    let mut nodes: BTreeMap<&[CgroupName], CgroupNode> = BTreeMap::new();
    let mut keyed = Vec::new();
    for path in named.keys() {
        for depth in 1..=path.len() {
            let (way, parent) = (
                &path[..depth],
                nodes.get(&path[..depth - 1]).copied().unwrap_or_default(),
            );
            if nodes.contains_key(way) {
                continue;
            }
            let node = CgroupNode {
                node: nodes.len() as u64 + 1,
                selected: parent.selected.or(named.get(way).copied().unwrap_or_default()),
            };
            let key = CgroupKey {
                generation: 0,
                parent: parent.node,
                name: path[depth - 1],
            };
            nodes.insert(way, node);
            keyed.push((key, node));
        }
    }
    keyed
}

fn prefixes(named: &BTreeMap<Sessions, Selected>) -> Vec<SessionPrefix> {
    let entry = |sessions: &Sessions| {
        let (name, len) = match sessions {
            Sessions::Named(name) => (name.0, name.as_bytes().len() + 1),
            Sessions::Beginning(name) => (name.0, name.as_bytes().len()),
        };
        let covering = named.iter().filter(|(shorter, _)| shorter.cover(sessions));
        SessionPrefix {
            bits: 8 * len as u32,
            name,
            selected: covering.fold(Selected::default(), |all, (_, selected)| all.or(*selected)),
        }
    };
    named.keys().map(entry).collect()
}
