//! Unpacking, as a stream, with bounded memory.
//!
//! For bzip2 and lzo there was no crate that is kept up, in Rust alone, and under a licence like the others': they are read here.

mod bzip2;
mod lzo;

use std::io::Read;

use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

use bzip2::Bzip2;
use lzo::Lzo;

use super::{Compression, ImageError, WINDOW_MAX};

/// How much memory xz and lzma may use, in KiB: the window, and a little for themselves.
const LZMA_KIB: u32 = (WINDOW_MAX >> 10) as u32 + 1024;

/// What `payload` unpacks to.
///
/// # Errors
/// Its first bytes are damaged.
pub(super) fn reader(compression: Option<Compression>, payload: &[u8]) -> Result<Box<dyn Read + '_>, ImageError> {
    let damaged = |error: std::io::Error| ImageError::Damaged(error.to_string());
    Ok(match compression {
        None => Box::new(payload),
        Some(Compression::Gzip) => Box::new(GzDecoder::new(payload)),
        Some(Compression::Zstd) => {
            let decoder = StreamingDecoder::new_with_max_window_size(payload, WINDOW_MAX);
            Box::new(decoder.map_err(|error| ImageError::Damaged(error.to_string()))?)
        }
        Some(Compression::Xz) => Box::new(XzReader::new_mem_limit(payload, false, LZMA_KIB)),
        Some(Compression::Lzma) => {
            let decoder = LzmaReader::new_mem_limit(payload, LZMA_KIB, None);
            Box::new(decoder.map_err(|error| ImageError::Damaged(error.to_string()))?)
        }
        Some(Compression::Lz4) => Box::new(FrameDecoder::new(payload)),
        Some(Compression::Bzip2) => Box::new(Bzip2::new(payload).map_err(damaged)?),
        Some(Compression::Lzo) => Box::new(Lzo::new(payload).map_err(damaged)?),
    })
}
