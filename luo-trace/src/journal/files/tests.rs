//! Journals in several files: what is kept of a long boot, and what is told of the rest.

use proptest::prelude::*;

use super::*;
use crate::journal::carry::{Home, bring_home};
use crate::journal::{Clock, End, Frame, Reason, Writer, each};
use crate::testing::cases;

/// So many records fill a head and three parts of a journal of 64 KiB.
const SOME: u64 = 310;

/// The header of this run of the boot's agent.
fn header(run: u64) -> Header {
    Header {
        boot_id: "the-boot".into(),
        attach_ns: run,
        clock: Clock {
            monotonic_ns: run,
            ..Clock::default()
        },
        ..Header::default()
    }
}

/// The record of this number, of a length that differs from its neighbours'.
fn record(number: u64) -> Vec<u8> {
    let mut record = number.to_le_bytes().to_vec();
    record.resize(8 + (number * 37 % 300) as usize, b'.');
    record
}

fn write(writer: &mut Writer, numbers: std::ops::Range<u64>) {
    let records: Vec<_> = numbers.map(record).collect();
    writer.append(records.iter().map(Vec::as_slice)).unwrap();
}

/// A journal of one run with so many records, written one by one, and its directory.
fn written(records: u64, most: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, path) = Writer::open_within(dir.path(), &header(1), most).unwrap();
    (0..records).for_each(|number| write(&mut writer, number..number + 1));
    (dir, path)
}

fn size(dir: &Path) -> u64 {
    dir.read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// What a journal tells.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// The numbers of its records, each with its run.
    records: Vec<(u64, u64)>,
    /// Where in those records are missing, and how many.
    losses: Vec<(usize, u64)>,
    damage: Vec<(u64, Reason)>,
    ends: bool,
}

fn read<R: std::io::Read>(mut reader: Reader<R>) -> Told {
    let mut told = Told::default();
    let mut run = reader.header().attach_ns;
    while let Some(frame) = reader.next() {
        match frame {
            Frame::Event(bytes) => {
                let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                assert_eq!(bytes, record(number));
                told.records.push((number, run));
            }
            Frame::Lost(lost) => match told.losses.last_mut() {
                Some((at, records)) if *at == told.records.len() => *records += lost.records,
                _ => told.losses.push((told.records.len(), lost.records)),
            },
            Frame::Resumed(header) => run = header.attach_ns,
            Frame::Damage(damage) => told.damage.push((damage.part, damage.reason)),
            Frame::End(_) => told.ends = true,
            Frame::Clock(_) => {}
        }
    }
    assert_eq!(reader.unknown(), 0);
    told
}

fn told(path: &Path) -> Told {
    read(Reader::open(path).unwrap())
}

/// The numbers that are missing from so many, where they are in one piece.
fn hole(told: &Told, records: u64) -> std::ops::Range<u64> {
    let before = told
        .records
        .iter()
        .zip(0..)
        .take_while(|((number, _), place)| number == place)
        .count() as u64;
    let after = told.records.len() as u64 - before;
    let last: Vec<_> = told
        .records
        .iter()
        .skip(before as usize)
        .map(|&(number, _)| number)
        .collect();
    assert_eq!(
        last,
        (records - after..records).collect::<Vec<_>>(),
        "a beginning and an end"
    );
    before..records - after
}

#[test]
fn of_a_boot_that_tells_too_much_the_beginning_and_the_end_stay_and_the_middle_is_counted() {
    const MOST: u64 = 64 << 10;
    let (dir, path) = written(5000, MOST);
    let told = told(&path);
    let hole = hole(&told, 5000);
    assert_eq!(told.losses, [(hole.start as usize, hole.end - hole.start)]);
    assert!(size(dir.path()) <= MOST, "{} bytes", size(dir.path()));
    // The beginning has its half, and the end some three eighths at least.
    let bytes = |numbers: std::ops::Range<u64>| numbers.map(|number| record(number).len() as u64 + 10).sum::<u64>();
    assert!(bytes(0..hole.start) > MOST / 2 - 1000);
    assert!(bytes(hole.end..5000) > MOST * 3 / 8 - 3000);
}

#[test]
fn what_was_removed_is_known_to_the_writer_that_removed_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, path) = Writer::open_within(dir.path(), &header(1), 64 << 10).unwrap();
    (0..5000).for_each(|number| write(&mut writer, number..number + 1));
    let hole = hole(&told(&path), 5000);
    assert_eq!(writer.removed(), hole.end - hole.start);
    assert_eq!(writer.lost(), 0, "they were written once");
}

