//! The table of invariants: what each promises, why that matters, what to do, and what it takes to tell.

use luo_trace_common::events::Kind;
use luo_trace_common::hooks::{Family, Hook};

use super::Judged::{self, Ahead, Boot, Chain};
use super::{Check, Severity};
use super::{atomic, file, finish, flb, flb_users, freeze, kexec, kho, reboot, session, snapshot};
use crate::model::Coverage;
use crate::model::court::Court;
use crate::model::scene::Scene;
use crate::model::state::State;

macro_rules! invariants {
    ($($invariant:ident $id:literal $family:ident $severity:ident
        statement: $statement:literal, why: $why:literal, advice: $advice:literal,
        witness: $witness:literal,
        needs: [$($hook:ident)*] $(also: [$($also:ident)*])?, $(events: [$($kind:ident)*],)? judged: $judged:expr
        $(, no_kernel: $reason:literal)?;)*) => {
        /// A promise that a live update makes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Invariant { $(#[doc = $statement] $invariant,)* }

        impl Invariant {
            /// Every invariant, in the order of the catalogue.
            pub const ALL: &[Invariant] = &[$(Invariant::$invariant,)*];

            /// The stable id users see.
            pub const fn id(self) -> &'static str { match self { $(Invariant::$invariant => $id,)* } }

            /// Which part of LUO it is about.
            pub const fn family(self) -> Family { match self { $(Invariant::$invariant => Family::$family,)* } }

            /// How bad a violation is.
            pub const fn severity(self) -> Severity { match self { $(Invariant::$invariant => Severity::$severity,)* } }

            /// The promise, in a sentence.
            pub const fn statement(self) -> &'static str { match self { $(Invariant::$invariant => $statement,)* } }

            /// Why it matters.
            pub const fn why(self) -> &'static str { match self { $(Invariant::$invariant => $why,)* } }

            /// What to do when it is violated.
            pub const fn advice(self) -> &'static str { match self { $(Invariant::$invariant => $advice,)* } }

            /// What shows that it is broken: absence is never evidence by itself.
            pub const fn witness(self) -> &'static str { match self { $(Invariant::$invariant => $witness,)* } }

            /// The hooks without which nothing can be said about it.
            pub const fn needs(self) -> &'static [Hook] { match self { $(Invariant::$invariant => &[$(Hook::$hook,)*],)* } }

            /// The hooks without which it may be found broken, but cannot be called kept.
            pub const fn also(self) -> &'static [Hook] { match self { $(Invariant::$invariant => &[$($(Hook::$also,)*)?],)* } }

            /// Why no real kernel could be made to break it, where none could.
            pub const fn no_kernel(self) -> Option<&'static str> {
                match self { $(Invariant::$invariant => { const R: &[&str] = &[$($reason)?]; R.first().copied() })* }
            }

            /// The kinds of events that decide something about it: it is not asked about others.
            const fn events(self) -> &'static [Kind] {
                match self { $(Invariant::$invariant => &[$($(Kind::$kind,)*)?],)* }
            }

            const fn judged(self) -> Judged { match self { $(Invariant::$invariant => $judged,)* } }
        }
    };
}

impl Invariant {
    /// Whether it takes more than the record of one boot to decide it.
    pub const fn needs_chain(self) -> bool {
        matches!(self.judged(), Chain)
    }

    /// Whether it is decided over a chain of boots, at least where no boot did that by itself.
    pub const fn is_of_a_chain(self) -> bool {
        matches!(self.judged(), Chain | Ahead(_))
    }

    /// Whether it is among the verdicts only where it was decided.
    pub(in crate::model) const fn is_told_where_decided(self) -> bool {
        matches!(self.judged(), Ahead(_))
    }

    /// Those that the record of one boot decides.
    pub fn of_one_boot() -> impl Iterator<Item = Invariant> {
        Self::ALL.iter().copied().filter(|invariant| !invariant.needs_chain())
    }
}

/// The invariants that can be decided, by the kinds of events that decide something about them.
#[derive(Debug)]
pub(in crate::model) struct Asked {
    checks: Vec<Vec<Check>>,
    /// Those that are not asked.
    #[cfg(test)]
    others: Vec<Vec<Check>>,
}

