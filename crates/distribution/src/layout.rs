//! A directory with images in it, as other programs read it: an OCI image
//! layout (OCI image specification, "OCI Image Layout Specification").
//!
//! Blobs are kept as the daemon keeps them, by the same code: synced before
//! they are named, and resumable while they are on their way (in `ingest`,
//! which readers of layouts pass over). The index is replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use davit_content::LocalStore;
use davit_types::{Descriptor, Digest, ErrorKind, Kind, Labels};
use serde_json::{Value, json};

use crate::manifest::MAX_DOCUMENT;
use crate::pull::{self, Failure};
use crate::push;
use crate::registry::BlobSource;

/// Marks a directory as a layout.
const MARKER: &str = "oci-layout";
/// The version of the specification that we write, and the only one there is.
const VERSION: &str = "1.0.0";
/// What images there are.
const INDEX: &str = "index.json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The annotation with an image's tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout, held by this process alone as long as it is open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Layout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    content: LocalStore,
    index: Mutex<()>,
    /// Locked; the kernel lets go of it when we end.
    _marker: File,
}

/// What is wrong with a layout.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process writes to it.
    #[error("{} is in use by another process: unavailable", .0.display())]
    Busy(PathBuf),
    /// A file that is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The blobs.
    #[error(transparent)]
    Content(#[from] davit_content::Error),
    /// The file system said no.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy(_) => ErrorKind::Unavailable,
            Self::Malformed { .. } => ErrorKind::FailedPrecondition,
            Self::Content(error) => error.kind(),
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }
}

impl Layout {
    /// Opens the layout below `root`; makes one of a directory that is empty
    /// or missing.
    ///
    /// # Errors
    /// [`Error::Busy`]; [`Error::Malformed`] for a directory that holds
    /// something else.
    pub fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(Error::io("make", root))?;
        let path = root.join(MARKER);
        if !path.exists() {
            let mut entries = fs::read_dir(root).map_err(Error::io("list", root))?;
            if entries.next().is_some() {
                let reason = "neither empty nor an OCI image layout".to_owned();
                return Err(Error::Malformed { path: root.to_owned(), reason });
            }
            replace(&path, json!({ "imageLayoutVersion": VERSION }).to_string().as_bytes())?;
        }
        let marker = File::open(&path).map_err(Error::io("open", &path))?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Busy(root.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        let version = &read_json(&path)?["imageLayoutVersion"];
        if version != VERSION {
            let reason = format!("version {version} of layouts is not known");
            return Err(Error::Malformed { path, reason });
        }
        let content = LocalStore::open(root)?;
        let (root, index) = (root.to_owned(), Mutex::default());
        Ok(Self(Arc::new(Inner { root, content, index, _marker: marker })))
    }

    /// Makes `root` the image `name`, in place of the one that was called so
    /// before. Its blobs must be there.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the index is none.
    pub fn tag(&self, root: &Descriptor, name: &str) -> Result<(), Error> {
        let _held = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.0.root.join(INDEX);
        let mut index = self.index(&path)?;
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        let manifests = manifests.ok_or_else(|| Error::Malformed {
            path: path.clone(),
            reason: "no list of manifests".to_owned(),
        })?;
        manifests.retain(|manifest| manifest["annotations"][REF_NAME] != name);
        let mut annotations = root.annotations.clone();
        annotations.insert(REF_NAME.to_owned(), name.to_owned());
        manifests.push(json!({
            "mediaType": root.media_type,
            "digest": root.digest.as_str(),
            "size": root.size,
            "annotations": annotations,
        }));
        replace(&path, index.to_string().as_bytes())
    }

