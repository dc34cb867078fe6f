use std::io::Write;

use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

mod judge;

use crate::testing::image::{Kernel, bzimage, gzip, unified, zboot};

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &LzmaOptions::with_preset(0), None).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Legacy frames, as Linux has them: a magic number, and blocks with their lengths.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(block);
    }
    frame
}

/// A packer, by its name.
type Packer = (&'static str, fn(&[u8]) -> Vec<u8>);
const PACKERS: [Packer; 5] = [("gzip", gzip), ("zstd", zstd), ("xz", xz), ("lzma", lzma), ("lz4", lz4)];

/// A kernel in a bzImage, packed in one of these ways.
fn packed(kernel: &[u8], packer: &str) -> Vec<u8> {
    let (name, pack) = PACKERS.into_iter().find(|(name, _)| *name == packer).unwrap();
    let mut payload = pack(kernel);
    if name != "gzip" {
        payload.extend((kernel.len() as u32).to_le_bytes());
    }
    bzimage(&payload)
}

const HANDLERS: [&str; 3] = ["memfd-v2", "vfio-pci-v1", "pci-v1"];

fn kernel() -> Kernel {
    Kernel::with_luo(&HANDLERS)
}

/// What every form of [`kernel`] has to tell.
fn has_everything(contents: &Contents) {
    assert_eq!(contents.release(), "7.3.4-made-up");
    for found in [contents.kho, contents.luo] {
        assert_eq!((found.there, found.source), (true, Evidence::Types));
    }
    assert_eq!(contents.kho_formats, ["kho-v4"]);
    assert_eq!(contents.luo_formats, ["luo-v5"]);
    assert_eq!(contents.versioned, HANDLERS);
    for handler in HANDLERS {
        assert_eq!(contents.knows(handler.as_bytes()), Some(true), "{handler}");
    }
    assert!(!contents.takes_modules);
}

#[test]
fn a_kernel_is_read_in_every_form_and_packing() {
    // Given a kernel as x86 and as arm64 boot it, packed in every way that is read,
    for (packer, pack) in PACKERS {
        let image = packed(&kernel().elf(), packer);
        let contents = read(&image).unwrap_or_else(|error| panic!("{packer}: {error}"));
        // then it tells the same.
        has_everything(&contents);
        assert_eq!(
            (&*contents.kind, contents.compression.unwrap().name()),
            ("bzImage", packer)
        );
        let forms = [
            (pack(&kernel().arm64()), "compressed arm64 Image"),
            (pack(&kernel().elf()), "compressed vmlinux"),
            (zboot(&pack(&kernel().arm64())), "EFI zboot"),
        ];
        for (image, kind) in forms {
            let contents = read(&image).unwrap_or_else(|error| panic!("{packer}, {kind}: {error}"));
            has_everything(&contents);
            assert_eq!(&*contents.kind, kind);
        }
    }
    for (image, kind) in [(kernel().elf(), "vmlinux"), (kernel().arm64(), "arm64 Image")] {
        let contents = read(&image).unwrap();
        has_everything(&contents);
        assert_eq!((&*contents.kind, contents.compression), (kind, None));
    }
}

#[test]
fn what_lies_across_two_reads_is_found() {
    // Given a kernel whose every part lies where one read ends and the next begins,
    let data = kernel();
    let whole = data.elf();
    for gap in (0..whole.len() - 64).step_by(5) {
        let mut elf = whole[..64].to_vec();
        // The first read has the first 64 bytes.
        elf.resize(64 + (1 << 18) - gap, 0);
        elf.extend(&whole[64..]);
        has_everything(&read(&elf).unwrap());
    }
}

#[test]
fn only_whole_words_are_compatible_strings() {
    // Given a kernel where the words asked for are parts of others, or have no end,
    let mut elf = Kernel::plain().elf();
    elf.extend(b"\0amemfd-v2\0memfd-v2a\0memfd-v2\x01no memfd-v2\0");
    let contents = read(&elf).unwrap();
    // then it has none of them;
    assert_eq!(contents.knows(b"memfd-v2"), Some(false));
    // and what no kernel would use cannot be told.
    for odd in ["", "abc", "two words", &"x".repeat(48)] {
        assert_eq!(contents.knows(odd.as_bytes()), None, "{odd:?}");
    }
}

#[test]
fn names_in_type_information_are_no_strings() {
    // Given a kernel without LUO that has a type with the name of a handler,
    let kernel = Kernel {
        functions: Some(vec!["kernel_kexec", "kvm_vm_luo_v1"]),
        ..Kernel::plain()
    };
    assert_eq!(read(&kernel.elf()).unwrap().knows(b"kvm_vm_luo_v1"), Some(false));
}

#[test]
fn type_information_with_a_kind_that_is_not_known_yet_answers() {
    // Given a kernel whose type information has such a kind, with the layout behind it, and nothing else that tells,
    let bare = Kernel {
        strings: Vec::new(),
        functions: None,
        ..kernel()
    };
    let with = |layout| [bare.elf(), btf::tests::of_the_future(layout)].concat();
    let luo = |image: &[u8]| read(image).unwrap().luo;
    // then what follows that kind is found;
    let found = luo(&with(true));
    assert_eq!((found.there, found.source), (true, Evidence::Types));
    // and where it cannot be skipped, type information tells nothing, neither that LUO is there nor that it is not.
    assert_eq!(luo(&with(false)).source, Evidence::Strings);
}

#[test]
fn the_best_source_answers() {
    // Given kernels that have type information, a configuration, or neither,
    let by = |functions: Option<Vec<&'static str>>, config| {
        let kernel = Kernel {
            functions,
            config,
            ..kernel()
        };
        let contents = read(&kernel.bzimage()).unwrap();
        (contents.luo.there, contents.luo.source, contents.kho_by_default)
    };
    let functions = Some(vec!["kernel_kexec"]);
    // then strings are asked last, type information before them, and the configuration first.
    assert_eq!(by(None, None), (true, Evidence::Strings, None));
    assert_eq!(by(functions.clone(), None), (false, Evidence::Types, None));
    let config = "# Linux\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT=y\nCONFIG_LIVEUPDATE=y\n";
    assert_eq!(
        by(functions.clone(), Some(config)),
        (true, Evidence::Configuration, Some(true))
    );
    let config = "CONFIG_KEXEC_HANDOVER=y\n# CONFIG_LIVEUPDATE is not set\nCONFIG_LIVEUPDATE_TEST=y\n";
    assert_eq!(
        by(functions, Some(config)),
        (false, Evidence::Configuration, Some(false))
    );
}