#[test]
fn a_batch_that_is_longer_than_a_file_may_be_is_spread() {
    const MOST: u64 = 64 << 10;
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, path) = Writer::open_within(dir.path(), &header(1), MOST).unwrap();
    write(&mut writer, 0..5000);
    assert!(size(dir.path()) <= MOST);
    let told = told(&path);
    hole(&told, 5000);
}

#[test]
fn a_directory_is_read_with_the_parts_and_they_are_no_journals_of_their_own() {
    let (dir, path) = written(5000, 64 << 10);
    let mut names = Vec::new();
    let mut lost = Vec::new();
    let unreadable = each(dir.path(), |source| {
        names.push(source.name.clone());
        let mut events = source.events;
        while events.next().is_some() {}
        lost.push(events.summary().lost);
    });
    assert!(unreadable.unwrap().is_empty());
    assert_eq!(names, std::slice::from_ref(&path));
    let hole = hole(&told(&path), 5000);
    assert_eq!(lost, [hole.end - hole.start]);
}

#[test]
fn a_part_that_is_not_there_is_a_loss_of_as_many_as_it_had() {
    let (_dir, path) = written(SOME, 64 << 10);
    let parts = parts_of(&path).unwrap();
    assert_eq!(parts, [1, 2, 3], "nothing was removed yet");
    assert_eq!(told(&path).losses, []);
    // One in the middle,
    fs::remove_file(part_of(&path, 2)).unwrap();
    let without = told(&path);
    let gone = hole(&without, SOME);
    assert_eq!(without.losses, [(gone.start as usize, gone.end - gone.start)]);
    // and the last, of which nothing is known but that it was there.
    fs::remove_file(part_of(&path, 3)).unwrap();
    let losses = told(&path).losses;
    assert_eq!(losses.last().map(|&(_, lost)| lost), Some(1));
}

#[test]
fn parts_without_a_head_are_read_behind_the_loss_of_it() {
    let (dir, path) = written(SOME, 64 << 10);
    fs::remove_file(&path).unwrap();
    let mut found = Vec::new();
    each(dir.path(), |source| {
        found.push((source.name.clone(), source.events.count()))
    })
    .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, part_of(&path, 1));
    let told = told(&part_of(&path, 1));
    assert_eq!(told.losses, [(0, told.records[0].0)]);
    assert_eq!(told.records.last(), Some(&(SOME - 1, 1)));
}

#[test]
fn a_damaged_part_costs_itself_and_what_follows_is_read() {
    let (_dir, path) = written(SOME, 64 << 10);
    let whole = told(&path).records.len();
    // A power loss may leave a file's length, and nothing in it.
    let len = fs::metadata(part_of(&path, 2)).unwrap().len();
    fs::write(part_of(&path, 2), vec![0; len as usize]).unwrap();
    let told = told(&path);
    assert_eq!(told.damage, [(2, Reason::Content)]);
    assert!(told.records.len() < whole && told.records.last() == Some(&(SOME - 1, 1)));
    assert_eq!(told.losses.len(), 1);
}

#[test]
fn an_agent_that_is_started_again_goes_on_in_the_last_part() {
    let (dir, path) = written(SOME, 64 << 10);
    let last = *parts_of(&path).unwrap().last().unwrap();
    let (mut writer, same) = Writer::open_within(dir.path(), &header(2), 64 << 10).unwrap();
    assert_eq!(same, path);
    assert!(
        Writer::open_within(dir.path(), &header(3), 64 << 10).is_err(),
        "it is locked"
    );
    write(&mut writer, SOME..SOME + 2);
    writer.end(&End::default()).unwrap();
    assert_eq!(parts_of(&path).unwrap().last(), Some(&last));
    let told = told(&path);
    assert_eq!(told.records.len() as u64, SOME + 2);
    assert_eq!(
        told.records[SOME as usize - 1..],
        [(SOME - 1, 1), (SOME, 2), (SOME + 1, 2)]
    );
    assert!(told.ends);
}

#[test]
fn what_was_carried_completes_a_journal_in_parts() {
    // Given a journal in parts, of which the disk missed the end, and of which all was carried from some record on,
    let (dir, path) = written(5000, 64 << 10);
    let carried = |from: u64, to: u64| {
        let mut journal = frame::preamble(frame::HEAD_VERSION).to_vec();
        frame::put_json(&mut journal, kind::HEADER, &header(1)).unwrap();
        let lost = crate::journal::Lost {
            records: from,
            why: String::new(),
        };
        frame::put_json(&mut journal, kind::LOST, &lost).unwrap();
        (from..to).for_each(|number| assert!(frame::put(&mut journal, kind::EVENT, &record(number))));
        journal
    };
    let before = told(&path);
    // when it is brought home, then what was missing is there, and nothing twice.
    let home = bring_home(dir.path(), &carried(4800, 5100)).unwrap();
    assert_eq!(
        home,
        Home::Completed {
            path: path.clone(),
            records: 100
        }
    );
    let after = told(&path);
    assert_eq!(after.records.len(), before.records.len() + 100);
    assert_eq!(hole(&after, 5100), hole(&before, 5000));
    assert_eq!(
        bring_home(dir.path(), &carried(4800, 5100)).unwrap(),
        Home::Known(path.clone())
    );
    assert_eq!(told(&path), after);
}

