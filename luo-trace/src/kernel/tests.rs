//! What is made of kernels that are not at hand: `testdata/README.md` says what their type information is made from.

use luo_trace_common::fields::{ABSENT, Field};
use luo_trace_common::hooks::Hook;

use super::plan;
use crate::image::btf::Btf;

const V6_19: &[u8] = include_bytes!("testdata/v6_19.btf");
const V7_0: &[u8] = include_bytes!("testdata/v7_0.btf");
const V7_1: &[u8] = include_bytes!("testdata/v7_1.btf");
const V7_3: &[u8] = include_bytes!("testdata/v7_3.btf");
const FUTURE: &[u8] = include_bytes!("testdata/future.btf");

/// Fails unless each member lies where the C declarations say.
fn lie_at(blob: &[u8], expected: &[(Field, u32)]) {
    let offsets = Btf::parse(blob).unwrap().offsets();
    for &(field, offset) in expected {
        assert_eq!(offsets[field as usize], offset, "{field:?}");
    }
}

#[test]
fn linux_6_19_has_flags_for_statuses_and_no_global_state() {
    lie_at(
        V6_19,
        &[
            (Field::SessionName, 0),
            (Field::SessionList, 72),
            (Field::SessionRetrieved, 88),
            (Field::SessionFileSet, 96),
            (Field::FileSetCount, 24),
            (Field::LuoFileToken, 80),
            (Field::LuoFileRetrieved, 32),
            (Field::LuoFileRetrieveStatus, ABSENT),
            (Field::FileArgsFile, 16),
            (Field::FileArgsRetrieved, 8),
            (Field::FileArgsRetrieveStatus, ABSENT),
            (Field::FileOpsGetId, ABSENT),
            (Field::HeaderActive, 72),
            (Field::HeaderBlocks, ABSENT),
            (Field::GlobalOutgoing, 80),
            (Field::HandlerFlbs, ABSENT),
            (Field::FlbOps, ABSENT),
            (Field::FlbOutgoingCount, ABSENT),
        ],
    );
    let btf = Btf::parse(V6_19).unwrap();
    assert_eq!(
        btf.callbacks("liveupdate_file_op_args"),
        ["memfd_luo_finish", "memfd_luo_preserve"]
    );
    assert!(btf.callbacks("liveupdate_flb_op_args").is_empty());
}

#[test]
fn linux_7_0_has_global_state_in_a_part_without_a_name() {
    lie_at(
        V7_0,
        &[
            (Field::SessionFileSet, 96),
            (Field::LuoFileRetrieveStatus, 32),
            (Field::LuoFileRetrieved, ABSENT),
            (Field::FileArgsRetrieveStatus, 8),
            (Field::FileOpsFinish, 56),
            (Field::FileOpsGetId, ABSENT),
            (Field::HandlerFlbs, 72),
            (Field::FlbCompatible, 8),
            (Field::FlbOutgoingCount, 72),
            (Field::FlbIncomingCount, 128),
        ],
    );
    let btf = Btf::parse(V7_0).unwrap();
    assert_eq!(btf.callbacks("liveupdate_flb_op_args"), ["test_flb_preserve"]);
    assert!(!btf.has_function("kho_radix_add_page"));
}

#[test]
fn linux_7_1_has_a_callback_more_and_a_radix_tree_by_pages() {
    lie_at(V7_1, &[(Field::FileOpsGetId, 64), (Field::FileOpsFinish, 56)]);
    assert!(Btf::parse(V7_1).unwrap().has_function("kho_radix_add_page"));
}

#[test]
fn linux_7_2_leaves_sessions_in_blocks_and_those_before_it_do_not() {
    lie_at(
        V7_3,
        &[
            (Field::HeaderBlockList, 56),
            (Field::HeaderBlockCount, 72),
            (Field::HeaderBlocks, 80),
            (Field::BlockList, 0),
            (Field::BlockAddress, 16),
            (Field::BlockCount, 8),
            (Field::SessionRecordFiles, 64),
            (Field::SessionRecordCount, 72),
            (Field::FileRecordHandler, 0),
            (Field::FileRecordData, 48),
            (Field::FileRecordToken, 56),
            (Field::FlbArrivedHeader, 0),
            (Field::FlbArrivedRecords, 8),
            (Field::FlbGlobalRecords, 32),
            (Field::KhoPreviousRelease, 16),
            (Field::KhoKexecCount, 84),
            // Of whole structures it is the size.
            (Field::BlockHeader, 16),
            (Field::SessionRecord, 80),
            (Field::FileRecord, 64),
            (Field::FlbRecord, 64),
        ],
    );
    for blob in [V6_19, V7_0, V7_1] {
        lie_at(
            blob,
            &[
                (Field::HeaderBlockList, ABSENT),
                (Field::BlockHeader, ABSENT),
                (Field::KhoKexecCount, ABSENT),
            ],
        );
    }
}

