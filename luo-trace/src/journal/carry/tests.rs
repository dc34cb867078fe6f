use proptest::prelude::*;

use super::*;
use crate::journal::frame::{self, HEAD};
use crate::journal::{Clock, End, Frame, Header, MAX_PAYLOAD, Reader, kind};
use crate::testing::cases;

/// A memory whose writer is stopped after so many bytes; a number is written whole, or not at all.
#[derive(Debug)]
struct Jumping {
    bytes: Vec<u8>,
    left: usize,
}

impl Jumping {
    fn after(size: usize, left: usize) -> Self {
        Self {
            bytes: vec![0; size],
            left,
        }
    }
}

impl Memory for &mut Jumping {
    fn size(&self) -> usize {
        self.bytes.len()
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let len = bytes.len().min(self.left);
        self.left -= len;
        self.bytes[at..at + len].copy_from_slice(&bytes[..len]);
    }

    fn publish(&mut self, at: usize, value: u64) {
        assert_eq!(at % 8, 0);
        match self.left.checked_sub(8) {
            Some(left) => {
                self.left = left;
                self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            None => self.left = 0,
        }
    }
}

const SIZE: usize = 6 << 10;

fn header() -> Header {
    Header {
        boot_id: "the-boot".into(),
        ..Header::default()
    }
}

/// The record of this number, of a length that differs from its neighbours'.
fn record(number: u64) -> Vec<u8> {
    let mut record = number.to_le_bytes().to_vec();
    record.resize(8 + (number * 37 % 300) as usize, b'.');
    record
}

/// What is in the memory after so many records, when the writer is stopped after so many bytes.
fn left_behind(records: u64, bytes: usize) -> Vec<u8> {
    let mut memory = Jumping::after(SIZE, bytes);
    let mut recorder = Recorder::begin(&mut memory, &header()).unwrap();
    (0..records).for_each(|number| recorder.record(&record(number)));
    memory.bytes
}

/// The numbers of a journal's records, and the losses that are told before each of them.
fn read(journal: &[u8]) -> (Vec<u64>, Vec<(usize, u64)>) {
    let mut reader = Reader::new(journal).unwrap();
    let (mut numbers, mut losses) = (Vec::new(), Vec::new());
    while let Some(frame) = reader.next() {
        match frame {
            Frame::Event(bytes) => {
                let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                assert_eq!(bytes, record(number));
                numbers.push(number);
            }
            Frame::Lost(lost) => losses.push((numbers.len(), lost.records)),
            other => panic!("{other:?}"),
        }
    }
    (numbers, losses)
}

#[test]
fn what_fits_comes_over_whole() {
    let recovered = recover(&left_behind(20, usize::MAX)).unwrap();
    assert_eq!(Reader::new(&recovered.journal[..]).unwrap().header(), &header());
    assert_eq!(read(&recovered.journal), ((0..20).collect(), vec![]));
    assert_eq!((recovered.records, recovered.lost, recovered.damaged), (20, 0, false));
}

#[test]
fn later_records_take_the_place_of_earlier_ones_which_are_told_as_lost_by_their_number() {
    let recovered = recover(&left_behind(5000, usize::MAX)).unwrap();
    let (numbers, losses) = read(&recovered.journal);
    assert!(numbers.len() > 15, "the ring is used: {}", numbers.len());
    let first = 5000 - numbers.len() as u64;
    assert_eq!(numbers, (first..5000).collect::<Vec<_>>());
    assert_eq!(losses, [(0, first)]);
    assert_eq!(recovered.lost, first);
}

#[test]
fn a_jump_after_any_byte_loses_nothing_but_the_record_that_was_being_written() {
    // Given a writer that goes twice around its ring,
    let records = 70;
    let all = left_behind(records, usize::MAX);
    let mut written = 0;
    let mut newest = None;
    for bytes in 0.. {
        // when it is stopped after any of the bytes that it writes,
        let memory = left_behind(records, bytes);
        if memory == all {
            written = bytes;
            break;
        }
        // then nothing can be read as long as the journal had not begun,
        let Ok(recovered) = recover(&memory) else {
            assert!(newest.is_none(), "it could be read before");
            continue;
        };
        // and later all records up to the newest one can, without a hole.
        let (numbers, losses) = read(&recovered.journal);
        assert!(!recovered.damaged, "after {bytes} bytes");
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let first = numbers.first().copied().unwrap_or(0);
        assert_eq!(losses, if first > 0 { vec![(0, first)] } else { vec![] });
        let now = numbers.last().copied();
        assert!(
            now == newest || now == Some(newest.map_or(0, |n| n + 1)),
            "{newest:?}, then {now:?}"
        );
        newest = now;
    }
    assert!(written > 2 * SIZE);
    assert_eq!(read(&recover(&all).unwrap().journal).0.last(), Some(&(records - 1)));
}

#[test]
fn a_record_that_is_longer_than_the_ring_is_told_at_its_place() {
    let mut memory = Jumping::after(SIZE, usize::MAX);
    let mut recorder = Recorder::begin(&mut memory, &header()).unwrap();
    recorder.record(&record(0));
    recorder.record(&[0; SIZE]);
    recorder.record(&[0; 2 * MAX_PAYLOAD]);
    recorder.record(&record(3));
    let recovered = recover(&memory.bytes).unwrap();
    assert_eq!(read(&recovered.journal), (vec![0, 3], vec![(1, 2)]));
}

#[test]
fn clocks_and_the_end_come_over_and_count_as_no_record() {
    let mut memory = Jumping::after(SIZE, usize::MAX);
    let mut recorder = Recorder::begin(&mut memory, &header()).unwrap();
    let clock = Clock {
        monotonic_ns: 7,
        ..Clock::default()
    };
    let end = End {
        reason: "SIGTERM".into(),
        kernel_lost: 0,
    };
    recorder.clock(&clock);
    recorder.record(&record(0));
    recorder.end(&end);
    let recovered = recover(&memory.bytes).unwrap();
    assert_eq!((recovered.records, recovered.lost), (1, 0));
    let mut reader = Reader::new(&recovered.journal[..]).unwrap();
    assert_eq!(reader.next(), Some(Frame::Clock(clock)));
    assert_eq!(reader.next(), Some(Frame::Event(&record(0)[..])));
    assert_eq!(reader.next(), Some(Frame::End(end)));
    assert_eq!(reader.next(), None);
}

#[test]
fn a_memory_that_is_too_small_is_refused_with_what_it_takes() {
    let mut memory = Jumping::after(4000, usize::MAX);
    let error = Recorder::begin(&mut memory, &header()).unwrap_err().to_string();
    assert!(
        error.contains("4000 bytes have no room") && error.contains("it takes "),
        "{error}"
    );
}

#[test]
fn what_somebody_else_made_is_not_taken_for_a_journal() {
    assert_eq!(recover(&[]), Err(Unreadable::Foreign));
    assert_eq!(recover(&[0; SIZE]), Err(Unreadable::Foreign));
    let mut other = left_behind(3, usize::MAX);
    other[8] = 9;
    assert_eq!(
        recover(&other),
        Err(Unreadable::Damaged),
        "a version that its checksum does not confirm"
    );
    let crc = crc32fast::hash(&other[..FIXED]).to_le_bytes();
    other[FIXED..FIXED + 4].copy_from_slice(&crc);
    assert_eq!(recover(&other), Err(Unreadable::Version(9)));
}

#[test]
fn a_damaged_entry_ends_the_journal_and_is_told() {
    let mut memory = left_behind(20, usize::MAX);
    let at = memory
        .windows(8)
        .rposition(|bytes| bytes == 10_u64.to_le_bytes())
        .unwrap();
    memory[at] ^= 1;
    let recovered = recover(&memory).unwrap();
    assert!(recovered.damaged);
    assert_eq!(read(&recovered.journal), ((0..10).collect(), vec![(10, 1)]));
}

#[test]
fn a_flipped_bit_anywhere_is_told_and_makes_nothing_up() {
    let mut memory = left_behind(70, usize::MAX);
    let whole = recover(&memory).unwrap();
    assert!(whole.lost > 0, "the ring was gone around");
    for (at, bit) in (0..memory.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        memory[at] ^= 1 << bit;
        // The beginning is a part of the journal, for its reader to judge.
        if let Ok(recovered) = recover(&memory)
            && Reader::new(&recovered.journal[..]).is_ok()
        {
            let place = format!("bit {bit} of byte {at}");
            let (numbers, losses) = read(&recovered.journal);
            assert!(recovered.lost <= whole.lost, "{place}: {} lost", recovered.lost);
            assert_eq!(recovered.damaged, recovered.journal != whole.journal, "{place}");
            assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{place}");
            assert_eq!(
                losses.len(),
                1 + usize::from(recovered.damaged) - usize::from(numbers.is_empty()),
                "{place}"
            );
        }
        memory[at] ^= 1 << bit;
    }
}

#[test]
fn a_number_that_none_can_follow_is_damage() {
    let mut memory = left_behind(3, usize::MAX);
    let at = memory
        .windows(8)
        .rposition(|bytes| bytes == 2_u64.to_le_bytes())
        .unwrap();
    // The record begins with its number as well; the entry's is before it, and before the frame's head.
    let at = at - HEAD - NUMBER_CRC - NUMBER;
    memory[at..at + NUMBER].fill(0xff);
    let crc = crc32fast::hash(&memory[at..at + NUMBER]).to_le_bytes();
    memory[at + NUMBER..][..NUMBER_CRC].copy_from_slice(&crc);
    let recovered = recover(&memory).unwrap();
    assert!(recovered.damaged);
    assert_eq!(read(&recovered.journal), (vec![0, 1], vec![(2, 1)]));
}

#[test]
fn a_memory_of_the_first_layout_is_still_read() {
    // Given what an older agent left: no checksum but the frames' own,
    let mut memory = left_behind(0, usize::MAX);
    memory[8..12].copy_from_slice(&FIRST_VERSION.to_le_bytes());
    let crc = crc32fast::hash(&memory[..FIXED]).to_le_bytes();
    memory[FIXED..FIXED + 4].copy_from_slice(&crc);
    let beginning = u32::from_le_bytes(*memory[12..].first_chunk().unwrap());
    let mut at = ring_after(beginning as usize);
    let start = at;
    for number in 0..5_u64 {
        let mut entry = number.to_le_bytes().to_vec();
        assert!(frame::put(&mut entry, kind::EVENT, &record(number)));
        memory[at..at + entry.len()].copy_from_slice(&entry);
        at += entry.len();
    }
    memory[HEAD_AT..HEAD_AT + 8].copy_from_slice(&((at - start) as u64).to_le_bytes());
    // then all of it comes over,
    let recovered = recover(&memory).unwrap();
    assert_eq!(read(&recovered.journal), ((0..5).collect(), vec![]));
    // and a number that none can follow is damage there as well.
    memory[start..start + 8].fill(0xff);
    assert!(recover(&memory).unwrap().damaged);
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_bytes_give_a_journal_or_an_error(at in 0..SIZE, bytes in proptest::collection::vec(any::<u8>(), 0..64), records in 0..400_u64) {
        let mut memory = left_behind(records, usize::MAX);
        let len = bytes.len().min(SIZE - at);
        memory[at..at + len].copy_from_slice(&bytes[..len]);
        // What lies in the header of the journal itself is the reader's to judge.
        if let Ok(recovered) = recover(&memory)
            && let Ok(mut reader) = Reader::new(&recovered.journal[..])
        {
            let mut events = 0;
            while let Some(frame) = reader.next() {
                events += u64::from(matches!(frame, Frame::Event(_)));
            }
            prop_assert!(events <= records);
        }
    }
}

mod home {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::journal::Writer;