#[test]
fn a_journal_that_cannot_be_gone_on_with_is_set_aside_with_its_parts() {
    let (dir, path) = written(SOME, 64 << 10);
    fs::write(part_of(&path, 3), "no part").unwrap();
    let (mut writer, _) = Writer::open_within(dir.path(), &header(2), 64 << 10).unwrap();
    write(&mut writer, 0..3);
    assert!(parts_of(&path).unwrap().is_empty());
    assert_eq!(told(&path).records.len(), 3);
    let aside = dir.path().join("the-boot.1.luoj");
    assert_eq!(parts_of(&aside).unwrap(), [1, 2, 3]);
    assert_eq!(told(&aside).damage, [(3, Reason::Content)]);
}

#[test]
fn parts_without_a_head_are_no_parts_of_what_begins_anew() {
    let (dir, path) = written(SOME, 64 << 10);
    fs::remove_file(&path).unwrap();
    let (mut writer, _) = Writer::open_within(dir.path(), &header(2), 64 << 10).unwrap();
    write(&mut writer, 0..3);
    assert_eq!(told(&path).records, [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(parts_of(&dir.path().join("the-boot.1.luoj")).unwrap(), [1, 2, 3]);
}

#[test]
fn a_journal_has_its_name_when_its_header_is_on_the_disk_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("the-boot.luoj");
    // Given a disk that has no room for the header, so that it was not written,
    let mut files = Files::new(&path, u64::MAX).unwrap();
    files.write_all(b"LUOJ").unwrap();
    assert!(!path.exists());
    // then another agent is kept away all the same, and nothing is left of it at the end.
    let error = Writer::open(dir.path(), &header(1)).unwrap_err().to_string();
    assert!(error.contains("another agent"), "{error}");
    drop(files);
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    // What a killed agent left is no obstacle, neither half a header nor an older agent's empty file.
    fs::write(dir.path().join(".the-boot.luoj.new"), b"LUOJRNL\n\x01\0").unwrap();
    fs::write(&path, b"").unwrap();
    let (mut writer, _) = Writer::open(dir.path(), &header(1)).unwrap();
    write(&mut writer, 0..3);
    assert_eq!(told(&path).records.len(), 3);
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_pipe_in_a_journals_place_is_an_error_and_no_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("the-boot.luoj");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    Writer::open(dir.path(), &header(1)).unwrap_err();
}

#[test]
fn an_old_reader_takes_no_part_for_a_whole_journal() {
    let (_dir, path) = written(SOME, 64 << 10);
    let version = |path: &Path| fs::read(path).unwrap()[8];
    assert_eq!((version(&path), version(&part_of(&path, 1))), (1, 2));
}

proptest! {
    #![proptest_config(cases(16))]

    /// Agents that write batches, are killed, and are started again, within any bound.
    #[test]
    fn a_journal_within_any_bound_has_a_beginning_an_end_and_the_number_of_what_lies_between(
        most in 24_u64 << 10..200 << 10,
        runs in prop::collection::vec(prop::collection::vec(0_u64..120, 0..40), 1..6),
        torn in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut records = 0;
        let mut first_of_run = Vec::new();
        for (batches, run) in runs.iter().zip(1..) {
            first_of_run.push(records);
            let (mut writer, _) = Writer::open_within(dir.path(), &header(run), most).unwrap();
            for batch in batches {
                write(&mut writer, records..records + batch);
                records += batch;
                // Never more than one part above the bound.
                prop_assert!(size(dir.path()) <= most + most / 8, "{} of {most}", size(dir.path()));
            }
        }
        let path = dir.path().join("the-boot.luoj");
        if torn {
            // The last agent was killed while it wrote.
            open_last(&path).unwrap().write_all(&[40, 0, 0]).unwrap();
        }
        let told = told(&path);
        let hole = hole(&told, records);
        let losses = if hole.is_empty() { vec![] } else { vec![(hole.start as usize, hole.end - hole.start)] };
        prop_assert_eq!(&told.losses, &losses);
        for &(number, run) in &told.records {
            let of = first_of_run.iter().filter(|&&first| first <= number).count() as u64;
            prop_assert_eq!(run, of, "record {}", number);
        }
        // Before anything has to go, nothing does.
        prop_assert!(hole.is_empty() || size(dir.path()) > most / 2);
    }
}
