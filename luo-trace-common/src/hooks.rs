//! The table of hooks: which kernel functions are traced, by which programs, and what each needs.
//!
//! Attach order, `luo-trace hooks`, `luo-trace doctor`, metric labels and the table in `luo-trace/docs/hooks.md` come from
//! here. The programs themselves are written by hand, one file per family, in `luo-trace-ebpf`; hooks that are of one shape
//! share one, which is told by the cookie for which of them it runs.

use crate::fields::Field;
use crate::variables::Variable;

/// Which part of LUO a hook watches; a file in `luo-trace-ebpf/src` and in `luo-trace/src/model/invariants` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `kernel/liveupdate/luo_session.c`.
    Session,
    /// `kernel/liveupdate/luo_file.c`.
    File,
    /// `kernel/liveupdate/luo_flb.c`.
    Flb,
    /// `kernel/liveupdate/luo_core.c` and `kernel/kexec_core.c`.
    Reboot,
    /// `kernel/liveupdate/kexec_handover.c`.
    Kho,
}

impl Family {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Session => "session",
            Family::File => "file",
            Family::Flb => "flb",
            Family::Reboot => "reboot",
            Family::Kho => "kho",
        }
    }
}

/// How a hook's programs reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// fentry and fexit on one function that BTF knows.
    Function {
        /// Names the function had over time, newest first; the first that this kernel has is taken.
        targets: &'static [&'static str],
        /// How many parameters it has, under its newest name: its result follows them in the program's context.
        args: usize,
    },
    /// fentry and fexit on every function whose one parameter points to this structure: callbacks of any handler. Where a program can
    /// be attached to one function only, kprobe and kretprobe.
    Callbacks {
        /// The structure's name in BTF.
        argument: &'static str,
        /// The programs for kprobe and kretprobe.
        probes: [&'static str; 2],
    },
}

/// What the agent does when a hook cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It refuses to start.
    Required,
    /// It goes on; what the hook would have told is unknown.
    Optional,
    /// It goes on. The function is one that others call, so that a kernel without such a symbol has nothing to tell.
    IfPresent,
}

/// How closely KHO is watched (`--kho`). Each includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KhoDetail {
    /// Not at all.
    Off,
    /// What is touched once for an object: cheap enough to leave on everywhere.
    #[default]
    Count,
    /// Every key, counted and summed: decides balance, and nearly doubles what preserving a page takes.
    Keys,
}

impl KhoDetail {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            KhoDetail::Off => "off",
            KhoDetail::Count => "count",
            KhoDetail::Keys => "keys",
        }
    }
}

macro_rules! hooks {
    ($($(#[doc = $doc:literal])* $hook:ident $id:literal $family:ident $need:ident
        enter: $enter:expr, exit: $exit:expr, attach: $attach:expr, fields: [$($field:ident)*];)*) => {
        /// One row of the table. The number tells hooks apart in the programs' own maps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Hook { $($(#[doc = $doc])* $hook,)* }

        impl Hook {
            /// Every hook, in the order they are attached.
            pub const ALL: &[Hook] = &[$(Hook::$hook,)*];

            /// The stable id users see.
            pub const fn id(self) -> &'static str { match self { $(Hook::$hook => $id,)* } }

            /// Which part of LUO it watches.
            pub const fn family(self) -> Family { match self { $(Hook::$hook => Family::$family,)* } }

            /// What it tells, in a sentence.
            pub const fn doc(self) -> &'static str { match self { $(Hook::$hook => concat!($($doc,)*),)* } }

            /// What the agent does without it.
            pub const fn need(self) -> Need { match self { $(Hook::$hook => Need::$need,)* } }

            /// The program that runs when the function is entered.
            pub const fn enter(self) -> Option<&'static str> { match self { $(Hook::$hook => $enter,)* } }

            /// The program that runs when the function returns.
            pub const fn exit(self) -> Option<&'static str> { match self { $(Hook::$hook => $exit,)* } }

            /// How its programs reach the kernel.
            pub const fn attach(self) -> Attach { match self { $(Hook::$hook => $attach,)* } }

            /// From which [`KhoDetail`] on it is attached.
            pub const fn detail(self) -> KhoDetail {
                match self {
                    Hook::KhoKeyAdd | Hook::KhoKeyDel | Hook::KhoRestorePage => KhoDetail::Keys,
                    _ if matches!(self.family(), Family::Kho) => KhoDetail::Count,
                    _ => KhoDetail::Off,
                }
            }

            /// The hooks without which it is not known what it tells: LUO gives its own references back by the functions that
            /// drivers call.
            pub const fn relies_on(self) -> &'static [Hook] {
                match self {
                    Hook::FlbPutIncoming => &[Hook::FlbFinish],
                    Hook::FlbPutOutgoing => &[Hook::FlbPreserve, Hook::FlbUnpreserve],
                    _ => &[],
                }
            }

            /// The kernel variables it cannot do without.
            pub const fn variables(self) -> &'static [Variable] {
                match self {
                    Hook::KhoKeyAdd | Hook::KhoKeyDel => &[Variable::KhoOut],
                    Hook::KhoRestorePage => &[Variable::PageMap],
                    _ => &[],
                }
            }

            /// The kernel fields it cannot do without.
            pub const fn fields(self) -> &'static [Field] { match self { $(Hook::$hook => &[$(Field::$field,)*],)* } }
        }
    };
}