impl Asked {
    /// Those that can be decided with these hooks.
    pub(in crate::model) fn with(coverage: Coverage) -> Self {
        let mut checks = vec![Vec::new(); Kind::SPAN];
        #[cfg(test)]
        let mut others = checks.clone();
        for invariant in Invariant::ALL {
            let (Boot(check) | Ahead(check)) = invariant.judged() else {
                continue;
            };
            if invariant.needs().iter().all(|&hook| coverage.has(hook)) {
                invariant
                    .events()
                    .iter()
                    .for_each(|&kind| checks[kind as usize].push(check));
                #[cfg(test)]
                for kind in Kind::ALL.iter().filter(|kind| !invariant.events().contains(kind)) {
                    others[*kind as usize].push(check);
                }
            }
        }
        Self {
            checks,
            #[cfg(test)]
            others,
        }
    }

    /// Has each judge an event, in the order of the catalogue.
    pub(in crate::model) fn judge(&self, state: &State, scene: &Scene, court: &mut Court) {
        let Some(kind) = scene.event.body.kind() else { return };
        self.checks[kind as usize]
            .iter()
            .for_each(|check| check(state, scene, court));
        #[cfg(test)]
        {
            let before = court.account();
            self.others[kind as usize]
                .iter()
                .for_each(|check| check(state, scene, court));
            let name = kind.name();
            assert_eq!(
                before,
                court.account(),
                "an invariant that {name} decides does not name it among its `events`"
            );
        }
    }
}

