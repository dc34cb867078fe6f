//! Names of fixed size as the kernel keeps them: NUL-terminated, any other byte allowed.

use core::fmt::{self, Write};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A NUL-terminated name in a buffer of `N` bytes.
///
/// A session's name comes from userspace and may hold any byte but NUL. [`fmt::Display`] therefore escapes what could
/// mislead a reader or a terminal: control characters, text direction marks, backslashes, and bytes that are no UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Name<const N: usize>(pub [u8; N]);

/// A session's name: 63 bytes and NUL. Mirrors `LIVEUPDATE_SESSION_NAME_LENGTH` in `include/uapi/linux/liveupdate.h` (7.3).
pub type SessionName = Name<64>;
/// A handler's or FLB's compatible string. Mirrors `LIVEUPDATE_HNDL_COMPAT_LENGTH` in `include/linux/kho/abi/luo.h` (7.3).
pub type Compatible = Name<48>;
/// A task's command name. Mirrors `TASK_COMM_LEN` in `include/linux/sched.h`.
pub type Comm = Name<16>;

impl<const N: usize> Name<N> {
    /// The empty name, which stands for "not known".
    pub const EMPTY: Self = Self([0; N]);

    /// A name from text, cut to what fits with its terminating NUL.
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let mut name = [0; N];
        let len = text.len().min(N.saturating_sub(1));
        name[..len].copy_from_slice(&text[..len]);
        Self(name)
    }

    /// The bytes before the first NUL.
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(N);
        &self.0[..len]
    }

    /// Whether nothing is known of this name.
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|&b| b == 0)
    }
}

impl<const N: usize> Default for Name<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '\\' || c.is_control() || is_direction_mark(c) {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Characters that reorder or hide the text around them on a terminal.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_plain_name_is_shown_as_it_is() {
        assert_eq!(SessionName::new("vm-web é").to_string(), "vm-web é");
    }

    #[test]
    fn what_could_mislead_a_reader_is_escaped() {
        let name = SessionName::new(b"a\x1b[31m\n\\\xff\xe2\x80\xae");
        assert_eq!(name.to_string(), "a\\u{1b}[31m\\n\\\\\\xff\\u{202e}");
    }

    #[test]
    fn a_name_that_fills_its_buffer_ends_at_the_buffer() {
        assert_eq!(Name::<4>(*b"abcd").as_bytes(), b"abcd");
        assert_eq!(Name::<4>::new("abcdef").as_bytes(), b"abc");
    }
}
