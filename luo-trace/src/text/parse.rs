//! Values as people write them into files for this tool: names of the kernel's, times, and words with a mistake in them.

use std::fmt::Display;

use luo_trace_common::text::{Name, SessionName};

/// A name that fits into the kernel's buffer with its NUL. `whose` begins the sentence where it does not.
pub(crate) fn named<const N: usize>(bytes: &[u8], whose: &str) -> Result<Name<N>, String> {
    match bytes.len() {
        0 => Err(format!("{whose}'s name is not empty")),
        len if len >= N => Err(format!("{whose}'s name holds {} bytes, this one has {len}", N - 1)),
        _ if bytes.contains(&0) => Err(format!("{whose}'s name holds no NUL byte")),
        _ => Ok(Name::new(bytes)),
    }
}

/// A session's name: text, or `hex:` and the bytes, for names that are not text.
pub(crate) fn session_named(text: &str) -> Result<SessionName, String> {
    match text.strip_prefix("hex:") {
        Some(hex) => named(&bytes_of_hex(hex)?, "a session"),
        None => named(text.as_bytes(), "a session"),
    }
}

fn bytes_of_hex(hex: &str) -> Result<Vec<u8>, String> {
    let wrong = || {
        format!(
            "hex:{} is no name: after hex: come two hexadecimal digits for each byte",
            shown(hex)
        )
    };
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) || !hex.len().is_multiple_of(2) {
        return Err(wrong());
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong()))
        .collect()
}

/// A time in nanoseconds: `"500 ms"`, `"2 s"`, `"1m 30s"`.
pub(crate) fn nanoseconds(text: &str) -> Result<u64, String> {
    let wrong = |why: &dyn Display| format!("\"{}\" is no time, such as \"500 ms\" or \"2 s\": {why}", shown(text));
    let duration = humantime::parse_duration(text).map_err(|error| wrong(&error))?;
    u64::try_from(duration.as_nanos()).map_err(|_| wrong(&"it is too long"))
}

/// What a user wrote, cut and escaped so that it can stand in a sentence.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", Name::<{ 4 * LONGEST + 1 }>::new(&text[..cut])),
        None => Name::<{ 4 * LONGEST + 1 }>::new(text).to_string(),
    }
}

/// The one of those known that a word looks like, where there is one.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    const LIKE: f64 = 0.8;
    let likeness = |known: &&str| strsim::jaro_winkler(&shown(word), known);
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|nearest| likeness(nearest) > LIKE)
}

/// What to do about a word that is none of those known: the one that was meant, or all that there are.
pub(crate) fn instead_of(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_met_with_the_nearest_one_and_nonsense_with_all() {
        let known = ["session-create", "kexec-load", "kexec-reboot"];
        assert_eq!(instead_of("kexec-laod", &known), "did you mean kexec-load?");
        assert_eq!(
            instead_of("x", &known),
            "there are session-create, kexec-load, kexec-reboot"
        );
    }

    #[test]
    fn what_somebody_wrote_is_cut_and_cannot_mislead() {
        assert_eq!(shown("a\u{1b}[2J"), "a\\u{1b}[2J");
        assert_eq!(shown(&"é".repeat(100)), format!("{}...", "é".repeat(64)));
    }

    #[test]
    fn a_name_in_hex_has_digits_only() {
        assert_eq!(session_named("hex:61ff").unwrap().as_bytes(), b"a\xff");
        for wrong in ["hex:6", "hex:+1", "hex:zz", "hex:", "hex:00", "hex:é"] {
            session_named(wrong).unwrap_err();
        }
    }
}
