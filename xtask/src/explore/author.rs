//! Thinks up deeds, by chance and by what there is to be done something with.

use fastrand::Rng;
use testbed_guest::scenario::Stranger;

use super::deed::{Act, DEVICES, Deed, Handler, MEANWHILE, Made, NAMES, Name, THREADS, TOKENS, Token, owner};
use super::rules::Rules;
use super::tamper::Tampering;

/// Thinks up what is done.
pub(super) struct Author {
    pub(super) rng: Rng,
    /// How many files there are so far.
    files: u32,
}

/// What can be thought up, and how often.
const KINDS: [(Kind, u32); 24] = [
    (Kind::Create, 12),
    (Kind::CreateMisnamed, 2),
    (Kind::Close, 4),
    (Kind::Preserve, 24),
    (Kind::PreserveAgain, 8),
    (Kind::PreserveOther, 4),
    (Kind::Refill, 4),
    (Kind::RetrieveSession, 12),
    (Kind::Retrieve, 18),
    (Kind::Finish, 4),
    (Kind::While, 6),
    (Kind::Together, 5),
    (Kind::FreezeFails, 3),
    (Kind::RebootToNothing, 1),
    (Kind::Load, 1),
    (Kind::LoadWhatIsNoKernel, 1),
    (Kind::LoadLegacy, 1),
    (Kind::Unload, 1),
    (Kind::OpenTwice, 2),
    (Kind::Shut, 3),
    (Kind::Status, 2),
    (Kind::Snapshot, 4),
    (Kind::EndAgent, 1),
    (Kind::StartAgent, 10),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Create,
    CreateMisnamed,
    Close,
    Preserve,
    PreserveAgain,
    PreserveOther,
    Refill,
    RetrieveSession,
    Retrieve,
    Finish,
    While,
    Together,
    FreezeFails,
    RebootToNothing,
    Load,
    LoadWhatIsNoKernel,
    LoadLegacy,
    Unload,
    OpenTwice,
    Shut,
    Status,
    Snapshot,
    EndAgent,
    StartAgent,
}

/// What a handler may fail with.
const ERRORS: [&str; 5] = ["EIO", "ENOMEM", "EBUSY", "EAGAIN", "EACCES"];

