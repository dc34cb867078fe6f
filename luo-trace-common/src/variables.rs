//! Variables of the kernel that the programs read.
//!
//! Like the offsets of [`crate::fields`], their addresses differ from kernel to kernel, and from boot to boot: the agent
//! looks each up among the kernel's symbols and hands the addresses over before the programs are loaded. 0 stands for a variable
//! that this kernel does not have.

macro_rules! variables {
    ($($(#[$doc:meta])* $variable:ident $symbol:literal;)*) => {
        /// A variable. The number is its index in the programs' table of addresses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Variable { $($(#[$doc])* $variable,)* }

        impl Variable {
            /// Every variable, in the order of their numbers.
            pub const ALL: &[Variable] = &[$(Variable::$variable,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The symbol's name.
            pub const fn symbol(self) -> &'static str {
                match self { $(Variable::$variable => $symbol,)* }
            }
        }
    };
}

variables! {
    /// `struct luo_session_global`, `kernel/liveupdate/luo_session.c` (7.3): the sessions of both directions.
    Sessions "luo_session_global";
    /// `struct luo_flb_global`, `kernel/liveupdate/luo_flb.c` (7.3): the FLBs.
    Flbs "luo_flb_global";
    /// A list head, `kernel/liveupdate/luo_file.c` (7.3): the file handlers.
    Handlers "luo_file_handler_list";
    /// An anonymous structure, `kernel/liveupdate/luo_core.c` (7.3): among others, the number of this live update.
    Luo "luo_global";
    /// `struct kimage *`, `kernel/kexec_core.c` (7.3): the image to jump into.
    Image "kexec_image";
    /// `struct kho_scratch *`, `kernel/liveupdate/kexec_handover.c` (7.3): where nothing may be preserved.
    Scratch "kho_scratch";
    /// How many ranges it has.
    ScratchCount "kho_scratch_cnt";
    /// `struct kho_out`, `kernel/liveupdate/kexec_handover.c` (7.3): what is preserved for the next kernel.
    KhoOut "kho_out";
    /// `struct kho_in`, `kernel/liveupdate/kexec_handover.c` (7.3): what the previous kernel left.
    KhoIn "kho_in";
    /// Where the array of all `struct page` begins, `arch/x86/kernel/head64.c` (7.3).
    PageMap "vmemmap_base";
    /// `struct rw_semaphore`, `kernel/liveupdate/luo_session.c` (7.3): a task that changes sessions or files holds it for reading.
    SessionsInUse "luo_session_serialize_rwsem";
    /// How fast the CPU's counter runs, in kHz, `arch/x86/kernel/tsc.c` (7.3).
    CounterRate "tsc_khz";
    /// Not 0: the CPU's counter cannot be relied on, `arch/x86/kernel/tsc.c` (7.3).
    CounterUnstable "tsc_unstable";
    /// `struct file_operations`, `kernel/liveupdate/luo_session.c` (7.3): what the files of sessions have, and no others.
    SessionOps "luo_session_fops";
}
