//! Loads, verdicts and events in any order, any of them lost: never is a verdict in force that is not that of the image in place.

use std::collections::VecDeque;
use std::sync::LazyLock;

use luo_trace_common::events::{ImageCarrier, ImageLoad, Outcome as Ended, SnapshotBegin};
use luo_trace_common::policy::{Load as Counted, State};
use proptest::prelude::*;
use zerocopy::FromZeros;

use super::*;
use crate::testing::Story;
use crate::testing::image::Kernel;

/// What a file holds: a kernel that takes what is preserved, one that loses it, or no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    Bad,
    None,
}

static GOOD: LazyLock<Contents> = LazyLock::new(|| image::read(&Kernel::with_luo(&["memfd-v2"]).bzimage()).unwrap());
static BAD: LazyLock<Contents> = LazyLock::new(|| image::read(&Kernel::plain().bzimage()).unwrap());

impl Kind {
    fn found(self) -> Found {
        match self {
            Kind::Good => Found::Contents(Box::new(GOOD.clone())),
            Kind::Bad => Found::Contents(Box::new(BAD.clone())),
            Kind::None => Found::Nothing("it is no kernel".into()),
        }
    }
}

/// Something that happens on the host, or to its agent.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A task calls kexec_file_load(2) with this file, at an address of some that are free.
    Begin(u32, Kind),
    /// The kernel makes the image of the load under way, at the first free address from here on.
    Make(u64),
    /// The load under way succeeds.
    Succeed,
    /// It fails, is refused, or its task dies.
    Fail,
    /// A task whose load has ended comes back to it.
    Return(u32),
    /// A task has the kernel load one for a crash, which is made and comes back to it.
    Crash(u32),
    /// A task loads an image by kexec_load(2), at the first free address from here on.
    Legacy(u32, u64),
    /// A task takes the image away.
    Unload(u32),
    /// A task that may not load tries to.
    Stranger(u32),
    /// The agent walks over the kernel's lists.
    Walk,
    /// The agent reads a file that waits.
    Look(usize),
    /// The agent ends, and another takes over from it.
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InPlace {
    id: u64,
    /// `None`: it came by kexec_load(2).
    kind: Option<Kind>,
}

/// A load under way: whose, of what, and the address of the image it makes.
struct UnderWay {
    tid: u32,
    kind: Kind,
    makes: Option<u64>,
}

/// A kernel with policy's programs, and an agent. The programs' part is the one that they share with this test.
struct Host {
    in_place: Option<InPlace>,
    under_way: Option<UnderWay>,
    /// Tasks whose load has ended, and how.
    returning: Vec<(u32, bool)>,
    state: State,
    story: Story,
    loads: Loads,
    /// Files that the agent has opened and not read.
    unread: VecDeque<(u64, Kind)>,
    opened: u64,
    lost: bool,
}

/// Few, so that they are used again.
const ADDRESSES: u64 = 3;

impl Host {
    fn new() -> Self {
        Self {
            in_place: None,
            under_way: None,
            returning: Vec::new(),
            state: State::new_zeroed(),
            story: Story::new(),
            loads: Loads::default(),
            unread: VecDeque::new(),
            opened: 0,
            lost: false,
        }
    }

    fn newest(&self) -> Counted {
        self.state.load[(self.state.loads & 1) as usize]
    }

    fn address(&self) -> u64 {
        self.in_place.map_or(0, |image| image.id)
    }

    fn free(&self, from: u64) -> u64 {
        let mut free = (0..ADDRESSES).map(|i| 0x1000 + (from + i) % ADDRESSES);
        free.find(|&id| id != self.address()).unwrap()
    }

    /// The image in place as an event has it.
    fn image(&self) -> Image {
        match self.in_place {
            None => Image {
                mode: IMAGE_NONE,
                ..Image::default()
            },
            Some(InPlace { id, kind: None }) => Image {
                id,
                mode: IMAGE_LEGACY,
                ..Image::default()
            },
            Some(InPlace { id, kind: Some(_) }) => Image {
                id,
                mode: IMAGE_FILE,
                load: self.newest().number_of(id) as u32,
                kho: 1,
            },
        }
    }

