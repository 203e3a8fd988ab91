//! Reading a tar stream, entry by entry.

use std::io::{self, BufRead};

use super::header::{self, Block, Format, RawHeader};
use super::pax::{self, Records};
use super::sparse::{self, DataMap, PaxMap};
use super::{BLOCK, EntryKind, Error, SPECIAL_FILE_MAX, Time};

/// A piece of a sparse file that has data; the rest is holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// One entry, all headers that belong to it put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as it is written: any bytes but zero.
    pub name: Vec<u8>,
    /// What a link points to.
    pub link_name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions and set-id bits, `0o7777` at most.
    pub mode: u32,
    /// The owner; nothing keeps an archive from saying -1.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// The file's length in bytes, holes included; 0 for all but files.
    pub size: u64,
    /// When it was written.
    pub mtime: Time,
    /// When it was read.
    pub atime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (i64, i64),
    /// Extended attributes, in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data of a sparse file goes, in order; `None` for plain ones.
    pub extents: Option<Vec<Extent>>,
}

/// Reads entries, and between them their data.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    position: u64,
    /// Data of the current entry that is not read yet.
    remaining: u64,
    /// Zeros behind the data, up to the next block.
    padding: u64,
    finished: bool,
}

/// What was read ahead of the header it belongs to.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link_name: Option<Vec<u8>>,
    records: Records,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the start of `input`.
    pub fn new(input: R) -> Self {
        Self { input, position: 0, remaining: 0, padding: 0, finished: false }
    }

    /// Goes on to the next entry, over what is left of the current one.
    /// `None` at the archive's end; what may follow there is not read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut pending = Pending::default();
        while !self.finished {
            self.skip_data()?;
            let position = self.position;
            let invalid = |what| Error::Invalid { position, what };
            let Some(block) = self.header_block()? else { return Ok(None) };
            let raw = header::parse(&block).ok_or_else(|| invalid("invalid tar header"))?;
            match raw.flag {
                b'x' => {
                    let data = self.special_file(&raw)?;
                    pending.records =
                        pax::parse(&data).ok_or_else(|| invalid("invalid PAX records"))?;
                }
                b'L' => pending.name = Some(header::text(&self.special_file(&raw)?).to_vec()),
                b'K' => pending.link_name = Some(header::text(&self.special_file(&raw)?).to_vec()),
                // Global records are ignored, as containerd ignores them. To
                // Go they are an entry, which uses up what came before.
                b'g' => {
                    self.special_file(&raw)?;
                    pending = Pending::default();
                }
                _ => return self.entry(&block, raw, pending, position).map(Some),
            }
        }
        Ok(None)
    }

    /// The next bytes of the current entry's data, as many as are at hand;
    /// empty at its end. Call [`consume`](Self::consume) afterwards.
    pub fn data(&mut self) -> Result<&[u8], Error> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let position = self.position;
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let available = fill(&mut self.input, position)?;
        Ok(&available[..available.len().min(limit)])
    }

    /// Says that `count` bytes of [`data`](Self::data) have been used.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.input.consume(count);
        self.position += count as u64;
        self.remaining -= count as u64;
    }

    /// How many bytes of the archive have been read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The input, positioned behind what was read.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        self.remaining += std::mem::take(&mut self.padding);
        while self.remaining > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        Ok(())
    }

    /// The next block that is no end mark; `None` at the end.
    fn header_block(&mut self) -> Result<Option<Block>, Error> {
        let at_end = |input: &mut R, position| match input.fill_buf() {
            Ok(buffer) => Ok(buffer.is_empty()),
            Err(source) => Err(Error::Read { position, source }),
        };
        if at_end(&mut self.input, self.position)? {
            self.finished = true;
            return Ok(None);
        }
        let block = self.block()?;
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        self.finished = true;
        if at_end(&mut self.input, self.position)? || self.block()? == [0; BLOCK] {
            return Ok(None);
        }
        let position = self.position - BLOCK as u64;
        Err(Error::Invalid { position, what: "invalid tar header" })
    }

    fn block(&mut self) -> Result<Block, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = fill(&mut self.input, self.position)?;
            let count = available.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&available[..count]);
            self.input.consume(count);
            self.position += count as u64;
            filled += count;
        }
        Ok(block)
    }

    fn set_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// The whole data of a header that describes the next one.
    fn special_file(&mut self, raw: &RawHeader) -> Result<Vec<u8>, Error> {
        let position = self.position;
        let size = raw.size.unsigned_abs();
        if size > SPECIAL_FILE_MAX {
            return Err(Error::Invalid { position, what: "header field too long" });
        }
        self.set_data(size);
        let mut content = Vec::new();
        loop {
            let data = self.data()?;
            if data.is_empty() {
                return Ok(content);
            }
            content.extend_from_slice(data);
            let count = data.len();
            self.consume(count);
        }
    }

    fn entry(
        &mut self,
        block: &Block,
        raw: RawHeader,
        pending: Pending,
        position: u64,
    ) -> Result<Entry, Error> {
        let invalid = |what| Error::Invalid { position, what };
        let (format, flag) = (raw.format, raw.flag);
        let mut entry = merge(raw, pending.name, pending.link_name, &pending.records)
            .ok_or_else(|| invalid("a size below zero"))?;
        let data = if has_data(entry.kind) { entry.size } else { 0 };
        // What a link or a directory claims as its size is not there.
        entry.size = data;
        self.set_data(data);
        if flag == b'S' {
            if format != Format::Gnu {
                return Err(invalid("a sparse header that is not GNU's"));
            }
            let size = header::number(&block[483..495]).and_then(|n| u64::try_from(n).ok());
            entry.size = size.ok_or_else(|| invalid("invalid tar header"))?;
            entry.extents = Some(self.gnu_map(block, position)?);
        } else {
            self.pax_map(&mut entry, &pending.records, position)?;
        }
        if let Some(extents) = &entry.extents {
            sparse::check(extents, entry.size, self.remaining).map_err(invalid)?;
        }
        Ok(entry)
    }

    fn gnu_map(&mut self, block: &Block, position: u64) -> Result<Vec<Extent>, Error> {
        let invalid = |what| Error::Invalid { position, what };
        let (data, padding) = (self.remaining, self.padding);
        let mut map = Vec::new();
        sparse::add_gnu(&mut map, &block[386..482]).map_err(invalid)?;
        let mut more = block[482] != 0;
        while more {
            // Extension blocks stand between the header and its data.
            let block = self.block()?;
            sparse::add_gnu(&mut map, &block[..504]).map_err(invalid)?;
            more = sparse::continues(&block);
        }
        (self.remaining, self.padding) = (data, padding);
        Ok(map)
    }

    fn pax_map(
        &mut self,
        entry: &mut Entry,
        records: &Records,
        position: u64,
    ) -> Result<(), Error> {
        let invalid = |what| Error::Invalid { position, what };
        let records = &records.sparse;
        let Some(map) = sparse::of_records(records).map_err(invalid)? else { return Ok(()) };
        if !has_data(entry.kind) {
            return Err(invalid("a sparse map of what is no file"));
        }
        if !records.name.is_empty() {
            entry.name.clone_from(&records.name);
        }
        let size = if records.size.is_empty() { &records.real_size } else { &records.size };
        if !size.is_empty() {
            let size = pax::decimal(size).and_then(|n| u64::try_from(n).ok());
            entry.size = size.ok_or_else(|| invalid("invalid sparse size"))?;
        }
        entry.extents = Some(match map {
            PaxMap::InRecords(map) => map,
            PaxMap::InData => self.data_map(position)?,
        });
        Ok(())
    }

    fn data_map(&mut self, position: u64) -> Result<Vec<Extent>, Error> {
        let invalid = |what| Error::Invalid { position, what };
        let mut map = DataMap::default();
        loop {
            let left = self.remaining.checked_sub(BLOCK as u64);
            let left = left.ok_or_else(|| invalid("malformed sparse map"))?;
            let block = self.block()?;
            self.remaining = left;
            if let Some(extents) = map.add(&block).map_err(invalid)? {
                return Ok(extents);
            }
        }
    }
}

