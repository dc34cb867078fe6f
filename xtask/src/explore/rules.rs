//! What LUO does: a small model of it, which tells of each deed how it must come out, and makes the step of it.
//!
//! Mirrors `kernel/liveupdate/luo_{core,session,file,flb}.c` of 7.3, the checks of each call in their order.

use std::collections::{BTreeMap, BTreeSet};

use testbed_guest::scenario::{
    CloseSession, CreateMisnamed, CreateSession, DeviceFile, Failing, Finish, Kexec, Memfd, Nothing, Open, Preserve,
    PreserveAgain, PreserveDevice, PreserveOther, Refill, Retrieve, RetrieveDevice, RetrieveSession, Run, StartAgent,
    Step, StopAgent, Stranger, Unload,
};

use super::deed::{DEVICES, Deed, Handler, Made, Name, TOKENS, Token, name};
use super::steps::{errno, fault, load, number, reboot, retrieve_fails};

/// So much may be preserved at a time.
const MOST_PRESERVED: u64 = 96 << 20;

/// What is believed of a kernel, and what its driver holds.
#[derive(Debug, Default)]
pub(super) struct Rules {
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
    /// Every file of the story, as it is now.
    files: BTreeMap<u32, File>,
    /// The files that the driver of this kernel has.
    held: BTreeSet<u32>,
    loaded: bool,
    device_open: bool,
    agent: Agent,
    /// The invariants that userspace breaks by what it does.
    pub(super) findings: BTreeSet<String>,
}

/// The agent of this kernel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// It has run without a break.
    #[default]
    Runs,
    /// It runs, and has not seen everything.
    RunsAgain,
    Gone,
}

#[derive(Debug)]
struct Outgoing {
    name: Name,
    /// Token and file, in the order in which they were preserved.
    files: Vec<(Token, u32)>,
}

#[derive(Debug)]
struct Incoming {
    name: Name,
    retrieved: bool,
    files: Vec<Arrived>,
}

#[derive(Debug)]
struct Arrived {
    token: Token,
    file: u32,
    /// Nothing: no process has asked for it.
    retrieve: Option<Result<(), &'static str>>,
}

#[derive(Debug, Clone)]
struct File {
    made: Made,
    seed: u64,
    /// Whether LUO has it: it was preserved or retrieved, and is neither given up nor finished.
    luo_has: bool,
}

impl Rules {
    /// The steps of a deed, with what must come of each, and what is so then; none where the deed makes no sense here.
    pub(super) fn apply(&mut self, deed: &Deed) -> Vec<Step> {
        self.try_apply(deed).unwrap_or_default()
    }

    fn try_apply(&mut self, deed: &Deed) -> Option<Vec<Step>> {
        let steps = match deed {
            &Deed::Create(session) => vec![self.create(session)?],
            &Deed::CreateMisnamed { long } => {
                self.device_open = true;
                let bytes = if long { 64 } else { 0 };
                let fails = errno("EINVAL");
                vec![Step::CreateMisnamed(CreateMisnamed { bytes, fails })]
            }
            &Deed::Close(session) => vec![self.close(session)?],
            &Deed::Preserve {
                session,
                token,
                file,
                made,
            } => vec![self.preserve_new(session, token, file, made, None)?],
            &Deed::PreserveAgain { session, token, file } => vec![self.preserve_again(session, token, file, None)?],
            &Deed::PreserveOther { session, token, what } => vec![self.preserve_other(session, token, what)?],
            &Deed::Refill { file, seed } => vec![self.refill(file, seed)?],
            &Deed::RetrieveSession(session) => vec![self.retrieve_session(session)?],
            &Deed::Retrieve { session, token } => vec![self.retrieve(session, token, None)?],
            &Deed::Finish(session) => vec![self.finish(session, false)?],
            Deed::Failing { nth, deed } => self.failing(*nth, deed)?,
            Deed::While { handler, deed } => self.during(*handler, deed)?,
            &Deed::FreezeFails { passes, errno } => self.freeze_fails(passes, errno)?,
            Deed::RebootToNothing if !self.loaded => vec![reboot("EINVAL")],
            Deed::Load => {
                self.loaded = true;
                vec![load(Kexec::File, None, None)]
            }
            Deed::LoadWhatIsNoKernel => vec![load(Kexec::File, Some("/scenario.json"), Some("ENOEXEC"))],
            // An image that carries nothing is no fault as long as there is nothing to carry.
            Deed::LoadLegacy if self.outgoing.is_empty() => {
                self.loaded = false;
                let how = Kexec::Legacy;
                vec![load(how, None, None), Step::Unload(Unload { how })]
            }
            Deed::Unload => {
                self.loaded = false;
                vec![Step::Unload(Unload { how: Kexec::File })]
            }
            Deed::OpenTwice => {
                self.device_open = true;
                let fails = Some(errno("EBUSY"));
                vec![Step::OpenTwice(Open { fails })]
            }
            Deed::Shut if self.device_open => {
                self.device_open = false;
                vec![Step::CloseDevice(Nothing {})]
            }
            Deed::Status | Deed::Snapshot | Deed::StopAgent | Deed::KillAgent | Deed::StartAgent => self.agent(deed)?,
            Deed::RebootToNothing | Deed::LoadLegacy | Deed::Shut | Deed::Tamper(_) => return None,
        };
        Some(steps)
    }

