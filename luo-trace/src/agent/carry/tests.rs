use std::fs;

use super::*;
use crate::journal::Frame;

fn header(boot_id: &str) -> Header {
    Header {
        boot_id: boot_id.into(),
        ..Header::default()
    }
}

/// The agent of this boot, which no process has asked for anything yet.
fn given_an_agent(dir: PathBuf) -> Carry {
    Carry::begin(Way::Luo, 64 << 10, &header("now"), dir, None)
        .unwrap()
        .unwrap()
        .0
}

/// What the agent of another boot, or of this one, left in its memory.
fn left_by(boot_id: &str) -> Vec<u8> {
    let (carry, mut recorder) = Carry::begin(Way::Luo, 64 << 10, &header(boot_id), PathBuf::new(), None)
        .unwrap()
        .unwrap();
    recorder.record(b"one");
    read(carry.memfd).unwrap()
}

fn records(path: PathBuf) -> usize {
    let bytes = fs::read(path).unwrap();
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let mut records = 0;
    while let Some(frame) = reader.next() {
        records += usize::from(matches!(frame, Frame::Event(_)));
    }
    records
}

#[test]
fn what_the_previous_kernel_left_goes_to_the_directory_of_journals() {
    let dir = tempfile::tempdir().unwrap();
    let mut carry = given_an_agent(dir.path().into());
    carry.arrived(Ok(left_by("before")));
    carry.house();
    assert_eq!(records(dir.path().join("before.luoj")), 1);
    assert!(carry.homeless.is_empty());
}

#[test]
fn a_journal_that_the_disk_does_not_take_is_kept_and_tried_again() {
    // Given a directory that cannot be made, since a file has its name,
    let dir = tempfile::tempdir().unwrap();
    let journals = dir.path().join("journals");
    fs::write(&journals, "").unwrap();
    let mut carry = given_an_agent(journals.clone());
    carry.done = true;
    // when a journal comes over,
    carry.arrived(Ok(left_by("before")));
    carry.house();
    // then it waits,
    assert!((0..LONGEST_WAIT).any(|_| carry.is_due()), "it is tried again");
    // and is there when it can be.
    fs::remove_file(&journals).unwrap();
    carry.attempt(&Foreign::default());
    assert_eq!(records(journals.join("before.luoj")), 1);
    assert!(
        !(0..=LONGEST_WAIT).any(|_| carry.is_due()),
        "there is nothing more to do"
    );
}

#[test]
fn what_an_agent_of_this_boot_left_is_in_the_directory_already() {
    let dir = tempfile::tempdir().unwrap();
    let mut carry = given_an_agent(dir.path().into());
    carry.arrived(Ok(left_by("now")));
    carry.house();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_journal_is_told_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut carry = given_an_agent(dir.path().into());
    carry.arrived(Ok(vec![0; 4096]));
    carry.arrived(Err(io::Error::other("gone")));
    carry.house();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn too_little_memory_is_told_with_the_option_that_gives_more() {
    let error = Carry::begin(Way::Luo, 4096, &header("now"), PathBuf::new(), None).unwrap_err();
    assert!(format!("{error:#}").contains("use a larger --carry-kib"), "{error:#}");
}

#[test]
fn what_a_way_needs_is_asked_for_by_name() {
    let told = |way: Way, directory, manager| way.check(directory, manager).err().map(|error| error.to_string());
    assert_eq!(told(Way::None, false, false), None);
    assert_eq!(told(Way::Luo, true, false), None);
    assert_eq!(told(Way::Fdstore, true, true), None);
    assert!(told(Way::Luo, false, true).unwrap().contains("--journal DIR"));
    assert!(
        told(Way::Fdstore, true, false)
            .unwrap()
            .contains("FileDescriptorStoreMax=2")
    );
}
