//! Pins: programs that go on without their agent, and the agent that takes over from them.
//!
//! A set of pins is a directory under [`DIR`]: first the state, then the attached programs. A new agent pins its own set and has it
//! in force before it removes another, so that at no moment nothing is in force.
//!
//! Where a user mounted the BPF file system without a mode, every user may make directories in it, or a link to another place.
//! So each directory on the way is opened without following links, has to be ours, and must not be writable for others; within
//! them only names that luo-trace gives are looked at, and only those are removed. A path to a pin then stays what it was.

use std::cmp::Reverse;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapType};
use aya::programs::links::FdLink;
use luo_trace_common::policy::{ABI, State};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::LsmPrograms;

/// Where pins lie: a directory for each layout of what an agent takes over, and in it one for each set.
const DIR: &str = "/sys/fs/bpf/luo-trace";
/// The file system of pins.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` in `include/uapi/linux/magic.h` (7.3).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Name of the state in a set.
const STATE: &str = "state";
/// Name of the gate in a set.
const GATE: &str = "policy_gate";
/// What the names of pinned programs begin with.
const PROGRAM: &str = "policy_";

/// A set of pins: its directory, every part of which is ours alone.
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
    /// What lies where pins do and is not ours, or not ours alone: a line for each.
    pub foreign: Vec<String>,
}

