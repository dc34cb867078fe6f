//! Bringing the journal's tail over a kexec without a disk: who keeps the memory, when it is asked, and what is told where it
//! refuses.
//!
//! The memory is a memfd with a [`Recorder`] in it, from the agent's start on. It is kept by LUO, in a session of our own,
//! or by systemd's fd store, which has it preserved. What the previous kernel's agent left the same way goes to the
//! directory of journals, which holds no more for it than it is told to.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use luo_trace_common::OWN_SESSION;

use crate::agent::keep::keep_within;
use crate::journal::carry::{Home, Recorder, bring_home, recover};
use crate::journal::{Header, Limits, Reader};
use crate::sink::log::tell;
use crate::text::units::count;

mod device;
mod fdstore;
mod foreign;
mod luo;
mod mapping;

pub use foreign::Foreign;
pub use mapping::Mapping;

/// The token of the memory in our session. Another one's session of this name has hardly a file under it.
const TOKEN: u64 = u64::from_be_bytes(*b"LUOCARRY");

/// The most that is read of what came over, in bytes: more than an agent can be told to carry.
const MOST: u64 = 1 << 30;
/// How many ticks to wait at most before the next try.
const LONGEST_WAIT: u32 = 32;

/// How the journal gets over a kexec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// On a disk, or not at all
    #[default]
    None,
    /// In memory, in a session of our own; this opens /dev/liveupdate for a moment
    Luo,
    /// In memory, in systemd's file descriptor store
    Fdstore,
}

impl Way {
    /// Says what is missing for it.
    ///
    /// # Errors
    /// Where what comes over has no directory to go to, or nothing keeps the memory.
    pub fn check(self, has_directory: bool, has_service_manager: bool) -> Result<()> {
        match self {
            Self::None => Ok(()),
            _ if !has_directory => bail!("--carry needs --journal DIR: what comes over a kexec is written there"),
            Self::Fdstore if !has_service_manager => bail!(
                "--carry fdstore needs systemd: run the agent as a service with NotifyAccess=main, FileDescriptorStoreMax=2 \
                 and FileDescriptorStorePreserve=yes, or use --carry luo"
            ),
            Self::Luo | Self::Fdstore => Ok(()),
        }
    }
}

/// What keeps the memory.
#[derive(Debug)]
enum Keeper {
    Luo(luo::Keeper),
    Fdstore(fdstore::Keeper),
}

/// What a try has come to.
#[derive(Debug, Default)]
struct Tried {
    /// Contents of memory that came over the kexec.
    arrived: Vec<io::Result<Vec<u8>>>,
    /// What there is to tell.
    said: Option<String>,
    /// Why it has to be tried again, or was refused for good.
    trouble: Option<String>,
    again: bool,
}

/// The agent's side of carrying.
#[derive(Debug)]
pub struct Carry {
    keeper: Keeper,
    memfd: OwnedFd,
    dir: PathBuf,
    /// How much it holds.
    limits: Option<Limits>,
    boot_id: String,
    /// Journals that could not be written to the directory so far.
    homeless: Vec<Vec<u8>>,
    /// The last thing that was told, so that it is told once.
    told: Option<String>,
    done: bool,
    trouble: Option<String>,
    /// How many ticks there are to the next try, and how many there were.
    left: u32,
    wait: u32,
}

impl Carry {
    /// Makes a memory of `size` bytes, in which the journal begins at once; nothing keeps it yet. `None`: nothing shall.
    ///
    /// # Errors
    /// Where there is no memory, or not enough to begin a journal in.
    pub fn begin(
        way: Way,
        size: usize,
        header: &Header,
        dir: PathBuf,
        limits: Option<Limits>,
    ) -> Result<Option<(Self, Recorder<Mapping>)>> {
        let keeper = match way {
            Way::None => return Ok(None),
            Way::Luo => Keeper::Luo(luo::Keeper::default()),
            Way::Fdstore => Keeper::Fdstore(fdstore::Keeper::new()?),
        };
        let (memfd, mapping) = mapping::make(OWN_SESSION, size).with_context(|| {
            format!("there are no {size} bytes of memory to carry a journal in: use a smaller --carry-kib")
        })?;
        let recorder = Recorder::begin(mapping, header).context("nothing can be carried: use a larger --carry-kib")?;
        let carry = Self {
            keeper,
            memfd,
            dir,
            limits,
            boot_id: header.boot_id.clone(),
            homeless: Vec::new(),
            told: None,
            done: false,
            trouble: None,
            left: 0,
            wait: 1,
        };
        Ok(Some((carry, recorder)))
    }

