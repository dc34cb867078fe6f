//! Events of the made-up kernel, still without their times.

use luo_trace_common::events::{
    FileCall, FileCallback, FileOp, FilesOp, FlbCall, FlbCallback, FlbOp, FlbUse, OUTGOING, Object, Outcome,
    SessionRef, TOKEN_KNOWN,
};
use luo_trace_common::text::Compatible;

use super::super::story::{MEMFD, data};
use super::KFile;
use crate::event::Body;

pub(super) fn outcome(result: i64) -> Outcome {
    Outcome { result, duration: 0 }
}

pub(super) fn with_outcome(mut body: Body, to: Outcome) -> Body {
    match &mut body {
        Body::SessionCreate(p) | Body::SessionRetrieve(p) => p.outcome = to,
        Body::SessionRelease(p) => p.outcome = to,
        Body::FilePreserve(p) | Body::FileRetrieve(p) => p.outcome = to,
        Body::FilesUnpreserve(p)
        | Body::FilesFinish(p)
        | Body::FilesFreeze(p)
        | Body::FilesUnfreeze(p)
        | Body::FilesDeserialize(p) => p.outcome = to,
        Body::FileCallback(_, p) => p.outcome = to,
        Body::FlbPreserve(p) | Body::FlbUnpreserve(p) | Body::FlbFinish(p) => p.outcome = to,
        Body::FlbCallback(_, p) => p.outcome = to,
        Body::SessionDeserialize(p)
        | Body::SessionSerialize(p)
        | Body::FlbSerialize(p)
        | Body::LiveupdateReboot(p)
        | Body::KexecReturn(p) => p.outcome = to,
        Body::KexecEnter(p) => p.outcome = to,
        Body::ImageLoad(p) => p.outcome = to,
        Body::ImageCarrier(p) => p.outcome = to,
        Body::FlbGet(p) | Body::FlbPut(p) => p.outcome = to,
        Body::DeviceOpen(p) | Body::DeviceRelease(p) => p.outcome = to,
        Body::KhoBalance(p) => p.outcome = to,
        _ => {}
    }
    body
}

pub(super) fn files_op(session: SessionRef, files: usize) -> FilesOp {
    FilesOp {
        session,
        files: files as u64,
        outcome: outcome(0),
    }
}

pub(super) fn file_op(session: SessionRef, token: u64, object: Option<Object>) -> FileOp {
    FileOp {
        session,
        token,
        handler: Compatible::new(if object.is_some() { MEMFD } else { "" }),
        object: object.unwrap_or_default(),
        data: if object.is_some() { data(token) } else { 0 },
        outcome: outcome(0),
    }
}

pub(super) fn file_call(call: FileCall, session: SessionRef, token: Option<u64>, file: KFile) -> Body {
    let callback = FileCallback {
        call: call as u32,
        flags: if token.is_some() { TOKEN_KNOWN } else { 0 },
        session,
        token: token.unwrap_or(0),
        handler: Compatible::new(MEMFD),
        file: file.object.map_or(0, |f| f.file),
        data: data(file.token),
        retrieve_status: match call {
            FileCall::CanFinish | FileCall::Finish => file.status,
            _ => 0,
        },
        ..FileCallback::default()
    };
    Body::FileCallback(call, callback)
}

pub(super) fn preserved(token: u64, file: Object) -> KFile {
    KFile {
        token,
        object: Some(file),
        status: 0,
    }
}

pub(super) fn flb_op() -> FlbOp {
    FlbOp {
        handler: Compatible::new(MEMFD),
        outcome: outcome(0),
    }
}

pub(super) fn flb_call(call: FlbCall, flb: usize) -> Body {
    let callback = FlbCallback {
        call: call as u32,
        flb: flb_id(flb),
        name: flb_name(flb),
        handler: Compatible::new(MEMFD),
        ..FlbCallback::default()
    };
    Body::FlbCallback(call, callback)
}

/// A driver's own reference.
pub(super) fn flb_use(flb: usize, users: i64) -> FlbUse {
    FlbUse {
        flb: flb_id(flb),
        name: flb_name(flb),
        direction: OUTGOING,
        users,
        ..FlbUse::default()
    }
}

pub(super) fn flb_id(flb: usize) -> u64 {
    0x5_0000 + flb as u64
}

pub(super) fn flb_name(flb: usize) -> Compatible {
    Compatible::new(["flb-a", "flb-b"][flb])
}
