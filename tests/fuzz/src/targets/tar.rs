//! The reader of tar streams.

use std::io::{self, BufRead, Read};

use davit_diff::tar::{Entry, EntryKind, Error, Header, Reader, Writer};

const BLOCK: usize = 512;

/// Reads it all, and again byte by byte: the same comes out, and no more
/// data than went in. Once more with checksums that fit.
pub fn run(data: &[u8]) {
    check(data);
    check(&signed(data));
}

fn check(data: &[u8]) {
    let whole = read(data);
    let bytewise = read(Slow(data));
    assert_eq!(whole.entries, bytewise.entries);
    assert_eq!(whole.data, bytewise.data);
    let text = |error: &Option<Error>| error.as_ref().map(ToString::to_string);
    assert_eq!(text(&whole.error), text(&bytewise.error));
    assert!(whole.data.iter().sum::<u64>() <= data.len() as u64);
    for (entry, found) in whole.entries.iter().zip(&whole.data) {
        assert!(entry.mode <= 0o7777 && !entry.name.contains(&0) || !entry.link_name.is_empty());
        match &entry.extents {
            Some(extents) => {
                let ends = extents.iter().map(|extent| extent.offset + extent.length);
                assert!(ends.is_sorted() && extents.iter().all(|e| e.offset <= entry.size));
            }
            None => assert!(*found <= entry.size),
        }
    }
}

struct Found {
    entries: Vec<Entry>,
    /// Bytes of data of each.
    data: Vec<u64>,
    error: Option<Error>,
}

fn read(input: impl BufRead) -> Found {
    let mut reader = Reader::new(input);
    let mut found = Found { entries: Vec::new(), data: Vec::new(), error: None };
    found.error = read_on(&mut reader, &mut found).err();
    found
}

fn read_on(reader: &mut Reader<impl BufRead>, found: &mut Found) -> Result<(), Error> {
    while let Some(entry) = reader.next_entry()? {
        found.entries.push(entry);
        found.data.push(0);
        loop {
            let count = reader.data()?.len();
            if count == 0 {
                break;
            }
            reader.consume(count);
            if let Some(data) = found.data.last_mut() {
                *data += count as u64;
            }
        }
    }
    Ok(())
}

/// Has one byte at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(buffer.len()).min(1);
        self.0.read(&mut buffer[..count])
    }
}

impl BufRead for Slow<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.0[..self.0.len().min(1)])
    }

    fn consume(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }
}

/// Every block with the checksum that it would need as a header: nothing
/// else gets past the first changed byte.
pub fn signed(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(BLOCK).filter(|block| block.iter().any(|&byte| byte != 0)) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    data
}

fn archive(entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (header, data) in entries {
        let header = Header { size: data.len() as u64, ..header.clone() };
        writer.start(&header).expect("memory takes it");
        writer.write(data).expect("memory takes it");
    }
    writer.finish().expect("memory takes it")
}

fn header(name: &str, kind: EntryKind) -> Header {
    Header { kind, mode: 0o755, ..Header::empty(name.as_bytes().to_vec()) }
}

/// One of each kind, long names, and sparse files of each form.
pub fn seeds() -> Vec<Vec<u8>> {
    let plain = header("file", EntryKind::File);
    let link =
        |name, kind, target: &[u8]| Header { link_name: target.to_vec(), ..header(name, kind) };
    let rich = Header {
        uid: 3_000_000_000,
        mtime: -5,
        xattrs: vec![("user.a".into(), b"b".to_vec()), ("security.capability".into(), vec![1; 20])],
        ..header(&"long/".repeat(60), EntryKind::File)
    };
    let special = |flag| header("x", EntryKind::Other(flag));
    let sparse = b"26 GNU.sparse.numblocks=2\n22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n\
        25 GNU.sparse.map=0,1,8,1\n22 GNU.sparse.size=20\n";
    let in_data = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=20\n";
    let mut map = b"2\n0\n1\n8\n1\n".to_vec();
    map.resize(BLOCK, 0);
    map.extend(b"ab");
    let mut old = archive(&[(special(b'S'), b"ab")]);
    old[257..265].copy_from_slice(b"ustar  \0");
    old[386..434].copy_from_slice(b"00000000000\x0000000000001\x0000000000010\x0000000000001\x00");
    old[483..495].copy_from_slice(b"00000000024\0");
    vec![
        archive(&[
            (header("dir/", EntryKind::Directory), b""),
            (header("dir/file", EntryKind::File), b"data"),
            (link("dir/hard", EntryKind::HardLink, b"dir/file"), b""),
            (link("link", EntryKind::Symlink, b"../dir"), b""),
            (header("link/through", EntryKind::File), b"x"),
            (header("dir/.wh.gone", EntryKind::File), b""),
            (header("dir/.wh..wh..opq", EntryKind::File), b""),
        ]),
        archive(&[
            (header("fifo", EntryKind::Fifo), b""),
            (Header { device: (1, 3), ..header("null", EntryKind::CharDevice) }, b""),
            (rich, b"x"),
        ]),
        archive(&[(special(b'L'), b"../long\0"), (plain.clone(), b"x")]),
        archive(&[
            (special(b'g'), b"11 path=no\n"),
            (special(b'x'), b"10 size=1\n"),
            (plain.clone(), b"x"),
        ]),
        archive(&[(special(b'x'), sparse), (plain.clone(), b"ab")]),
        archive(&[(special(b'x'), in_data), (plain, &map)]),
        signed(&old),
    ]
}
