//! Which machine this is.

use ring::hmac;

use crate::journal::Host;

/// A machine's id. In an initramfs there is none, or one that systemd made up for the time being.
const MACHINE_ID: &str = "/etc/machine-id";
const INITRD: &str = "/etc/initrd-release";
/// What the firmware calls this very piece of hardware, as SMBIOS tells it. Mirrors `drivers/firmware/dmi-id.c` (7.3).
const PRODUCT_ID: &str = "/sys/class/dmi/id/product_uuid";

/// Ids with which firmware is shipped that has none.
const PLACEHOLDERS: [&str; 2] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
];

/// How much of a hash is kept, in bytes: as much as the ids have.
const KEPT: usize = 16;

/// Which machine this is, where an operator has given it this id.
pub fn host(given: Option<&str>) -> Host {
    let in_initrd = std::fs::exists(INITRD).unwrap_or(false);
    let read = |path| super::read(path).unwrap_or_default();
    Host {
        name: super::name(),
        given: given.map(str::to_owned),
        machine: machine(&read(MACHINE_ID)).filter(|_| !in_initrd),
        product: product(&read(PRODUCT_ID)),
    }
}

/// The hash of the text of `/etc/machine-id`, where that is an id.
fn machine(text: &str) -> Option<String> {
    let id = text.to_ascii_lowercase();
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_one && is_told_apart(&id)).then(|| hash(&id))
}

/// The hash of the hardware's id, where the firmware has one.
fn product(text: &str) -> Option<String> {
    let id = text.to_ascii_lowercase();
    let is_one = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (is_one && is_told_apart(&id) && !PLACEHOLDERS.contains(&id.as_str())).then(|| hash(&id))
}

/// One that is all zeros, or all ones, is none.
fn is_told_apart(id: &str) -> bool {
    let mut digits = id.bytes().filter(|&byte| byte != b'-');
    let first = digits.next();
    digits.any(|digit| Some(digit) != first)
}

/// What cannot be turned back, and is of no use to other programs: with the id as the key, as systemd has it for ids of applications.
fn hash(id: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, id.as_bytes()), b"luo-trace host");
    tag.as_ref()[..KEPT].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_hashed_and_always_alike() {
        let id = "5d4a9c1be7f24c0f9b1a3c5d7e9f0a2b";
        let hashed = machine(id).unwrap();
        assert_eq!((hashed.len(), &hashed), (32, &machine(&id.to_uppercase()).unwrap()));
        assert_ne!(hashed, id);
        assert_ne!(hashed, machine("5d4a9c1be7f24c0f9b1a3c5d7e9f0a2c").unwrap());
        assert!(product("4c4c4544-0034-5610-8052-b4c04f4e3332").is_some());
    }

    #[test]
    fn what_many_machines_say_is_no_id() {
        for text in [
            "",
            "uninitialized",
            "5d4a",
            "00000000000000000000000000000000",
            "5d4a9c1be7f24c0f9b1a3c5d7e9f0a2b extra",
        ] {
            assert_eq!(machine(text), None, "{text}");
        }
        for text in [
            "",
            "Not Settable",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "00000000-0000-0000-0000-000000000000",
            "03000200-0400-0500-0006-000700080009",
        ] {
            assert_eq!(product(text), None, "{text}");
        }
    }
}
