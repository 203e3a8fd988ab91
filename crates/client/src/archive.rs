//! The archives that images come in: an OCI image layout or what `docker save`
//! writes, as tar, also compressed by gzip or zstd.
//!
//! An archive is read once, front to back, so that it can come from a pipe,
//! and is not trusted: what is kept of it in memory has named limits, whatever
//! it says.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use davit_diff::tar::{EntryKind, Reader};
use davit_diff::{Decompressed, Limits};
use davit_distribution::manifest::{List, MAX_DOCUMENT, MAX_ENTRIES};
use davit_types::{Algorithm, Digest};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::Error;

/// The most entries that an archive may have.
const ENTRY_LIMIT: usize = 100_000;

/// The longest name of an entry, in bytes.
const NAME_LIMIT: usize = 4096;

/// The most bytes that all names have, and what links lead to.
const NAMES_LIMIT: usize = 16 << 20;

/// What is read after the last entry at most, in bytes, so that who writes
/// the archive is not cut off in its padding.
const PADDING_LIMIT: u64 = 1 << 20;

/// How much an archive may be compressed: not like a bomb.
const LIMITS: Limits =
    Limits { uncompressed_bytes: 0, ratio: 500, ratio_from: 1 << 30, entries: 0 };

/// Takes the files of an archive: gets path, size in bytes and content, and
/// answers with the digest of all that it has read.
pub trait Store: FnMut(&str, u64, &mut dyn Read) -> Result<Digest, Error> {}

impl<F: FnMut(&str, u64, &mut dyn Read) -> Result<Digest, Error>> Store for F {}

/// What was met in an archive.
#[derive(Debug, Default)]
pub struct Contents {
    /// `index.json`, of an OCI layout.
    pub index: Option<Vec<u8>>,
    /// `manifest.json`, docker's.
    pub manifest: Option<Vec<u8>>,
    /// Every file by its path.
    pub files: BTreeMap<String, File>,
    /// Where symbolic links lead, by their paths: `docker save` writes them for
    /// layers that several images have.
    pub links: BTreeMap<String, String>,
    /// Bytes of all paths.
    names: usize,
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its SHA-256.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it begins as what gzip or zstd write.
    pub compressed: bool,
}

/// An entry of `manifest.json`: an image by the paths of its parts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Saved {
    /// The configuration.
    pub config: String,
    /// Its names.
    pub repo_tags: Option<List<String>>,
    /// Its layers, lowest first.
    pub layers: Option<List<String>>,
}

