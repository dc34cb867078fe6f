//! Stories of loads, with real files of made-up kernels.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use luo_trace_common::events::{
    IMAGE_FILE, IMAGE_LEGACY, IMAGE_NONE, Image, ImageCarrier, ImageLoad, Outcome as Ended, SnapshotBegin,
    VERDICT_CARRIES, VERDICT_LOSES, VERDICT_PANICS, VERDICT_UNKNOWN,
};
use luo_trace_common::text::Name;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::event::Body;
use crate::image;
use crate::testing::image::Kernel;
use crate::testing::{IMAGE, Story};

/// The host that loads, and the agent on it.
struct Host {
    dir: tempfile::TempDir,
    open: Vec<File>,
    story: Story,
    target: Target,
    looks: UnboundedReceiver<Look>,
    jump_is_near: bool,
    /// How many loads policy's programs have counted; `None`: there are none.
    counted: Option<u32>,
}

const LINE: &str = "kho=on liveupdate=on";
const LEGACY: Image = Image {
    id: 0x5_1e9a,
    mode: IMAGE_LEGACY,
    kho: 0,
    ..IMAGE
};

fn image(number: u64) -> Image {
    Image {
        id: IMAGE.id + number,
        ..IMAGE
    }
}

/// The same image, which came by the load of this number.
fn by(load: u32, image: Image) -> Image {
    Image { load, ..image }
}

/// One session, with a file of each of these handlers.
fn with(handlers: &[&str]) -> Preserved {
    let used = |name: &&str| image::InUse {
        name: (*name).into(),
        count: 1,
    };
    Preserved {
        sessions: 1,
        handlers: handlers.iter().map(used).collect(),
        flbs: Vec::new(),
        incomplete: None,
    }
}

fn formats() -> Formats {
    Formats {
        luo: Some("luo-v5".into()),
        kho: Some("kho-v4".into()),
    }
}

impl Host {
    fn new() -> Self {
        let (sender, looks) = mpsc::unbounded_channel();
        let mut story = Story::new();
        // The loader of these stories is this process, which has the files open.
        story.by(std::process::id());
        Self {
            dir: tempfile::tempdir().unwrap(),
            open: Vec::new(),
            story,
            target: Target::new(sender, false),
            looks,
            jump_is_near: false,
            counted: None,
        }
    }

    /// On a host that has a policy, which has counted so many loads.
    fn with_policy(counted: u32) -> Self {
        Self {
            counted: Some(counted),
            ..Self::new()
        }
    }

    fn tell(&mut self, body: Body) -> &mut Self {
        self.story.push(body);
        let event = self.story.events.last().unwrap();
        self.target.observe(event, self.jump_is_near);
        self
    }

    /// The loader opens a file with this, and the kernel begins to read it.
    fn begins(&mut self, kernel: &[u8]) -> &mut Self {
        self.counted = self.counted.map(|counted| counted + 1);
        self.opens(kernel).reads()
    }

    fn opens(&mut self, kernel: &[u8]) -> &mut Self {
        let path = self.dir.path().join(self.open.len().to_string());
        fs::write(&path, kernel).unwrap();
        self.open.push(File::open(path).unwrap());
        self
    }

    /// The kernel begins to read the last file, whether the loader has it open or not.
    fn reads(&mut self) -> &mut Self {
        let of = fs::metadata(self.dir.path().join((self.open.len() - 1).to_string())).unwrap();
        self.tell(Body::ImageFile(ImageFile {
            inode: of.ino(),
            device: u64::from(libc::major(of.dev())) << 20 | u64::from(libc::minor(of.dev())),
            size: of.len(),
            load: self.counted.unwrap_or(0),
            reserved: 0,
        }))
    }

    /// The kernel has the command line, and ends with this image loaded.
    fn ends(&mut self, image: Image) -> &mut Self {
        self.tell(Body::ImageCarrier(Box::new(ImageCarrier {
            image: image.id,
            kho: image.kho,
            command_line_len: LINE.len() as u64 + 1,
            command_line: Name::new(LINE),
            outcome: Ended::default(),
        })));
        self.ends_with(0, image)
    }

