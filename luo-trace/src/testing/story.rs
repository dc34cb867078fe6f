//! A record told event by event.

use std::collections::BTreeMap;

use luo_trace_common::events::{
    ArrivedFile, ArrivedSession, CommandLine, FileCall, FileCallback, FileOp, FilesOp, FlbCall, FlbCallback, FlbOp,
    FlbRecord, FlbUse, HANDOVER_WHOLE, Handover, Header, IMAGE_FILE, INCOMING, Image, ImageCarrier, ImageLoad,
    ImageVerdict, Kexec, Keys, KhoBalance, OUTGOING, Object, Outcome, Plain, SessionOp, SessionRef, SessionRelease,
    TOKEN_KNOWN,
};
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::{Comm, Compatible, Name, SessionName};

use crate::event::{Body, Event};

/// The compatible string of the handler that stories use.
pub const MEMFD: &str = "memfd-v2";

/// A session with this name, and the id that the kernel knows it by.
pub fn session(id: u64, name: &str) -> SessionRef {
    SessionRef {
        id: 0xffff_8880_0000_0000 + id * 0x100,
        name: SessionName::new(name),
    }
}

/// An open memfd, told apart by its number.
pub fn memfd(number: u64) -> Object {
    Object {
        identity: 0x1000 + number,
        file: 0xf000 + number,
        inode: number,
        size: 4096 * (number + 1),
    }
}

/// Tells a record. Time, CPU and sequence numbers run by themselves; an operation may hold others, told by a closure. What is
/// told need not be possible.
#[derive(Debug, Default)]
pub struct Story {
    pub(super) now: u64,
    tid: u32,
    result: i64,
    since: Option<u64>,
    status: i64,
    pub(super) walks: u64,
    sequence: BTreeMap<u32, u64>,
    /// What was told so far.
    pub events: Vec<Event>,
}

const STEP: u64 = 1000;

impl Story {
    /// A record that begins with nothing.
    pub fn new() -> Self {
        Self {
            now: 1_000_000,
            tid: 100,
            ..Self::default()
        }
    }

    /// The time now, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// What follows is done by this thread.
    pub fn by(&mut self, tid: u32) -> &mut Self {
        self.tid = tid;
        self
    }

    /// The next operation fails with this errno.
    pub fn failing(&mut self, errno: i64) -> &mut Self {
        self.result = -errno;
        self
    }

    /// The next operation has been under way since this time.
    pub fn since(&mut self, time: u64) -> &mut Self {
        self.since = Some(time);
        self
    }

    /// The next callback is told this of an earlier retrieve.
    pub fn told(&mut self, status: i64) -> &mut Self {
        self.status = status;
        self
    }

    /// Time passes.
    pub fn wait(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self
    }

    /// Events are lost.
    pub fn gap(&mut self) -> &mut Self {
        self.push(Body::Gap { lost: 1 });
        // What comes next happens after the moment in which the record may still be incomplete.
        self.wait(1_000_000_000)
    }

    /// Any event, as it is.
    pub fn push(&mut self, body: Body) -> &mut Self {
        let cpu = self.tid % 2;
        let gap = matches!(body, Body::Gap { .. });
        let seq = self.sequence.entry(cpu).or_default();
        *seq += u64::from(!gap);
        let header = Header {
            kind: body.kind().map_or(0, |kind| kind as u16),
            size: body
                .kind()
                .map_or(0, |kind| (size_of::<Header>() + kind.payload_size()) as u16),
            cpu,
            seq: *seq,
            lost: 0,
            ktime: self.now,
            pid: self.tid,
            tgid: self.tid,
            comm: Comm::new("vmm"),
        };
        self.events.push(Event { header, body });
        self
    }

    fn operation(&mut self, inside: impl FnOnce(&mut Self), body: impl FnOnce(Outcome) -> Body) -> &mut Self {
        self.now += STEP;
        let start = self.since.take().unwrap_or(self.now);
        let result = std::mem::take(&mut self.result);
        self.now += STEP;
        inside(self);
        self.now += STEP;
        let duration = self.now - start;
        self.push(body(Outcome { result, duration }))
    }

    fn simple(&mut self, body: impl FnOnce(Outcome) -> Body) -> &mut Self {
        self.operation(|_| (), body)
    }

    /// `luo_session_create`.
    pub fn create(&mut self, session: SessionRef) -> &mut Self {
        self.simple(|outcome| Body::SessionCreate(SessionOp { session, outcome }))
    }

    /// `luo_session_retrieve`.
    pub fn retrieve_session(&mut self, session: SessionRef) -> &mut Self {
        self.simple(|outcome| Body::SessionRetrieve(SessionOp { session, outcome }))
    }