impl LsmPrograms {
    /// Takes over from what agents before left behind: hold, allowance, and what is known of the image that is loaded. Their
    /// programs go on until [`LsmPrograms::retire_others`].
    ///
    /// # Errors
    /// Where pins cannot be looked for.
    pub fn adopt(&self) -> Result<Adopted> {
        let mut adopted = Adopted::default();
        let found = sets(Path::new(DIR))?;
        adopted.foreign = found.foreign;
        for set in found.sets {
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
    /// host refuses nothing any more.
    pub fn pin(&mut self) -> Result<()> {
        if self.pinned.is_some() && self.lapsed().is_none() {
            return Ok(());
        }
        if let Some(left) = self.pinned.take() {
            // What is left of it.
            _ = left.remove();
        }
        is_mounted(Path::new(BPFFS))?;
        let set = Set::create(Path::new(DIR))?;
        let result = self.pin_into(&set);
        match result {
            Ok(()) => self.pinned = Some(set),
            Err(_) => _ = set.remove(),
        }
        result
    }

    /// Why the programs, which were pinned, would end with the agent; `None`: they are pinned, or need not be.
    pub fn lapsed(&self) -> Option<String> {
        self.pinned.as_ref()?.lapsed()
    }

    /// What is pinned first shows whether the rest can be.
    fn pin_into(&mut self, set: &Set) -> Result<()> {
        self.state
            .0
            .array()
            .pin(set.0.join(STATE))
            .with_context(|| format!("cannot pin in {}", set.0.display()))?;
        self.gate.pin(&set.0.join(GATE))?;
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
        let others = sets(Path::new(DIR))?.sets;
        let mut others = others.iter().filter(|&set| Some(set) != self.pinned.as_ref());
        others.try_for_each(Set::retire)
    }
}

/// Looks for a policy that an agent left in force, and changes nothing. Of several the newest is told.
///
/// # Errors
/// Where pins cannot be looked for.
pub fn left() -> Result<Option<Left>> {
    let newest = sets(Path::new(DIR))?.sets.into_iter().next();
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
    let all = sets(Path::new(DIR))?.sets;
    all.iter().try_for_each(Set::retire)?;
    Ok(all.len())
}

impl Set {
    /// Makes the directory of a new set, whose number is higher than every other.
    fn create(root: &Path) -> Result<Self> {
        let newest = sets(root)?.sets.iter().filter_map(Set::number).max().unwrap_or(0);
        let number = newest.checked_add(1);
        let number = number
            .with_context(|| format!("a set in {} has the highest number there is: remove it", root.display()))?;
        let mut path = root.parent().context("pins have no place")?.to_owned();
        let mut dir = open(&path)?.with_context(|| format!("there is no {}", path.display()))?;
        let name = root.file_name().unwrap_or_default().to_owned();
        for name in [name, layout().into(), number.to_string().into()] {
            path.push(&name);
            let cannot = || format!("cannot make {}", path.display());
            match rustix::fs::mkdirat(&dir, &name, Mode::RWXU) {
                Err(error) if error != Errno::EXIST => return Err(error).with_context(cannot),
                _ => {}
            }
            dir = open_own(&dir, &name, &path)?.with_context(cannot)?;
        }
        Ok(Self(path))
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
    /// Why not all that it is made of is there.
    fn lapsed(&self) -> Option<String> {
        let pins = [STATE, GATE].into_iter().chain(super::PROGRAMS.map(|(name, _)| name));
        let gone = pins
            .filter(|name| self.0.join(name).symlink_metadata().is_err())
            .count();
        (gone > 0).then(|| {
            format!(
                "{gone} of the pins in {} are gone, which another process removed: the policy ends with the agent, until the file is \
                 read again (SIGHUP)",
                self.0.display()
            )
        })
    }

    fn remove(&self) -> Result<()> {
        let cannot = || format!("cannot remove {}", self.0.display());
        let (Some(of_layout), Some(number)) = (self.0.parent(), self.0.file_name()) else {
            return Ok(());
        };
        let (Some(root), Some(layout)) = (of_layout.parent(), of_layout.file_name()) else {
            return Ok(());
        };
        let Some(root_dir) = open_root(root)? else {
            return Ok(());
        };
        if let Some(layout_dir) = open_own(&root_dir, layout, of_layout)? {
            if let Some(set) = open_own(&layout_dir, number, &self.0)? {
                for name in names(&set, is_pin).with_context(cannot)? {
                    rustix::fs::unlinkat(&set, &name, AtFlags::empty()).with_context(cannot)?;
                }
                // It is not empty where something lies in it that no agent put there, and that stays.
                rustix::fs::unlinkat(&layout_dir, number, AtFlags::REMOVEDIR).with_context(cannot)?;
            }
            // One that is not empty stays.
            _ = rustix::fs::unlinkat(&root_dir, layout, AtFlags::REMOVEDIR);
        }
        drop(root_dir);
        if let (Some(base), Some(name)) = (root.parent(), root.file_name())
            && let Some(base) = open(base)?
        {
            _ = rustix::fs::unlinkat(&base, name, AtFlags::REMOVEDIR);
        }
        Ok(())
    }
}

/// The directory's name that stands for the layout of what is taken over.
fn layout() -> String {
    format!("{ABI:016x}")
}

/// What was found of pins.
#[derive(Debug, Default)]
struct Sets {
    /// All sets, those of this layout first, and of them the newest.
    sets: Vec<Set>,
    /// Directories that another user made, or may write: sentences. Nothing in them is believed, used or removed.
    foreign: Vec<String>,
}

/// Looks for sets.
fn sets(root: &Path) -> Result<Sets> {
    let mut found = Sets::default();
    // A directory that is not ours has no pins of ours in it.
    let mut ours = |opened: Result<Option<OwnedFd>>| match opened {
        Ok(opened) => opened,
        Err(error) => {
            found.foreign.push(format!("{error:#}"));
            None
        }
    };
    let Some(dir) = ours(open_root(root)) else {
        return Ok(found);
    };
    let cannot = |path: &Path| format!("cannot look into {}", path.display());
    let mut sets = Vec::new();
    for layout in names(&dir, is_layout).with_context(|| cannot(root))? {
        let path = root.join(&layout);
        let Some(of_layout) = ours(open_own(&dir, &layout, &path)) else {
            continue;
        };
        for number in names(&of_layout, is_number).with_context(|| cannot(&path))? {
            let path = path.join(&number);
            if ours(open_own(&of_layout, &number, &path)).is_some() {
                sets.push(Set(path));
            }
        }
    }
    sets.sort_by_key(|set| (!set.is_of_this_layout(), Reverse(set.number())));
    found.sets = sets;
    Ok(found)
}

/// Opens the directory that sets lie in; nothing, where there is none.
fn open_root(root: &Path) -> Result<Option<OwnedFd>> {
    let (Some(base), Some(name)) = (root.parent(), root.file_name()) else {
        return Ok(None);
    };
    let Some(base) = open(base)? else { return Ok(None) };
    open_own(&base, name, root)
}

/// Opens a directory that the system made, by its path.
fn open(path: &Path) -> Result<Option<OwnedFd>> {
    match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => opened
            .map(Some)
            .with_context(|| format!("cannot open {}", path.display())),
    }
}

/// How directories are opened: the last part of the path is no link.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory in another one, which has to be ours alone; nothing, where there is none. `path` is for people.
fn open_own(dir: impl AsFd, name: impl rustix::path::Arg, path: &Path) -> Result<Option<OwnedFd>> {
    let foreign = |why: &str| {
        format!(
            "{} {why}: luo-trace leaves it alone. Remove it, and {CLOSED}",
            path.display()
        )
    };
    let opened = match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        // A link is one of these, which depends on the file system.
        Err(Errno::NOTDIR | Errno::LOOP) => bail!(foreign("is no directory")),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let of = rustix::fs::fstat(&opened).with_context(|| format!("cannot look at {}", path.display()))?;
    if of.st_uid != geteuid().as_raw() {
        bail!(foreign(&format!("is user {}'s", of.st_uid)));
    }
    if Mode::from_raw_mode(of.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        bail!(foreign("can be written by other users"));
    }
    Ok(Some(opened))
}

/// What keeps other users out of the BPF file system.
const CLOSED: &str = "mount the BPF file system with `-o mode=0700`";

/// The names of a kind in a directory, in any order.
fn names(dir: impl AsFd, is_of_kind: fn(&str) -> bool) -> rustix::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        names.extend(
            entry
                .file_name()
                .to_str()
                .ok()
                .filter(|name| is_of_kind(name))
                .map(str::to_owned),
        );
    }
    Ok(names)
}