    /// An event of a task, which the agent gets or not. A loss is told with the next that it gets.
    fn tell(&mut self, tid: u32, body: Body, is_lost: bool, kind: Kind) {
        if is_lost {
            self.lost = true;
            return;
        }
        if std::mem::take(&mut self.lost) {
            self.hand(0, Body::Gap { lost: 1 }, kind);
        }
        self.hand(tid, body, kind);
        self.judge();
    }

    fn hand(&mut self, tid: u32, body: Body, kind: Kind) {
        self.story.by(tid);
        self.story.push(body);
        let event = self.story.events.pop().unwrap();
        let (opened, unread) = (&mut self.opened, &mut self.unread);
        self.loads.observe(&event, |_| {
            *opened += 1;
            unread.push_back((*opened, kind));
            Found::Waiting(*opened)
        });
    }

    fn judge(&mut self) {
        let preserved = Preserved {
            sessions: 1,
            handlers: vec![image::InUse {
                name: "memfd-v2".into(),
                count: 1,
            }],
            ..Preserved::default()
        };
        let formats = || Formats {
            luo: Some("luo-v5".into()),
            kho: Some("kho-v4".into()),
        };
        self.loads.judge(&preserved, formats);
        if let Some((image, verdict)) = self.loads.for_policy() {
            (self.state.judged, self.state.verdict) = (image, verdict.0);
        }
    }

    fn ended(&mut self, tid: u32, succeeded: bool, is_lost: bool) {
        let load = ImageLoad {
            image: self.image(),
            outcome: Ended {
                result: if succeeded { 0 } else { -1 },
                duration: 1,
            },
            ..ImageLoad::default()
        };
        self.tell(tid, Body::ImageLoad(load), is_lost, Kind::None);
    }

    fn is_idle(&self, tid: u32) -> bool {
        self.under_way.as_ref().is_none_or(|load| load.tid != tid)
            && self.returning.iter().all(|&(task, _)| task != tid)
    }

    fn carrier(&mut self, tid: u32, image: u64, is_lost: bool) {
        let carrier = ImageCarrier {
            image,
            ..ImageCarrier::default()
        };
        self.tell(tid, Body::ImageCarrier(Box::new(carrier)), is_lost, Kind::None);
    }

    fn take(&mut self, step: Step, is_lost: bool) {
        let has_lock = self.under_way.is_none();
        match step {
            Step::Begin(tid, kind) if has_lock && self.is_idle(tid) => {
                let next = self.newest().next(Some(self.address()));
                self.state.loads += 1;
                self.state.load[(self.state.loads & 1) as usize] = next;
                self.under_way = Some(UnderWay { tid, kind, makes: None });
                let file = ImageFile {
                    load: next.number as u32,
                    ..ImageFile::default()
                };
                self.tell(tid, Body::ImageFile(file), is_lost, kind);
            }
            Step::Make(from) => {
                let free = self.free(from);
                if let Some(UnderWay { tid, makes, .. }) = &mut self.under_way
                    && makes.is_none()
                {
                    *makes = Some(free);
                    let tid = *tid;
                    self.carrier(tid, free, is_lost);
                }
            }
            Step::Succeed => match self.under_way.take() {
                Some(UnderWay {
                    tid,
                    kind,
                    makes: Some(id),
                }) => {
                    self.in_place = Some(InPlace { id, kind: Some(kind) });
                    self.returning.push((tid, true));
                }
                other => self.under_way = other,
            },
            Step::Fail => {
                if let Some(load) = self.under_way.take() {
                    self.returning.push((load.tid, false));
                }
            }
            Step::Return(tid) => {
                if let Some(place) = self.returning.iter().position(|&(task, _)| task == tid) {
                    let (_, succeeded) = self.returning.remove(place);
                    self.ended(tid, succeeded, is_lost);
                }
            }
            Step::Crash(tid) if has_lock && self.is_idle(tid) => {
                self.carrier(tid, 0xdead, false);
                self.ended(tid, true, is_lost);
            }
            Step::Legacy(tid, from) if has_lock && self.is_idle(tid) => {
                let id = self.free(from);
                self.in_place = Some(InPlace { id, kind: None });
                self.returning.push((tid, true));
            }
            Step::Unload(tid) if has_lock && self.is_idle(tid) => {
                self.in_place = None;
                self.returning.push((tid, true));
            }
            Step::Stranger(tid) if self.is_idle(tid) => self.ended(tid, false, is_lost),
            Step::Walk => {
                let walk = SnapshotBegin {
                    image: self.image(),
                    ..SnapshotBegin::default()
                };
                self.tell(0, Body::SnapshotBegin(walk), is_lost, Kind::None);
            }
            Step::Look(which) if !self.unread.is_empty() => {
                let (number, kind) = self.unread.remove(which % self.unread.len()).unwrap();
                self.loads.answer(number, kind.found());
                self.judge();
            }
            Step::Restart => self.restart(),
            _ => {}
        }
    }

