use std::fs::{File, FileTimes};

use super::*;
use crate::journal::{Header, Writer};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY
}

/// A directory with the journals of these boots, each with so many bytes of records, last written so many days ago.
fn given(boots: &[(&str, usize, u32)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for &(boot, bytes, days) in boots {
        let header = Header {
            boot_id: boot.into(),
            ..Header::default()
        };
        let (mut writer, path) = Writer::open(dir.path(), &header).unwrap();
        writer.append([vec![0; bytes].as_slice()]).unwrap();
        written(&path, days);
    }
    dir
}

fn written(path: &Path, days: u32) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(now() - days * DAY))
        .unwrap();
}

fn limits(size: u64, keep: Keep) -> Limits {
    Limits { size, keep }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn of_more_boots_than_are_kept_the_oldest_go() {
    let dir = given(&[("a", 10, 9), ("b", 10, 1), ("c", 10, 5), ("now", 10, 7)]);
    let pruned = prune(dir.path(), "now", &limits(1 << 30, Keep::Boots(2)), now()).unwrap();
    assert_eq!(names(dir.path()), ["b.luoj", "now.luoj"]);
    let removed: Vec<_> = pruned
        .removed
        .iter()
        .map(|removed| (removed.boot.as_str(), removed.for_size))
        .collect();
    assert_eq!(removed, [("a", false), ("c", false)]);
}

#[test]
fn journals_that_are_too_old_go() {
    let dir = given(&[("a", 10, 91), ("b", 10, 89), ("c", 10, 5), ("now", 10, 0)]);
    prune(dir.path(), "now", &limits(1 << 30, "90d".parse().unwrap()), now()).unwrap();
    assert_eq!(names(dir.path()), ["b.luoj", "c.luoj", "now.luoj"]);
}

#[test]
fn journals_for_which_there_is_no_room_go_and_the_running_boot_has_room_for_all_that_it_may_become() {
    let dir = given(&[("a", 30_000, 3), ("b", 30_000, 2), ("c", 30_000, 1), ("now", 10, 0)]);
    // Of 100,000 bytes the running boot may take 25,000.
    let pruned = prune(dir.path(), "now", &limits(100_000, Keep::Boots(50)), now()).unwrap();
    assert_eq!(names(dir.path()), ["b.luoj", "c.luoj", "now.luoj"]);
    assert!(pruned.removed[0].for_size && pruned.removed[0].bytes > 30_000);
    assert!(pruned.size <= 100_000, "{}", pruned.size);
}

#[test]
fn the_newest_two_boots_stay_however_large_or_old_they_are() {
    let dir = given(&[("a", 30_000, 800), ("b", 30_000, 700), ("now", 30_000, 900)]);
    let pruned = prune(dir.path(), "now", &limits(1000, Keep::For(DAY)), now()).unwrap();
    assert_eq!(names(dir.path()), ["b.luoj", "now.luoj"]);
    assert!(pruned.size > 1000, "and the size tells");
}

#[test]
fn a_boot_goes_with_its_parts_and_with_what_was_set_aside_of_it() {
    let dir = given(&[("a", 10, 9), ("b", 10, 1), ("now", 10, 0)]);
    let journal = fs::read(dir.path().join("a.luoj")).unwrap();
    for name in ["a.1.luoj", "a.luoj.3", "a.1.luoj.12"] {
        fs::write(dir.path().join(name), &journal).unwrap();
        written(&dir.path().join(name), 10);
    }
    prune(dir.path(), "now", &limits(1 << 30, Keep::Boots(2)), now()).unwrap();
    assert_eq!(names(dir.path()), ["b.luoj", "now.luoj"]);
}

#[test]
fn nothing_goes_that_is_not_surely_ours() {
    let dir = given(&[("a", 10, 9), ("b", 10, 1), ("now", 10, 0)]);
    let journal = fs::read(dir.path().join("a.luoj")).unwrap();
    // Other names, other contents, another boot's, and a link.
    let others = [
        "notes.txt",
        "a.luoj.old",
        "a.luoj.03",
        "a.luoj~",
        "a b.luoj",
        ".luoj",
        "a.x.luoj",
    ];
    for name in others {
        fs::write(dir.path().join(name), &journal).unwrap();
    }
    fs::write(dir.path().join("c.luoj"), "not a journal").unwrap();
    fs::write(dir.path().join("d.luoj"), &journal).unwrap();
    fs::write(dir.path().join("e.luoj"), "").unwrap();
    for name in ["c.luoj", "d.luoj", "e.luoj"] {
        written(&dir.path().join(name), 100);
    }
    std::os::unix::fs::symlink(dir.path().join("a.luoj"), dir.path().join("f.luoj")).unwrap();
    let pruned = prune(dir.path(), "now", &limits(1 << 30, Keep::Boots(2)), now()).unwrap();
    let left = names(dir.path());
    for name in others.into_iter().chain(["c.luoj", "d.luoj", "e.luoj", "f.luoj"]) {
        assert!(left.contains(&name.to_owned()), "{name} is gone");
    }
    assert!(!left.contains(&"a.luoj".to_owned()));
    assert_eq!(pruned.left.len(), 3, "{:?}", pruned.left);
}

#[test]
fn a_large_file_that_cannot_go_takes_no_other_with_it() {
    let dir = given(&[("a", 10, 9), ("b", 10, 8), ("c", 10, 1), ("now", 10, 0)]);
    fs::write(dir.path().join("d.luoj"), vec![0; 1 << 20]).unwrap();
    written(&dir.path().join("d.luoj"), 100);
    prune(dir.path(), "now", &limits(100_000, Keep::Boots(50)), now()).unwrap();
    assert_eq!(names(dir.path()), ["a.luoj", "b.luoj", "c.luoj", "d.luoj", "now.luoj"]);
}

#[test]
fn a_journal_that_another_agent_writes_stays() {
    let dir = given(&[("b", 10, 8), ("c", 10, 1), ("now", 10, 0)]);
    let header = Header {
        boot_id: "a".into(),
        ..Header::default()
    };
    let (_writer, path) = Writer::open(dir.path(), &header).unwrap();
    written(&path, 100);
    let pruned = prune(dir.path(), "now", &limits(1 << 30, Keep::Boots(2)), now()).unwrap();
    assert_eq!(names(dir.path()), ["a.luoj", "c.luoj", "now.luoj"]);
    assert!(pruned.left[0].1.contains("another agent"), "{:?}", pruned.left);
}

#[test]
fn what_is_kept_is_a_number_of_boots_or_an_age() {
    assert_eq!("50".parse(), Ok(Keep::Boots(50)));
    assert_eq!("90d".parse(), Ok(Keep::For(90 * DAY)));
    for wrong in ["0", "1", "-3", "some", ""] {
        assert!(wrong.parse::<Keep>().is_err(), "{wrong}");
    }
}
