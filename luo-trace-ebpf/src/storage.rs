//! A kind of map that aya does not have: what belongs to a task, and goes with it.

use core::ptr;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_storage_get};

/// A value for each task. The loader reads from the types of the members what the map is like.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the members are never read.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    /// A map without values.
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The current task's value, if it has one.
    #[inline(always)]
    pub fn of_current(&self) -> Option<*mut T> {
        self.get(0)
    }

    /// The current task's value; zeros, if it had none. `None` where the kernel has no memory for it.
    #[inline(always)]
    pub fn of_current_or_new(&self) -> Option<*mut T> {
        self.get(u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE))
    }

    #[inline(always)]
    fn get(&self, flags: u64) -> Option<*mut T> {
        let map = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the helper wants such a map, which this is, and the task that runs.
        let value = unsafe { bpf_task_storage_get(map, bpf_get_current_task_btf(), ptr::null_mut(), flags) };
        match value.is_null() {
            true => None,
            false => Some(value.cast()),
        }
    }
}
