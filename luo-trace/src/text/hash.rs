//! A hash that is the same every time, on every machine and in every version.

/// FNV-1a over 128 bits: what ids are made of. It keeps texts apart that differ by chance, and not those made to collide.
pub fn fnv(text: impl AsRef<[u8]>) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = text.as_ref().iter();
    bytes.fold(OFFSET, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// The same in 64 bits: its upper half, in which every byte has had a part.
pub fn fnv64(text: impl AsRef<[u8]>) -> u64 {
    (fnv(text) >> 64) as u64
}
