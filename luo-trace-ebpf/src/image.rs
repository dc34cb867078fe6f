//! The image to jump into, and which load it came by.

use core::ptr;

use luo_trace_common::events::{IMAGE_FILE, IMAGE_LEGACY, IMAGE_NONE, Image};
use luo_trace_common::fields::Field;
use luo_trace_common::policy::{Load, State};
use luo_trace_common::variables::Variable;

use crate::emit::add_one;
use crate::kernel::Address;
use crate::policy::STATE;

/// Reads which image would be jumped into now. What cannot be read stays unknown.
#[inline(always)]
pub fn read_image(to: &mut Image) {
    let Some(image) = in_place() else {
        return;
    };
    if image == 0 {
        to.mode = IMAGE_NONE;
        return;
    }
    to.id = image;
    // Only an image that the kernel has read itself has a loader.
    to.mode = match Address(image).read::<u64>(Field::ImageFileOps) {
        Some(0) => IMAGE_LEGACY,
        Some(_) => IMAGE_FILE,
        None => return,
    };
    if to.mode == IMAGE_FILE {
        to.load = short(newest().map_or(0, |load| load.number_of(image)));
    }
    to.kho = Address(image).read::<u64>(Field::ImageKho).unwrap_or(0);
}

/// The kernel begins to read a file that it is to load: see [`Load`]. The caller holds the lock of the kernel's images.
#[inline(always)]
pub fn begin_load() {
    let Some(state) = STATE.get_ptr_mut(0) else { return };
    // SAFETY: the map's only slot, whose loads are written here alone, by one task at a time. Volatile, since all CPUs read it.
    let loads = unsafe { ptr::read_volatile(&raw const (*state).loads) };
    let before = slot(state, loads);
    let next = match before.number == loads {
        true => before.next(in_place()),
        // The agent wrote there, who takes over from another, when loads had begun already.
        false => Load {
            number: loads + 1,
            ..Load::default().next(None)
        },
    };
    // SAFETY: as above; a place of this slot.
    unsafe {
        ptr::write_volatile(&raw mut (*state).load[((loads + 1) & 1) as usize], next);
        add_one(&raw mut (*state).loads);
    }
}

/// The number of the newest load; 0: none was counted.
#[inline(always)]
pub fn newest_number() -> u32 {
    short(newest().map_or(0, |load| load.number))
}

/// The newest load; `None` where another began while it was read.
#[inline(always)]
fn newest() -> Option<Load> {
    let state = STATE.get_ptr_mut(0)?;
    // SAFETY: the map's only slot; its members are written at once.
    let loads = || unsafe { ptr::read_volatile(&raw const (*state).loads) };
    let number = loads();
    let load = slot(state, number);
    (load.number == number && loads() == number).then_some(load)
}

#[inline(always)]
fn slot(state: *mut State, number: u64) -> Load {
    // SAFETY: the map's only slot. Volatile, since all CPUs write it.
    unsafe { ptr::read_volatile(&raw const (*state).load[(number & 1) as usize]) }
}

/// A number as it stands in an event. There it is not known any more when four thousand million loads were counted.
#[inline(always)]
fn short(number: u64) -> u32 {
    match number <= u64::from(u32::MAX) {
        true => number as u32,
        false => 0,
    }
}

/// Address of the image that is in place; 0: none is. `None`: that cannot be read.
#[inline(always)]
fn in_place() -> Option<u64> {
    Address::of(Variable::Image).and_then(Address::read_here::<u64>)
}
