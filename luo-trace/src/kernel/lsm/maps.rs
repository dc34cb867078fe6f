//! The maps from a value to the rules that name it. There is room for two policies, told apart by their generation.

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData};
use luo_trace_common::policy::{CgroupKey, CgroupNode, CommKey, RULES, RuleName, Selected, SessionKey, UidKey};
use luo_trace_common::text::{Comm, Name};
use zerocopy::transmute;

use crate::policy::{Compiled, SessionPrefix};

type Value = [u8; size_of::<Selected>()];
type Entries<const KEY: usize> = HashMap<MapData, [u8; KEY], Value>;

pub(super) struct Maps {
    names: Array<MapData, [u8; size_of::<RuleName>()]>,
    comms: Entries<{ size_of::<CommKey>() }>,
    uids: Entries<{ size_of::<UidKey>() }>,
    cgroups: HashMap<MapData, [u8; size_of::<CgroupKey>()], [u8; size_of::<CgroupNode>()]>,
    sessions: LpmTrie<MapData, [u8; size_of::<SessionKey>()], Value>,
    fence: ArrayOfMaps<MapData, Array<MapData, u64>>,
    /// What is written to the fence.
    nothing: Array<MapData, u64>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            names: take(ebpf, "RULE_NAMES")?,
            comms: take(ebpf, "COMMS")?,
            uids: take(ebpf, "UIDS")?,
            cgroups: take(ebpf, "CGROUPS")?,
            sessions: take(ebpf, "SESSIONS")?,
            fence: take(ebpf, "FENCE")?,
            nothing: Array::create(1, 0).context("the kernel has no memory for a map")?,
        })
    }

    /// Puts in all entries of a policy, which no program reads before it is in force.
    pub(super) fn lay_down(&mut self, policy: &Compiled, generation: u64) -> Result<()> {
        let first = (generation & 1) as usize * RULES;
        for (place, name) in (first..).zip(&policy.names) {
            self.names.set(place as u32, name.0, 0)?;
        }
        for (comm, selected) in &policy.comms {
            self.comms.insert(comm_key(*comm, generation), value(*selected), 0)?;
        }
        for (uid, selected) in &policy.uids {
            self.uids.insert(uid_key(*uid, generation), value(*selected), 0)?;
        }
        for (key, node) in &policy.cgroups {
            let node: [u8; size_of::<CgroupNode>()] = transmute!(*node);
            self.cgroups.insert(cgroup_key(*key, generation), node, 0)?;
        }
        for prefix in &policy.sessions {
            self.sessions
                .insert(&session_key(prefix, generation), value(prefix.selected), 0)?;
        }
        Ok(())
    }

    /// Takes them out again, as far as they are there.
    pub(super) fn take_away(&mut self, policy: &Compiled, generation: u64) {
        for (comm, _) in &policy.comms {
            _ = self.comms.remove(&comm_key(*comm, generation));
        }
        for (uid, _) in &policy.uids {
            _ = self.uids.remove(&uid_key(*uid, generation));
        }
        for (key, _) in &policy.cgroups {
            _ = self.cgroups.remove(&cgroup_key(*key, generation));
        }
        for prefix in &policy.sessions {
            _ = self.sessions.remove(&session_key(prefix, generation));
        }
    }

    /// Waits until every decision that began before has ended. The kernel promises that for a change to a map of maps.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.fence
            .set(0, &self.nothing, 0)
            .context("the kernel does not wait for decisions that are under way")
    }
}

/// Takes a map of this kind.
fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let Some(map) = ebpf.take_map(name) else {
        bail!("map {name} was taken before");
    };
    M::try_from(map)
        .ok()
        .with_context(|| format!("map {name} is of another kind"))
}

fn value(selected: Selected) -> Value {
    transmute!(selected)
}

fn comm_key(comm: Comm, generation: u64) -> [u8; size_of::<CommKey>()] {
    transmute!(CommKey { generation, comm })
}

fn uid_key(uid: u32, generation: u64) -> [u8; size_of::<UidKey>()] {
    transmute!(UidKey {
        generation,
        uid,
        reserved: 0,
    })
}

fn cgroup_key(key: CgroupKey, generation: u64) -> [u8; size_of::<CgroupKey>()] {
    transmute!(CgroupKey { generation, ..key })
}

fn session_key(prefix: &SessionPrefix, generation: u64) -> Key<[u8; size_of::<SessionKey>()]> {
    let key = SessionKey {
        generation,
        name: Name(prefix.name),
    };
    Key::new(u64::BITS + prefix.bits, transmute!(key))
}