/// Whether this is the name of a layout's directory: see [`layout`].
fn is_layout(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this is the name of a set's directory: its number, as it is written here.
fn is_number(name: &str) -> bool {
    name.parse::<u64>().is_ok_and(|number| number.to_string() == name)
}

/// Whether this is the name of something in a set, of whichever version of luo-trace.
fn is_pin(name: &str) -> bool {
    name == STATE || name.starts_with(PROGRAM)
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

/// Fails where nothing can be pinned, or where another user could put something else in its place.
fn is_mounted(place: &Path) -> Result<()> {
    let found = rustix::fs::statfs(place).with_context(|| format!("cannot look at {}", place.display()))?;
    ensure!(
        found.f_type as u64 == BPF_FS_MAGIC,
        "{0} is no BPF file system, which programs are pinned in: run `mount -t bpf -o mode=0700 bpf {0}`",
        place.display()
    );
    is_safe(place)
}

/// Fails where users other than its owner may take away what lies in a directory.
fn is_safe(place: &Path) -> Result<()> {
    let of = rustix::fs::stat(place).with_context(|| format!("cannot look at {}", place.display()))?;
    let mode = Mode::from_raw_mode(of.st_mode);
    ensure!(
        of.st_uid == geteuid().as_raw() && (mode.contains(Mode::SVTX) || !mode.intersects(Mode::WGRP | Mode::WOTH)),
        "other users may remove what is pinned in {}: run `chmod 0700 {0}`, and {CLOSED}",
        place.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn made(root: &Path, sets: &[&str]) {
        for set in sets {
            fs::create_dir_all(root.join(set)).expect("a directory");
        }
    }

    /// The directory that sets lie in, in a place of its own.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("luo-trace");
        (place, root)
    }

    fn found(root: &Path) -> Vec<Set> {
        let found = sets(root).expect("sets");
        assert_eq!(found.foreign, [""; 0]);
        found.sets
    }

    fn names(sets: &[Set], root: &Path) -> Vec<String> {
        let name = |set: &Set| set.0.strip_prefix(root).expect("below the root").display().to_string();
        sets.iter().map(name).collect()
    }

    #[test]
    fn the_newest_set_of_this_layout_comes_first_and_those_of_others_last() {
        // Given sets of this layout and of another one,
        let (_place, root) = place();
        let of = |number: u32| format!("{}/{number}", layout());
        made(&root, &["0123456789abcdef/99", &of(9), &of(10)]);
        // then the newest of this layout comes first,
        assert_eq!(
            names(&found(&root), &root),
            [of(10), of(9), "0123456789abcdef/99".into()]
        );
        // and a new one is newer than all.
        let new = Set::create(&root).expect("a set");
        assert_eq!(names(&[new], &root), [of(100)]);
    }

    #[test]
    fn removing_the_last_set_leaves_nothing_and_removing_another_leaves_the_rest() {
        // Given two sets,
        let (_place, root) = place();
        let (first, second) = (Set::create(&root).expect("a set"), Set::create(&root).expect("a set"));
        for pin in [STATE, "policy_gate", "policy_of_another_version"] {
            fs::write(second.0.join(pin), "").expect("a pin");
        }
        // when one goes, then the other stays,
        first.remove().expect("removed");
        assert_eq!(found(&root), std::slice::from_ref(&second));
        // and with it goes everything.
        second.remove().expect("removed");
        assert!(!root.exists());
        // To remove what is gone is no error.
        second.remove().expect("removed");
    }

    #[test]
    fn a_set_of_which_a_pin_was_removed_would_not_outlive_its_agent() {
        let (_place, root) = place();
        let set = Set::create(&root).expect("a set");
        let pins = || {
            [STATE, GATE]
                .into_iter()
                .chain(super::super::PROGRAMS.map(|(name, _)| name))
        };
        for pin in pins() {
            assert!(set.lapsed().is_some(), "{pin}");
            fs::write(set.0.join(pin), "").expect("a pin");
        }
        assert_eq!(set.lapsed(), None);
        fs::remove_file(set.0.join("policy_capable")).expect("a pin");
        let why = set.lapsed().expect("a pin is gone");
        assert!(why.starts_with("1 of the pins in "), "{why}");
    }

    #[test]
    fn where_nothing_is_pinned_there_is_nothing_to_take_over() {
        let (place, root) = place();
        assert_eq!(found(&root), []);
        assert_eq!(found(&place.path().join("gone/luo-trace")), []);
    }

    #[test]
    fn a_link_in_the_place_of_any_directory_is_told_and_what_it_leads_to_stays() {
        // Given a directory whose contents look like pins, and a link to it where luo-trace has a directory,
        let of_layout = layout();
        for (link, leads_to) in [
            ("", "elsewhere"),
            (&*of_layout, "elsewhere"),
            (&format!("{of_layout}/7"), "elsewhere/7"),
        ] {
            let (place, root) = place();
            let precious = place.path().join("elsewhere/7/state");
            made(place.path(), &["elsewhere/7", &format!("elsewhere/{of_layout}/7")]);
            fs::write(&precious, "precious").expect("a file");
            let link = root.join(link);
            let link = Path::new(link.to_str().expect("a path").trim_end_matches('/'));
            fs::create_dir_all(link.parent().expect("a directory")).expect("a directory");
            symlink(place.path().join(leads_to), link).expect("a link");
            // then no set is found there,
            let found = sets(&root).expect("sets");
            assert_eq!(found.sets, [], "{}", link.display());
            assert!(found.foreign[0].contains("is no directory"), "{:?}", found.foreign);
            // and to remove one by its name reaches nothing.
            _ = Set(root.join(&of_layout).join("7")).remove();
            assert!(precious.exists(), "{}", link.display());
        }
    }

    #[test]
    fn a_directory_with_another_name_or_another_thing_in_a_set_is_left_alone() {
        // Given names that luo-trace does not give, among them those of a directory full of others,
        let (_place, root) = place();
        let of_layout = layout();
        for name in ["ssh", "007", "+7", "-1", "18446744073709551616", ""] {
            made(&root, &[&format!("{of_layout}/{name}"), "x/ssh", "0123456789ABCDEF/1"]);
        }
        // then they are no sets.
        assert_eq!(found(&root), []);
        // Given a set in which something else lies, then that stays, and is told.
        let set = Set::create(&root).expect("a set");
        made(&set.0, &["theirs"]);
        fs::write(set.0.join(STATE), "").expect("a pin");
        let why = set.remove().expect_err("it is not empty");
        assert!(format!("{why:#}").contains("cannot remove"), "{why:#}");
        assert!(set.0.join("theirs").exists() && !set.0.join(STATE).exists());
    }

    #[test]
    fn a_directory_of_another_user_or_one_that_others_may_write_is_told_and_left_alone() {
        type Spoil = fn(&Path);
        let open: Spoil = |path| fs::set_permissions(path, fs::Permissions::from_mode(0o770)).expect("a mode");
        let given: Spoil = |path| chown(path, Some(65534), None).expect("an owner");
        let of_layout = layout();
        let attacks = [(open, "other users"), (given, "user 65534's")];
        for (spoil, told) in attacks.into_iter().take(if geteuid().is_root() { 2 } else { 1 }) {
            for spoilt in ["", &*of_layout, &format!("{of_layout}/1")] {
                let (_place, root) = place();
                let set = Set::create(&root).expect("a set");
                fs::write(set.0.join(STATE), "").expect("a pin");
                spoil(&root.join(spoilt));
                let found = sets(&root).expect("sets");
                assert_eq!(found.sets, [], "{told} {spoilt}");
                assert!(found.foreign[0].contains(told) && found.foreign[0].contains("mode=0700"));
                assert!(set.remove().is_err(), "{told} {spoilt}");
                assert!(set.0.join(STATE).exists(), "{told} {spoilt}");
                if !spoilt.contains('/') {
                    let why = Set::create(&root).expect_err("not ours");
                    assert!(format!("{why:#}").contains(told), "{why:#}");
                }
            }
        }
    }

    #[test]
    fn the_highest_number_there_is_has_no_next_one() {
        let (_place, root) = place();
        made(&root, &[&format!("{}/{}", layout(), u64::MAX)]);
        let why = Set::create(&root).expect_err("no number is left");
        assert!(why.to_string().contains("highest number"), "{why}");
        assert_eq!(found(&root).len(), 1);
    }

    #[test]
    fn a_place_where_others_could_take_a_pin_away_is_refused() {
        let (place, _) = place();
        let mode = |mode| fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).expect("a mode");
        for (bits, is_right) in [
            (0o700, true),
            (0o755, true),
            (0o1777, true),
            (0o777, false),
            (0o770, false),
        ] {
            mode(bits);
            assert_eq!(is_safe(place.path()).is_ok(), is_right, "{bits:o}");
        }
        let why = is_mounted(place.path()).expect_err("no BPF file system");
        assert!(why.to_string().contains("mount -t bpf -o mode=0700 bpf"), "{why}");
    }

    #[test]
    fn the_names_of_all_programs_are_those_of_pins() {
        for (program, _) in super::super::PROGRAMS {
            assert!(is_pin(program), "{program}");
        }
        assert!(is_pin("policy_gate") && !is_pin("..") && !is_pin("state/x") && is_layout(&layout()));
    }

    #[test]
    fn the_orders_of_another_version_are_not_read() {
        let set = Set("/sys/fs/bpf/luo-trace/0123456789abcdef/1".into());
        let why = read_state(&set).expect_err("unreadable");
        assert!(format!("{why:#}").contains("another version"), "{why:#}");
    }
}
