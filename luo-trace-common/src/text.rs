//! Names of fixed size as the kernel keeps them: NUL-terminated, any other byte allowed.

use core::fmt::{self, Write};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A NUL-terminated name in a buffer of `N` bytes.
///
/// A session's name comes from userspace and may hold any byte but NUL. [`fmt::Display`] therefore escapes what could
/// mislead a reader or a terminal: control characters, what is not shown or turns the direction of text, backslashes, and bytes that
/// are no UTF-8.
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
                if c == '\\' || c.is_control() || is_hidden(c) {
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

/// Characters that are not shown, or that reorder or join the text around them: what Unicode 16 gives the general category Cf, Zl
/// or Zp, or the property `Default_Ignorable_Code_Point` or `Bidi_Control`.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use regex_syntax::hir::{Class, HirKind};

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
    fn every_character_that_unicode_hides_or_that_turns_text_is_escaped_and_no_other() {
        let wanted = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\p{Bidi_Control}\\]";
        let HirKind::Class(Class::Unicode(wanted)) = regex_syntax::parse(wanted).unwrap().into_kind() else {
            unreachable!("a class in brackets is one");
        };
        let is_wanted = |c: char| wanted.iter().any(|range| (range.start()..=range.end()).contains(&c));
        for c in '\u{1}'..=char::MAX {
            let is_escaped = c == '\\' || c.is_control() || is_hidden(c);
            assert_eq!(is_escaped, is_wanted(c), "U+{:04X}", u32::from(c));
            if is_escaped {
                let shown = Name::<8>::new(c.encode_utf8(&mut [0; 4])).to_string();
                assert!(shown.starts_with('\\') && shown.is_ascii(), "{shown}");
            }
        }
    }

    #[test]
    fn a_name_that_fills_its_buffer_ends_at_the_buffer() {
        assert_eq!(Name::<4>(*b"abcd").as_bytes(), b"abcd");
        assert_eq!(Name::<4>::new("abcdef").as_bytes(), b"abc");
    }
}
