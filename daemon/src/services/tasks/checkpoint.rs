//! Checkpoints, to the content store and back: the runtime's files as a tar
//! archive, and the container's spec.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

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

/// What can go wrong with a checkpoint on its way.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("unsupported checkpoint type {0:?}")]
    MediaType(String),
    #[error(
        "checkpoint archive: {entry:?} is neither a file nor a directory below its top: invalid argument"
    )]
    Entry { entry: PathBuf },
    #[error("{doing} checkpoint")]
    Io { doing: &'static str, source: io::Error },
    #[error(transparent)]
    Index(#[from] davit_index::Error),
    #[error(transparent)]
    Runtime(#[from] davit_runtime::Error),
    #[error(transparent)]
    Field(#[from] davit_protocols::convert::InvalidField),
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::MediaType(_) => ErrorKind::Unknown,
            Self::Entry { .. } => ErrorKind::InvalidArgument,
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
fn extract(from: impl io::Read, directory: &Path) -> Result<(), Error> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries().map_err(reading)? {
        let mut entry = entry.map_err(reading)?;
        let name = entry.path().map_err(reading)?.into_owned();
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !name.components().all(plain) {
            return Err(Error::Entry { entry: name });
        }
        let path = directory.join(&name);
        match entry.header().entry_type() {
            tar::EntryType::Directory => make_directory(&path).map_err(reading)?,
            tar::EntryType::Regular => {
                path.parent().map_or(Ok(()), make_directory).map_err(reading)?;
                let mut options = fs::OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let mut file = options.open(&path).map_err(reading)?;
                io::copy(&mut entry, &mut file).map_err(reading)?;
            }
            _ => return Err(Error::Entry { entry: name }),
        }
    }
    Ok(())
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