    fn create(&mut self, session: Name) -> Option<Step> {
        // The driver knows its open sessions by their names.
        if self.incoming.iter().any(|s| s.name == session && s.retrieved) {
            return None;
        }
        self.device_open = true;
        let taken = self.outgoing.iter().any(|s| s.name == session);
        if !taken {
            let files = Vec::new();
            self.outgoing.push(Outgoing { name: session, files });
        }
        Some(Step::CreateSession(CreateSession {
            name: name(session),
            fails: taken.then(|| errno("EEXIST")),
        }))
    }

    /// Abandons an outgoing session, or finishes an incoming one.
    fn close(&mut self, session: Name) -> Option<Step> {
        if let Some(place) = self.outgoing.iter().position(|s| s.name == session) {
            let gone = self.outgoing.remove(place);
            gone.files.iter().for_each(|(_, file)| self.let_go(*file));
        } else {
            self.finished(session)?;
        }
        let name = name(session);
        Some(Step::CloseSession(CloseSession { name }))
    }

    /// What a preserve of such a file answers, up to the handler's own doing; nothing where the session is not open.
    fn preserve(
        &mut self,
        session: Name,
        token: Token,
        file: u32,
        handler: Option<Handler>,
    ) -> Option<Option<&'static str>> {
        if self.incoming(session).is_some() {
            return Some(Some("EINVAL"));
        }
        let made = self.files.get(&file)?;
        let (luo_has, flbs) = (made.luo_has, flbs(made.made));
        let unused: Vec<_> = flbs.iter().filter(|flb| self.users(flb) == 0).collect();
        let open = self.outgoing.iter_mut().find(|s| s.name == session)?;
        Some(match handler {
            _ if open.files.iter().any(|(taken, _)| *taken == token) => Some("EEXIST"),
            _ if luo_has => Some("EBUSY"),
            Some(Handler::CannotMakeFlb(passes, errno)) if unused.len() > passes as usize => Some(errno),
            Some(Handler::CannotPreserve(errno)) => Some(errno),
            _ => {
                open.files.push((token, file));
                if let Some(file) = self.files.get_mut(&file) {
                    file.luo_has = true;
                }
                None
            }
        })
    }

    fn preserve_new(
        &mut self,
        session: Name,
        token: Token,
        file: u32,
        made: Made,
        handler: Option<Handler>,
    ) -> Option<Step> {
        if !self.is_open(session) || self.preserved_bytes() + made.size() > MOST_PRESERVED {
            return None;
        }
        let seed = u64::from(file);
        let luo_has = false;
        self.files.insert(file, File { made, seed, luo_has });
        self.held.insert(file);
        let fails = self.preserve(session, token, file, handler)?.map(errno);
        let (session, token) = (name(session), TOKENS[usize::from(token)]);
        Some(match made {
            Made::Memfd { .. } => Step::Preserve(Preserve {
                session,
                token,
                memfd: self.memfd(file)?,
                fails,
            }),
            Made::Device { .. } => Step::PreserveDevice(PreserveDevice {
                session,
                token,
                device: self.device_file(file)?,
                fails,
            }),
        })
    }

    fn preserve_again(&mut self, session: Name, token: Token, file: u32, handler: Option<Handler>) -> Option<Step> {
        if !self.is_open(session) || !self.held.contains(&file) {
            return None;
        }
        let size = self.files.get(&file)?.made.size();
        if self.preserved_bytes() + size > MOST_PRESERVED {
            return None;
        }
        let fails = self.preserve(session, token, file, handler)?.map(errno);
        Some(Step::PreserveAgain(PreserveAgain {
            session: name(session),
            token: TOKENS[usize::from(token)],
            memfd: file_name(file),
            fails,
        }))
    }

    fn preserve_other(&mut self, session: Name, token: Token, what: Stranger) -> Option<Step> {
        let taken = |s: &Outgoing| s.files.iter().any(|(taken, _)| *taken == token);
        let fails = match (
            self.incoming(session),
            self.outgoing.iter().find(|s| s.name == session),
            what,
        ) {
            (Some(_), ..) => "EINVAL",
            (None, None, _) => return None,
            (None, Some(open), _) if taken(open) => "EEXIST",
            (.., Stranger::Closed) => "EBADF",
            (.., Stranger::Null | Stranger::Session | Stranger::Named) => "ENOENT",
        };
        Some(Step::PreserveOther(PreserveOther {
            session: name(session),
            token: TOKENS[usize::from(token)],
            what,
            fails: errno(fails),
        }))
    }

    fn refill(&mut self, file: u32, seed: u32) -> Option<Step> {
        if !self.held.contains(&file) {
            return None;
        }
        let known = self.files.get_mut(&file)?;
        match known.made {
            Made::Memfd { sealed: false, .. } => known.seed = u64::from(seed),
            _ => return None,
        }
        let memfd = self.memfd(file)?;
        Some(Step::Refill(Refill { memfd }))
    }

    fn retrieve_session(&mut self, session: Name) -> Option<Step> {
        // The driver knows its open sessions by their names.
        if self.outgoing.iter().any(|s| s.name == session) {
            return None;
        }
        self.device_open = true;
        let known = self.incoming.iter_mut().find(|s| s.name == session);
        let fails = match known {
            None => Some("ENOENT"),
            Some(incoming) if incoming.retrieved => Some("EINVAL"),
            Some(incoming) => {
                incoming.retrieved = true;
                None
            }
        };
        Some(Step::RetrieveSession(RetrieveSession {
            name: name(session),
            fails: fails.map(errno),
        }))
    }

    fn retrieve(&mut self, session: Name, token: Token, handler: Option<Handler>) -> Option<Step> {
        if self.outgoing.iter().any(|s| s.name == session) {
            return Some(retrieve_fails(session, token, "EINVAL"));
        }
        let open = self.incoming.iter_mut().find(|s| s.name == session && s.retrieved)?;
        let Some(arrived) = open.files.iter_mut().find(|file| file.token == token) else {
            return Some(retrieve_fails(session, token, "ENOENT"));
        };
        let file = arrived.file;
        let is_device = matches!(self.files.get(&file)?.made, Made::Device { .. });
        let retrieved = arrived.retrieve.get_or_insert(match handler {
            Some(Handler::CannotRetrieve(errno)) if is_device => Err(errno),
            _ => Ok(()),
        });
        if let Err(errno) = *retrieved {
            return Some(retrieve_fails(session, token, errno));
        }
        self.files.get_mut(&file)?.luo_has = true;
        self.held.insert(file);
        let (session, token) = (name(session), TOKENS[usize::from(token)]);
        Some(match is_device {
            true => Step::RetrieveDevice(RetrieveDevice {
                session,
                token,
                device: Some(self.device_file(file)?),
                fails: None,
            }),
            false => Step::Retrieve(Retrieve {
                session,
                token,
                memfd: Some(self.memfd(file)?),
                fails: None,
            }),
        })
    }

    fn finish(&mut self, session: Name, refused: bool) -> Option<Step> {
        let fails = if self.outgoing.iter().any(|s| s.name == session) {
            Some("EINVAL")
        } else {
            let open = self.incoming(session)?;
            let is_device = |file: &Arrived| self.files.get(&file.file).is_some_and(|file| file.made.is_device());
            (refused && open.files.iter().any(is_device)).then_some("EBUSY")
        };
        if fails.is_none() {
            self.finished(session)?;
        }
        Some(Step::Finish(Finish {
            session: name(session),
            fails: fails.map(errno),
        }))
    }

    /// An incoming session is gone, and LUO has let go of its files; nothing where no process has it.
    fn finished(&mut self, session: Name) -> Option<()> {
        let place = self.incoming.iter().position(|s| s.name == session && s.retrieved)?;
        let gone = self.incoming.remove(place);
        gone.files.iter().for_each(|arrived| self.let_go(arrived.file));
        Some(())
    }

    fn failing(&mut self, nth: u32, deed: &Deed) -> Option<Vec<Step>> {
        // A retrieve that fails has failed for good.
        if matches!(deed, Deed::Retrieve { .. } | Deed::Failing { .. } | Deed::While { .. }) {
            return None;
        }
        let mut steps = self.try_apply(deed)?;
        match (steps.pop(), steps.is_empty()) {
            (Some(step), true) if step.session().is_some() => {
                let step = Box::new(step);
                Some(vec![Step::Failing(Failing { nth, step })])
            }
            _ => None,
        }
    }

    fn during(&mut self, handler: Handler, deed: &Deed) -> Option<Vec<Step>> {
        let also = Some(handler);
        let step = match *deed {
            Deed::Preserve {
                session,
                token,
                file,
                made: made @ Made::Device { .. },
            } => self.preserve_new(session, token, file, made, also)?,
            Deed::Retrieve { session, token } => self.retrieve(session, token, also)?,
            Deed::Finish(session) => self.finish(session, true)?,
            _ => return None,
        };
        let (on, off) = match handler {
            Handler::CannotPreserve(errno) => (vec![fault("preserve_fails", number(errno))], "preserve_fails"),
            Handler::CannotMakeFlb(passes, errno) => (
                vec![
                    fault("flb_preserve_passes", passes),
                    fault("flb_preserve_fails", number(errno)),
                ],
                "flb_preserve_fails",
            ),
            Handler::CannotRetrieve(errno) => (vec![fault("retrieve_fails", number(errno))], "retrieve_fails"),
            Handler::RefusesToFinish => (vec![fault("can_finish_refuses", 1)], "can_finish_refuses"),
        };
        let mut steps = on;
        steps.extend([step, fault(off, 0)]);
        Some(steps)
    }

    fn freeze_fails(&mut self, passes: u32, errno: &'static str) -> Option<Vec<Step>> {
        let files = self.outgoing.iter().flat_map(|s| &s.files);
        let devices = files.filter(|(_, file)| self.files.get(file).is_some_and(|file| file.made.is_device()));
        if passes as usize >= devices.count() {
            return None;
        }
        let mut steps = Vec::new();
        if !self.loaded {
            self.loaded = true;
            steps.push(load(Kexec::File, None, None));
        }
        steps.extend([
            fault("freeze_passes", passes),
            fault("freeze_fails", number(errno)),
            reboot(errno),
            fault("freeze_fails", 0),
        ]);
        Some(steps)
    }

    fn agent(&mut self, deed: &Deed) -> Option<Vec<Step>> {
        let gone = self.agent == Agent::Gone;
        let steps = match deed {
            Deed::Status => vec![Step::Run(Run {
                argv: ["/luo-trace", "status"].map(str::to_owned).into(),
                exits: 0,
                prints: None,
            })],
            Deed::Snapshot if !gone => vec![Step::Snapshot(Nothing {})],
            Deed::StopAgent if !gone => vec![Step::StopAgent(StopAgent { exits: 0 })],
            Deed::KillAgent if !gone => vec![Step::KillAgent(Nothing {}), Step::CheckNoBpf(Nothing {})],
            Deed::StartAgent if gone => vec![Step::StartAgent(StartAgent::default())],
            _ => return None,
        };
        match deed {
            Deed::StopAgent | Deed::KillAgent => self.agent = Agent::Gone,
            Deed::StartAgent => self.agent = Agent::RunsAgain,
            _ => {}
        }
        Some(steps)
    }

    /// The end of a kernel that another one follows. Incoming sessions that are left behind are lost: that is allowed where the agent
    /// has seen all of it, and so has to tell of it; elsewhere they are finished before.
    pub(super) fn kexec(&mut self, leave: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if leave && self.agent == Agent::Runs && !self.incoming.is_empty() {
            self.findings.insert("incoming-finished-first".into());
            if self.incoming.iter().any(|s| !s.files.is_empty()) {
                self.findings.insert("kexec-files-accounted".into());
            }
        } else {
            steps.extend(self.finish_all());
        }
        let arrived = |session: Outgoing| Incoming {
            name: session.name,
            retrieved: false,
            files: session
                .files
                .into_iter()
                .map(|(token, file)| Arrived {
                    token,
                    file,
                    retrieve: None,
                })
                .collect(),
        };
        self.incoming = std::mem::take(&mut self.outgoing).into_iter().map(arrived).collect();
        self.files.values_mut().for_each(|file| file.luo_has = false);
        self.held.clear();
        (self.loaded, self.device_open, self.agent) = (false, false, Agent::Runs);
        steps
    }

    /// Finishes every incoming session, and closes those of the same name that are in the way.
    pub(super) fn finish_all(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let names: Vec<_> = self.incoming.iter().map(|s| s.name).collect();
        for session in names {
            if self.outgoing.iter().any(|s| s.name == session) {
                steps.extend(self.close(session));
            }
            if self.incoming(session).is_none() {
                steps.extend(self.retrieve_session(session));
            }
            steps.extend(self.finish(session, false));
        }
        steps
    }

    /// Abandons every outgoing session.
    pub(super) fn close_all(&mut self) -> Vec<Step> {
        let names: Vec<_> = self.outgoing.iter().map(|s| s.name).collect();
        names.into_iter().filter_map(|session| self.close(session)).collect()
    }

    /// Whether the agent of this kernel has seen everything.
    pub(super) fn is_watched(&self) -> bool {
        self.agent == Agent::Runs
    }

    /// Other steps than those of deeds have opened the device, or loaded an image.
    pub(super) fn learn(&mut self, steps: &[Step]) {
        self.device_open |= !steps.is_empty();
        self.loaded |= steps
            .iter()
            .any(|step| matches!(step, Step::Load(load) if load.fails.is_none()));
    }

    /// The names of the sessions that the driver has open.
    pub(super) fn open(&self) -> Vec<Name> {
        let incoming = self.incoming.iter().filter(|s| s.retrieved).map(|s| s.name);
        self.outgoing.iter().map(|s| s.name).chain(incoming).collect()
    }

    /// The names of those that arrived and are not retrieved yet.
    pub(super) fn waiting(&self) -> Vec<Name> {
        let waiting = self.incoming.iter().filter(|s| !s.retrieved);
        waiting.map(|s| s.name).collect()
    }

    /// The tokens that arrived in a session.
    pub(super) fn arrived(&self, session: Name) -> Vec<Token> {
        let open = self.incoming(session).into_iter();
        open.flat_map(|s| &s.files).map(|file| file.token).collect()
    }

    /// Whether the driver has an outgoing session of this name.
    pub(super) fn is_outgoing(&self, session: Name) -> bool {
        self.outgoing.iter().any(|s| s.name == session)
    }

    /// The files that the driver has.
    pub(super) fn held(&self) -> Vec<u32> {
        self.held.iter().copied().collect()
    }

    fn is_open(&self, session: Name) -> bool {
        self.is_outgoing(session) || self.incoming(session).is_some()
    }

    /// An incoming session that the driver has.
    fn incoming(&self, session: Name) -> Option<&Incoming> {
        self.incoming.iter().find(|s| s.name == session && s.retrieved)
    }

    /// How many outgoing files use this global state.
    fn users(&self, flb: &str) -> usize {
        let files = self.outgoing.iter().flat_map(|s| &s.files);
        let made = files.filter_map(|(_, file)| self.files.get(file));
        made.filter(|file| flbs(file.made).contains(&flb)).count()
    }

    fn preserved_bytes(&self) -> u64 {
        let files = self.outgoing.iter().flat_map(|s| &s.files);
        files
            .filter_map(|(_, file)| self.files.get(file))
            .map(|file| file.made.size())
            .sum()
    }

    fn let_go(&mut self, file: u32) {
        if let Some(file) = self.files.get_mut(&file) {
            file.luo_has = false;
        }
    }

    fn memfd(&self, file: u32) -> Option<Memfd> {
        let known = self.files.get(&file)?;
        let Made::Memfd { size, sealed, holes } = known.made else {
            return None;
        };
        Some(Memfd {
            name: file_name(file),
            size: size.into(),
            seed: known.seed,
            sealed,
            holes,
        })
    }

    fn device_file(&self, file: u32) -> Option<DeviceFile> {
        let known = self.files.get(&file)?;
        let Made::Device { node, size } = known.made else {
            return None;
        };
        Some(DeviceFile {
            node: DEVICES[node].node.into(),
            name: file_name(file),
            size: size.into(),
            seed: known.seed,
        })
    }
}

impl Made {
    fn size(self) -> u64 {
        match self {
            Made::Memfd { size, .. } => size,
            // All of its folios are preserved, whatever is in them.
            Made::Device { node, .. } => DEVICES[node].room,
        }
    }

    fn is_device(self) -> bool {
        matches!(self, Made::Device { .. })
    }
}

fn flbs(made: Made) -> &'static [&'static str] {
    match made {
        Made::Memfd { .. } => &[],
        Made::Device { node, .. } => DEVICES[node].flbs,
    }
}

fn file_name(file: u32) -> String {
    format!("file-{file}")
}