impl Contents {
    /// Reads an archive to its end and hands its files to `store`, but for
    /// those that only say what the archive is. Blocks.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no archive, goes beyond a limit or is
    /// not what its path says, naming it; those of `store`.
    pub fn read(archive: impl Read, mut store: impl Store) -> Result<Self, Error> {
        let stream = Decompressed::new(archive, LIMITS).map_err(|e| invalid("archive", &e))?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 17, stream));
        let mut met = Self::default();
        let mut number = 0;
        while let Some(entry) = reader.next_entry().map_err(|e| invalid("archive", &e))? {
            number += 1;
            if number > ENTRY_LIMIT {
                return Err(Error::invalid("archive", format!("more than {ENTRY_LIMIT} entries")));
            }
            let path = met.name(&entry.name)?;
            match entry.kind {
                EntryKind::Symlink => {
                    let target = met.name(&entry.link_name)?;
                    let target = beside(&path, &target);
                    met.links.insert(path, target);
                }
                EntryKind::File if entry.extents.is_some() => {
                    return Err(Error::invalid(path, "a sparse file"));
                }
                EntryKind::File => met.file_at(path, entry.size, &mut reader, &mut store)?,
                _ => {}
            }
        }
        let mut padding = reader.into_inner().take(PADDING_LIMIT);
        io::copy(&mut padding, &mut io::sink()).map_err(|e| invalid("archive", &e))?;
        Ok(met)
    }

    /// A name in the archive, as text.
    fn name(&mut self, name: &[u8]) -> Result<String, Error> {
        let text = String::from_utf8_lossy(&name[..name.len().min(NAME_LIMIT)]);
        let text = text.trim_start_matches("./").to_owned();
        if name.len() > NAME_LIMIT {
            let start: String = text.chars().take(40).collect();
            let reason = format!("a name of {} bytes, more than {NAME_LIMIT}", name.len());
            return Err(Error::invalid(format!("{start}…"), reason));
        }
        self.names += name.len();
        if self.names > NAMES_LIMIT {
            return Err(Error::invalid(text, format!("more than {NAMES_LIMIT} bytes of names")));
        }
        Ok(text)
    }

    fn file_at(
        &mut self,
        path: String,
        size: u64,
        reader: &mut Reader<impl io::BufRead>,
        store: &mut impl Store,
    ) -> Result<(), Error> {
        let mut data = Data(reader);
        let mut start = Vec::new();
        let first = data.by_ref().take(4).read_to_end(&mut start);
        first.map_err(|error| invalid(&path, &error))?;
        let compressed = is_compressed(&start);
        let mut data = io::Cursor::new(start).chain(data);
        let (digest, compressed) = match path.as_str() {
            "index.json" => (keep(&path, size, &mut data, &mut self.index)?, false),
            "manifest.json" => (keep(&path, size, &mut data, &mut self.manifest)?, false),
            "oci-layout" | "repositories" => (keep(&path, size, &mut data, &mut None)?, false),
            _ => (store(&path, size, &mut data)?, compressed),
        };
        check_path(&path, &digest)?;
        self.files.insert(path, File { digest, size, compressed });
        Ok(())
    }

    /// The file that `manifest.json` means by `path`.
    ///
    /// # Errors
    /// There is none.
    pub fn file(&self, path: &str) -> Result<&File, Error> {
        let found = self.files.get(path);
        let found = found.or_else(|| self.files.get(self.links.get(path)?));
        found.ok_or_else(|| Error::invalid(path, "manifest.json refers to it, but it is not there"))
    }

    /// The file with this digest in an OCI layout.
    pub fn blob(&self, digest: &str) -> Option<&File> {
        self.files.get(&format!("blobs/{}", digest.replace(':', "/")))
    }

    /// The images of `manifest.json`; `None` when an `index.json` says better
    /// what there is, or neither is there.
    ///
    /// # Errors
    /// It makes no sense, or names more than [`MAX_ENTRIES`] images or layers.
    pub fn saved(&self) -> Result<Option<Vec<Saved>>, Error> {
        let (None, Some(bytes)) = (&self.index, &self.manifest) else { return Ok(None) };
        let List(list): List<Saved> =
            serde_json::from_slice(bytes).map_err(|error| invalid("manifest.json", &error))?;
        let too_many = |count: usize| count > MAX_ENTRIES;
        let of = |list: &Option<List<String>>| {
            too_many(list.as_ref().map_or(0, |List(list)| list.len()))
        };
        if too_many(list.len())
            || list.iter().any(|image| of(&image.layers) || of(&image.repo_tags))
        {
            let reason = format!("more than {MAX_ENTRIES} images, or names or layers of one");
            return Err(Error::invalid("manifest.json", reason));
        }
        Ok(Some(list))
    }
}

/// The data of a reader's current entry.
struct Data<'r, R>(&'r mut Reader<R>);

impl<R: io::BufRead> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.0.data().map_err(io::Error::other)?;
        let count = data.len().min(buffer.len());
        buffer[..count].copy_from_slice(&data[..count]);
        self.0.consume(count);
        Ok(count)
    }
}

/// Reads a file that is only of use here.
fn keep(
    path: &str,
    size: u64,
    data: &mut impl Read,
    to: &mut Option<Vec<u8>>,
) -> Result<Digest, Error> {
    if size > MAX_DOCUMENT {
        let reason = format!("{size} bytes, more than the {MAX_DOCUMENT} that it may have");
        return Err(Error::invalid(path, reason));
    }
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).map_err(|error| invalid(path, &error))?;
    let digest = digest_of(&bytes);
    *to = Some(bytes);
    Ok(digest)
}

/// What is wrong, with its causes.
pub(crate) fn invalid(subject: &str, error: &dyn std::error::Error) -> Error {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !reason.ends_with(&cause_text) {
            reason = format!("{reason}: {cause_text}");
        }
        source = cause.source();
    }
    Error::invalid(subject, reason)
}

/// The path that a symbolic link at `path` leads to.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A blob of an OCI layout must be what its path says.
fn check_path(path: &str, digest: &Digest) -> Result<(), Error> {
    match path.strip_prefix("blobs/sha256/") {
        Some(hex) if hex != digest.hex() => {
            Err(Error::invalid(path, format!("its digest is {digest}")))
        }
        _ => Ok(()),
    }
}