    /// A directory in which this boot's own agent wrote its first `records` to disk.
    fn given_a_journal(header: &Header, records: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), header, 0..records);
        dir
    }

    fn write(dir: &Path, header: &Header, records: std::ops::Range<u64>) {
        let (mut writer, _) = Writer::open(dir, header).unwrap();
        let records: Vec<_> = records.map(record).collect();
        writer.append(records.iter().map(Vec::as_slice)).unwrap();
    }

    fn carried(records: u64) -> Vec<u8> {
        recover(&left_behind(records, usize::MAX)).unwrap().journal
    }

    fn journal(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("the-boot.luoj")
    }

    #[test]
    fn a_journal_that_is_not_there_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let home = bring_home(&dir.path().join("new"), &carried(20)).unwrap();
        let path = dir.path().join("new/the-boot.luoj");
        assert_eq!(home, Home::Written(path.clone()));
        assert_eq!(fs::read(path).unwrap(), carried(20));
    }

    #[test]
    fn a_journal_that_ends_early_is_completed() {
        // Given a disk that missed the last records, and tore the frame of one,
        let dir = given_a_journal(&header(), 12);
        let whole = fs::read(journal(&dir)).unwrap();
        fs::write(journal(&dir), &whole[..whole.len() - 3]).unwrap();
        // when what was carried has them,
        let home = bring_home(dir.path(), &carried(20)).unwrap();
        // then all of them are there, once.
        let path = journal(&dir);
        assert_eq!(read(&fs::read(&path).unwrap()), ((0..20).collect(), vec![]));
        assert_eq!(home, Home::Completed { path, records: 9 });
    }

    #[test]
    fn a_journal_that_has_it_all_stays_as_it_is() {
        let dir = given_a_journal(&header(), 20);
        let before = fs::read(journal(&dir)).unwrap();
        let path = journal(&dir);
        assert_eq!(bring_home(dir.path(), &carried(20)).unwrap(), Home::Known(path.clone()));
        assert_eq!(bring_home(dir.path(), &carried(15)).unwrap(), Home::Known(path.clone()));
        assert_eq!(fs::read(path).unwrap(), before);
    }

    #[test]
    fn what_neither_has_is_told_as_lost_with_its_number() {
        let dir = given_a_journal(&header(), 30);
        bring_home(dir.path(), &carried(5000)).unwrap();
        let (numbers, losses) = read(&fs::read(journal(&dir)).unwrap());
        let first = numbers[30];
        assert!(first > 30);
        assert_eq!(numbers, (0..30).chain(first..5000).collect::<Vec<_>>());
        assert_eq!(losses, [(30, first - 30)]);
    }

    #[test]
    fn what_the_disk_was_too_slow_for_counts_at_its_place() {
        // Given a journal that has ten records, and tells of ten more that were dropped,
        let dir = given_a_journal(&header(), 10);
        let mut bytes = fs::read(journal(&dir)).unwrap();
        let lost = crate::journal::Lost {
            records: 10,
            why: String::new(),
        };
        crate::journal::frame::put_json(&mut bytes, crate::journal::kind::LOST, &lost).unwrap();
        fs::write(journal(&dir), bytes).unwrap();
        // when it is completed,
        bring_home(dir.path(), &carried(25)).unwrap();
        // then it goes on after those.
        let (numbers, losses) = read(&fs::read(journal(&dir)).unwrap());
        assert_eq!(numbers, (0..10).chain(20..25).collect::<Vec<_>>());
        assert_eq!(losses, [(10, 10)]);
    }

    #[test]
    fn a_later_run_of_the_same_boot_is_a_run_of_its_own_and_an_earlier_one_is_left_out() {
        let started = |monotonic_ns| Header {
            clock: Clock {
                monotonic_ns,
                ..Clock::default()
            },
            ..header()
        };
        // Given the journal of an agent that was started anew, and what the new one wrote to memory only,
        let dir = given_a_journal(&started(1), 10);
        let mut memory = Jumping::after(SIZE, usize::MAX);
        Recorder::begin(&mut memory, &started(2)).unwrap().record(&record(0));
        let later = recover(&memory.bytes).unwrap().journal;
        // when both meet, then the later goes on where the earlier ended,
        bring_home(dir.path(), &later).unwrap();
        let bytes = fs::read(journal(&dir)).unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = reader.next() {
            frames.push(matches!(frame, Frame::Resumed(_)));
        }
        assert_eq!(frames.iter().position(|&resumed| resumed), Some(10));
        assert_eq!(frames.len(), 12);
        // and never the other way round.
        let earlier = recover(&left_behind(5, usize::MAX)).unwrap().journal;
        assert_eq!(bring_home(dir.path(), &earlier).unwrap(), Home::Older(journal(&dir)));
        assert_eq!(fs::read(journal(&dir)).unwrap(), bytes);
    }

    #[test]
    fn a_file_that_is_no_journal_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(journal(&dir), "something else").unwrap();
        assert_eq!(
            bring_home(dir.path(), &carried(3)).unwrap(),
            Home::Written(journal(&dir))
        );
        assert_eq!(fs::read(dir.path().join("the-boot.1.luoj")).unwrap(), b"something else");
        assert_eq!(fs::read(journal(&dir)).unwrap(), carried(3));
    }

    #[test]
    fn a_boot_id_is_never_a_way_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Jumping::after(SIZE, usize::MAX);
        let header = Header {
            boot_id: "../other".into(),
            ..Header::default()
        };
        drop(Recorder::begin(&mut memory, &header).unwrap());
        let journal = recover(&memory.bytes).unwrap().journal;
        let error = bring_home(&dir.path().join("journals"), &journal)
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot name a journal"), "{error}");
    }
}
