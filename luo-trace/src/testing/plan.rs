//! What some tasks of a made-up machine do, and in which order they get to run.

/// What goes wrong in a deed, legally: the kernel rolls it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The file handler's callback fails.
    Handler,
    /// The creation of the global state of this number fails, if it is this deed that creates it.
    Flb(u8),
}

/// One thing that a task does. Sessions, files and names are numbers, taken modulo what there is; what cannot be done is
/// left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named for what they number")]
pub enum Deed {
    /// Create a session.
    Create { name: u8 },
    /// Preserve a file into an outgoing session.
    Preserve {
        session: u8,
        token: u8,
        file: u8,
        fault: Fault,
    },
    /// Retrieve an incoming session.
    RetrieveSession { name: u8 },
    /// Retrieve a file of an incoming session.
    Retrieve { session: u8, token: u8, fault: Fault },
    /// Finish an incoming session; a fault is a file that refuses.
    Finish { session: u8, fault: Fault },
    /// Close a session that is open.
    Close { session: u8 },
    /// Open `/dev/liveupdate`.
    Open,
    /// Close it.
    Shut,
    /// A driver takes a reference on the global state of this number.
    Get { flb: u8 },
    /// A driver gives one back.
    Put { flb: u8 },
    /// A walk over the kernel's lists.
    Snapshot,
    /// Reboot into the next kernel; a fault is a file that does not freeze.
    Reboot { fault: Fault },
}

/// A schedule: what arrives from the previous kernel, what each task does, and who runs next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each session from the previous kernel, its number of files. They arrive before any task runs.
    pub incoming: Vec<u8>,
    /// For each task, its deeds in their order.
    pub tasks: Vec<Vec<Deed>>,
    /// Which of the tasks that can run takes the next step, modulo their number; over and over.
    pub order: Vec<u8>,
    /// Whether the record begins with a walk over the kernel's lists.
    pub snapshot: bool,
}