    /// `luo_session_release` of an outgoing session, and what happens inside.
    pub fn release(&mut self, session: SessionRef, files: u64, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.any_release(session, OUTGOING, files, inside)
    }

    /// `luo_session_release` of an incoming session, and what happens inside.
    pub fn release_incoming(&mut self, session: SessionRef, files: u64, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.any_release(session, INCOMING, files, inside)
    }

    fn any_release(
        &mut self,
        session: SessionRef,
        direction: u32,
        files: u64,
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.operation(inside, |outcome| {
            Body::SessionRelease(SessionRelease {
                session,
                direction,
                reserved: 0,
                files,
                outcome,
            })
        })
    }

    /// A session is closed as it should be: with these tokens and files, given back last-in-first-out.
    pub fn close(&mut self, session: SessionRef, files: &[(u64, Object)]) -> &mut Self {
        let count = files.len() as u64;
        self.release(session, count, |s| {
            s.unpreserve_files(session, count, |s| {
                for &(_, file) in files.iter().rev() {
                    s.unpreserve(session, file);
                }
            });
        })
    }

    /// `luo_file_unpreserve_files`, and what happens inside.
    pub fn unpreserve_files(&mut self, session: SessionRef, files: u64, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| {
            Body::FilesUnpreserve(FilesOp {
                session,
                files,
                outcome,
            })
        })
    }

    /// One file is given back: the handler's unpreserve, and the file leaves its FLBs.
    pub fn unpreserve(&mut self, session: SessionRef, file: Object) -> &mut Self {
        self.call(FileCall::Unpreserve, session, None, file.file)
            .flb_unpreserve(MEMFD, |_| ())
    }

    /// `luo_preserve_file` as it should be, with the handler's callback inside.
    pub fn preserve(&mut self, session: SessionRef, token: u64, object: Object) -> &mut Self {
        self.preserve_with(session, token, object, |s| {
            s.flb_preserve(MEMFD, |_| ())
                .call(FileCall::Preserve, session, Some(token), object.file);
        })
    }

    /// `luo_preserve_file`, and what happens inside.
    pub fn preserve_with(
        &mut self,
        session: SessionRef,
        token: u64,
        object: Object,
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.operation(inside, |outcome| {
            Body::FilePreserve(file_op(session, token, object, outcome))
        })
    }

    /// `luo_retrieve_file` of a file that was retrieved before.
    pub fn retrieve_again(&mut self, session: SessionRef, token: u64, object: Object) -> &mut Self {
        self.simple(|outcome| Body::FileRetrieve(file_op(session, token, object, outcome)))
    }

    /// `luo_retrieve_file` for the first time, with the handler's callback inside.
    pub fn retrieve(&mut self, session: SessionRef, token: u64, object: Object) -> &mut Self {
        let result = self.result;
        self.operation(
            |s| {
                s.result = result;
                s.call(FileCall::Retrieve, session, Some(token), object.file);
            },
            |outcome| Body::FileRetrieve(file_op(session, token, object, outcome)),
        )
    }

    /// A file handler's callback.
    pub fn call(&mut self, call: FileCall, session: SessionRef, token: Option<u64>, file: u64) -> &mut Self {
        let status = std::mem::take(&mut self.status);
        self.simple(|outcome| {
            let callback = FileCallback {
                call: call as u32,
                flags: if token.is_some() { TOKEN_KNOWN } else { 0 },
                session,
                token: token.unwrap_or(0),
                handler: Compatible::new(MEMFD),
                file,
                data: token.map_or(0, data),
                retrieve_status: status,
                outcome,
            };
            Body::FileCallback(call, callback)
        })
    }

    /// `luo_file_deserialize`: a session arrives with so many files.
    pub fn arrive(&mut self, session: SessionRef, files: u64) -> &mut Self {
        self.simple(|outcome| {
            Body::FilesDeserialize(FilesOp {
                session,
                files,
                outcome,
            })
        })
    }

    /// `luo_file_finish`, and what happens inside.
    pub fn finish_files(&mut self, session: SessionRef, files: u64, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| {
            Body::FilesFinish(FilesOp {
                session,
                files,
                outcome,
            })
        })
    }

    /// `luo_file_freeze`.
    pub fn freeze_files(&mut self, session: SessionRef, files: u64) -> &mut Self {
        self.freeze_with(session, files, |_| ())
    }

    /// `luo_file_freeze`, and what happens inside.
    pub fn freeze_with(&mut self, session: SessionRef, files: u64, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| {
            Body::FilesFreeze(FilesOp {
                session,
                files,
                outcome,
            })
        })
    }

    /// `luo_file_unfreeze`, and what happens inside.
    pub fn unfreeze_with(&mut self, session: SessionRef, files: u64, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| {
            Body::FilesUnfreeze(FilesOp {
                session,
                files,
                outcome,
            })
        })
    }

    /// `luo_session_serialize`.
    pub fn serialize(&mut self) -> &mut Self {
        self.simple(|outcome| Body::SessionSerialize(Plain { outcome }))
    }

    /// `luo_open`.
    pub fn open_device(&mut self) -> &mut Self {
        self.open_device_with(|_| ())
    }

    /// `luo_open`, and what happens inside.
    pub fn open_device_with(&mut self, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| Body::DeviceOpen(Plain { outcome }))
    }

    /// `luo_release`.
    pub fn close_device(&mut self) -> &mut Self {
        self.simple(|outcome| Body::DeviceRelease(Plain { outcome }))
    }

    /// `luo_session_deserialize`.
    pub fn read_in(&mut self) -> &mut Self {
        self.simple(|outcome| Body::SessionDeserialize(Plain { outcome }))
    }

    /// A kernel is loaded by `kexec_file_load(2)`, with this command line.
    pub fn load(&mut self, command_line: &str) -> &mut Self {
        let line = CommandLine::new(command_line);
        self.simple(|outcome| {
            Body::ImageCarrier(Box::new(ImageCarrier {
                image: IMAGE.id,
                kho: IMAGE.kho,
                command_line_len: command_line.len() as u64 + 1,
                command_line: line,
                outcome,
            }))
        });
        self.load_image(IMAGE_FILE, IMAGE)
    }

    /// A kernel is loaded by this call, and is this image.
    pub fn load_image(&mut self, call: u32, image: Image) -> &mut Self {
        self.simple(|outcome| {
            Body::ImageLoad(ImageLoad {
                call,
                reserved: 0,
                image,
                outcome,
            })
        })
    }

    /// The agent has looked into the image that [`Story::load`] loads, and found this of the kernel in it, of its command line,
    /// and why.
    pub fn look_into(&mut self, outcome: u32, command_line: u32, reason: &str) -> &mut Self {
        self.now += STEP;
        self.push(Body::ImageVerdict(Box::new(ImageVerdict {
            image: IMAGE.id,
            outcome,
            command_line,
            reason: Name::new(reason),
        })))
    }

    /// The machine is as it should be before anything happens: nothing is in LUO's lists, and an image is loaded that carries
    /// what comes.
    pub fn orderly(&mut self) -> &mut Self {
        self.snapshot(|_| ()).load("kho=on liveupdate=on")
    }

    /// `reboot(LINUX_REBOOT_CMD_KEXEC)` up to where the jump follows, or the failure.
    pub fn reboot(&mut self) -> &mut Self {
        self.reboot_into(IMAGE)
    }

    /// The same, into another image than [`Story::load`] loads.
    pub fn reboot_into(&mut self, image: Image) -> &mut Self {
        let result = self.result;
        self.result = 0;
        self.reboot_with(image, |s| {
            s.result = result;
            s.serialize();
            s.result = result;
        })
    }

    /// `reboot(LINUX_REBOOT_CMD_KEXEC)` into this image, and what happens inside; it fails where the last of that is told to.
    pub fn reboot_with(&mut self, image: Image, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.push(Body::KexecEnter(Kexec {
            image,
            ..Kexec::default()
        }));
        self.now += STEP;
        let start = self.now;
        inside(self);
        self.since(start)
            .simple(|outcome| Body::LiveupdateReboot(Plain { outcome }))
    }

    /// `kernel_kexec` comes back.
    pub fn kexec_returns(&mut self) -> &mut Self {
        self.simple(|outcome| Body::KexecReturn(Plain { outcome }))
    }

    /// `luo_flb_file_preserve`, and what happens inside.
    pub fn flb_preserve(&mut self, handler: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| Body::FlbPreserve(flb_op(handler, outcome)))
    }

    /// `luo_flb_file_unpreserve`, and what happens inside.
    pub fn flb_unpreserve(&mut self, handler: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| Body::FlbUnpreserve(flb_op(handler, outcome)))
    }

    /// `luo_flb_file_finish`, and what happens inside.
    pub fn flb_finish(&mut self, handler: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| Body::FlbFinish(flb_op(handler, outcome)))
    }

    /// A driver takes a reference on the FLB of this name.
    pub fn flb_get(&mut self, name: &str, direction: u32) -> &mut Self {
        self.simple(|outcome| Body::FlbGet(flb_use(name, direction, outcome)))
    }

    /// A driver gives a reference back, and what happens inside.
    pub fn flb_put(&mut self, name: &str, direction: u32, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.operation(inside, |outcome| Body::FlbPut(flb_use(name, direction, outcome)))
    }

    /// The next kernel is told that the FLB of this name has so many users.
    pub fn flb_record(&mut self, name: &str, users: u64) -> &mut Self {
        self.push(Body::FlbRecord(flb_record(name, users)))
    }

    /// What the previous kernel left, as it lies in memory: sessions with their tokens, and FLBs with their users.
    pub fn handover(&mut self, sessions: &[(&str, &[u64])], flbs: &[(&str, u64)]) -> &mut Self {
        for body in left_behind(sessions, flbs) {
            self.push(body);
        }
        self
    }

    /// What the operation of this hook on a session did to preserved memory: pages whose keys these numbers stand for.
    pub fn pages(&mut self, hook: Hook, session: SessionRef, added: &[u64], removed: &[u64]) -> &mut Self {
        let result = std::mem::take(&mut self.result);
        self.push(Body::KhoBalance(KhoBalance {
            operation: hook as u32,
            session,
            added: keys(added),
            removed: keys(removed),
            outcome: Outcome { result, duration: 1 },
            ..KhoBalance::default()
        }))
    }

    /// The operation of this hook on a session brought pages back: those whose keys these numbers stand for.
    pub fn restored(&mut self, hook: Hook, session: SessionRef, pages: &[u64]) -> &mut Self {
        self.push(Body::KhoBalance(KhoBalance {
            operation: hook as u32,
            session,
            restored: keys(pages),
            outcome: Outcome { result: 0, duration: 1 },
            ..KhoBalance::default()
        }))
    }

    /// A callback of the FLB of this name, for a file of this handler, that found so many users.
    pub fn flb_call(&mut self, call: FlbCall, name: &str, handler: &str, users: i64) -> &mut Self {
        self.simple(|outcome| {
            let callback = FlbCallback {
                call: call as u32,
                flb: flb_id(name),
                name: Compatible::new(name),
                handler: Compatible::new(handler),
                users,
                outcome,
                ..FlbCallback::default()
            };
            Body::FlbCallback(call, callback)
        })
    }
}

