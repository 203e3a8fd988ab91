//! Checkpoints, to the content store and back: the runtime's files as a tar
//! archive, and the container's spec.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use davit_diff::tar::{EntryKind, Extent, Reader};
use davit_index::{ContentStore, ContentWriter, LeaseId, WriterRequest};
use davit_protocols::convert::grpc::any;
use davit_protocols::grpc::containerd::types;
use davit_runtime::{Checkpoint, Scratch};
use davit_types::{Any, Descriptor, ErrorKind, Kind, Labels, Namespace};
use prost::Message as _;
use std::sync::Arc;
use tonic::Status;

use super::{Tasks, blocking};

/// The runtime's files (containerd, `core/images/mediatypes.go`).
const ARCHIVE: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The spec, as an `Any`.
const CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";

/// The most that is unpacked of a checkpoint that comes from elsewhere: a
/// process's memory has to fit, and CRIU writes some files for each process.
const ENTRIES_MAX: u64 = 100_000;
const BYTES_MAX: u64 = 256 << 30;

/// What can go wrong with a checkpoint on its way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no checkpoint.
    #[error("unsupported checkpoint type {0:?}")]
    MediaType(String),
    /// An entry of the archive that is none of a checkpoint's.
    #[error(
        "checkpoint archive: {entry:?} is neither a file nor a directory below its top: invalid argument"
    )]
    Entry {
        /// Its name.
        entry: PathBuf,
    },
    /// It unpacks to more than any checkpoint of a machine.
    #[error(
        "checkpoint archive: at {entry:?} it has more than {ENTRIES_MAX} entries or {BYTES_MAX} bytes: resource exhausted"
    )]
    TooLarge {
        /// Where that shows.
        entry: PathBuf,
    },
    /// It is no archive.
    #[error("checkpoint archive")]
    Archive(#[source] davit_diff::tar::Error),
    /// The file system or the archive.
    #[error("{doing} checkpoint")]
    Io {
        /// `pack` or `unpack`.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The index.
    #[error(transparent)]
    Index(#[from] davit_index::Error),
    /// The directory that it is unpacked to.
    #[error(transparent)]
    Runtime(#[from] davit_runtime::Error),
    /// A message in it.
    #[error(transparent)]
    Field(#[from] davit_protocols::convert::InvalidField),
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::MediaType(_) => ErrorKind::Unknown,
            Self::Entry { .. } => ErrorKind::InvalidArgument,
            Self::TooLarge { .. } => ErrorKind::ResourceExhausted,
            Self::Archive(davit_diff::tar::Error::Read { source, .. }) => ErrorKind::of_io(source),
            Self::Archive(_) => ErrorKind::InvalidArgument,
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Index(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Field(error) => error.kind(),
        }
    }
}

fn reading(source: io::Error) -> Error {
    Error::Io { doing: "unpack", source }
}

fn writing(source: io::Error) -> Error {
    Error::Io { doing: "pack", source }
}

impl Tasks {
    pub(super) async fn scratch(&self, namespace: &Namespace) -> Result<Scratch, Status> {
        let (tasks, namespace) = (self.tasks.clone(), namespace.clone());
        blocking(move || tasks.scratch(&namespace)).await
    }

    /// Unpacks the checkpoint that a Create names.
    pub(super) async fn unpack(
        &self,
        namespace: &Namespace,
        descriptor: types::Descriptor,
    ) -> Result<Checkpoint, Status> {
        let scratch = self.scratch(namespace).await?;
        let (content, namespace) = (self.content.clone(), namespace.clone());
        blocking(move || {
            if descriptor.media_type != ARCHIVE {
                return Err(Error::MediaType(descriptor.media_type));
            }
            let descriptor = Descriptor::try_from(descriptor)?;
            let reader = content.reader(&namespace, &descriptor.digest)?;
            let archive = reader.into_read(0).map_err(reading)?;
            extract(io::BufReader::new(archive), scratch.path())?;
            Ok(Checkpoint::Owned(scratch))
        })
        .await
    }

    /// Moves what the runtime wrote to the content store, with the spec.
    pub(super) async fn pack(
        &self,
        namespace: Namespace,
        scratch: Scratch,
        spec: Option<Any>,
        lease: Option<LeaseId>,
    ) -> Result<Vec<types::Descriptor>, Status> {
        let content = self.content.clone();
        blocking(move || {
            let store = Store { content, namespace, lease };
            let name = scratch.path().to_string_lossy().into_owned();
            let archive = store.write(ARCHIVE, &name, |to| archive(scratch.path(), to))?;
            let spec = any(spec.unwrap_or_default()).encode_to_vec();
            let config = store.write(CONFIG, &format!("{name}/spec"), |to| to.write_all(&spec))?;
            Ok::<_, Error>(vec![archive, config])
        })
        .await
    }
}

struct Store {
    content: Arc<ContentStore>,
    namespace: Namespace,
    lease: Option<LeaseId>,
}

impl Store {
    /// Writes one blob; one that is there already is as good.
    fn write(
        &self,
        media_type: &str,
        reference: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<types::Descriptor, Error> {
        let request = WriterRequest { reference: reference.to_owned(), total: 0, expected: None };
        let writer = self.content.writer(&self.namespace, request, self.lease.as_ref())?;
        let mut blob = io::BufWriter::with_capacity(1 << 20, Blob(writer));
        fill(&mut blob).map_err(writing)?;
        let Blob(writer) = blob.into_inner().map_err(|error| writing(error.into_error()))?;
        let (digest, size) = (writer.digest(), writer.offset());
        match writer.commit(0, None, &Labels::new()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let annotations = Labels::new();
        let media_type = media_type.to_owned();
        Ok(Descriptor { media_type, digest, size, annotations }.into())
    }
}

/// An ingest as a stream.
struct Blob(ContentWriter);

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| io::Error::other(error.full_message()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Packs a directory's files and directories, in the order of their names.
fn archive(directory: &Path, to: &mut dyn Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    add(&mut archive, directory, Path::new(""))?;
    archive.finish()
}

fn add(archive: &mut tar::Builder<&mut dyn Write>, top: &Path, below: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(top.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        archive.append_path_with_name(entry.path(), &name)?;
        if entry.file_type()?.is_dir() {
            add(archive, top, &name)?;
        }
    }
    Ok(())
}

/// Unpacks files and directories and refuses everything else: an archive that
/// comes from elsewhere makes no links, no devices, and nothing outside.
///
/// # Errors
/// What is no archive, an entry of another kind or with another name, too many
/// or too large ones, and those of the file system.
pub fn extract(from: impl io::BufRead, directory: &Path) -> Result<(), Error> {
    let mut archive = Reader::new(from);
    let (mut entries, mut bytes) = (0, 0_u64);
    while let Some(entry) = archive.next_entry().map_err(Error::Archive)? {
        let name = PathBuf::from(OsString::from_vec(entry.name));
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !name.components().all(plain) {
            return Err(Error::Entry { entry: name });
        }
        entries += 1;
        bytes = bytes.saturating_add(entry.size);
        if entries > ENTRIES_MAX || bytes > BYTES_MAX {
            return Err(Error::TooLarge { entry: name });
        }
        let path = directory.join(&name);
        match entry.kind {
            EntryKind::Directory => make_directory(&path).map_err(reading)?,
            EntryKind::File => {
                path.parent().map_or(Ok(()), make_directory).map_err(reading)?;
                let mut options = fs::OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let file = options.open(&path).map_err(reading)?;
                fill(&file, entry.size, entry.extents, &mut archive)?;
            }
            _ => return Err(Error::Entry { entry: name }),
        }
    }
    Ok(())
}

/// Writes a file's data where it belongs; what is not there are holes.
fn fill(
    file: &fs::File,
    size: u64,
    extents: Option<Vec<Extent>>,
    archive: &mut Reader<impl io::BufRead>,
) -> Result<(), Error> {
    for Extent { mut offset, mut length } in
        extents.unwrap_or_else(|| vec![Extent { offset: 0, length: size }])
    {
        while length > 0 {
            let data = archive.data().map_err(Error::Archive)?;
            let count = data.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            file.write_all_at(&data[..count], offset).map_err(reading)?;
            archive.consume(count);
            offset += count as u64;
            length -= count as u64;
        }
    }
    file.set_len(size).map_err(reading)
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        fill(&mut archive);
        archive.into_inner().unwrap()
    }

    fn header(kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("sub")).unwrap();
        fs::write(from.path().join("sub/pages-1.img"), [7; 5000]).unwrap();
        fs::write(from.path().join("descriptors.json"), "[]").unwrap();
        let mut bytes = Vec::new();
        archive(from.path(), &mut bytes).unwrap();
        extract(bytes.as_slice(), to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("sub/pages-1.img")).unwrap(), [7; 5000]);
        assert_eq!(fs::read(to.path().join("descriptors.json")).unwrap(), b"[]");
    }

    #[test]
    fn holes_stay_holes() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = fs::File::create(from.path().join("pages-1.img")).unwrap();
        file.write_all_at(b"in the middle", 1 << 20).unwrap();
        file.set_len(64 << 20).unwrap();
        let mut bytes = Vec::new();
        archive(from.path(), &mut bytes).unwrap();
        extract(bytes.as_slice(), to.path()).unwrap();
        let found = fs::read(to.path().join("pages-1.img")).unwrap();
        assert!(found == fs::read(from.path().join("pages-1.img")).unwrap());
    }

    #[test]
    fn an_archive_that_grows_without_end_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        // A file of holes alone: a terabyte in two blocks.
        let sparse = packed(|archive| {
            let mut header = header(tar::EntryType::GNUSparse, 0);
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..9].copy_from_slice(b"pages.img");
            gnu.realsize = [0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        });
        let error = extract(sparse.as_slice(), directory.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.full_message());
        assert!(error.to_string().contains("pages.img"), "{error}");
        let name = packed(|archive| {
            let mut header = header(tar::EntryType::GNULongName, 8 << 20);
            header.set_cksum();
            archive.append(&header, &vec![b'n'; 8 << 20][..]).unwrap();
        });
        let error = extract(name.as_slice(), directory.path()).unwrap_err();
        assert!(error.full_message().contains("field too long"), "{}", error.full_message());
        let many = packed(|archive| {
            for number in 0..=ENTRIES_MAX {
                let mut header = header(tar::EntryType::Directory, 0);
                header.set_path(if number == ENTRIES_MAX { "last" } else { "d" }).unwrap();
                header.set_cksum();
                archive.append(&header, io::empty()).unwrap();
            }
        });
        let error = extract(many.as_slice(), directory.path()).unwrap_err();
        assert!(error.to_string().contains("last"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_archive_reaches_nothing_outside() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("target");
        let link = packed(|archive| {
            let mut header = header(tar::EntryType::Symlink, 0);
            archive.append_link(&mut header, "link", outside.path()).unwrap();
        });
        let device = packed(|archive| {
            let mut header = header(tar::EntryType::Char, 0);
            archive.append_data(&mut header, "null", io::empty()).unwrap();
        });
        let upwards = packed(|archive| {
            let mut header = header(tar::EntryType::Regular, 1);
            header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../target");
            header.set_cksum();
            archive.append(&header, &b"x"[..]).unwrap();
        });
        let twice = packed(|archive| {
            for _ in 0..2 {
                let mut header = header(tar::EntryType::Regular, 1);
                archive.append_data(&mut header, "a", &b"x"[..]).unwrap();
            }
        });
        for bytes in [link, device, upwards, twice] {
            let directory = outside.path().join("inside");
            fs::create_dir(&directory).unwrap();
            extract(bytes.as_slice(), &directory).unwrap_err();
            assert!(!target.exists());
            assert!(!directory.join("link").is_symlink());
            fs::remove_dir_all(&directory).unwrap();
        }
    }
}
