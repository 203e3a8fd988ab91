//! Reading the kernel's small files.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::v1::RdmaEntry;
use crate::{Error, Result};

/// The file's text; `None` when there is no such file (a controller that is
/// not there) or the group is being removed.
pub(super) fn text(dir: &Path, name: &str) -> Result<Option<String>> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(Error::path("read", path, e)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    // Some files of a controller exist and cannot be read, for instance
    // pressure where it is switched off.
    const ABSENT: [i32; 4] = [libc::ENOENT, libc::ENODEV, libc::EOPNOTSUPP, libc::EINVAL];
    error.raw_os_error().is_some_and(|errno| ABSENT.contains(&errno))
}

/// A file with one number. `max` is `u64::MAX`.
pub(super) fn number(dir: &Path, name: &str) -> Result<Option<u64>> {
    match text(dir, name)? {
        None => Ok(None),
        Some(text) => match parse(text.trim()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::Malformed { path: dir.join(name), reason: format!("{text:?}") }),
        },
    }
}

/// A number as the kernel prints limits: `max` and -1 are none.
pub(super) fn parse(text: &str) -> Option<u64> {
    match text {
        "max" | "-1" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// A file with `NAME NUMBER` on each line.
pub(super) fn table(dir: &Path, name: &str) -> Result<Option<BTreeMap<String, u64>>> {
    Ok(text(dir, name)?.map(|text| parse_table(&text)))
}

fn parse_table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), parse(value.trim())?)))
        .collect()
}

/// The sizes for which there is a file `hugetlb.SIZE.SUFFIX`.
pub(super) fn page_sizes(dir: &Path, suffix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(Error::path("read", dir, e)),
    };
    let mut sizes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.strip_suffix('.')?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    Ok(sizes)
}

/// `rdma.current` or `rdma.max`: `DEVICE hca_handle=2 hca_object=max`.
pub(super) fn rdma(dir: &Path, name: &str) -> Result<Vec<RdmaEntry>> {
    let text = text(dir, name)?.unwrap_or_default();
    Ok(text.lines().filter_map(parse_rdma).collect())
}

fn parse_rdma(line: &str) -> Option<RdmaEntry> {
    let mut fields = line.split_whitespace();
    let mut entry = RdmaEntry { device: fields.next()?.to_owned(), ..RdmaEntry::default() };
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        let value = parse(value).map_or(0, |value| u32::try_from(value).unwrap_or(u32::MAX));
        match key {
            "hca_handle" => entry.hca_handles = value,
            "hca_object" => entry.hca_objects = value,
            _ => {}
        }
    }
    Some(entry)
}