/// At least one byte, or an error: the archive must go on.
fn fill<R: BufRead>(input: &mut R, position: u64) -> Result<&[u8], Error> {
    // Polonius is not here yet: the second call returns what the first saw.
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { position, source }),
            Ok([]) => {
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF");
                return Err(Error::Read { position, source });
            }
            Ok(_) => break,
        }
    }
    input.fill_buf().map_err(|source| Error::Read { position, source })
}

fn has_data(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::File | EntryKind::Other(_))
}

/// Long names over records over the header itself, as in Go.
fn merge(
    raw: RawHeader,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    records: &Records,
) -> Option<Entry> {
    let given = |long: Option<Vec<u8>>| long.filter(|name| !name.is_empty());
    let name = given(long_name).or(records.path.clone()).unwrap_or(raw.name);
    let size = u64::try_from(records.size.unwrap_or(raw.size)).ok()?;
    Some(Entry {
        kind: header::kind(raw.flag, &name),
        link_name: given(long_link).or(records.link_path.clone()).unwrap_or(raw.link_name),
        name,
        mode: (raw.mode & 0o7777) as u32,
        uid: records.uid.unwrap_or(raw.uid),
        gid: records.gid.unwrap_or(raw.gid),
        size,
        mtime: records.mtime.unwrap_or(header::whole(raw.mtime)),
        atime: records.atime.or(raw.atime.map(header::whole)),
        device: raw.device,
        xattrs: records.xattrs.clone(),
        extents: None,
    })
}