    /// What is called `name`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the index is none.
    pub fn find(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        let path = self.0.root.join(INDEX);
        let index = self.index(&path)?;
        let malformed = || Error::Malformed { path, reason: format!("the entry {name:?}") };
        let mut manifests = index["manifests"].as_array().into_iter().flatten();
        let found = manifests.find(|manifest| manifest["annotations"][REF_NAME] == name);
        let Some(found) = found else { return Ok(None) };
        let read = || {
            Some(Descriptor {
                media_type: found["mediaType"].as_str()?.to_owned(),
                digest: found["digest"].as_str()?.parse().ok()?,
                size: found["size"].as_u64()?,
                annotations: Labels::default(),
            })
        };
        read().map(Some).ok_or_else(malformed)
    }

    fn index(&self, path: &Path) -> Result<Value, Error> {
        match path.exists() {
            true => read_json(path),
            false => Ok(json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] })),
        }
    }
}

impl pull::Store for Layout {
    fn ingest(
        &self,
        reference: &str,
        blob: &Descriptor,
    ) -> Result<Option<Box<dyn pull::Ingest>>, Failure> {
        let content = &self.0.content;
        match content.info(&blob.digest) {
            Ok(info) if info.size == blob.size => return Ok(None),
            // It has lost bytes, or was never whole.
            Ok(_) => content.delete(&blob.digest).map_err(|error| Failure::of(&error))?,
            Err(davit_content::Error::NotFound(_)) => {}
            Err(error) => return Err(Failure::of(&error)),
        }
        match content.open_writer(reference, blob.size, Some(&blob.digest)) {
            Err(davit_content::Error::AlreadyExists(_)) => Ok(None),
            Err(error) => Err(Failure::of(&error)),
            Ok(mut writer) => {
                if writer.offset() > blob.size {
                    writer.truncate(0).map_err(|error| Failure::of(&error))?;
                }
                Ok(Some(Box::new(Ingest { layout: self.clone(), writer })))
            }
        }
    }

    fn open(&self, digest: &Digest) -> Result<File, Failure> {
        let reader = self.0.content.reader(digest).map_err(|error| Failure::of(&error))?;
        reader.into_file().map_err(|error| Failure::io(&format!("read {digest}"), &error))
    }

    /// A layout keeps none.
    fn labels(&self, _digest: &Digest) -> Result<Labels, Failure> {
        Ok(Labels::default())
    }

    fn label(&self, _digest: &Digest, _labels: &Labels) -> Result<(), Failure> {
        Ok(())
    }
}

impl push::Source for Layout {
    fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Failure> {
        pull::Store::document(self, digest, limit)
    }

    fn labels(&self, _digest: &Digest) -> Result<Labels, Failure> {
        Ok(Labels::default())
    }

    fn blob(&self, blob: &Descriptor) -> Result<Arc<dyn BlobSource>, Failure> {
        let reader = self.0.content.reader(&blob.digest).map_err(|error| Failure::of(&error))?;
        Ok(Arc::new(Blob(Arc::new(reader))))
    }
}

/// A blob that is pushed.
struct Blob(Arc<davit_content::Reader>);

/// What is left of it.
struct Rest {
    reader: Arc<davit_content::Reader>,
    offset: u64,
}

impl BlobSource for Blob {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Rest { reader: self.0.clone(), offset }))
    }
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// A blob on its way into a layout.
struct Ingest {
    layout: Layout,
    writer: davit_content::Writer,
}

impl pull::Ingest for Ingest {
    fn offset(&self) -> u64 {
        self.writer.offset()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write(bytes).map_err(|error| Failure::of(&error))
    }

    fn file(&self) -> Result<Option<File>, Failure> {
        self.writer.file().map(Some).map_err(|error| Failure::of(&error))
    }

    fn commit(self: Box<Self>, size: u64, digest: &Digest) -> Result<(), Failure> {
        let Self { layout, writer } = *self;
        let reference = writer.reference().to_owned();
        match writer.commit(size, Some(digest)) {
            Ok(_) | Err(davit_content::Error::AlreadyExists(_)) => Ok(()),
            Err(error) => {
                // To go on with wrong bytes would come to the same.
                if error.kind() == ErrorKind::FailedPrecondition
                    && let Err(error) = layout.0.content.abort(&reference)
                {
                    log::warn!(reference:%, error:% = error; "a bad ingest stays");
                }
                Err(Failure::of(&error))
            }
        }
    }
}

