//! Blocks that no writer of ours would write.

/// A header with its data, after `edit` has had its way with the block.
pub fn entry(name: &str, flag: u8, data: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; 512];
    let short = &name.as_bytes()[..name.len().min(100)];
    block[..short.len()].copy_from_slice(short);
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], data.len() as u64);
    octal(&mut block[136..148], 1_000_000_000);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut block);
    sign(&mut block);
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// Gives a header the checksum that it needs.
pub fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field.copy_from_slice(format!("{value:0digits$o}\0").as_bytes());
}

pub fn file(name: &str, data: &str) -> Vec<u8> {
    entry(name, b'0', data.as_bytes(), |_| {})
}

/// GNU's magic instead of POSIX'.
pub fn gnu(block: &mut [u8]) {
    block[257..265].copy_from_slice(b"ustar  \0");
}

/// A record that counts itself.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A PAX header in front of the next entry.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    entry("pax", b'x', &data, |_| {})
}

/// The pieces, and the end of the archive.
pub fn archive(pieces: &[Vec<u8>]) -> Vec<u8> {
    [pieces.concat(), vec![0; 1024]].concat()
}
