//! Signals that wait while programs are loaded.

use std::mem::MaybeUninit;

/// Keeps signals from the calling thread while it lives; those that come are delivered when it is dropped.
///
/// `bpf(2)` gives up with EAGAIN when a signal is pending for the thread that loads a program (`do_check` in
/// `kernel/bpf/verifier.c`, 7.3). A SIGTERM during the start-up would look like a kernel that refuses a program.
pub struct HeldSignals {
    before: libc::sigset_t,
}

impl HeldSignals {
    /// Keeps every signal that can be kept.
    pub fn hold() -> Self {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: the first call initialises `all`, and the second `before`; it cannot fail with a mode that exists.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self {
                before: before.assume_init(),
            }
        }
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that the kernel gave, and nothing is to be written.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static DELIVERED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn count(_signal: libc::c_int) {
        DELIVERED.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn a_signal_that_comes_while_signals_are_held_is_delivered_afterwards() {
        // SAFETY: the handler does nothing but add to an atomic, and no other test uses this signal.
        unsafe { libc::signal(libc::SIGUSR2, count as *const () as libc::sighandler_t) };
        let held = HeldSignals::hold();
        // SAFETY: this thread's own signal, for which there is a handler.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(DELIVERED.load(Ordering::SeqCst), 0);
        drop(held);
        assert_eq!(DELIVERED.load(Ordering::SeqCst), 1);
    }
}