/// Puts a new file in the place of an old one: there is always one of both.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    write().map_err(|error| {
        // There may be none.
        let _ = fs::remove_file(&new);
        Error::io("write", path)(error)
    })
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(malformed(format!("more than {MAX_DOCUMENT} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use davit_types::Algorithm;

    use super::*;
    use crate::pull::Store;

    fn descriptor(bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: INDEX_TYPE.to_owned(),
            digest: davit_content::digest(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
            annotations: Labels::default(),
        }
    }

    fn read(path: &Path) -> Value {
        read_json(path).unwrap()
    }

    #[test]
    fn an_empty_directory_becomes_a_layout() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("a/b");
        let layout = Layout::open(&root).unwrap();
        assert_eq!(read(&root.join(MARKER)), json!({ "imageLayoutVersion": "1.0.0" }));
        assert_eq!(layout.find("1").unwrap(), None);
        assert!(matches!(Layout::open(&root), Err(Error::Busy(_))));
        drop(layout);
        Layout::open(&root).unwrap();
    }

    #[test]
    fn images_are_found_by_name_and_others_kept() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::open(directory.path()).unwrap();
        let path = directory.path().join(INDEX);
        let other =
            json!({ "manifests": [{ "digest": "x", "x": 1 }], "annotations": { "a": "b" } });
        fs::write(&path, other.to_string()).unwrap();
        let (one, two) = (descriptor(b"one"), descriptor(b"two"));
        layout.tag(&one, "1").unwrap();
        layout.tag(&one, "2").unwrap();
        layout.tag(&two, "1").unwrap();
        assert_eq!(layout.find("1").unwrap(), Some(two));
        assert_eq!(layout.find("2").unwrap(), Some(one));
        let index = read(&path);
        assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
        assert_eq!(
            (&index["manifests"][0]["x"], &index["annotations"]["a"]),
            (&json!(1), &json!("b"))
        );
    }

    #[test]
    fn what_is_no_layout_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "mine").unwrap();
        let error = Layout::open(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("neither empty nor an OCI image layout"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        let directory = tempfile::tempdir().unwrap();
        for marker in [r#"{"imageLayoutVersion":"2.0.0"}"#, "{", "[]"] {
            fs::write(directory.path().join(MARKER), marker).unwrap();
            assert!(matches!(Layout::open(directory.path()), Err(Error::Malformed { .. })));
        }
    }

    #[test]
    fn a_blob_is_resumed_and_a_damaged_one_fetched_again() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = descriptor(b"content");
        let layout = Layout::open(directory.path()).unwrap();
        layout.ingest("ref", &wanted).unwrap().unwrap().write(b"con").unwrap();
        drop(layout);
        let layout = Layout::open(directory.path()).unwrap();
        let mut ingest = layout.ingest("ref", &wanted).unwrap().unwrap();
        assert_eq!(ingest.offset(), 3);
        ingest.write(b"tent").unwrap();
        ingest.commit(7, &wanted.digest).unwrap();
        assert!(layout.ingest("ref", &wanted).unwrap().is_none());
        assert_eq!(layout.document(&wanted.digest, 7).unwrap(), b"content");

        let blob = directory.path().join("blobs/sha256").join(wanted.digest.hex());
        fs::remove_file(&blob).unwrap();
        fs::write(&blob, "").unwrap();
        let mut ingest = layout.ingest("ref", &wanted).unwrap().unwrap();
        ingest.write(b"rubbish").unwrap();
        let error = ingest.commit(7, &wanted.digest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(layout.ingest("ref", &wanted).unwrap().unwrap().offset(), 0);
    }
}
