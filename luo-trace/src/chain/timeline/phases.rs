//! The phases of a live update, and how they are told from the moments between them.

/// The phases of a live update, in their order. Each begins at a moment that is seen, and ends where the next one begins.
///
/// | phase | begins when |
/// |---|---|
/// | preserve | the first session is created |
/// | load | the last file is preserved |
/// | arm | the image for the jump is loaded as well |
/// | freeze | `reboot(LINUX_REBOOT_CMD_KEXEC)` comes to LUO |
/// | shutdown | LUO has frozen and written everything |
/// | boot | the next kernel's clock begins, some milliseconds after the jump |
/// | init | the next kernel runs init, its first process |
/// | attach | its agent is started |
/// | wait | its agent has attached its hooks |
/// | deserialize | a process opens `/dev/liveupdate`, and LUO reads in what came |
/// | retrieve | that is done |
/// | finish | the last file is brought back; ends when the last session is finished |
pub const PHASES: [&str; 12] = [
    "preserve",
    "load",
    "arm",
    "freeze",
    "shutdown",
    "boot",
    "init",
    "attach",
    "wait",
    "deserialize",
    "retrieve",
    "finish",
];

/// Places in [`PHASES`].
const FREEZE: usize = 3;
const BOOT: usize = 5;
const FINISH: usize = 11;

/// A stretch of the update, from one known moment to the next. Where the moment between two phases is not known, one
/// stretch covers both: how long each took cannot be told, only how long they took together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The phase that begins it, as its place in [`PHASES`].
    pub first: usize,
    /// The phase that ends it, as its place in [`PHASES`]: the same one, where its beginning and its end are known.
    pub last: usize,
    /// Nanoseconds on the common axis.
    pub start: i128,
    /// Nanoseconds on the common axis.
    pub end: i128,
}

impl Phase {
    /// How long it took, in nanoseconds.
    pub fn duration(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(u64::MAX)
    }

    /// Whether it is the phase of this name, and nothing else.
    pub fn is(&self, name: &str) -> bool {
        self.first == self.last && PHASES.get(self.first) == Some(&name)
    }

    /// Whether guests have no service in it, going by its beginning.
    pub fn is_blackout(&self) -> bool {
        (FREEZE..FINISH).contains(&self.first)
    }

    /// Whether it begins in the kernel that arrived.
    pub fn is_after_jump(&self) -> bool {
        self.first >= BOOT
    }

    /// Its name: a phase's, or `boot…wait` for what cannot be told apart.
    pub fn name(&self) -> String {
        let name = |place: usize| PHASES.get(place).copied().unwrap_or_default();
        if self.first == self.last {
            name(self.first).to_owned()
        } else {
            format!("{}…{}", name(self.first), name(self.last))
        }
    }
}

/// The stretches between those moments that are known. A moment before an earlier one cannot be right, since the clocks of
/// two kernels agree only so far, or things happened in another order: it is taken for not known.
pub(super) fn between(moments: &[Option<i128>; PHASES.len() + 1]) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut begun: Option<(usize, i128)> = None;
    for (place, moment) in moments.iter().enumerate() {
        let Some(end) = moment.filter(|&time| begun.is_none_or(|(_, start)| time >= start)) else {
            continue;
        };
        if let Some((first, start)) = begun {
            phases.push(Phase {
                first,
                last: place - 1,
                start,
                end,
            });
        }
        begun = Some((place, end));
    }
    phases
}