const fn function(targets: &'static [&'static str], args: usize) -> Attach {
    Attach::Function { targets, args }
}

hooks! {
    /// A session is made.
    SessionCreate "session-create" Session Required
        enter: Some("plain_enter"), exit: Some("session_exit"),
        attach: function(&["luo_session_create"], 2), fields: [SessionName FilePrivate];
    /// A session of the previous kernel is asked for by name.
    SessionRetrieve "session-retrieve" Session Required
        enter: Some("plain_enter"), exit: Some("session_exit"),
        attach: function(&["luo_session_retrieve"], 2), fields: [SessionName FilePrivate];
    /// The last descriptor of a session is closed.
    SessionRelease "session-release" Session Required
        enter: Some("session_release_enter"), exit: Some("session_release"),
        attach: function(&["luo_session_release"], 2), fields: [SessionName SessionRetrieved SessionFileSet FileSetCount FilePrivate];
    /// The sessions of the previous kernel are read in, at the first open of the device.
    SessionDeserialize "session-deserialize" Session Required
        enter: Some("plain_enter"), exit: Some("plain_exit"),
        attach: function(&["luo_session_deserialize"], 0), fields: [];
    /// Every session is frozen and written for the next kernel.
    SessionSerialize "session-serialize" Session Required
        enter: Some("plain_enter"), exit: Some("plain_exit"),
        attach: function(&["luo_session_serialize"], 0), fields: [];

    /// The device is opened.
    DeviceOpen "device-open" Session Optional
        enter: Some("plain_enter"), exit: Some("plain_exit"),
        attach: function(&["luo_open"], 2), fields: [];
    /// The device is closed.
    DeviceRelease "device-release" Session Optional
        enter: Some("plain_enter"), exit: Some("plain_exit"),
        attach: function(&["luo_release"], 2), fields: [];

    /// A file is preserved under a token.
    FilePreserve "file-preserve" File Required
        enter: Some("file_enter"), exit: Some("file_preserve"),
        attach: function(&["luo_preserve_file"], 3),
        fields: [SessionName SessionFileSet FileSetList ListPrev LuoFileList LuoFileHandler LuoFileFile LuoFileData HandlerCompatible];
    /// A file is brought back by its token.
    FileRetrieve "file-retrieve" File Required
        enter: Some("file_enter"), exit: Some("file_retrieve"),
        attach: function(&["luo_retrieve_file"], 3), fields: [SessionName SessionFileSet];
    /// The files of an abandoned session are given back.
    FilesUnpreserve "files-unpreserve" File Required
        enter: Some("files_enter"), exit: Some("files_exit"),
        attach: function(&["luo_file_unpreserve_files"], 1), fields: [SessionName SessionFileSet FileSetCount];
    /// The files of an incoming session are finished.
    FilesFinish "files-finish" File Required
        enter: Some("files_enter"), exit: Some("files_exit"),
        attach: function(&["luo_file_finish"], 1), fields: [SessionName SessionFileSet FileSetCount];
    /// The files of a session are frozen.
    FilesFreeze "files-freeze" File Optional
        enter: Some("files_enter"), exit: Some("files_exit"),
        attach: function(&["luo_file_freeze"], 2), fields: [SessionName SessionFileSet FileSetCount];
    /// A session's freeze is undone.
    FilesUnfreeze "files-unfreeze" File Optional
        enter: Some("files_enter"), exit: Some("files_exit"),
        attach: function(&["luo_file_unfreeze"], 2), fields: [SessionName SessionFileSet FileSetCount];
    /// The files of an incoming session are read in.
    FilesDeserialize "files-deserialize" File Optional
        enter: Some("files_enter"), exit: Some("files_exit"),
        attach: function(&["luo_file_deserialize"], 2), fields: [SessionName SessionFileSet FileSetCount];
    /// A file handler is called: preserve, unpreserve, freeze, unfreeze, retrieve, can_finish, finish.
    FileCallback "file-callback" File Optional
        enter: Some("file_callback_enter"), exit: Some("file_callback"),
        attach: Attach::Callbacks { argument: "liveupdate_file_op_args", probes: ["file_callback_probe", "file_callback_return"] },
        fields: [FileArgsHandler FileArgsFile FileArgsData HandlerOps HandlerCompatible
            FileOpsPreserve FileOpsUnpreserve FileOpsFreeze FileOpsUnfreeze FileOpsRetrieve FileOpsCanFinish FileOpsFinish];

    /// A file joins the FLBs of its handler.
    FlbPreserve "flb-file-preserve" Flb Optional
        enter: Some("flb_file_enter"), exit: Some("flb_file_exit"),
        attach: function(&["luo_flb_file_preserve"], 1), fields: [HandlerCompatible];
    /// An outgoing file leaves the FLBs of its handler.
    FlbUnpreserve "flb-file-unpreserve" Flb Optional
        enter: Some("flb_file_enter"), exit: Some("flb_file_exit"),
        attach: function(&["luo_flb_file_unpreserve"], 1), fields: [HandlerCompatible];
    /// An incoming file leaves the FLBs of its handler.
    FlbFinish "flb-file-finish" Flb Optional
        enter: Some("flb_file_enter"), exit: Some("flb_file_exit"),
        attach: function(&["luo_flb_file_finish"], 1), fields: [HandlerCompatible];
    /// The global state in use is written for the next kernel.
    FlbSerialize "flb-serialize" Flb Optional
        enter: Some("plain_enter"), exit: Some("flb_serialize"),
        attach: function(&["luo_flb_serialize"], 0), fields: [];
    /// Global state is made, brought back or taken down.
    FlbCallback "flb-callback" Flb Optional
        enter: Some("flb_callback_enter"), exit: Some("flb_callback"),
        attach: Attach::Callbacks { argument: "liveupdate_flb_op_args", probes: ["flb_callback_probe", "flb_callback_return"] },
        fields: [FlbArgsFlb FlbArgsData FlbOps FlbCompatible FlbOpsPreserve FlbOpsUnpreserve FlbOpsRetrieve FlbOpsFinish];

    /// A driver takes a reference on global state from the previous kernel.
    FlbGetIncoming "flb-get-incoming" Flb IfPresent
        enter: Some("plain_enter"), exit: Some("flb_use_exit"),
        attach: function(&["liveupdate_flb_get_incoming"], 2), fields: [FlbCompatible];
    /// A driver gives it back.
    FlbPutIncoming "flb-put-incoming" Flb IfPresent
        enter: Some("plain_enter"), exit: Some("flb_use_exit"),
        attach: function(&["liveupdate_flb_put_incoming"], 1), fields: [FlbCompatible];
    /// A driver takes a reference on global state for the next kernel.
    FlbGetOutgoing "flb-get-outgoing" Flb IfPresent
        enter: Some("plain_enter"), exit: Some("flb_use_exit"),
        attach: function(&["liveupdate_flb_get_outgoing"], 2), fields: [FlbCompatible];
    /// A driver gives it back.
    FlbPutOutgoing "flb-put-outgoing" Flb IfPresent
        enter: Some("plain_enter"), exit: Some("flb_use_exit"),
        attach: function(&["liveupdate_flb_put_outgoing"], 1), fields: [FlbCompatible];

    /// `reboot(LINUX_REBOOT_CMD_KEXEC)` begins, or comes back without a jump.
    Kexec "kexec" Reboot Required
        enter: Some("kexec_enter"), exit: Some("plain_exit"),
        attach: function(&["kernel_kexec"], 0), fields: [];
    /// LUO freezes and serializes everything for the jump.
    LiveupdateReboot "liveupdate-reboot" Reboot Required
        enter: Some("plain_enter"), exit: Some("plain_exit"),
        attach: function(&["liveupdate_reboot"], 0), fields: [];
    /// A kernel is loaded or unloaded by `kexec_file_load(2)`.
    ImageLoadFile "image-load-file" Reboot Optional
        enter: Some("image_load_enter"), exit: Some("image_load"),
        attach: function(&["__x64_sys_kexec_file_load", "__arm64_sys_kexec_file_load"], 1), fields: [ImageFileOps ImageKho];
    /// A kernel is loaded or unloaded by `kexec_load(2)`.
    ImageLoadLegacy "image-load-legacy" Reboot IfPresent
        enter: Some("image_load_enter"), exit: Some("image_load"),
        attach: function(&["__x64_sys_kexec_load", "__arm64_sys_kexec_load"], 1), fields: [ImageFileOps ImageKho];
    /// A kernel that is being loaded is made to carry preserved memory.
    ImageCarrier "image-carrier" Reboot Optional
        enter: Some("plain_enter"), exit: Some("image_carrier"),
        attach: function(&["kho_fill_kimage"], 1), fields: [ImageKho ImageCommandLine ImageCommandLineLen];

    /// The file of an image to jump into that is being loaded.
    ImageFile "image-file" Reboot Optional
        enter: None, exit: Some("image_file"),
        attach: function(&["security_kernel_read_file"], 3), fields: [FileInode InodeNumber InodeSuper SuperDevice];

    /// Pages are preserved.
    KhoPreservePages "kho-preserve-pages" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_preserve_pages"], 2), fields: [];
    /// Pages are given back.
    KhoUnpreservePages "kho-unpreserve-pages" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_unpreserve_pages"], 2), fields: [];
    /// Pages are brought back.
    KhoRestorePages "kho-restore-pages" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_restore_pages"], 2), fields: [];
    /// A vmalloc area is preserved.
    KhoPreserveVmalloc "kho-preserve-vmalloc" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_preserve_vmalloc"], 2), fields: [];
    /// A vmalloc area is given back.
    KhoUnpreserveVmalloc "kho-unpreserve-vmalloc" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_unpreserve_vmalloc"], 1), fields: [];
    /// A vmalloc area is brought back.
    KhoRestoreVmalloc "kho-restore-vmalloc" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_restore_vmalloc"], 1), fields: [];
    /// Memory is allocated that is preserved.
    KhoAllocPreserve "kho-alloc-preserve" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_alloc_preserve"], 1), fields: [];
    /// Such memory is freed.
    KhoUnpreserveFree "kho-unpreserve-free" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_unpreserve_free"], 1), fields: [];
    /// Such memory of the previous kernel is freed.
    KhoRestoreFree "kho-restore-free" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_restore_free"], 1), fields: [];
    /// A subtree is added to what the next kernel is told.
    KhoAddSubtree "kho-add-subtree" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_add_subtree"], 3), fields: [];
    /// A subtree is removed from it.
    KhoRemoveSubtree "kho-remove-subtree" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_remove_subtree"], 1), fields: [];
    /// A subtree of the previous kernel is asked for.
    KhoRetrieveSubtree "kho-retrieve-subtree" Kho Optional
        enter: Some("kho_enter"), exit: Some("kho_exit"),
        attach: function(&["kho_retrieve_subtree"], 3), fields: [];
    /// A range is entered into KHO's tree.
    KhoKeyAdd "kho-key-add" Kho Optional
        enter: None, exit: Some("kho_key_add"),
        attach: function(&["kho_radix_add_key", "kho_radix_add_page"], 2), fields: [KhoOutTree];
    /// A range is taken out of it.
    KhoKeyDel "kho-key-del" Kho Optional
        enter: None, exit: Some("kho_key_del"),
        attach: function(&["kho_radix_del_key", "kho_radix_del_page"], 2), fields: [KhoOutTree];
    /// A range of the previous kernel is brought back.
    KhoRestorePage "kho-restore-page" Kho Optional
        enter: Some("kho_restore_page_enter"), exit: Some("kho_restore_page"),
        attach: function(&["kho_restore_page"], 2), fields: [PagePrivate];

    /// A kernel is loaded or unloaded by `kexec_load(2)` of a 32-bit caller.
    ImageLoadCompat "image-load-compat" Reboot IfPresent
        enter: Some("image_load_enter"), exit: Some("image_load"),
        attach: function(&["__ia32_compat_sys_kexec_load", "__arm64_compat_sys_kexec_load"], 1), fields: [ImageFileOps ImageKho];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_once() {
        for (i, a) in Hook::ALL.iter().enumerate() {
            for b in &Hook::ALL[i + 1..] {
                assert_ne!(a.id(), b.id());
            }
        }
    }

    #[test]
    fn hooks_are_numbered_from_0_on() {
        // The programs make a hook of its number.
        for (i, &hook) in Hook::ALL.iter().enumerate() {
            assert_eq!(hook as usize, i);
        }
    }

    #[test]
    fn every_hook_says_what_it_tells() {
        for hook in Hook::ALL {
            assert!(hook.doc().trim().ends_with('.'), "{} has no sentence", hook.id());
        }
    }
}
