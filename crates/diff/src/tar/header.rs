//! The fixed part of an entry: one block.

use super::{BLOCK, EntryKind, Time};

/// One block of a tar stream.
pub(super) type Block = [u8; BLOCK];

/// Which dialect a header is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// What a header block says; names are raw bytes.
#[derive(Debug)]
pub(super) struct RawHeader {
    pub format: Format,
    pub flag: u8,
    pub name: Vec<u8>,
    pub link_name: Vec<u8>,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: i64,
    pub atime: Option<i64>,
    pub device: (i64, i64),
}

/// Up to the first zero byte.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal, or base 256 when the top bit is set.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// A two's complement number, big-endian, without the marker bit.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field.first()? & 0x40 != 0;
    let mut value: u64 = 0;
    for (index, &byte) in field.iter().enumerate() {
        let mut byte = if negative { !byte } else { byte };
        if index == 0 {
            byte &= 0x7f;
        }
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if negative { !value } else { value })
}

pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte));
    let end = field.iter().rposition(|byte| !blank(byte));
    let (Some(start), Some(end)) = (start, end) else { return Some(0) };
    let digits = text(&field[start..=end]);
    digits.iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// The sum of all bytes with the checksum's own as blanks, unsigned and
/// signed: both have been written.
pub(super) fn checksums(block: &Block) -> (i64, i64) {
    block.iter().enumerate().fold((0, 0), |(unsigned, signed), (index, &byte)| {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        (unsigned + i64::from(byte), signed + i64::from(byte as i8))
    })
}

/// `None` when the block is no header.
fn format(block: &Block) -> Option<Format> {
    let sum = octal(&block[148..156])?;
    let (unsigned, signed) = checksums(block);
    if sum != unsigned && sum != signed {
        return None;
    }
    Some(match (&block[257..263], &block[263..265], &block[508..512]) {
        (b"ustar\0", _, b"tar\0") => Format::Star,
        (b"ustar\0", _, _) => Format::Ustar,
        (b"ustar ", b" \0", _) => Format::Gnu,
        _ => Format::V7,
    })
}

/// Reads a header block; `None` when it is none.
pub(super) fn parse(block: &Block) -> Option<RawHeader> {
    let format = format(block)?;
    let mut header = RawHeader {
        format,
        flag: block[156],
        name: text(&block[0..100]).to_vec(),
        link_name: text(&block[157..257]).to_vec(),
        mode: number(&block[100..108])?,
        uid: number(&block[108..116])?,
        gid: number(&block[116..124])?,
        size: number(&block[124..136])?,
        mtime: number(&block[136..148])?,
        atime: None,
        device: (0, 0),
    };
    if format != Format::V7 {
        header.device = (number(&block[329..337])?, number(&block[337..345])?);
    }
    let prefix = match format {
        Format::V7 => &[][..],
        Format::Ustar => text(&block[345..500]),
        Format::Star => {
            header.atime = Some(number(&block[476..488])?);
            text(&block[345..476])
        }
        Format::Gnu => gnu_prefix(block, &mut header),
    };
    if !prefix.is_empty() {
        header.name = [prefix, b"/", &header.name].concat();
    }
    (header.size >= 0).then_some(header)
}

/// GNU headers have times where ustar has a prefix, but old versions of Go
/// wrote a prefix there all the same.
fn gnu_prefix<'a>(block: &'a Block, header: &mut RawHeader) -> &'a [u8] {
    let given = |field: &[u8]| field[0] != 0;
    let (atime, ctime) = (&block[345..357], &block[357..369]);
    let valid = |field: &[u8]| !given(field) || number(field).is_some();
    if valid(atime) && valid(ctime) {
        header.atime = given(atime).then(|| number(atime)).flatten();
        return &[];
    }
    let prefix = text(&block[345..500]);
    if prefix.is_ascii() { prefix } else { &[] }
}

/// What a type flag stands for; the old flag of regular files too.
pub(super) fn kind(flag: u8, name: &[u8]) -> EntryKind {
    match flag {
        0 if name.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => EntryKind::Other(other),
    }
}

/// Whole seconds.
pub(super) fn whole(seconds: i64) -> Time {
    Time { seconds, nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_go_does() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"    644 ", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"12 34", None),
            (b"129", None),
            (b"\x80\0\0\x01", Some(1)),
            (b"\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (b"7777777777777777777777777", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
