//! The way into the next kernel.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use luo_trace_common::events::{IMAGE_FILE, IMAGE_LEGACY, ImageCarrier, ImageFile, ImageLoad, Kexec, Kind};
use luo_trace_common::fields::Field;
use luo_trace_common::hooks::Hook;

use crate::call::{Call, Return};
use crate::caller::may_boot;
use crate::emit::{count_denied, emit};
use crate::image::{newest_number, read_image};
use crate::kernel::Address;
use crate::registers::Registers;
use crate::task;

/// `READING_KEXEC_IMAGE` of `enum kernel_read_file_id`, include/linux/kernel_read_file.h (7.3).
pub const READING_KEXEC_IMAGE: u32 = 3;

/// `int kernel_kexec(void)`, kernel/kexec_core.c (7.3)
#[fentry]
pub fn kexec_enter(_ctx: FEntryContext) -> u32 {
    task::enter(Hook::Kexec);
    // SAFETY: helper without preconditions.
    emit(Kind::KexecEnter, unsafe { bpf_ktime_get_ns() }, |event: &mut Kexec| {
        read_image(&mut event.image)
    });
    0
}

/// `long __x64_sys_kexec_file_load(const struct pt_regs *regs)`, kernel/kexec_file.c (7.3)
/// `long __x64_sys_kexec_load(const struct pt_regs *regs)`, kernel/kexec.c (7.3)
/// `long __ia32_compat_sys_kexec_load(const struct pt_regs *regs)`, kernel/kexec.c (7.3)
///
/// Every process can call this. Nothing is noted of one that the kernel will turn away, and nothing is told but how many there
/// were: they can be millions.
#[fentry]
pub fn image_load_enter(ctx: FEntryContext) -> u32 {
    let Some(hook) = ctx.hook() else { return 0 };
    match may_boot() {
        true => _ = task::enter(hook),
        false => count_denied(),
    }
    0
}

#[fexit]
pub fn image_load(ctx: FExitContext) -> u32 {
    let Some(hook) = ctx.hook().filter(|_| may_boot()) else {
        return 0;
    };
    let call = match hook {
        Hook::ImageLoadFile => IMAGE_FILE,
        _ => IMAGE_LEGACY,
    };
    let ended = task::leave(hook, ctx.result());
    emit(Kind::ImageLoad, ended.at, |event: &mut ImageLoad| {
        event.outcome = ended.outcome;
        event.call = call;
        read_image(&mut event.image);
    });
    0
}

/// `int kho_fill_kimage(struct kimage *image)`, kernel/liveupdate/kexec_handover.c (7.3)
#[fexit]
pub fn image_carrier(ctx: FExitContext) -> u32 {
    let ended = task::leave(Hook::ImageCarrier, i64::from(ctx.result::<i32>()));
    let image = Address(ctx.argument(0));
    emit(Kind::ImageCarrier, ended.at, |event: &mut ImageCarrier| {
        event.outcome = ended.outcome;
        event.image = image.0;
        event.kho = image.read::<u64>(Field::ImageKho).unwrap_or(0);
        event.command_line_len = image.read::<u64>(Field::ImageCommandLineLen).unwrap_or(0);
        if let Some(command_line) = image.follow(Field::ImageCommandLine) {
            command_line.read_bytes(event.command_line_len, &mut event.command_line);
        }
    });
    0
}

/// `int security_kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)`, security/security.c (7.3)
///
/// It is told when the checks are over, of which one counts the load.
#[fexit]
pub fn image_file(ctx: FExitContext) -> u32 {
    if ctx.argument::<u32>(1) != READING_KEXEC_IMAGE || Registers::of_current().loads_for_crash_by_file() {
        return 0;
    }
    let file = Address(ctx.argument(0));
    // SAFETY: helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    emit(Kind::ImageFile, now, |event: &mut ImageFile| {
        event.load = newest_number();
        let Some(inode) = file.follow(Field::FileInode) else {
            return;
        };
        event.inode = inode.read::<u64>(Field::InodeNumber).unwrap_or(0);
        event.size = inode.read::<u64>(Field::InodeSize).unwrap_or(0);
        let device = inode
            .follow(Field::InodeSuper)
            .and_then(|sb| sb.read::<u32>(Field::SuperDevice));
        event.device = device.map_or(0, u64::from);
    });
    0
}