/// The SHA-256 of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of_sum(Algorithm::Sha256, &Sha256::digest(bytes))
}

/// Whether these are the first bytes of what gzip or zstd write.
fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b, 0x08]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive of `entries`, and keeps nothing.
    fn read(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Result<Contents, Error> {
        let mut archive = tar::Builder::new(Vec::new());
        fill(&mut archive);
        read_bytes(&archive.into_inner().unwrap())
    }

    fn read_bytes(bytes: &[u8]) -> Result<Contents, Error> {
        Contents::read(bytes, |_: &str, _, data: &mut dyn Read| {
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes).unwrap();
            Ok(digest_of(&bytes))
        })
    }

    fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).unwrap();
    }

    #[test]
    fn links_lead_to_files_of_the_archive() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("link", "./file"), "file");
        assert_eq!(beside("a/link", "../../../etc/passwd"), "etc/passwd");
        let met = read(|archive| {
            add(archive, "./b/layer.tar", b"x");
            for (path, target) in [("a/layer.tar", "../b/layer.tar"), ("gone", "nowhere")] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, path, target).unwrap();
            }
        });
        let met = met.unwrap();
        assert_eq!(met.file("a/layer.tar").unwrap().digest, digest_of(b"x"));
        assert!(met.file("gone").unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn a_blob_must_be_what_its_path_says() {
        let path = format!("blobs/sha256/{}", digest_of(b"bytes").hex());
        let met = read(|archive| {
            add(archive, &path, b"bytes");
            add(archive, "layer.tar", b"bytes");
        });
        assert!(met.unwrap().blob(digest_of(b"bytes").as_str()).is_some());
        let error = read(|archive| add(archive, "blobs/sha256/00", b"bytes")).unwrap_err();
        assert!(error.to_string().contains("blobs/sha256/00"), "{error}");
    }

    #[test]
    fn compression_is_recognised_by_its_first_bytes() {
        let mut archive = tar::Builder::new(Vec::new());
        let packed = zstd::encode_all(&b"plain"[..], 1).unwrap();
        add(&mut archive, "layer.tar", &packed);
        add(&mut archive, "other.tar", b"plain");
        let plain = archive.into_inner().unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &plain).unwrap();
        for stream in [plain.clone(), zstd, gzip.finish().unwrap()] {
            let met = read_bytes(&stream).unwrap();
            assert!(met.files["layer.tar"].compressed && !met.files["other.tar"].compressed);
            assert_eq!(met.files["layer.tar"].digest, digest_of(&packed));
        }
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let long = "n".repeat(NAME_LIMIT + 1);
        let error = read(|archive| add(archive, &long, b"x")).unwrap_err().to_string();
        assert!(error.starts_with("nnnn") && error.ends_with("more than 4096"), "{error}");
        let error = read(|archive| {
            for number in 0..=NAMES_LIMIT / NAME_LIMIT {
                let name = format!("{number:0width$}", width = NAME_LIMIT);
                add(archive, &name, b"");
            }
        });
        assert!(error.unwrap_err().to_string().ends_with("bytes of names"));
        let document = vec![b' '; MAX_DOCUMENT as usize + 1];
        let error = read(|archive| add(archive, "index.json", &document)).unwrap_err();
        assert!(error.to_string().starts_with("index.json: 8388609 bytes"), "{error}");
        let error = read(|archive| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::GNULongName);
            header.set_size(2 << 20);
            header.set_path("././@LongLink").unwrap();
            header.set_cksum();
            archive.append(&header, &vec![b'n'; 2 << 20][..]).unwrap();
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("header field too long"), "{error}");
    }

    #[test]
    fn an_image_of_docker_has_its_parts_once() {
        let saved = |text: &str| {
            let met = Contents { manifest: Some(text.into()), ..Contents::default() };
            met.saved()
        };
        let list = saved(r#"[{"Config":"c","RepoTags":null,"Layers":["a"],"Parent":""}]"#);
        assert_eq!(list.unwrap().unwrap()[0].layers, Some(List(vec!["a".to_owned()])));
        for text in ["{}", r#"[{}]"#, r#"[{"Config":"a","Config":"b"}]"#, r#"[{"Config":1}]"#] {
            let error = saved(text).unwrap_err().to_string();
            assert!(error.starts_with("manifest.json: "), "{text}: {error}");
        }
    }
}
