//! Maps of sparse files: GNU's own header, and PAX versions 0.0, 0.1, 1.0.

use super::header::{Block, number};
use super::pax::{SparseRecords, decimal};
use super::{BLOCK, EXTENTS_MAX, Extent};

/// How a PAX header describes a sparse file.
pub(super) enum PaxMap {
    /// The map is in the records.
    InRecords(Vec<Extent>),
    /// The map comes before the data (version 1.0).
    InData,
}

/// What the records say about a sparse file; `Ok(None)` when it is none, or
/// of a version that nobody knows and that is read as plain.
pub(super) fn of_records(records: &SparseRecords) -> Result<Option<PaxMap>, &'static str> {
    match (&records.major[..], &records.minor[..]) {
        (b"1", b"0") => return Ok(Some(PaxMap::InData)),
        (b"0", b"0" | b"1") => {}
        (b"", b"") if !records.map.is_empty() => {}
        _ => return Ok(None),
    }
    let numbers = records.map.split(|&byte| byte == b',').filter(|part| !part.is_empty());
    let map = pairs(numbers)?;
    let count = decimal(&records.count).and_then(|count| usize::try_from(count).ok());
    match count == Some(map.len()) {
        true => Ok(Some(PaxMap::InRecords(map))),
        false => Err("sparse map is not as long as it says"),
    }
}

fn pairs<'a>(numbers: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Extent>, &'static str> {
    let mut map = Vec::new();
    let mut numbers = numbers.map(|text| decimal(text).and_then(|n| u64::try_from(n).ok()));
    while let Some(offset) = numbers.next() {
        let (Some(offset), Some(Some(length))) = (offset, numbers.next()) else {
            return Err("malformed sparse map");
        };
        push(&mut map, Extent { offset, length })?;
    }
    Ok(map)
}

fn push(map: &mut Vec<Extent>, extent: Extent) -> Result<(), &'static str> {
    if map.len() == EXTENTS_MAX {
        return Err("too many pieces in a sparse file");
    }
    map.push(extent);
    Ok(())
}

/// Adds the pieces that a GNU header or its extension lists. An empty field
/// ends the list.
pub(super) fn add_gnu(map: &mut Vec<Extent>, fields: &[u8]) -> Result<(), &'static str> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            return Ok(());
        }
        let value = |field| number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(length)) = (value(&field[..12]), value(&field[12..])) else {
            return Err("malformed sparse map");
        };
        push(map, Extent { offset, length })?;
    }
    Ok(())
}

/// Whether another block of the map follows a GNU extension block.
pub(super) fn continues(block: &Block) -> bool {
    block[504] != 0
}

/// A map in front of the data, read block by block.
#[derive(Debug, Default)]
pub(super) struct DataMap {
    bytes: Vec<u8>,
    lines: usize,
    wanted: Option<usize>,
}

impl DataMap {
    /// Takes the next block; the map once it is complete.
    pub fn add(&mut self, block: &Block) -> Result<Option<Vec<Extent>>, &'static str> {
        self.bytes.extend_from_slice(block);
        self.lines += block.iter().filter(|&&byte| byte == b'\n').count();
        if self.wanted.is_none() && self.lines > 0 {
            let first = self.bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let count = decimal(first).and_then(|n| usize::try_from(n).ok());
            let count = count.filter(|&n| n <= EXTENTS_MAX).ok_or("malformed sparse map")?;
            self.wanted = Some(1 + 2 * count);
        }
        match self.wanted {
            Some(wanted) if self.lines >= wanted => {
                let numbers = self.bytes.split(|&byte| byte == b'\n').skip(1).take(wanted - 1);
                pairs(numbers).map(Some)
            }
            // A number has no more than 20 digits.
            None if self.bytes.len() > BLOCK => Err("malformed sparse map"),
            _ => Ok(None),
        }
    }
}

/// Whether the pieces are in order, inside the file, and use up the data.
pub(super) fn check(map: &[Extent], size: u64, data: u64) -> Result<(), &'static str> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for extent in map {
        let next = extent.offset.checked_add(extent.length).ok_or("sparse map overflows")?;
        if extent.offset < end || next > size {
            return Err("sparse map is out of order or out of the file");
        }
        end = next;
        total += extent.length;
    }
    if total == data { Ok(()) } else { Err("sparse map does not fit the data") }
}