    /// Asks for what came over, and for the memory to be kept, as far as that is not done. Never waits. What came over in
    /// a session of our name is left alone where it is known to be another program's.
    pub fn attempt(&mut self, foreign: &Foreign) {
        if !self.done {
            let tried = match &mut self.keeper {
                Keeper::Luo(keeper) => keeper.attempt(&self.memfd, foreign),
                Keeper::Fdstore(keeper) => keeper.attempt(&self.memfd),
            };
            self.done = !tried.again;
            let before = std::mem::replace(&mut self.trouble, tried.trouble);
            let said = tried.said.map(|said| match before {
                Some(_) => format!("after all, {said}"),
                None => said,
            });
            self.tell(self.trouble.clone().or(said));
            tried.arrived.into_iter().for_each(|memory| self.arrived(memory));
        }
        self.house();
        self.left = self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Time passes: whether it is time for the next try.
    pub fn is_due(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0 && !(self.done && self.homeless.is_empty())
    }

    /// Why the journal is not carried; `None`: it is.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    fn tell(&mut self, text: Option<String>) {
        if let Some(text) = text
            && self.told.as_ref() != Some(&text)
        {
            tell(&text);
            self.told = Some(text);
        }
    }

    /// Takes in memory of the previous kernel's agent, or of an agent before this one in the same boot, whose journal is
    /// in the directory.
    fn arrived(&mut self, memory: io::Result<Vec<u8>>) {
        let recovered = match memory.map(|memory| recover(&memory)) {
            Ok(Ok(recovered)) => recovered,
            Ok(Err(error)) => return tell(format_args!("what came over the kexec is left alone: {error}")),
            Err(error) => return tell(format_args!("what came over the kexec cannot be read: {error}")),
        };
        if Reader::new(&recovered.journal[..]).is_ok_and(|reader| reader.header().boot_id == self.boot_id) {
            return;
        }
        let records = count(recovered.records, "record");
        let overwritten = match recovered.lost {
            0 => String::new(),
            lost => format!(" and lacks {lost} older ones for which --carry-kib had no room"),
        };
        tell(format_args!(
            "the previous kernel's journal came over the kexec with {records}{overwritten}"
        ));
        self.homeless.push(recovered.journal);
    }

    /// Has the journals that wait written, as far as that can be.
    fn house(&mut self) {
        for journal in std::mem::take(&mut self.homeless) {
            self.bring_home(journal);
        }
    }

    fn bring_home(&mut self, journal: Vec<u8>) {
        let text = match bring_home(&self.dir, &journal) {
            Ok(Home::Written(path)) => format!("it is in {}", path.display()),
            Ok(Home::Completed { path, records }) => format!("{records} of them were not yet in {}", path.display()),
            Ok(Home::Known(path)) => format!("{} has all of them already", path.display()),
            Ok(Home::Older(path)) => format!("{} is of a later agent and stays as it is", path.display()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => format!("it cannot be read: {error}"),
            Err(error) => {
                let dir = self.dir.display();
                let text = format!("it cannot be written to {dir}: {error}; trying again: make room or mend the disk");
                self.homeless.push(journal);
                text
            }
        };
        self.tell(Some(text));
        if let Some(limits) = self.limits.as_ref().filter(|_| self.homeless.is_empty()) {
            keep_within(&self.dir, &self.boot_id, limits);
        }
    }
}

/// Reads a whole memfd.
fn read(memfd: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(memfd);
    let size = file.metadata()?.len();
    if size > MOST {
        return Err(io::Error::other(format!("{size} bytes are more than an agent carries")));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