    /// The programs of the agent that takes over count anew, by the first load that begins after them.
    fn restart(&mut self) {
        let old = self.state;
        self.state = State::new_zeroed();
        if let Some((verdict, load)) = State::inherited(&old) {
            (self.state.verdict, self.state.judged, self.state.load[0]) = (verdict.0, old.judged, load);
        }
        self.loads = Loads::default();
        self.unread.clear();
        self.lost = false;
    }

    /// What the programs go by when a task wants to jump, as in `Call::verdict` of `policy/decide.rs` in luo-trace-ebpf.
    fn in_force(&self) -> Option<bool> {
        let image = self.image();
        let verdict = ImageBits(self.state.verdict);
        (image.mode == IMAGE_FILE && image.load != 0 && verdict.load() == u64::from(image.load))
            .then(|| verdict.incompatible())?
    }
}

fn step() -> impl Strategy<Value = Step> {
    let tid = || 1u32..4;
    let kind = prop_oneof![3 => Just(Kind::Good), 3 => Just(Kind::Bad), 1 => Just(Kind::None)];
    prop_oneof![
        5 => (tid(), kind).prop_map(|(tid, kind)| Step::Begin(tid, kind)),
        5 => (0..ADDRESSES).prop_map(Step::Make),
        5 => Just(Step::Succeed),
        2 => Just(Step::Fail),
        6 => tid().prop_map(Step::Return),
        1 => tid().prop_map(Step::Crash),
        1 => (tid(), 0..ADDRESSES).prop_map(|(tid, from)| Step::Legacy(tid, from)),
        1 => tid().prop_map(Step::Unload),
        2 => tid().prop_map(Step::Stranger),
        2 => Just(Step::Walk),
        5 => (0usize..4).prop_map(Step::Look),
        1 => Just(Step::Restart),
    ]
}

/// The cases of a plain run. `PROPTEST_CASES=1000000` tries as many as the documents tell of.
fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig {
            cases: 1_000,
            ..default
        },
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn never_is_a_verdict_in_force_that_is_not_that_of_the_image_in_place(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.1)), 1..60),
    ) {
        let mut host = Host::new();
        for (step, is_lost) in steps {
            host.take(step, is_lost);
            let Some(incompatible) = host.in_force() else { continue };
            let kind = host.in_place.and_then(|image| image.kind);
            prop_assert_eq!(kind, Some(if incompatible { Kind::Bad } else { Kind::Good }), "after {:?}", step);
        }
    }
}

#[test]
fn a_load_that_nothing_disturbs_has_its_verdict_in_force_also_after_a_restart_and_a_load_that_fails() {
    let mut host = Host::new();
    let load = [
        Step::Begin(1, Kind::Bad),
        Step::Make(0),
        Step::Succeed,
        Step::Return(1),
        Step::Look(0),
    ];
    load.into_iter().for_each(|step| host.take(step, false));
    assert_eq!(host.in_force(), Some(true));
    host.take(Step::Restart, false);
    assert_eq!(host.in_force(), Some(true));
    for step in [Step::Begin(2, Kind::Good), Step::Make(1), Step::Stranger(3)] {
        host.take(step, false);
        assert_eq!(host.in_force(), Some(true), "{step:?}");
    }
    host.take(Step::Fail, false);
    assert_eq!(host.in_force(), Some(true));
    // Given one that succeeds, the verdict of the one before is void at once, and the new one counts as soon as it is told.
    for step in [Step::Begin(3, Kind::Good), Step::Make(2), Step::Succeed] {
        host.take(step, false);
    }
    assert_eq!(host.in_force(), None);
    [Step::Return(3), Step::Look(1)]
        .into_iter()
        .for_each(|step| host.take(step, false));
    assert_eq!(host.in_force(), Some(false));
}
