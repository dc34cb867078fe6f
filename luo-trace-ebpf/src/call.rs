//! What a traced function was called with, and what it answers.
//!
//! A program that is attached to many functions at once has none of their prototypes: it asks for arguments by their number. So do all
//! programs here, since each of them may be attached either way.

use core::mem::{MaybeUninit, transmute};

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_func_arg, bpf_get_func_ret};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use luo_trace_common::hooks::Hook;

/// A register of an argument or of a result, as the type that the function's prototype has.
pub trait Register {
    /// The lower part of the register, as long as the type is.
    fn of(register: u64) -> Self;
}

macro_rules! register {
    ($($number:ty)*) => {
        $(impl Register for $number {
            #[inline(always)]
            fn of(register: u64) -> Self {
                register as $number
            }
        })*
    };
}

register!(u8 u32 i32 u64 i64);

/// A call of a traced function.
pub trait Call: EbpfContext {
    /// The number that the agent attached the program with.
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_attach_cookie(self.as_ptr()) }
    }

    /// The hook whose function it is, which the cookie tells.
    #[inline(always)]
    fn hook(&self) -> Option<Hook> {
        let number = self.cookie();
        match number < Hook::ALL.len() as u64 {
            // SAFETY: hooks are numbered from 0 on, as `u32`, and there is one of this number.
            true => Some(unsafe { transmute::<u32, Hook>(number as u32) }),
            false => None,
        }
    }

    /// An argument by its number, from 0; 0 where the function has no so many.
    #[inline(always)]
    fn argument<T: Register>(&self, number: u32) -> T {
        let mut register = MaybeUninit::<u64>::uninit();
        // SAFETY: the context is the program's own, and the helper writes 8 bytes or fails.
        let register = unsafe {
            match bpf_get_func_arg(self.as_ptr(), number, register.as_mut_ptr()) {
                0 => register.assume_init(),
                _ => 0,
            }
        };
        T::of(register)
    }
}

impl Call for FEntryContext {}
impl Call for FExitContext {}

/// The end of a call.
pub trait Return: Call {
    /// What the function answers. Of one that answers nothing it is any number.
    #[inline(always)]
    fn result<T: Register>(&self) -> T {
        let mut register = MaybeUninit::<u64>::uninit();
        // SAFETY: the context is the program's own, and the helper writes 8 bytes or fails.
        let register = unsafe {
            match bpf_get_func_ret(self.as_ptr(), register.as_mut_ptr()) {
                0 => register.assume_init(),
                _ => 0,
            }
        };
        T::of(register)
    }
}

impl Return for FExitContext {}
