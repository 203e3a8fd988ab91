//! The store on a local file system.

use std::fs::{self, File, FileTimes, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use davit_types::{Algorithm, Digest};

use crate::ingest::{Ingest, make_dir, sync_dir};
use crate::writer::{Blobs, Lock, Locks};
use crate::{BlobInfo, Error, IngestStatus, Reader, Writer, hash};

/// A content store below one directory:
/// `blobs/<algorithm>/<hex>` and `ingest/<sha256 of ref>/{data,ref,startedat,updatedat,total}`.
///
/// Cheap to share behind an `Arc`; every method may be called from any thread.
/// One process at a time may use a directory for writing.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    locks: Locks,
    /// Whether the kernel can check what is read of a blob.
    verity: bool,
}

impl LocalStore {
    /// Opens the store below `root`, which is made when it is missing.
    /// What an earlier process left of ingests that it was making or removing
    /// is removed, and so are ingests that nobody can go on with, because
    /// power was lost before the small files about them were on disk.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for dir in [root, &root.join("blobs"), &root.join("ingest")] {
            make_dir(dir)?;
        }
        // Blobs are synced, and the way to them is, too.
        sync_dir(root)?;
        let verity = can_verify(root);
        let store = Self { root: root.to_owned(), locks: Locks::default(), verity };
        for path in store.ingest_dirs()? {
            let is_removed = path.extension().is_some_and(|extension| extension == "tmp");
            // Nobody makes or removes one at this moment.
            if is_removed || !store.can_be_resumed(&path) {
                fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(store)
    }

    /// Whether what is in an ingest's directory says whose it is; also when it
    /// cannot be read now.
    fn can_be_resumed(&self, path: &Path) -> bool {
        match (Ingest { path: path.to_owned() }).status() {
            Ok(Some(status)) => self.ingest(&status.reference).path == path,
            Ok(None) => false,
            Err(error) => {
                log::warn!(path:% = path.display(), error:%; "what is there of an ingest is no use");
                !matches!(error, Error::Damaged { .. })
            }
        }
    }

    /// Begins or resumes the ingest `reference` and locks it until the writer
    /// is committed or dropped. `total` is the size expected, 0 if unknown.
    ///
    /// With `expected`, a blob that exists is [`Error::AlreadyExists`] unless
    /// it is not of the size expected: then it is damaged, and the writer
    /// replaces it. The hash function is that of the digest. A second writer
    /// is [`Error::Locked`].
    pub fn open_writer(
        &self,
        reference: &str,
        total: u64,
        expected: Option<&Digest>,
    ) -> Result<Writer, Error> {
        if let Some(digest) = expected
            && let Ok(blob) = self.info(digest)
            && (total == 0 || total == blob.size)
        {
            return Err(Error::AlreadyExists(digest.clone()));
        }
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        self.open_writer_for(reference, total, algorithm)
    }

    /// Like [`open_writer`](Self::open_writer), without asking whether the
    /// blob exists: for callers that must not let a client learn that from
    /// the store (isolated namespaces).
    pub fn open_writer_for(
        &self,
        reference: &str,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Writer, Error> {
        if reference.is_empty() {
            return Err(Error::EmptyReference);
        }
        let lock = Lock::take(&self.locks, reference)?;
        let blobs = Blobs { path: self.root.join("blobs"), verity: self.verity };
        Writer::open(lock, self.ingest(reference), blobs, total, algorithm)
    }

    /// Where an ingest stands.
    pub fn status(&self, reference: &str) -> Result<IngestStatus, Error> {
        self.ingest(reference).status()?.ok_or_else(|| Error::NoIngest(reference.to_owned()))
    }

    /// Where all ingests stand, in no order. One that is being made or
    /// removed at this moment is left out, and so is, with a warning, one
    /// that cannot be read.
    pub fn list_statuses(&self) -> Result<Vec<IngestStatus>, Error> {
        let mut statuses = Vec::new();
        for path in self.ingest_dirs()? {
            match (Ingest { path }).status() {
                Ok(status) => statuses.extend(status),
                Err(error) => log::warn!(error:%; "an ingest is left out"),
            }
        }
        Ok(statuses)
    }

    /// Throws an ingest away. One that is being written is taken from under
    /// its writer, whose commit then fails.
    pub fn abort(&self, reference: &str) -> Result<(), Error> {
        match self.ingest(reference).remove()? {
            true => Ok(()),
            false => Err(Error::NoIngest(reference.to_owned())),
        }
    }

    /// What is known of a blob.
    pub fn info(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        let path = self.blob_path(digest);
        let meta = fs::metadata(&path).map_err(not_found_or("stat", &path, digest))?;
        info_of(digest.clone(), &meta, &path)
    }

    /// Opens a blob for reading.
    pub fn reader(&self, digest: &Digest) -> Result<Reader, Error> {
        let path = self.blob_path(digest);
        File::open(&path).and_then(Reader::new).map_err(not_found_or("open", &path, digest))
    }

    /// Opens a blob for reading that is known to have `size` bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it has not: power was lost, or a file system
    /// repaired. The next writer of the blob replaces it.
    pub fn whole_reader(&self, digest: &Digest, size: u64) -> Result<Reader, Error> {
        let reader = self.reader(digest)?;
        match reader.size() {
            found if found == size => Ok(reader),
            found => Err(Error::Damaged {
                path: self.blob_path(digest),
                what: format!("it has {found} bytes of {size}"),
            }),
        }
    }

    /// Removes a blob. Open readers keep what they have.
    pub fn delete(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.blob_path(digest);
        fs::remove_file(&path).map_err(not_found_or("remove", &path, digest))
    }

    /// All blobs, in the order of their digests. Files that are no blobs are
    /// left out, with a warning.
    pub fn walk(&self) -> Result<Vec<BlobInfo>, Error> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let dir = self.root.join("blobs").join(algorithm.as_str());
            for path in entries(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse::<Digest>() else {
                    log::warn!(path:% = path.display(); "not the name of a blob");
                    continue;
                };
                match self.info(&digest) {
                    Ok(info) => blobs.push(info),
                    Err(Error::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        blobs.sort_unstable_by(|a, b| a.digest.cmp(&b.digest));
        Ok(blobs)
    }

    /// Says that a blob was used: sets its `updated_at` to now.
    pub fn touch(&self, digest: &Digest) -> Result<BlobInfo, Error> {
        let path = self.blob_path(digest);
        let now = SystemTime::now();
        File::open(&path)
            .and_then(|file| file.set_times(FileTimes::new().set_accessed(now)))
            .map_err(not_found_or("touch", &path, digest))?;
        self.info(digest)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn ingest(&self, reference: &str) -> Ingest {
        let name = hash::digest(Algorithm::Sha256, reference.as_bytes());
        Ingest { path: self.root.join("ingest").join(name.hex()) }
    }

    fn ingest_dirs(&self) -> Result<Vec<PathBuf>, Error> {
        entries(&self.root.join("ingest"))
    }
}

/// Finds out by trying whether the kernel can check the files in `root`
/// (fs-verity), as containerd does.
fn can_verify(root: &Path) -> bool {
    let path = root.join("verity-probe");
    let tried = fs::write(&path, "x")
        .and_then(|()| File::open(&path))
        .and_then(|file| davit_sys::integrity::enable_verity(&file));
    if let Err(error) = fs::remove_file(&path) {
        log::warn!(path:% = path.display(), error:%; "remove a probe");
    }
    tried.is_ok()
}

/// The paths in a directory; none when it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    list.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("list", dir))).collect()
}

fn info_of(digest: Digest, meta: &Metadata, path: &Path) -> Result<BlobInfo, Error> {
    let created_at = meta.modified().map_err(Error::io("stat", path))?;
    let updated_at = meta.accessed().map_err(Error::io("stat", path))?;
    Ok(BlobInfo { digest, size: meta.len(), created_at, updated_at })
}

fn not_found_or(
    operation: &'static str,
    path: &Path,
    digest: &Digest,
) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(digest.clone()),
        _ => Error::io(operation, path)(error),
    }
}