    /// Another task ends a load of its own, which began unseen.
    fn stranger_ends_with(&mut self, result: i64, image: Image) -> &mut Self {
        self.story.by(1);
        self.ends_with(result, image);
        self.story.by(std::process::id());
        self
    }

    fn ends_with(&mut self, result: i64, image: Image) -> &mut Self {
        let outcome = Ended { result, duration: 1 };
        self.tell(Body::ImageLoad(ImageLoad {
            call: IMAGE_FILE,
            image,
            outcome,
            ..ImageLoad::default()
        }))
    }

    /// Waits until a file was read.
    fn looked(&mut self) -> &mut Self {
        let look = self.looks.blocking_recv().unwrap();
        self.target.take(look);
        self
    }

    /// What the agent tells now of the image: the outcome and why.
    fn says(&mut self, preserved: &Preserved) -> Option<(u32, String)> {
        let verdict = self.target.judge(preserved, formats)?;
        Some((verdict.outcome, verdict.reason.to_string()))
    }

    /// The outcome alone.
    fn outcome(&mut self, preserved: &Preserved) -> Option<u32> {
        self.says(preserved).map(|(outcome, _)| outcome)
    }

    /// What policy is told: of which load, and whether the kernel cannot take what is preserved.
    fn for_policy(&mut self) -> Option<(u64, Option<bool>)> {
        let (_, verdict) = self.target.for_policy()?;
        Some((verdict.load(), verdict.incompatible()))
    }
}

fn memfds() -> Vec<u8> {
    Kernel::with_luo(&["memfd-v2"]).bzimage()
}

#[test]
fn an_image_is_judged_when_it_is_loaded_and_read_in_whatever_order() {
    for read_first in [true, false] {
        let mut host = Host::with_policy(2);
        host.begins(&memfds());
        if read_first {
            host.looked();
            assert_eq!(host.says(&with(&["memfd-v2"])), None, "it is not loaded yet");
            host.ends(by(3, IMAGE));
        } else {
            host.ends(by(3, IMAGE));
            assert_eq!(host.says(&with(&["memfd-v2"])), None, "it was not read yet");
            host.looked();
        }
        let verdict = host.target.judge(&with(&["memfd-v2"]), formats).unwrap();
        assert_eq!(
            (verdict.image, verdict.outcome, verdict.command_line),
            (IMAGE.id, VERDICT_CARRIES, VERDICT_CARRIES)
        );
        assert_eq!(host.for_policy(), Some((3, Some(false))));
        assert_eq!(host.for_policy(), None, "policy was told");
    }
}

#[test]
fn it_is_judged_again_when_another_handler_comes_into_use_and_told_where_that_matters() {
    let mut host = Host::with_policy(0);
    host.begins(&memfds()).ends(by(1, IMAGE)).looked();
    assert_eq!(host.outcome(&Preserved::default()), Some(VERDICT_CARRIES));
    assert_eq!(host.for_policy(), Some((1, Some(false))));
    // Given a session with what the kernel in the image knows, it stays as it was, whatever is said of it;
    assert_ne!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_LOSES));
    host.for_policy();
    // with what it does not know,
    let (outcome, why) = host.says(&with(&["memfd-v2", "nvme-v1"])).unwrap();
    assert_eq!(outcome, VERDICT_LOSES);
    assert!(why.contains("nvme-v1") && !why.contains("memfd-v2"), "{why}");
    assert_eq!(host.for_policy(), Some((1, Some(true))));
    // it is told once, however many files there are of it.
    let mut more = with(&["memfd-v2", "nvme-v1"]);
    more.handlers[1].count = 7;
    assert_eq!((host.says(&more), host.for_policy()), (None, None));
    // When they are gone it carries again.
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_CARRIES));
    assert_eq!(host.for_policy(), Some((1, Some(false))));
}

#[test]
fn a_kernel_without_luo_loses_sessions_that_are_still_to_come() {
    let mut host = Host::new();
    host.begins(&Kernel::plain().bzimage()).ends(IMAGE).looked();
    // Nothing may be preserved now; whoever preserves something and reboots at once must not be faster than the agent.
    let (outcome, why) = host.says(&Preserved::default()).unwrap();
    assert_eq!(outcome, VERDICT_LOSES, "{why}");
    assert!(why.starts_with("Linux 7.3.4-made-up: KHO is not built in"), "{why}");
}

