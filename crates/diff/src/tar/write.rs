//! Writing a tar stream, byte for byte as Go's `archive/tar` does for the
//! headers that containerd's `pkg/archive` hands it: ustar where that is
//! enough, a PAX header in front where it is not.

use std::io::{self, Write};

use super::header::{Block, checksums};
use super::{BLOCK, EntryKind};

/// What is to be written of an entry. Times are whole seconds; the access
/// and change times and all names of users are left out.
#[derive(Clone, Debug)]
pub struct Header {
    /// The name; directories' end with `/`.
    pub name: Vec<u8>,
    /// What a link points to.
    pub link_name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions and set-id bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of data that follow.
    pub size: u64,
    /// When it was written, in seconds since 1970.
    pub mtime: i64,
    /// A device's major and minor number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Header {
    /// An empty regular file of root's, from 1970.
    pub fn empty(name: Vec<u8>) -> Self {
        Self {
            name,
            link_name: Vec::new(),
            kind: EntryKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    /// Data that the current entry still needs.
    missing: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes to the start of `output`.
    pub fn new(output: W) -> Self {
        Self { output, missing: 0, padding: 0 }
    }

    /// Begins an entry. Fails when the one before misses data.
    pub fn start(&mut self, header: &Header) -> io::Result<()> {
        self.finish_entry()?;
        let split = split_name(&header.name);
        let records = records(header, split.is_some());
        if records.is_empty() {
            let (prefix, name) = split.unwrap_or((&[], &header.name));
            let block = block(header, name, prefix, false);
            self.output.write_all(&block)?;
        } else {
            self.extension(&header.name, &records)?;
            self.output.write_all(&block(header, &header.name, &[], true))?;
        }
        self.missing = header.size;
        self.padding = padding(header.size);
        Ok(())
    }

    /// Adds to the current entry's data.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let left = self.missing.checked_sub(data.len() as u64);
        self.missing = left.ok_or_else(|| io::Error::other("more data than the header says"))?;
        self.output.write_all(data)
    }

    /// Ends the archive and hands the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.finish_entry()?;
        self.output.write_all(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }

    fn finish_entry(&mut self) -> io::Result<()> {
        if self.missing > 0 {
            return Err(io::Error::other("less data than the header says"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.output.write_all(&[0; BLOCK][..padding])
    }

    /// The PAX header, which is an entry of its own.
    fn extension(&mut self, name: &[u8], records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let mut data = Vec::new();
        for (key, value) in records {
            append_record(&mut data, key, value);
        }
        let mut header = Header::empty(extension_name(name));
        header.kind = EntryKind::Other(b'x');
        header.size = data.len() as u64;
        self.output.write_all(&block(&header, &header.name, &[], true))?;
        self.output.write_all(&data)?;
        self.output.write_all(&[0; BLOCK][..padding(header.size)])
    }
}

fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// `dir/PaxHeaders.0/file`, cut to what the field holds.
fn extension_name(name: &[u8]) -> Vec<u8> {
    let slash = name.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let (dir, file) = name.split_at(slash);
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    let parts = [dir, b"PaxHeaders.0", file];
    let joined = parts.iter().copied().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let mut name = ascii(&joined.join(&b'/'));
    name.truncate(100);
    while name.last() == Some(&b'/') {
        name.pop();
    }
    name
}

/// Without what is not ASCII.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

fn fits(value: u64, digits: u32) -> bool {
    value >> (3 * digits) == 0
}

/// What ustar cannot say, by key.
fn records(header: &Header, name_splits: bool) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    let unfit = |text: &[u8]| text.len() > 100 || !text.is_ascii();
    let number = |records: &mut Vec<_>, key: &str, value: u64, digits| {
        if !fits(value, digits) {
            records.push((key.to_owned(), value.to_string().into_bytes()));
        }
    };
    for (name, value) in &header.xattrs {
        records.push((format!("SCHILY.xattr.{name}"), value.clone()));
    }
    number(&mut records, "gid", header.gid.into(), 7);
    if unfit(&header.link_name) {
        records.push(("linkpath".to_owned(), header.link_name.clone()));
    }
    if header.mtime < 0 || !fits(header.mtime.unsigned_abs(), 11) {
        records.push(("mtime".to_owned(), header.mtime.to_string().into_bytes()));
    }
    number(&mut records, "size", header.size, 11);
    number(&mut records, "uid", header.uid.into(), 7);
    // With a PAX header for something else, no name is split.
    if unfit(&header.name) && (!name_splits || !records.is_empty()) {
        records.push(("path".to_owned(), header.name.clone()));
    }
    records.sort();
    records
}

/// `length key=value\n`, where the length counts itself.
fn append_record(data: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() != rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    data.extend_from_slice(format!("{length} {key}=").as_bytes());
    data.extend_from_slice(value);
    data.push(b'\n');
}

/// A long name as ustar's prefix and name, where it has a `/` at the right
/// place.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 || !name.is_ascii() {
        return None;
    }
    let mut length = name.len();
    if length > 156 {
        length = 156;
    } else if name[length - 1] == b'/' {
        length -= 1;
    }
    let slash = name[..length].iter().rposition(|&byte| byte == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (slash > 0 && rest.len() <= 100 && !rest.is_empty() && prefix.len() <= 155)
        .then_some((prefix, rest))
}

/// The block itself. With `pax`, names lose what is not ASCII: the record
/// has it.
fn block(header: &Header, name: &[u8], prefix: &[u8], pax: bool) -> Block {
    let text = |text: &[u8]| if pax { ascii(text) } else { text.to_vec() };
    let mut block = [0; BLOCK];
    put_text(&mut block[0..100], &text(name));
    put_octal(&mut block[100..108], header.mode.into());
    put_octal(&mut block[108..116], header.uid.into());
    put_octal(&mut block[116..124], header.gid.into());
    put_octal(&mut block[124..136], header.size);
    put_octal(&mut block[136..148], u64::try_from(header.mtime).unwrap_or(0));
    block[156] = header.kind.flag();
    put_text(&mut block[157..257], &text(&header.link_name));
    block[257..265].copy_from_slice(b"ustar\x0000");
    if header.kind != EntryKind::Other(b'x') {
        put_octal(&mut block[329..337], header.device.0.into());
        put_octal(&mut block[337..345], header.device.1.into());
    }
    put_text(&mut block[345..500], prefix);
    let (sum, _) = checksums(&block);
    put_octal(&mut block[148..155], sum.unsigned_abs());
    block[155] = b' ';
    block
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if text.len() > field.len() && field[field.len() - 1] == b'/' {
        // Some readers take a regular file whose cut name ends so for a
        // directory.
        let mut end = field.len() - 1;
        while end > 0 && text[end - 1] == b'/' {
            end -= 1;
        }
        field[end] = 0;
    }
}

/// With leading zeros and a zero byte; zero where it does not fit.
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let value = if fits(value, digits as u32) { value } else { 0 };
    put_text(field, format!("{value:0digits$o}\0").as_bytes());
}
