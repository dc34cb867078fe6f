//! Pins: programs that go on without their agent, and the agent that takes over from them.
//!
//! A set of pins is a directory under [`DIR`]: first the state, then the attached programs. A new agent pins its own set and has it
//! in force before it removes another, so that at no moment nothing is in force.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, MapType};
use aya::programs::links::FdLink;
use luo_trace_common::policy::{ABI, State};

use super::Brake;

/// Where pins lie: a directory for each layout of what an agent takes over, and in it one for each set.
const DIR: &str = "/sys/fs/bpf/luo-trace";
/// The file system of pins.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` in `include/uapi/linux/magic.h` (7.3).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Name of the state in a set.
const STATE: &str = "state";

/// A set of pins: its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set(PathBuf);

/// A policy in force that this process has not put there.
#[derive(Debug)]
pub struct Left {
    /// Where its programs are pinned.
    pub place: PathBuf,
    /// What they go by, or why that cannot be read.
    pub state: Result<State>,
}

/// What other agents left behind.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The state that was taken over; `None` where there was none.
    pub state: Option<State>,
    /// Why the orders of others could not be taken over: a line for each.
    pub unreadable: Vec<String>,
}

impl Brake {
    /// Takes over from what agents before left behind: hold, allowance, and what is known of the image that is loaded. Their
    /// programs go on until [`Brake::retire_others`].
    ///
    /// # Errors
    /// Where pins cannot be looked for.
    pub fn adopt(&self) -> Result<Adopted> {
        let mut adopted = Adopted::default();
        for set in sets(Path::new(DIR))? {
            match read_state(&set) {
                // The newest comes first: the agent that made it had taken over from the others.
                Ok(state) if adopted.state.is_none() => {
                    self.state.inherit(&state);
                    adopted.state = Some(state);
                }
                Ok(_) => {}
                Err(error) => adopted.unreadable.push(format!("{}: {error:#}", set.0.display())),
            }
        }
        Ok(adopted)
    }

    /// Pins the programs: they go on when the agent is gone, however it ends.
    ///
    /// # Errors
    /// Where there is no file system for it, or no room. Then nothing is pinned; where it says that programs are detached, this
    /// brake refuses nothing any more.
    pub fn pin(&mut self) -> Result<()> {
        if self.pinned.is_some() {
            return Ok(());
        }
        is_mounted()?;
        let set = Set::create(Path::new(DIR))?;
        let result = self.pin_into(&set);
        match result {
            Ok(()) => self.pinned = Some(set),
            Err(_) => _ = set.remove(),
        }
        result
    }

    /// What is pinned first shows whether the rest can be.
    fn pin_into(&mut self, set: &Set) -> Result<()> {
        self.state
            .0
            .array()
            .pin(set.0.join(STATE))
            .with_context(|| format!("cannot pin in {}", set.0.display()))?;
        self.gate.pin(&set.0.join("policy_gate"))?;
        let links = std::mem::take(&mut self.links);
        let pinned = links.into_iter().zip(super::PROGRAMS).map(|(link, (name, _))| {
            let pinned = link.pin(set.0.join(name));
            pinned
                .map(FdLink::from)
                .context("cannot pin all programs, which are detached now")
        });
        self.links = pinned.collect::<Result<_>>()?;
        Ok(())
    }

    /// Removes the pins: the programs end with the agent.
    ///
    /// # Errors
    /// Where they cannot be removed.
    pub fn unpin(&mut self) -> Result<()> {
        self.pinned.take().map_or(Ok(()), |set| set.remove())
    }

    /// Removes what other agents left pinned. This one's policy has to be in force before.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn retire_others(&self) -> Result<()> {
        let others = sets(Path::new(DIR))?;
        let mut others = others.iter().filter(|&set| Some(set) != self.pinned.as_ref());
        others.try_for_each(Set::retire)
    }
}

/// Looks for a policy that an agent left in force, and changes nothing. Of several the newest is told.
///
/// # Errors
/// Where pins cannot be looked for.
pub fn left() -> Result<Option<Left>> {
    let newest = sets(Path::new(DIR))?.into_iter().next();
    Ok(newest.map(|set| Left {
        state: read_state(&set),
        place: set.0,
    }))
}

/// Removes everything that agents left pinned, also where none runs; gives how many sets of programs there were.
///
/// # Errors
/// Where something cannot be removed.
pub fn clear() -> Result<usize> {
    let all = sets(Path::new(DIR))?;
    all.iter().try_for_each(Set::retire)?;
    Ok(all.len())
}