#[test]
fn a_format_that_the_image_does_not_read_has_it_panic() {
    let mut host = Host::new();
    host.begins(&memfds()).ends(IMAGE).looked();
    let other = || Formats {
        luo: Some("luo-v6".into()),
        ..formats()
    };
    let verdict = host.target.judge(&with(&["memfd-v2"]), other).unwrap();
    assert_eq!(verdict.outcome, VERDICT_PANICS);
    assert!(verdict.reason.to_string().contains("luo-v6"), "{}", verdict.reason);
}

#[test]
fn what_kexec_load_loads_loses_at_once() {
    let mut host = Host::new();
    host.ends_with(0, LEGACY);
    let (outcome, why) = host.says(&with(&[])).unwrap();
    assert_eq!(outcome, VERDICT_LOSES);
    assert!(why.contains("kexec_load(2)"), "{why}");
    assert_eq!(host.for_policy(), None, "policy knows that by itself");
}

#[test]
fn a_load_that_fails_leaves_the_image_and_its_verdict_as_they_are() {
    let mut host = Host::with_policy(0);
    host.begins(&memfds()).ends(by(1, IMAGE)).looked();
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_CARRIES));
    assert_eq!(host.for_policy(), Some((1, Some(false))));
    // Given another load, refused by policy or by the kernel, then its number stands for nothing,
    host.begins(b"no kernel").ends_with(-1, by(1, IMAGE));
    assert_eq!(host.for_policy(), None);
    // what comes of its file is not told,
    host.looked();
    assert_eq!((host.says(&with(&["memfd-v2"])), host.for_policy()), (None, None));
    // and neither is an image for a crash, whose file is not told and which leaves the other in its place.
    host.ends_with(0, by(1, IMAGE));
    assert_eq!((host.says(&with(&["memfd-v2"])), host.for_policy()), (None, None));
}

#[test]
fn a_stranger_that_only_fails_changes_nothing() {
    let mut host = Host::with_policy(0);
    host.begins(&memfds()).ends(by(1, IMAGE)).looked();
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_CARRIES));
    assert_eq!(host.for_policy(), Some((1, Some(false))));
    // Given a second load, of a kernel without LUO, and another task that fails while it is under way,
    host.begins(&Kernel::plain().bzimage())
        .stranger_ends_with(-1, by(1, IMAGE));
    assert_eq!((host.says(&with(&["memfd-v2"])), host.for_policy()), (None, None));
    host.ends(by(2, image(1)))
        .stranger_ends_with(-1, by(2, image(1)))
        .looked();
    // then the second image is judged as it is.
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_LOSES));
    assert_eq!(host.for_policy(), Some((2, Some(true))));
}

#[test]
fn the_file_of_a_load_is_not_taken_for_that_of_an_image_that_came_by_another() {
    let mut host = Host::with_policy(0);
    // Given a load that has succeeded, and another that replaced its image before it came back to its caller,
    host.begins(&memfds()).ends_with(0, by(2, image(1)));
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_UNKNOWN));
    assert_eq!(host.for_policy(), None);
    // or an image in the place of the one before.
    host.begins(&memfds()).ends_with(0, by(9, IMAGE));
    assert_eq!(
        (host.outcome(&with(&["memfd-v2"])), host.for_policy()),
        (Some(VERDICT_UNKNOWN), None)
    );
}

#[test]
fn without_a_policy_images_are_judged_and_nothing_is_told_to_programs() {
    let mut host = Host::new();
    host.begins(&memfds()).ends(IMAGE).looked();
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_CARRIES));
    assert_eq!(host.for_policy(), None);
}