/// The image that [`Story::load`] loads.
pub const IMAGE: Image = Image {
    id: 0x1_3a6e,
    mode: IMAGE_FILE,
    load: 0,
    kho: 0x7000_0000,
};

fn file_op(session: SessionRef, token: u64, object: Object, outcome: Outcome) -> FileOp {
    FileOp {
        session,
        token,
        handler: Compatible::new(MEMFD),
        object,
        data: data(token),
        outcome,
    }
}

/// The records of what the previous kernel left: sessions with their tokens, and FLBs with their users.
pub(super) fn left_behind(sessions: &[(&str, &[u64])], flbs: &[(&str, u64)]) -> Vec<Body> {
    let mut records = Vec::new();
    for &(name, tokens) in sessions {
        let (name, files) = (SessionName::new(name), tokens.len() as u64);
        records.push(Body::ArrivedSession(ArrivedSession { name, files }));
        records.extend(tokens.iter().map(|&token| {
            Body::ArrivedFile(ArrivedFile {
                session: name,
                token,
                handler: Compatible::new(MEMFD),
                data: data(token),
            })
        }));
    }
    records.extend(
        flbs.iter()
            .map(|(name, users)| Body::ArrivedFlb(flb_record(name, *users))),
    );
    records.push(Body::Handover(Handover {
        update_number: u64::MAX,
        sessions: sessions.len() as u64,
        files: sessions.iter().map(|(_, tokens)| tokens.len() as u64).sum(),
        flbs: flbs.len() as u64,
        flags: HANDOVER_WHOLE,
        reserved: 0,
    }));
    records
}

pub(super) fn flb_record(name: &str, users: u64) -> FlbRecord {
    FlbRecord {
        name: Compatible::new(name),
        data: 1,
        users,
    }
}

/// The serialized data of the file of this token.
pub(super) fn data(token: u64) -> u64 {
    0x10_0000 + token
}

/// What the kernel knows the FLB of this name by.
pub(super) fn flb_id(name: &str) -> u64 {
    name.bytes().fold(0x5_0000, |sum, b| sum * 31 + u64::from(b))
}

/// The multiset of these keys, one page each.
pub(super) fn keys(keys: &[u64]) -> Keys {
    Keys {
        calls: keys.len() as u64,
        pages: keys.len() as u64,
        sum: keys
            .iter()
            .fold(0, |sum, key| sum.wrapping_add(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
    }
}

fn flb_use(name: &str, direction: u32, outcome: Outcome) -> FlbUse {
    FlbUse {
        flb: flb_id(name),
        name: Compatible::new(name),
        direction,
        reserved: 0,
        users: -1,
        outcome,
    }
}

fn flb_op(handler: &str, outcome: Outcome) -> FlbOp {
    let handler = Compatible::new(handler);
    FlbOp { handler, outcome }
}