impl Author {
    /// The author of a seed's story.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            files: 0,
        }
    }

    /// The kernel that is to break a promise, and which one, in more than half of the stories.
    pub(super) fn tampering(&mut self, tamperings: &[Tampering], kernels: usize) -> Option<(usize, usize)> {
        let number = self.rng.choice(0..tamperings.len())?;
        // One over a kexec begins in a kernel that another one follows.
        let last = kernels - usize::from(tamperings[number].crosses());
        let kernel = self.rng.usize(0..last);
        (self.rng.u8(0..5) < 3).then_some((kernel, number))
    }

    /// What comes next: one act, or several threads' acts. What a kernel breaks has to be found, so its agent is not disturbed.
    pub(super) fn acts(&mut self, rules: &Rules, may_end_agent: bool) -> Vec<Act> {
        match self.kind() {
            Kind::EndAgent if !may_end_agent => Vec::new(),
            Kind::Together => self.together(rules, may_end_agent),
            kind => vec![Act {
                thread: 0,
                deed: self.deed(kind, rules, 0),
            }],
        }
    }

    fn kind(&mut self) -> Kind {
        let mut left = self.rng.u32(0..KINDS.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in KINDS {
            match left.checked_sub(weight) {
                None => return kind,
                Some(rest) => left = rest,
            }
        }
        Kind::Snapshot
    }

    fn together(&mut self, rules: &Rules, may_end_agent: bool) -> Vec<Act> {
        let acts = self.rng.usize(4..16);
        let act = |author: &mut Self| {
            let thread = author.rng.u8(1..=THREADS);
            let kind = author.kind();
            let deed = author.deed(kind, rules, thread);
            Act { thread, deed }
        };
        let mut acts: Vec<_> = (0..acts).map(|_| act(self)).collect();
        let deed = match self.rng.u8(0..8) {
            0 if may_end_agent => Deed::KillAgent,
            1 if may_end_agent => Deed::StopAgent,
            0..5 => Deed::Snapshot,
            _ => return acts,
        };
        let thread = MEANWHILE;
        acts.push(Act { thread, deed });
        acts
    }

    fn deed(&mut self, kind: Kind, rules: &Rules, thread: u8) -> Deed {
        let deed = self.plain_deed(kind, rules, thread);
        let may_fail = matches!(
            kind,
            Kind::Create | Kind::Preserve | Kind::RetrieveSession | Kind::Finish
        );
        if may_fail && self.rng.u8(0..6) == 0 {
            return Deed::Failing {
                nth: self.rng.u32(1..=24),
                deed: Box::new(deed),
            };
        }
        deed
    }

    fn plain_deed(&mut self, kind: Kind, rules: &Rules, thread: u8) -> Deed {
        match kind {
            Kind::Create | Kind::Together => Deed::Create(self.any_name(thread)),
            Kind::CreateMisnamed => Deed::CreateMisnamed { long: self.rng.bool() },
            Kind::Close => Deed::Close(self.open_name(rules, thread)),
            Kind::Preserve => self.preserve(rules, thread),
            Kind::PreserveAgain => Deed::PreserveAgain {
                session: self.outgoing_name(rules, thread),
                token: self.token(),
                file: self.rng.choice(rules.held()).unwrap_or_default(),
            },
            Kind::PreserveOther => Deed::PreserveOther {
                session: self.open_name(rules, thread),
                token: self.token(),
                what: self.one_of([Stranger::Null, Stranger::Session, Stranger::Named, Stranger::Closed]),
            },
            Kind::Refill => {
                let file = self.rng.choice(rules.held()).unwrap_or_default();
                let seed = self.new_file();
                Deed::Refill { file, seed }
            }
            Kind::RetrieveSession => match self.mine(rules.waiting(), thread) {
                Some(session) if self.rng.u8(0..5) > 0 => Deed::RetrieveSession(session),
                _ => Deed::RetrieveSession(self.any_name(thread)),
            },
            Kind::Retrieve => self.retrieve(rules, thread),
            Kind::Finish => Deed::Finish(self.open_name(rules, thread)),
            Kind::While => self.misbehave(rules, thread),
            Kind::FreezeFails => Deed::FreezeFails {
                passes: self.rng.u32(0..4),
                errno: self.one_of(ERRORS),
            },
            Kind::RebootToNothing => Deed::RebootToNothing,
            Kind::Load => Deed::Load,
            Kind::LoadWhatIsNoKernel => Deed::LoadWhatIsNoKernel,
            Kind::LoadLegacy => Deed::LoadLegacy,
            Kind::Unload => Deed::Unload,
            Kind::OpenTwice => Deed::OpenTwice,
            Kind::Shut => Deed::Shut,
            Kind::Status => Deed::Status,
            Kind::Snapshot => Deed::Snapshot,
            Kind::EndAgent => self.one_of([Deed::StopAgent, Deed::KillAgent]),
            Kind::StartAgent => Deed::StartAgent,
        }
    }

    fn preserve(&mut self, rules: &Rules, thread: u8) -> Deed {
        Deed::Preserve {
            session: self.outgoing_name(rules, thread),
            token: self.token(),
            file: self.new_file(),
            made: self.made(),
        }
    }

    fn retrieve(&mut self, rules: &Rules, thread: u8) -> Deed {
        let session = self.open_name(rules, thread);
        let arrived = self.rng.choice(rules.arrived(session));
        let token = match arrived {
            Some(token) if self.rng.u8(0..8) > 0 => token,
            _ => self.token(),
        };
        Deed::Retrieve { session, token }
    }

    fn misbehave(&mut self, rules: &Rules, thread: u8) -> Deed {
        let errno = self.one_of(ERRORS);
        let (handler, deed) = match self.rng.u8(0..4) {
            0 => (Handler::CannotPreserve(errno), self.preserve(rules, thread)),
            1 => {
                let passes = self.rng.u32(0..2);
                (Handler::CannotMakeFlb(passes, errno), self.preserve(rules, thread))
            }
            2 => (Handler::CannotRetrieve(errno), self.retrieve(rules, thread)),
            _ => (Handler::RefusesToFinish, Deed::Finish(self.open_name(rules, thread))),
        };
        let deed = match deed {
            // Only handlers of devices can be told to.
            Deed::Preserve {
                session, token, file, ..
            } => Deed::Preserve {
                session,
                token,
                file,
                made: self.device(),
            },
            deed => deed,
        };
        let deed = Box::new(deed);
        Deed::While { handler, deed }
    }

    fn made(&mut self) -> Made {
        if self.rng.u8(0..5) < 2 {
            return self.device();
        }
        let page = 4096;
        let size = match self.rng.u8(0..12) {
            0 => 0,
            1 => 1,
            2 => page - 1,
            3..=5 => page,
            6 => page + 1,
            7 => page * self.rng.u64(2..40),
            8 => 1 << 20,
            9 => (2 << 20) + self.rng.u64(0..page),
            10 => self.rng.u64(0..1 << 20),
            _ => page * self.rng.u64(512..3000),
        };
        Made::Memfd {
            size,
            sealed: self.rng.u8(0..4) == 0,
            holes: self.rng.u8(0..4) == 0,
        }
    }

    fn device(&mut self) -> Made {
        let node = self.rng.usize(0..DEVICES.len());
        let size = match self.rng.bool() {
            true => self.rng.u64(0..=DEVICES[node].room),
            false => self.rng.u64(0..64),
        };
        Made::Device { node, size }
    }

    fn new_file(&mut self) -> u32 {
        self.files += 1;
        self.files
    }

    fn token(&mut self) -> Token {
        self.rng.u8(0..TOKENS.len() as Token)
    }

    fn one_of<T, const N: usize>(&mut self, all: [T; N]) -> T {
        let place = self.rng.usize(0..N);
        all.into_iter()
            .nth(place)
            .unwrap_or_else(|| unreachable!("{place} of {N}"))
    }

    /// Any name that the thread may use.
    fn any_name(&mut self, thread: u8) -> Name {
        let names: Vec<_> = (0..NAMES).filter(|name| is_mine(*name, thread)).collect();
        self.rng.choice(names).unwrap_or_default()
    }

    fn mine(&mut self, names: Vec<Name>, thread: u8) -> Option<Name> {
        self.rng.choice(
            names
                .into_iter()
                .filter(|name| is_mine(*name, thread))
                .collect::<Vec<_>>(),
        )
    }

    /// One that is open, where there is one.
    fn open_name(&mut self, rules: &Rules, thread: u8) -> Name {
        self.mine(rules.open(), thread).unwrap_or_else(|| self.any_name(thread))
    }

    /// The name of an outgoing session, mostly.
    fn outgoing_name(&mut self, rules: &Rules, thread: u8) -> Name {
        let outgoing = rules.open().into_iter().filter(|name| rules.is_outgoing(*name));
        match self.mine(outgoing.collect(), thread) {
            Some(session) if self.rng.u8(0..10) > 0 => session,
            _ => self.open_name(rules, thread),
        }
    }
}

fn is_mine(name: Name, thread: u8) -> bool {
    thread == 0 || owner(name) == thread
}