#[test]
fn a_later_kernel_may_move_its_members_and_hide_them_in_structures_without_a_name() {
    lie_at(
        FUTURE,
        &[
            (Field::SessionFileSet, 0),
            (Field::SessionName, 56),
            // A bit has no address.
            (Field::SessionRetrieved, ABSENT),
            (Field::FileSetList, 16),
            (Field::FileSetCount, 0),
            (Field::LuoFileHandler, 64),
            (Field::LuoFileToken, 0),
            (Field::FileArgsData, 16),
            (Field::FileArgsFile, 24),
            (Field::FileArgsRetrieveStatus, 32),
            (Field::FileArgsHandler, 40),
            (Field::HandlerCompatible, 40),
            (Field::FileOpsPreserve, 72),
        ],
    );
    // A callback is one by its parameter alone, whatever stands around it, and nothing else is one.
    assert_eq!(
        Btf::parse(FUTURE).unwrap().callbacks("liveupdate_file_op_args"),
        ["memfd_luo_finish", "memfd_luo_preserve", "vfio_luo_preserve"]
    );
}

/// Why a hook could not be attached on a kernel; nothing where it could.
fn obstacle(blob: &[u8], hook: Hook) -> Option<String> {
    let states = plan::of(&Btf::parse(blob).unwrap(), None);
    let state = &states[hook as usize];
    assert_eq!(state.id, hook.id());
    assert_ne!(state.is_attachable(), state.reason.is_some(), "{state:?}");
    state.reason.clone()
}

#[test]
fn a_hook_that_cannot_work_says_what_this_kernel_lacks() {
    assert_eq!(obstacle(V7_0, Hook::SessionCreate), None);
    assert_eq!(obstacle(V7_0, Hook::FlbCallback), None);
    let says = |blob, hook, what: &str| {
        let why = obstacle(blob, hook).unwrap();
        assert!(why.contains(what), "{}: {why}", hook.id());
    };
    says(V6_19, Hook::FlbCallback, "liveupdate_flb");
    says(FUTURE, Hook::FilesFreeze, "no function luo_file_freeze");
    // The member became a bit, of which a program can make nothing.
    says(FUTURE, Hook::SessionRelease, "luo_session.retrieved");
    // Of names that a function had over time, the one there is counts.
    assert_eq!(obstacle(V7_1, Hook::KhoKeyAdd), None);
    says(V7_0, Hook::KhoKeyAdd, "kho_out.radix_tree");
}

/// Asks everything that is ever asked. What the answer is does not matter, only that there is one.
fn ask(blob: &[u8]) -> bool {
    let Ok(btf) = Btf::parse(blob) else { return false };
    let offsets = btf.offsets();
    let callbacks = btf.callbacks("liveupdate_file_op_args").len() + btf.callbacks("liveupdate_flb_op_args").len();
    offsets.len() + callbacks + plan::of(&btf, None).len() > 0
}

#[test]
fn type_information_that_is_cut_short_is_refused() {
    for blob in [V6_19, V7_0, V7_1, V7_3, FUTURE] {
        assert!(ask(blob));
        for len in 0..blob.len() {
            assert!(!ask(&blob[..len]), "{len} bytes of {}", blob.len());
        }
    }
}

#[test]
fn type_information_that_is_damaged_never_does_harm() {
    for blob in [V6_19, FUTURE] {
        let mut answers = 0;
        for place in 0..blob.len() {
            for damage in [0x01, 0xff] {
                let mut damaged = blob.to_vec();
                damaged[place] ^= damage;
                answers += usize::from(ask(&damaged));
            }
        }
        // Most damage hits a name or an offset, and is not seen.
        assert!(answers > blob.len(), "{answers} of {}", 2 * blob.len());
    }
}

#[test]
fn type_information_with_nothing_but_functions_is_read_by_the_loader() {
    let small = Btf::parse(V7_1).unwrap().only_functions(["memfd_luo_preserve"]);
    assert!(aya::Btf::parse(&small, aya::Endianness::Little).is_ok());
}
