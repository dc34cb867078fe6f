//! Members of kernel structures that the programs read.
//!
//! The programs are built once for every kernel, so they know no offset: the agent looks each member up in the running
//! kernel's BTF and hands the offsets over as read-only data before the programs are loaded.

/// Offset of a member that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident $structure:literal $path:literal;)*) => {
        /// A member of a kernel structure. The number is its index in the programs' table of offsets.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Field { $($(#[$doc])* $field,)* }

        impl Field {
            /// Every member, in the order of their numbers.
            pub const ALL: &[Field] = &[$(Field::$field,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The structure's name in BTF. One that has none there is written as the names of members that no other has,
            /// in parentheses.
            pub const fn structure(self) -> &'static str {
                match self { $(Field::$field => $structure,)* }
            }

            /// The member's name; dots lead into members of members. Empty: the whole structure, whose size then stands for
            /// the offset.
            pub const fn path(self) -> &'static str {
                match self { $(Field::$field => $path,)* }
            }
        }
    };
}

fields! {
    /// The session's name.
    SessionName "luo_session" "name";
    /// Set on sessions that came from the previous kernel and were retrieved.
    SessionRetrieved "luo_session" "retrieved";
    /// The session's files.
    SessionFileSet "luo_session" "file_set";
    /// Head of the list of files, in the order they were preserved.
    FileSetList "luo_file_set" "files_list";
    /// How many files the set holds.
    FileSetCount "luo_file_set" "count";
    /// Link in the list of files.
    LuoFileList "luo_file" "list";
    /// The handler that took the file.
    LuoFileHandler "luo_file" "fh";
    /// The open file.
    LuoFileFile "luo_file" "file";
    /// The handler's serialized data.
    LuoFileData "luo_file" "serialized_data";
    /// The file's token.
    LuoFileToken "luo_file" "token";
    /// The variable that a number of sysctl is kept in.
    CtlTableData "ctl_table" "data";
    /// Previous element of a list; of a head, the last.
    ListPrev "list_head" "prev";
    /// Next element of a list; of a head, the first.
    ListNext "list_head" "next";
    /// The handler's callbacks.
    HandlerOps "liveupdate_file_handler" "ops";
    /// The handler's compatible string.
    HandlerCompatible "liveupdate_file_handler" "compatible";
    /// The FLB's callbacks.
    FlbOps "liveupdate_flb" "ops";
    /// The FLB's compatible string.
    FlbCompatible "liveupdate_flb" "compatible";
    /// Users of the outgoing global state.
    FlbOutgoingCount "liveupdate_flb" "private.outgoing.count";
    /// Users of the incoming global state.
    FlbIncomingCount "liveupdate_flb" "private.incoming.count";
    /// Argument of a file callback: the handler.
    FileArgsHandler "liveupdate_file_op_args" "handler";
    /// Argument of a file callback: the open file.
    FileArgsFile "liveupdate_file_op_args" "file";
    /// Argument of a file callback: the serialized data.
    FileArgsData "liveupdate_file_op_args" "serialized_data";
    /// Argument of a file callback, from 7.0: what became of an earlier retrieve.
    FileArgsRetrieveStatus "liveupdate_file_op_args" "retrieve_status";
    /// The same in 6.19, as a flag.
    FileArgsRetrieved "liveupdate_file_op_args" "retrieved";
    /// Argument of an FLB callback: the FLB.
    FlbArgsFlb "liveupdate_flb_op_args" "flb";
    /// Argument of an FLB callback: the data handle.
    FlbArgsData "liveupdate_flb_op_args" "data";
    /// A file handler's `preserve`.
    FileOpsPreserve "liveupdate_file_ops" "preserve";
    /// A file handler's `unpreserve`.
    FileOpsUnpreserve "liveupdate_file_ops" "unpreserve";
    /// A file handler's `freeze`.
    FileOpsFreeze "liveupdate_file_ops" "freeze";
    /// A file handler's `unfreeze`.
    FileOpsUnfreeze "liveupdate_file_ops" "unfreeze";
    /// A file handler's `retrieve`.
    FileOpsRetrieve "liveupdate_file_ops" "retrieve";
    /// A file handler's `can_finish`.
    FileOpsCanFinish "liveupdate_file_ops" "can_finish";
    /// A file handler's `finish`.
    FileOpsFinish "liveupdate_file_ops" "finish";
    /// A file handler's `get_id`, from 7.1.
    FileOpsGetId "liveupdate_file_ops" "get_id";
    /// An FLB's `preserve`.
    FlbOpsPreserve "liveupdate_flb_ops" "preserve";
    /// An FLB's `unpreserve`.
    FlbOpsUnpreserve "liveupdate_flb_ops" "unpreserve";
    /// An FLB's `retrieve`.
    FlbOpsRetrieve "liveupdate_flb_ops" "retrieve";
    /// An FLB's `finish`.
    FlbOpsFinish "liveupdate_flb_ops" "finish";
    /// The file's inode.
    FileInode "file" "f_inode";
    /// What a session's descriptor points at.
    FilePrivate "file" "private_data";
    /// Inode number.
    InodeNumber "inode" "i_ino";
    /// Size in bytes.
    InodeSize "inode" "i_size";
    /// The inode's file system.
    InodeSuper "inode" "i_sb";
    /// Tells file systems apart.
    SuperMagic "super_block" "s_magic";
    /// The session's link in its list.
    SessionList "luo_session" "list";
    /// How many sessions the kernel counts.
    HeaderCount "luo_session_header" "count";
    /// Head of the list of sessions.
    HeaderList "luo_session_header" "list";
    /// Whether the previous kernel sent sessions.
    HeaderActive "luo_session_header" "active";
    /// Blocks of sessions that are not read in yet, by physical address; 7.2 and later.
    HeaderBlocks "luo_session_header" "block_set.head_pa";
    /// The sessions from the previous kernel.
    GlobalIncoming "luo_session_global" "incoming";
    /// The sessions for the next kernel.
    GlobalOutgoing "luo_session_global" "outgoing";
    /// What became of a file's retrieve, from 7.0.
    LuoFileRetrieveStatus "luo_file" "retrieve_status";
    /// The same in 6.19, as a flag.
    LuoFileRetrieved "luo_file" "retrieved";
    /// The handler's link in the list of handlers.
    HandlerList "liveupdate_file_handler" "list";
    /// Head of the handler's list of FLBs.
    HandlerFlbs "liveupdate_file_handler" "flb_list";
    /// An FLB that a handler uses.
    FlbLinkFlb "luo_flb_link" "flb";
    /// Link in the handler's list.
    FlbLinkList "luo_flb_link" "list";
    /// The FLB's link in the list of FLBs.
    FlbList "liveupdate_flb" "private.list";
    /// Data handle of the outgoing global state.
    FlbOutgoingData "liveupdate_flb" "private.outgoing.data";
    /// Data handle of the incoming global state.
    FlbIncomingData "liveupdate_flb" "private.incoming.data";
    /// Whether the incoming global state is finished.
    FlbIncomingFinished "liveupdate_flb" "private.incoming.finished";
    /// What became of the FLB's retrieve.
    FlbIncomingStatus "liveupdate_flb" "private.incoming.retrieve_status";
    /// Head of the list of FLBs.
    FlbGlobalList "luo_flb_global" "list";
    /// What the next kernel is told of FLBs: how many.
    FlbGlobalHeader "luo_flb_global" "outgoing.header_ser";
    /// What the next kernel is told of FLBs: each.
    FlbGlobalRecords "luo_flb_global" "outgoing.ser";
    /// How many FLBs the next kernel is told of.
    FlbHeaderCount "luo_flb_header_ser" "count";
    /// An FLB the next kernel is told of: its compatible string.
    FlbRecordName "luo_flb_ser" "name";
    /// An FLB the next kernel is told of: its data handle.
    FlbRecordData "luo_flb_ser" "data";
    /// An FLB the next kernel is told of: its users.
    FlbRecordCount "luo_flb_ser" "count";
    /// Set on images that `kexec_file_load` made.
    ImageFileOps "kimage" "fops";
    /// Physical address of KHO's tree in an image.
    ImageKho "kimage" "kho.fdt";
    /// The next kernel's command line, while it is being loaded.
    ImageCommandLine "kimage" "cmdline_buf";
    /// Its length.
    ImageCommandLineLen "kimage" "cmdline_buf_len";
    /// How many pages a preserved vmalloc area has.
    KhoVmallocPages "kho_vmalloc" "total_pages";
    /// The tree of what is preserved for the next kernel.
    KhoOutTree "kho_out" "radix_tree";
    /// What KHO notes on the first page of a range from the previous kernel: its order, and that it is one.
    PagePrivate "page" "private";
    /// Start of a range of scratch memory.
    ScratchAddress "kho_scratch" "addr";
    /// Its size.
    ScratchSize "kho_scratch" "size";
    /// Number of this boot in the chain of live updates.
    LuoUpdateNumber "(enabled, liveupdate_num)" "liveupdate_num";
    /// Who holds a semaphore: readers by the number, from bit 8 on.
    SemaphoreCount "rw_semaphore" "count";
    /// The same on PREEMPT_RT: readers by the number, with the bits of a writer above.
    SemaphoreReaders "rw_semaphore" "rwbase.readers.counter";
    /// The release of the kernel before this one, from 7.1.
    KhoPreviousRelease "kho_in" "previous_release";
    /// How many kexecs lie between the last cold boot and this one, from 7.1.
    KhoKexecCount "kho_in" "kexec_count";
    /// Head of the list of blocks of sessions that are not read in yet; 7.2 and later.
    HeaderBlockList "luo_session_header" "block_set.blocks";
    /// How many blocks it has.
    HeaderBlockCount "luo_session_header" "block_set.nblocks";
    /// A block's link in that list.
    BlockList "kho_block" "list";
    /// Where the block lies.
    BlockAddress "kho_block" "ser";
    /// What lies in front of a block's records.
    BlockHeader "kho_block_header_ser" "";
    /// Physical address of the next block.
    BlockNext "kho_block_header_ser" "next";
    /// How many records a block has.
    BlockCount "kho_block_header_ser" "count";
    /// A session as the previous kernel wrote it.
    SessionRecord "luo_session_ser" "";
    /// Its name.
    SessionRecordName "luo_session_ser" "name";
    /// Physical address of the first block of its files.
    SessionRecordFiles "luo_session_ser" "file_set_ser.files";
    /// How many files it has.
    SessionRecordCount "luo_session_ser" "file_set_ser.count";
    /// A file as the previous kernel wrote it.
    FileRecord "luo_file_ser" "";
    /// Its handler's compatible string.
    FileRecordHandler "luo_file_ser" "compatible";
    /// The handler's serialized data.
    FileRecordData "luo_file_ser" "data";
    /// Its token.
    FileRecordToken "luo_file_ser" "token";
    /// An FLB as the previous kernel wrote it.
    FlbRecord "luo_flb_ser" "";
    /// What the previous kernel wrote of FLBs: how many; null where it wrote nothing.
    FlbArrivedHeader "luo_flb_global" "incoming.header_ser";
    /// What the previous kernel wrote of FLBs: each.
    FlbArrivedRecords "luo_flb_global" "incoming.ser";
    /// Number of a file system.
    SuperDevice "super_block" "s_dev";
    /// A file's operations: what kind of file it is.
    FileOps "file" "f_op";
    /// Number of the system call that a task is in; x86-64.
    RegsCall "pt_regs" "orig_ax";
    /// Its first argument; x86-64.
    RegsArg1 "pt_regs" "di";
    /// Its second argument; x86-64.
    RegsArg2 "pt_regs" "si";
    /// Its third argument; x86-64.
    RegsArg3 "pt_regs" "dx";
    /// Its fourth argument; x86-64.
    RegsArg4 "pt_regs" "r10";
    /// Its fifth argument; x86-64.
    RegsArg5 "pt_regs" "r8";
    /// Number of the system call that a task is in; arm64.
    RegsCallArm "pt_regs" "syscallno";
    /// Its arguments, one after the other, but for the first; arm64.
    RegsArgsArm "pt_regs" "regs";
    /// Its first argument; arm64.
    RegsArg1Arm "pt_regs" "orig_x0";
    /// The control groups of a task.
    TaskCgroups "task_struct" "cgroups";
    /// Its control group of version 2.
    CgroupsDefault "css_set" "dfl_cgrp";
    /// The control group's directory.
    CgroupNode "cgroup" "kn";
    /// The directory above; 6.15 and later.
    NodeParent "kernfs_node" "__parent";
    /// The directory's name.
    NodeName "kernfs_node" "name";
    /// LUO's own serialized head for the next kernel, which names its format; 7.2 and later.
    LuoSerialized "(enabled, liveupdate_num)" "luo_ser_out";
    /// The same as a flattened device tree; before 7.2.
    LuoOutTreeHead "(enabled, liveupdate_num)" "fdt_out";
    /// The format's name.
    LuoFormat "luo_ser" "compatible";
    /// KHO's tree for the next kernel, which names its format.
    KhoOutTreeHead "kho_out" "fdt";
    /// The first argument of a system call by a 32-bit caller; x86-64.
    RegsArg1Ia32 "pt_regs" "bx";
    /// Its second argument; x86-64.
    RegsArg2Ia32 "pt_regs" "cx";
    /// What a task may do.
    TaskCred "task_struct" "cred";
    /// Its capabilities, in its own user namespace.
    CredEffective "cred" "cap_effective";
    /// Its user namespace.
    CredUserNamespace "cred" "user_ns";
    /// How many user namespaces lie above one; 0: it is the first.
    UserNamespaceLevel "user_namespace" "level";
    /// A task's number in each pid namespace.
    TaskPid "task_struct" "thread_pid";
    /// A task's number.
    TaskThread "task_struct" "pid";
    /// The number of the process that it belongs to.
    TaskProcess "task_struct" "tgid";
    /// Its command name.
    TaskComm "task_struct" "comm";
    /// How many pid namespaces lie above the one that it was made in; 0: that is the first.
    PidLevel "pid" "level";
    /// A task's open files.
    TaskFiles "task_struct" "files";
    /// The table of them.
    FilesTable "files_struct" "fdt";
    /// Its files, by their descriptors.
    TableFiles "fdtable" "fd";
    /// What the kernel counts of a BPF program, on each CPU.
    ProgramStats "bpf_prog" "stats";
    /// What it knows of one besides.
    ProgramAux "bpf_prog" "aux";
    /// The program's number.
    AuxId "bpf_prog_aux" "id";
    /// How often it was skipped.
    StatsMisses "bpf_prog_stats" "misses";
}