invariants! {
    SessionNameUnique "session-name-unique" Session Error
        statement: "There is one live session per name and direction.",
        why: "The next kernel finds a session by its name alone: of two with one name, one can never be retrieved.",
        advice: "Close one of the two sessions before the next kexec, and report the kernel that let both exist.",
        witness: "A second create that succeeded; a release that is still under way is waited for.",
        needs: [SessionCreate SessionRelease],
        events: [SessionCreate FilesDeserialize], judged: Boot(session::name_unique);
    SessionBalance "session-balance" Session Error
        statement: "Every created session is released, serialized or alive, and an outgoing release unpreserves all its files.",
        why: "What a session held and did not give back stays locked in memory until the next cold boot.",
        advice: "Count the host's preserved memory as leaked: plan a cold boot, and report the kernel.",
        witness: "The release's own end, with the kernel's count of the files that it held; of a session whose memory went to \
            another, the other's create, once no release is under way.",
        needs: [SessionCreate SessionRelease SessionSerialize FilePreserve FilesUnpreserve],
        events: [SessionCreate SessionRelease SessionSerialize FilePreserve FilesUnpreserve FilesFreeze
            FilesUnfreeze],
        judged: Boot(session::balance);
    SessionRetrieveOnce "session-retrieve-once" Session Error
        statement: "A second retrieve of a session fails.",
        why: "Two owners of one session can finish it under each other's hands.",
        advice: "Make sure that only one process goes on using the session, and report the kernel.",
        witness: "A second retrieve that succeeded.",
        needs: [SessionRetrieve SessionRelease],
        events: [SessionRetrieve SessionRelease FileRetrieve FilesFinish], judged: Boot(session::retrieve_once);
    SessionDirection "session-direction" Session Error
        statement: "Files are preserved into outgoing sessions only, and retrieved from and finished in incoming ones only.",
        why: "A file preserved into an incoming session goes nowhere, and finishing an outgoing one frees what its owner still uses.",
        advice: "Close the session and preserve its files into a new one. Kernels before 7.2 do not refuse this.",
        witness: "The operation itself, on a session whose beginning was seen.",
        needs: [SessionCreate SessionRelease FilePreserve FileRetrieve FilesFinish] also: [FilesDeserialize],
        events: [FilePreserve FileRetrieve FilesFinish], judged: Boot(session::direction_kept);
    SessionReleaseFinishes "session-release-finishes" Session Critical
        statement: "Closing a retrieved session finishes it, or is reported as stranded.",
        why: "A session that is closed and not finished has no descriptor left: no process can ever finish it, and its memory stays preserved.",
        advice: "Nothing on this boot can reach the session any more: move what needs it away, plan a cold boot, and let its owner \
            finish a session before closing it.",
        witness: "The release's own end, with the kernel's count of the files that it still had: a finish would have ended within it.",
        needs: [SessionRelease FilesFinish],
        events: [SessionRelease], judged: Boot(session::release_finishes);
    SessionCount "session-count" Session Error
        statement: "The kernel's count of sessions equals the sessions that exist.",
        why: "The count decides how much is written for the next kernel: one that is too small loses sessions.",
        advice: "Do not kexec: close every session and plan a cold boot, and report the kernel.",
        witness: "A snapshot during which nothing changed, once no operation is under way that began before it.",
        needs: [SessionCreate SessionRelease],
        events: [SnapshotEnd], judged: Boot(snapshot::session_count);
    SessionOfSystemd "session-of-systemd" Session Critical
        statement: "The name of systemd's own session is free when systemd creates that for its services' descriptors.",
        why: "systemd creates it after it has killed every process, just before the jump, and goes on without it: every file descriptor store \
            of a service is lost.",
        advice: "In the next kernel, start anew what relied on its stored descriptors. Find out which process created a session named \
            systemd (the record tells), and give that another name.",
        witness: "systemd's own create, which failed with EEXIST.",
        needs: [SessionCreate],
        events: [SessionCreate], judged: Boot(session::systemds_own);
    DeviceExclusive "device-exclusive" Session Error
        statement: "At most one holds /dev/liveupdate open, and a failure to read in the previous kernel's sessions reaches who opens it.",
        why: "Two orchestrators undo each other's sessions; one that is not told of the failure believes that nothing was preserved.",
        advice: "Stop all but one of the processes that hold /dev/liveupdate, and report the kernel.",
        witness: "A second open that succeeded, once no close is under way; an open that succeeded after the reading in had failed.",
        needs: [DeviceOpen DeviceRelease SessionDeserialize],
        events: [DeviceOpen], judged: Boot(session::device_exclusive);

    FileTokenUnique "file-token-unique" File Error
        statement: "A token is used once per session.",
        why: "The next kernel finds a file by its token: of two files with one token, the second can never be retrieved.",
        advice: "Close the session and preserve its files anew under tokens of their own, and report the kernel.",
        witness: "A second preserve that succeeded.",
        needs: [FilePreserve FilesUnpreserve],
        events: [FilePreserve], judged: Boot(file::token_unique);
    FileObjectUnique "file-object-unique" File Error
        statement: "One object is preserved by at most one session.",
        why: "Each session saves, and in the next kernel frees, the object's memory as if it were its only owner.",
        advice: "Close one of the two sessions before the next kexec. Kernels before 7.1 do not refuse this.",
        witness: "A second preserve that succeeded; a release that is still under way is waited for.",
        needs: [FilePreserve FilesUnpreserve],
        events: [FilePreserve], judged: Boot(file::object_unique);
    FileBalance "file-balance" File Error
        statement: "A successful preserve ends in exactly one of unpreserve and serialization, and unpreserve goes last-in-first-out.",
        why: "A file that is not unpreserved leaks its memory; one that is unpreserved twice frees memory that others use.",
        advice: "Do not update this host again before a cold boot, and report the file's handler with this record.",
        witness: "The end of the session's giving back, with the kernel's count of files, or its release: the unpreserve would have \
            ended within it. Twice or out of order: the callback itself.",
        needs: [FilePreserve FilesUnpreserve SessionSerialize],
        events: [FilePreserve FileCallback FilesUnpreserve SessionRelease SessionCreate SessionSerialize],
        judged: Boot(file::balance);
    FileErrorAtomic "file-error-atomic" File Critical
        statement: "A preserve that fails leaves no preserved page and no user of global state behind.",
        why: "What it left belongs to no session: it is never given back, and it goes into the next kernel as a leak.",
        advice: "Count the host's preserved memory as leaked: plan a cold boot, and report the file's handler with this record.",
        witness: "The end of the preserve that failed: what undoes it would have ended within it, on the same task.",
        needs: [FilePreserve FlbPreserve FlbUnpreserve FlbCallback] also: [KhoKeyAdd KhoKeyDel],
        events: [FilePreserve], judged: Boot(atomic::error_atomic);
    FileRetrieveOnce "file-retrieve-once" File Error
        statement: "The handler's retrieve runs at most once per file, later calls give the same file, and a failure stays a failure.",
        why: "A handler that runs twice on the same saved state takes ownership of the same memory twice.",
        advice: "Do not trust the contents of this file: finish the session, restart its owner from scratch, and report the handler.",
        witness: "A second callback, or a later retrieve that gave another file.",
        needs: [FileRetrieve FileCallback FilesFinish],
        events: [FileCallback FileRetrieve FilesFinish SessionRelease], judged: Boot(file::retrieve_once);
    FileFinishOnce "file-finish-once" File Error
        statement: "Finish runs once per file, last-in-first-out, for all files of a session or, when one refuses, for none.",
        why: "Finishing frees the saved state: done twice it frees memory that others use, done for some it leaves a session in pieces.",
        advice: "Do not trust files of this session: restart their owner from scratch, and report the handler with this record.",
        witness: "The callbacks themselves; for one that did not come, the end of the finish within which it would have ended.",
        needs: [FilesFinish FileCallback],
        events: [FileCallback FilesFinish], judged: Boot(finish::once);
    FileFinishTruth "file-finish-truth" File Error
        statement: "What finish is told of a file's retrieve is what became of it.",
        why: "A handler that believes a file was not retrieved frees memory that the file uses, and the other way round leaks it.",
        advice: "Do not trust the contents of this file: restart its owner from scratch, and report the kernel.",
        witness: "What the callback was told, against a retrieve whose end was seen.",
        needs: [FileCallback FileRetrieve],
        events: [FileCallback], judged: Boot(finish::truth);
    FileCount "file-count" File Error
        statement: "A session's count of files equals its files.",
        why: "The count decides how many files are written for the next kernel: one that is too small loses files.",
        advice: "Close the session and preserve its files anew, and report the kernel.",
        witness: "The kernel's own count, at a freeze, a finish or in a snapshot, against its own list.",
        needs: [FilePreserve FilesUnpreserve FilesFinish] also: [FilesFreeze FilesDeserialize],
        events: [FilesFreeze FilesFinish SnapshotEnd], judged: Boot(snapshot::file_count);

    FlbCreateOnFirst "flb-create-on-first" Flb Error
        statement: "The global state is created exactly when its users go from 0 to 1.",
        why: "A second creation overwrites the first, whose memory is then lost; a missing one lets files depend on nothing.",
        advice: "Close every session and see whether the state goes away. If a module that owns it was unloaded meanwhile, \
            that explains a missing creation; otherwise report the kernel.",
        witness: "The callback itself, with the kernel's count of users; for a missing one, a file that joined after the state was \
            seen to go.",
        needs: [FlbCallback FlbPreserve],
        events: [FlbCallback FlbPreserve], judged: Boot(flb::create_on_first);
    FlbDestroyOnLast "flb-destroy-on-last" Flb Critical
        statement: "The global state is destroyed exactly when its users go to 0: never before, never twice, never not at all.",
        why: "Files in use lose the state they depend on, or memory stays preserved without an owner.",
        advice: "Do not kexec: abandon the update, close every session and plan a cold boot.",
        witness: "A destroy that came too early or twice; for one that did not come, the end of the leaving within which it would \
            have ended, once no joining is under way.",
        needs: [FlbCallback FlbPreserve FlbUnpreserve FlbFinish SessionSerialize] also: [FlbGetOutgoing FlbPutOutgoing],
        events: [FlbCallback FlbPreserve FlbGet FlbPut FlbUnpreserve FlbFinish SessionSerialize],
        judged: Boot(flb::destroy_on_last);
    FlbRollback "flb-rollback" Flb Error
        statement: "When one of a handler's global states cannot be made, those made before it for the same file are undone.",
        why: "A state that stays without a user is preserved memory that is never given back.",
        advice: "Close every session and plan a cold boot: the state cannot go any more. Report the kernel.",
        witness: "The end of the joining that failed: the undoing would have ended within it.",
        needs: [FlbCallback FlbPreserve] also: [FlbGetOutgoing],
        events: [FlbPreserve FlbCallback FlbGet], judged: Boot(flb::rollback);
    FlbRestoreOnce "flb-restore-once" Flb Error
        statement: "The global state is brought back at most once in the new kernel, and a failure stays a failure.",
        why: "A second time takes ownership of the same saved memory twice.",
        advice: "Do not trust what depends on this state: restart its users from scratch, and report the kernel.",
        witness: "A second callback, or a later get that succeeded.",
        needs: [FlbCallback] also: [FlbGetIncoming],
        events: [FlbCallback FlbGet], judged: Boot(flb_users::restore_once);
    FlbFinishAfterRestore "flb-finish-after-restore" Flb Critical
        statement: "Incoming global state is finished only after it was brought back, and then it is finished.",
        why: "State that is not finished keeps its memory for good, and its count of users is broken: the kernel warns and leaks it.",
        advice: "Plan a cold boot, and let the state's driver bring it back at boot or with its first file. Report the kernel.",
        witness: "The finish itself; for one that did not come, the end of a file's leaving within which it would have ended.",
        needs: [FlbCallback FlbFinish],
        events: [FlbCallback FlbFinish], judged: Boot(flb_users::finish_after_restore);
    FlbGetPut "flb-get-put" Flb Warning
        statement: "Every reference that a driver takes on global state is given back before the jump.",
        why: "A reference that is kept goes into the next kernel as a user that never leaves, so that the state never goes.",
        advice: "Report the driver that owns the state; the next kernel keeps its memory until it is cold-booted.",
        witness: "The kernel's own count of users, as it is written for the next kernel.",
        needs: [SessionSerialize FlbPutOutgoing FlbPutIncoming] also: [FlbGetOutgoing FlbGetIncoming],
        events: [FlbGet FlbPut FlbRecord LiveupdateReboot], judged: Boot(flb_users::get_put);
    FlbCount "flb-count" Flb Error
        statement: "The count of a global state's users is the number of its files and of references on it.",
        why: "With a count that is too small the state goes while files use it; with one that is too large it never goes.",
        advice: "Do not kexec: close every session and see whether the state goes away; if not, plan a cold boot. Report the kernel.",
        witness: "The kernel's own count, in a snapshot or as it is written for the next kernel.",
        needs: [FlbCallback FlbPreserve FlbUnpreserve] also: [FlbGetOutgoing FlbPutOutgoing FlbSerialize],
        events: [FlbRecord SnapshotEnd], judged: Boot(flb_users::count);

    FreezeRollback "freeze-rollback" Reboot Critical
        statement: "A freeze that fails at one file unfreezes exactly what was frozen before it, once each.",
        why: "A file that stays frozen is locked for its owner; one that is unfrozen without having been frozen loses its state.",
        advice: "Restart the owner of the session, close the session, and report the file's handler with this record.",
        witness: "The end of the freeze that failed: the unfreezing would have ended within it.",
        needs: [FilesFreeze FilesUnfreeze FileCallback SessionSerialize],
        events: [FileCallback FilesUnfreeze SessionSerialize], judged: Boot(freeze::rollback);
    FrozenImmutable "frozen-immutable" Reboot Critical
        statement: "Nothing is created, preserved or unpreserved after everything was serialized.",
        why: "What is written for the next kernel does not know of it: what comes later is lost, what goes is restored from freed memory.",
        advice: "Stop the update if that is still possible, and do a cold boot. Report the kernel.",
        witness: "An operation that succeeded and began after everything was serialized.",
        needs: [SessionSerialize SessionCreate FilePreserve FilesUnpreserve],
        events: [SessionSerialize SessionCreate FilePreserve FilesUnpreserve], judged: Boot(freeze::immutable);
    FreezeNoReturn "freeze-no-return" Reboot Critical
        statement: "A successful liveupdate_reboot is followed by the jump, not by userspace.",
        why: "What was serialized is frozen for good: a host that goes on changes state that the next kernel will not see.",
        advice: "Treat the update as failed: sessions stay locked on this boot, so move the workload away and do a cold boot. The kernel \
            comes back by itself where a step after the freeze fails; its log says which.",
        witness: "An operation of userspace that began after it, or the end of kernel_kexec.",
        needs: [LiveupdateReboot Kexec],
        events: [LiveupdateReboot KexecReturn SessionCreate SessionRetrieve SessionRelease SessionSerialize
            FilePreserve FileRetrieve FilesUnpreserve FilesFinish FilesFreeze FilesUnfreeze FileCallback FlbPreserve
            FlbUnpreserve FlbFinish],
        judged: Boot(reboot::no_return);
    RebootAbortRestores "reboot-abort-restores" Reboot Error
        statement: "A reboot that fails leaves the sessions and files that were there before it.",
        why: "The host goes on and tries again: what the first attempt dropped is then missing without an error.",
        advice: "Close the sessions and preserve their files anew before the next attempt, and report the kernel.",
        witness: "The first snapshot after it during which nothing changed.",
        needs: [LiveupdateReboot],
        events: [LiveupdateReboot SnapshotEnd], judged: Boot(snapshot::abort_restores);
    KexecCarrier "kexec-carrier" Reboot Critical
        statement: "Sessions exist only with an image that can carry them: loaded by kexec_file_load, with KHO, and liveupdate=on on its \
            command line.",
        why: "A kernel that cannot take what is preserved loses all of it at the jump, without one error.",
        advice: "Load the image again with kexec_file_load(2) (`kexec -s`) and kho=on liveupdate=on on its command line before the reboot, \
            or close the sessions.",
        witness: "The load of the image and its line; where the line lacks something, the look into the image, which may have a \
            line built in.",
        needs: [Kexec SessionCreate SessionRelease SessionSerialize] also: [ImageCarrier ImageLoadFile ImageLoadLegacy],
        events: [ImageLoad ImageVerdict SessionSerialize], judged: Boot(kexec::carrier);
    IncomingFinishedFirst "incoming-finished-first" Reboot Warning
        statement: "No unfinished incoming session exists when the next update starts.",
        why: "Unfinished incoming sessions are not carried over a second kexec: what they hold is lost.",
        advice: "Retrieve and finish every incoming session before the next update.",
        witness: "The kernel's own list, or what it was handed and no process has read in.",
        needs: [SessionDeserialize SessionRetrieve SessionRelease FilesFinish SessionSerialize] also: [FilesDeserialize],
        events: [SessionSerialize], judged: Boot(reboot::incoming_finished_first);

    KhoBalance "kho-balance" Kho Critical
        statement: "What is preserved and what is given back are the same pages when nothing is preserved any more.",
        why: "A page that is not given back stays locked in memory; one that is given back too early is overwritten by the next kernel.",
        advice: "Do not kexec: close every session and plan a cold boot, and report the file's handler with this record.",
        witness: "Sums over all that was preserved and given back, both taken within the operations, without a hole between.",
        needs: [KhoKeyAdd KhoKeyDel FilePreserve FilesUnpreserve SessionCreate SessionRelease FlbCallback],
        events: [FilesUnpreserve SessionRelease], judged: Boot(kho::balance);
    KhoRestoreOnce "kho-restore-once" Kho Critical
        statement: "A physical range is restored at most once.",
        why: "Two owners of the same memory overwrite each other, and free it twice.",
        advice: "Do not trust what was restored: restart its owner from scratch, plan a cold boot, and report the handler.",
        witness: "The kernel's own refusal.",
        needs: [KhoRestorePage],
        events: [KhoAnomaly], judged: Boot(kho::restore_once);
    KhoErrorAgree "kho-error-agree" Kho Error
        statement: "Where an inner step of preserving fails, the whole fails.",
        why: "Memory that its owner believes preserved is overwritten by the next kernel.",
        advice: "Close the session that holds it and preserve its files anew, and report the kernel.",
        witness: "The end of the whole, which succeeded, with a part that failed within it.",
        needs: [KhoKeyAdd],
        events: [KhoOp KhoBalance], judged: Boot(kho::error_agree);
    KhoSubtree "kho-subtree" Kho Warning
        statement: "The names of KHO's subtrees are unique.",
        why: "The next kernel finds a subtree by its name alone: of two with one name, one is lost.",
        advice: "Report the two drivers that use one name.",
        witness: "A second add that succeeded; a removal that is still under way is waited for.",
        needs: [KhoAddSubtree KhoRemoveSubtree],
        events: [KhoOp], judged: Boot(kho::subtree);
    KhoNoScratch "kho-no-scratch" Kho Critical
        statement: "Preserved memory never overlaps scratch memory.",
        why: "The next kernel boots in scratch memory and overwrites whatever lies there.",
        advice: "Close the session that holds the memory before the kexec, and report the handler.",
        witness: "The preserve itself, which succeeded, and where the kernel says that scratch lies.",
        needs: [KhoKeyAdd],
        events: [KhoAnomaly], judged: Boot(kho::no_scratch);

    TargetCompatible "target-compatible" Reboot Critical
        statement: "The next kernel knows LUO's format and every handler and global state in use.",
        why: "What it does not know it cannot take: sessions are lost, and an unknown format stops it from booting.",
        advice: "Load a kernel that knows them, or close the sessions that use them, before the reboot.",
        witness: "The look into the very image that is loaded, or what the next kernel says of what it was handed.",
        needs: [ImageFile ImageLoadFile SessionCreate SessionRelease SessionDeserialize] also: [SessionSerialize],
        events: [ImageVerdict SessionSerialize], judged: Ahead(kexec::target);
    KexecSessionsConserved "kexec-sessions-conserved" Reboot Critical
        statement: "The sessions, tokens and handlers serialized before the kexec are those that arrive after it.",
        why: "What does not arrive is lost, and no process is told.",
        advice: "Restart the owners of what is missing from scratch, and report both kernels.",
        witness: "What the next kernel was handed, read before the device was opened, or its own list; or an image that carries nothing.",
        needs: [SessionCreate SessionRelease FilePreserve FilesUnpreserve SessionSerialize LiveupdateReboot], judged: Chain;
    KexecFilesAccounted "kexec-files-accounted" Reboot Error
        statement: "Each file that arrives is retrieved and finished, or reported as finished without being retrieved, or as pending; \
            none is gone, or left behind by the next update.",
        why: "A file that is gone, or left behind, is a workload that did not come back and never will.",
        advice: "Restart its owner from scratch, and ask the orchestrator why it was not retrieved before the next update.",
        witness: "The next kernel's own list, and its departure or the end of its record.",
        needs: [FileRetrieve FilesFinish], judged: Chain;
    KexecMemoryConserved "kexec-memory-conserved" Reboot Critical
        statement: "The pages preserved before the kexec are restored or freed after it.",
        why: "Pages that are neither stay locked in the new kernel until a cold boot.",
        advice: "Plan a cold boot, and report the handlers whose files are concerned.",
        witness: "None: an account that differs is unknown, and never a violation.",
        needs: [KhoKeyAdd KhoKeyDel KhoRestorePage], judged: Chain;
    KexecFlbData "kexec-flb-data" Reboot Error
        statement: "The data of global state arrives unchanged.",
        why: "Its driver restores what lies at that place: with another place, it restores anything.",
        advice: "Do not trust what depends on this state, and report both kernels.",
        witness: "The record as it was written, and the same as it arrived.",
        needs: [FlbSerialize LiveupdateReboot], judged: Chain;
    KexecNumber "kexec-number" Reboot Warning
        statement: "The number of the live update goes up by one, and the chain of boots has no hole.",
        why: "A gap in the numbers is an unrecorded boot, or a live update that ended in a cold boot.",
        advice: "Look for the missing boot's journal and for the console of that boot.",
        witness: "The numbers that both kernels tell.",
        needs: [LiveupdateReboot], judged: Chain;
    KexecArrived "kexec-arrived" Reboot Critical
        statement: "An update that departs arrives within its deadline.",
        why: "A host that does not come back takes everything it preserved with it.",
        advice: "Look at the host's console: the next kernel did not boot, or stopped at what it was handed.",
        witness: "A cold boot of the same machine that is known to have come next.",
        needs: [LiveupdateReboot], judged: Chain;
}