impl Set {
    /// Makes the directory of a new set, whose number is higher than every other.
    fn create(root: &Path) -> Result<Self> {
        let of_layout = root.join(layout());
        let newest = sets(root)?.iter().filter_map(Set::number).max().unwrap_or(0);
        let dir = of_layout.join((newest + 1).to_string());
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn number(&self) -> Option<u64> {
        self.0.file_name()?.to_str()?.parse().ok()
    }

    fn is_of_this_layout(&self) -> bool {
        self.0.parent().is_some_and(|parent| parent.ends_with(layout()))
    }

    /// Removes a set that no other process has hold of. From here on it refuses nothing: the kernel detaches programs a moment after
    /// their pins are gone, so they let everything pass before. Those of another layout go on for that moment.
    fn retire(&self) -> Result<()> {
        if let Ok(mut state) = open_state(self) {
            // Where that does not work, they end with their pins.
            _ = state.get(&0, 0).and_then(|bytes| {
                let released: [u8; size_of::<State>()] = zerocopy::transmute!(State {
                    generation: 0,
                    ..zerocopy::transmute!(bytes)
                });
                state.set(0, released, 0)
            });
        }
        self.remove()
    }

    /// Removes the set, and the directories around it where they are empty.
    fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", self.0.display()));
            }
            _ => {}
        }
        for dir in self.0.ancestors().skip(1).take(2) {
            // One that is not empty stays.
            _ = fs::remove_dir(dir);
        }
        Ok(())
    }
}

/// The directory's name that stands for the layout of what is taken over.
fn layout() -> String {
    format!("{ABI:016x}")
}

/// All sets, those of this layout first, and of them the newest.
fn sets(root: &Path) -> Result<Vec<Set>> {
    let mut sets = Vec::new();
    for layout in entries(root)? {
        sets.extend(entries(&layout)?.into_iter().map(Set));
    }
    sets.sort_by_key(|set| (!set.is_of_this_layout(), Reverse(set.number())));
    Ok(sets)
}

/// What lies in a directory; nothing, where there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<_> { fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
    match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        result => result.with_context(|| format!("cannot look into {}", dir.display())),
    }
}

/// Reads what the programs of a set go by.
fn read_state(set: &Set) -> Result<State> {
    let bytes = open_state(set)?.get(&0, 0)?;
    Ok(zerocopy::transmute!(bytes))
}

/// Opens what the programs of a set go by.
fn open_state(set: &Set) -> Result<Array<MapData, [u8; size_of::<State>()]>> {
    ensure!(set.is_of_this_layout(), "another version of luo-trace left it");
    let map = MapData::from_pin(set.0.join(STATE)).context("it has no state")?;
    let info = map.info()?;
    let is_ours = matches!(info.map_type(), Ok(MapType::Array))
        && info.key_size() as usize == size_of::<u32>()
        && info.value_size() as usize == size_of::<State>()
        && info.max_entries() == 1;
    ensure!(is_ours, "its state is of another layout");
    Ok(Array::try_from(Map::Array(map))?)
}

/// Fails where nothing can be pinned.
fn is_mounted() -> Result<()> {
    let found = rustix::fs::statfs(BPFFS).with_context(|| format!("cannot look at {BPFFS}"))?;
    ensure!(
        found.f_type as u64 == BPF_FS_MAGIC,
        "{BPFFS} is no BPF file system, which programs are pinned in: run `mount -t bpf bpf {BPFFS}`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(root: &Path, sets: &[&str]) {
        for set in sets {
            fs::create_dir_all(root.join(set)).expect("a directory");
        }
    }

    fn names(sets: &[Set], root: &Path) -> Vec<String> {
        let name = |set: &Set| set.0.strip_prefix(root).expect("below the root").display().to_string();
        sets.iter().map(name).collect()
    }

    #[test]
    fn the_newest_set_of_this_layout_comes_first_and_those_of_others_last() {
        // Given sets of this layout and of another one,
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let of = |number: u32| format!("{}/{number}", layout());
        made(root, &["0123456789abcdef/99", &of(9), &of(10)]);
        // then the newest of this layout comes first,
        let found = sets(root).expect("sets");
        assert_eq!(names(&found, root), [of(10), of(9), "0123456789abcdef/99".into()]);
        // and a new one is newer than all.
        let new = Set::create(root).expect("a set");
        assert_eq!(names(&[new], root), [of(100)]);
    }

    #[test]
    fn removing_the_last_set_leaves_nothing_and_removing_another_leaves_the_rest() {
        // Given two sets,
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("luo-trace");
        let (first, second) = (Set::create(&dir).expect("a set"), Set::create(&dir).expect("a set"));
        fs::write(second.0.join(STATE), "").expect("a pin");
        // when one goes, then the other stays,
        first.remove().expect("removed");
        assert_eq!(sets(&dir).expect("sets"), std::slice::from_ref(&second));
        // and with it goes everything.
        second.remove().expect("removed");
        assert!(!dir.exists());
        // To remove what is gone is no error.
        second.remove().expect("removed");
    }

    #[test]
    fn where_nothing_is_pinned_there_is_nothing_to_take_over() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(sets(&root.path().join("luo-trace")).expect("sets"), []);
    }

    #[test]
    fn the_orders_of_another_version_are_not_read() {
        let set = Set("/sys/fs/bpf/luo-trace/0123456789abcdef/1".into());
        let why = read_state(&set).expect_err("unreadable");
        assert!(format!("{why:#}").contains("another version"), "{why:#}");
    }
}