#[test]
fn a_file_that_cannot_be_had_is_told_as_unknown_and_policy_is_left_alone() {
    let mut host = Host::with_policy(1);
    // Given a loader that has closed its file before the agent comes,
    host.opens(&memfds());
    host.open[0] = tempfile::tempfile().unwrap();
    host.reads().ends(by(1, IMAGE));
    let (outcome, why) = host.says(&with(&["memfd-v2"])).unwrap();
    assert_eq!(outcome, VERDICT_UNKNOWN);
    assert!(why.contains("closed its image"), "{why}");
    assert_eq!(host.for_policy(), None);
    // or a file that is no kernel.
    host.begins(b"no kernel").ends(by(2, image(1))).looked();
    let (outcome, why) = host.says(&with(&["memfd-v2"])).unwrap();
    assert_eq!(outcome, VERDICT_UNKNOWN);
    assert!(why.contains("no kernel"), "{why}");
}

#[test]
fn near_the_jump_no_file_is_opened() {
    let mut host = Host::new();
    host.jump_is_near = true;
    host.begins(&memfds()).ends(IMAGE);
    let (outcome, why) = host.says(&with(&[])).unwrap();
    assert_eq!(outcome, VERDICT_UNKNOWN);
    assert!(why.contains("about to jump"), "{why}");
}

#[test]
fn in_another_pid_namespace_no_file_is_looked_for_among_the_wrong_tasks() {
    let mut host = Host::new();
    host.target.foreign = true;
    host.begins(&memfds()).ends(IMAGE);
    let (outcome, why) = host.says(&with(&[])).unwrap();
    assert_eq!(outcome, VERDICT_UNKNOWN);
    assert!(why.contains("pid namespace"), "{why}");
}

#[test]
fn of_images_that_come_faster_than_they_are_read_the_newest_is_known() {
    let mut host = Host::new();
    // Given three loads, the first of which is read when the others come,
    host.begins(&memfds()).ends(image(1));
    host.begins(b"never read").ends(image(2));
    host.begins(&Kernel::plain().bzimage()).ends(image(3));
    // then two are read, and the last is what is judged.
    host.looked();
    assert_eq!(host.says(&with(&["memfd-v2"])), None);
    host.looked();
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_LOSES));
    assert!(host.looks.try_recv().is_err());
}

#[test]
fn an_image_that_is_taken_away_is_not_judged_any_more() {
    let mut host = Host::new();
    host.begins(&memfds()).ends(IMAGE).looked();
    let none = Image {
        mode: IMAGE_NONE,
        ..Image::default()
    };
    host.ends_with(0, none);
    assert_eq!(host.says(&with(&["memfd-v2"])), None);
}

#[test]
fn what_was_loaded_before_the_agent_came_is_unknown_and_no_crash_image_is_taken_for_it() {
    let mut host = Host::new();
    let walk = |image| {
        Body::SnapshotBegin(SnapshotBegin {
            image,
            ..SnapshotBegin::default()
        })
    };
    host.tell(walk(IMAGE));
    assert_eq!(host.outcome(&with(&[])), Some(VERDICT_UNKNOWN));
    host.ends_with(0, IMAGE);
    assert_eq!(host.says(&with(&[])), None);
}

#[test]
fn after_a_loss_nothing_is_said_until_a_walk_finds_the_same_image() {
    let mut host = Host::new();
    let walk = |image| {
        Body::SnapshotBegin(SnapshotBegin {
            image,
            ..SnapshotBegin::default()
        })
    };
    host.begins(&memfds()).ends(IMAGE).looked();
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_CARRIES));
    host.tell(Body::Gap { lost: 1 });
    assert_eq!(host.says(&with(&["nvme-v1"])), None);
    host.tell(walk(IMAGE));
    assert_eq!(host.outcome(&with(&["nvme-v1"])), Some(VERDICT_LOSES));
    // Where it is another, no process has seen which.
    host.tell(Body::Gap { lost: 1 }).tell(walk(image(1)));
    assert_eq!(host.outcome(&with(&["nvme-v1"])), Some(VERDICT_UNKNOWN));
    // A loss while it is loaded may have hidden another load.
    host.begins(&memfds())
        .tell(Body::Gap { lost: 1 })
        .ends(image(2))
        .looked();
    assert_eq!(host.outcome(&with(&["memfd-v2"])), Some(VERDICT_UNKNOWN));
}