#[test]
fn an_image_that_is_cut_anywhere_is_an_error() {
    // Given a bzImage, a vmlinux and a packed Image, cut at every length,
    let mut elf = kernel().elf();
    // Sections of 64 bytes each, at the end.
    let sections = elf.len() as u64;
    elf[0x28..0x30].copy_from_slice(&sections.to_le_bytes());
    elf[0x3a] = 64;
    elf[0x3c] = 2;
    elf.resize(elf.len() + 128, 0);
    let images = [
        packed(&elf, "zstd"),
        packed(&elf, "xz"),
        packed(&elf, "lz4"),
        kernel().bzimage(),
        elf.clone(),
        gzip(&kernel().arm64()),
        xz(&kernel().arm64()),
        zboot(&zstd(&kernel().arm64())),
        unified(&[(".cmdline", b"quiet"), (".linux", &kernel().bzimage())]),
    ];
    for (which, image) in images.iter().enumerate() {
        read(image).unwrap_or_else(|error| panic!("{which}: {error}"));
        for len in 0..image.len() {
            // then each is refused, with a reason.
            let error = read(&image[..len]).expect_err(&format!("{which}, cut to {len} of {}", image.len()));
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn what_is_no_kernel_is_refused_and_says_what_it_is() {
    let refused = |image: &[u8]| read(image).unwrap_err().to_string();
    for (image, why) in [
        (&b""[..], "empty"),
        (b"#!/bin/sh\necho no kernel\n", "text"),
        (b"MZ\x90\0 an EFI program", "without a kernel in a section `.linux`"),
        (&[0xff; 4096], "does not begin"),
        (
            &gzip(b"Linux version 7.3.4 is what this text is about"),
            "what is packed in it is none",
        ),
        (b"BZh9 and so on", "a block does not begin as one"),
        (b"BZh0", "header"),
        (b"\x89LZO\0\r\n", "does not unpack"),
        (
            b"\x7fELF\x01\x01\x01 of 32 bits, with a head of 64 bytes and more of them ...........",
            "another kind",
        ),
    ] {
        let error = refused(image);
        assert!(error.contains(why), "{error}");
    }
    let mut nameless = b"\x7fELF\x02\x01".to_vec();
    nameless.resize(4096, 0);
    assert!(refused(&nameless).contains("which version"));
}

#[test]
fn a_bomb_is_refused_when_it_is_too_large() {
    // Given zeros that unpack to one byte more than they may, and such a bomb in a bomb,
    const MAX: u64 = 1 << 20;
    let mut bomb = kernel().elf();
    bomb.resize(MAX as usize, 0);
    has_everything(&read_within(&gzip(&bomb), MAX).unwrap());
    bomb.push(0);
    for (packer, pack) in PACKERS {
        // then none is read to its end, and what is packed twice is no kernel.
        assert_eq!(
            read_within(&pack(&bomb), MAX).unwrap_err(),
            ImageError::TooLarge,
            "{packer}"
        );
        let twice = read_within(&gzip(&pack(&bomb)), MAX).unwrap_err();
        assert!(matches!(twice, ImageError::Foreign(_)), "{packer}: {twice}");
    }
}

#[test]
fn sizes_that_are_claimed_reserve_nothing() {
    // Given packed data that claim a window of gigabytes: zstd's of 2 TiB, lzma's and xz's of 4 GiB,
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8][..], &[0; 64]].concat();
    let lzma = [&[0x5d, 0, 0, 0xff, 0xff][..], &[0xff; 8], &[0; 64]].concat();
    let mut header = vec![2, 0, 0x21, 1, 40, 0, 0, 0];
    header.extend(crc32fast::hash(&header).to_le_bytes());
    let xz = [&xz(b"")[..12], &header[..], &[0; 64]].concat();
    for packed in [zstd, lzma, xz] {
        let error = read(&packed).unwrap_err();
        assert!(matches!(error, ImageError::Damaged(_)), "{error}");
    }
    // and type information and headers that claim 4 GiB, then each is refused or passed over.
    let claims = [0x1_eb9f_u32, 24, 0, 0xffff_fffc, 0xffff_fffc, 0xffff].map(u32::to_le_bytes);
    let whole = kernel().elf();
    let elf = [&whole[..64], &claims.concat(), &whole[64..]].concat();
    has_everything(&read(&elf).unwrap());
    let mut image = kernel().bzimage();
    image[0x24c..0x250].fill(0xff);
    assert!(matches!(read(&image), Err(ImageError::Truncated(..))));
    let mut image = kernel().bzimage();
    image[0x1f4..0x1f8].fill(0xff);
    assert!(matches!(read(&image), Err(ImageError::Truncated(..))));
}

#[test]
fn a_kernel_of_another_size_than_its_image_says_is_damaged() {
    // Given a bzImage whose payload is whole, and says that the kernel has a byte more,
    let elf = kernel().elf();
    let payload = [zstd(&elf), (elf.len() as u32 + 1).to_le_bytes().to_vec()].concat();
    let error = read(&bzimage(&payload)).unwrap_err();
    assert!(matches!(error, ImageError::Damaged(_)), "{error}");
}

#[test]
fn a_unified_image_that_claims_anything_is_refused_or_read() {
    // Given an image whose every word in its headers is any of these in turn, then nothing is read that is not there.
    let whole = unified(&[(".cmdline", b"quiet"), (".linux", &kernel().bzimage())]);
    for at in 0..0x200 {
        for claim in [0_u32, 1, 0x60, 0xffff, 0x7fff_ffff, 0xffff_ffff] {
            let mut image = whole.clone();
            image[at..at + 4].copy_from_slice(&claim.to_le_bytes());
            if let Err(why) = read(&image) {
                assert!(!why.to_string().is_empty());
            }
        }
    }
    // A unified image in another is no kernel.
    let twice = unified(&[(".linux", &whole)]);
    assert!(matches!(read(&twice), Err(ImageError::Foreign(_))));
    // An EFI program of another kind stays what it was.
    assert!(matches!(
        read(&unified(&[(".text", b"code")])),
        Err(ImageError::Foreign(_))
    ));
    let contents = read(&unified(&[(".linux", &zboot(&gzip(&kernel().arm64())))])).unwrap();
    has_everything(&contents);
    assert_eq!(contents.kind, "unified kernel image, EFI zboot");
}

#[test]
fn a_signature_is_there_or_not_and_of_what_its_loader_unpacks_it_is_not_known() {
    let signed = |image: &[u8]| read(image).unwrap().signed;
    // Given an arm64 Image, which begins as an EFI program does, then its table of certificates tells.
    let efi = |certificates: u32| {
        let mut image = kernel().arm64();
        let rest = image.split_off(0x40);
        image[0x3c..0x40].copy_from_slice(&0x40_u32.to_le_bytes());
        image.extend(b"PE\0\0");
        image.extend([0; 20]);
        image.extend(0x20b_u16.to_le_bytes());
        image.extend([0; 110 + 4 * 8 + 4]);
        image.extend(certificates.to_le_bytes());
        image.extend(rest);
        image
    };
    assert_eq!(signed(&efi(0x600)), Some(true));
    assert_eq!(signed(&efi(0)), Some(false));
    assert_eq!(signed(&kernel().bzimage()), Some(false));
    assert_eq!(signed(&kernel().elf()), Some(false));
    assert_eq!(signed(&gzip(&efi(0x600))), None);
    assert_eq!(signed(&zboot(&gzip(&kernel().arm64()))), None);
    // In a unified image it is the kernel's own that counts.
    assert_eq!(signed(&unified(&[(".linux", &efi(0x600))])), Some(true));
}

/// A kernel with runs, repetitions near and far, and what cannot be packed, as `bzip2 -1` and `lzop -9` pack it, and its size.
const BZIP2: &[u8] = include_bytes!("packed/vmlinux.bz2");
const LZO: &[u8] = include_bytes!("packed/vmlinux.lzo");
const PACKED_SIZE: u32 = 425546;

#[test]
fn what_bzip2_and_lzop_have_packed_is_read() {
    for (name, packed) in [("bzip2", BZIP2), ("lzo", LZO)] {
        let payload = [packed, &PACKED_SIZE.to_le_bytes()].concat();
        for (image, kind) in [(packed.to_vec(), "compressed vmlinux"), (bzimage(&payload), "bzImage")] {
            let contents = read(&image).unwrap_or_else(|error| panic!("{name}, {kind}: {error}"));
            has_everything(&contents);
            assert_eq!((&*contents.kind, contents.compression.unwrap().name()), (kind, name));
            assert_eq!(contents.unpacked, u64::from(PACKED_SIZE));
        }
        // Cut anywhere it is refused, and a bit that is another does no harm.
        for len in (0..packed.len()).step_by(97) {
            assert!(read(&packed[..len]).is_err(), "{name}, cut to {len}");
        }
        for at in (4..packed.len() - 10).step_by(191) {
            let mut damaged = packed.to_vec();
            damaged[at] ^= 0x10;
            // bzip2 has checksums; those of lzop are passed over, as Linux does.
            let read = read(&damaged);
            assert!(name == "lzo" || read.is_err(), "{name}, another bit at {at}");
        }
        // What unpacks to more than it may is not read to its end.
        let error = read_within(packed, 1 << 16).unwrap_err();
        assert_eq!(error, ImageError::TooLarge, "{name}");
    }
}
