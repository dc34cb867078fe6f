//! The contents of memfds: every byte follows from a seed and its offset, so that the second kernel can
//! compare all of them without having seen the first.

/// Fills `buf` with the bytes that a memfd of this seed has at `offset`, which must be a multiple of 8.
pub fn fill(seed: u64, offset: u64, buf: &mut [u8]) {
    for (index, chunk) in buf.chunks_mut(8).enumerate() {
        let word = word(seed, offset / 8 + index as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The offset in the memfd of the first byte of `buf`, read at `offset`, that is not what the seed says.
pub fn first_difference(seed: u64, offset: u64, buf: &[u8]) -> Option<u64> {
    for (index, chunk) in buf.chunks(8).enumerate() {
        let word = word(seed, offset / 8 + index as u64).to_le_bytes();
        if let Some(byte) = chunk.iter().zip(word).position(|(seen, wanted)| *seen != wanted) {
            return Some(offset + index as u64 * 8 + byte as u64);
        }
    }
    None
}

/// SplitMix64 with a counter: word `index` of a seed's content, without the words before it.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_read_in_pieces_is_the_content_written_at_once() {
        let mut whole = [0; 100];
        fill(7, 0, &mut whole);
        let mut piece = [0; 60];
        fill(7, 40, &mut piece);
        assert_eq!(whole[40..], piece);
    }

    #[test]
    fn a_single_changed_bit_is_found_where_it_is() {
        let mut buf = [0; 4096];
        fill(1, 8192, &mut buf);
        assert_eq!(first_difference(1, 8192, &buf), None);
        buf[4095] ^= 1;
        assert_eq!(first_difference(1, 8192, &buf), Some(8192 + 4095));
    }

    #[test]
    fn another_seed_or_another_offset_is_another_content() {
        let mut buf = [0; 64];
        fill(1, 0, &mut buf);
        assert!(first_difference(2, 0, &buf).is_some());
        assert!(first_difference(1, 64, &buf).is_some());
    }
}
