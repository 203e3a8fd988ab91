//! Writing a blob.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use davit_types::{Algorithm, Digest};

use crate::hash::Hasher;
use crate::ingest::{Ingest, make_dir, sync_dir};
use crate::{BlobInfo, Error, IngestStatus, timestamp};

/// After how many bytes the kernel is asked to bring them to the disk: a blob
/// is synced before it gets its name, and so most of that is done by then.
const WRITEBACK: u64 = 8 << 20;

/// Who writes to what, and since when.
pub(crate) type Locks = Arc<Mutex<HashMap<String, SystemTime>>>;

/// The right to write to one ingest; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    locks: Locks,
    reference: String,
}

impl Lock {
    pub fn take(locks: &Locks, reference: &str) -> Result<Self, Error> {
        let now = SystemTime::now();
        let mut held = locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&since) = held.get(reference) {
            return Err(Error::Locked {
                reference: reference.to_owned(),
                held: timestamp::duration_to_go_string(
                    now.duration_since(since).unwrap_or_default(),
                ),
                since: timestamp::to_go_string(since),
            });
        }
        held.insert(reference.to_owned(), now);
        Ok(Self { locks: locks.clone(), reference: reference.to_owned() })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.reference);
    }
}

/// Where blobs are, and what is done to them there.
#[derive(Debug)]
pub(crate) struct Blobs {
    pub path: PathBuf,
    /// The kernel is to check what is read of them.
    pub verity: bool,
}

/// An ingest that is being written. Dropping it keeps the bytes for a later
/// writer of the same reference, and lets go of the lock.
#[derive(Debug)]
pub struct Writer {
    ingest: Ingest,
    blobs: Blobs,
    file: File,
    hasher: Hasher,
    status: IngestStatus,
    /// Bytes that are on their way to the disk.
    handed_over: u64,
    committed: bool,
    // Last, so that the lock outlives what it protects.
    _lock: Lock,
}

impl Writer {
    /// Resumes the ingest in its directory, or begins it there.
    pub(crate) fn open(
        lock: Lock,
        ingest: Ingest,
        blobs: Blobs,
        total: u64,
        algorithm: Algorithm,
    ) -> Result<Self, Error> {
        let reference = lock.reference.clone();
        let status = match resumable(&ingest, &reference, total) {
            Some(status) => status,
            None => begin(&ingest, &reference, total)?,
        };
        let data = ingest.data();
        let mut file = ingest.open_data().map_err(Error::io("open", &data))?;
        let mut hasher = Hasher::new(algorithm);
        let offset = hash_file(&mut file, &mut hasher).map_err(Error::io("read", &data))?;
        let status = IngestStatus { offset, ..status };
        let handed_over = offset;
        Ok(Self { ingest, blobs, file, hasher, status, handed_over, committed: false, _lock: lock })
    }

    /// The ingest's name.
    pub fn reference(&self) -> &str {
        &self.status.reference
    }

    /// Bytes written so far, those of earlier writers included.
    pub fn offset(&self) -> u64 {
        self.status.offset
    }

    /// The digest of what is written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// Where the ingest stands.
    pub fn status(&self) -> IngestStatus {
        self.status.clone()
    }

    /// Opens what is written for reading, at its first byte. What is written
    /// later can be read there too, also once it is a blob.
    pub fn file(&self) -> Result<File, Error> {
        let data = self.ingest.data();
        File::open(&data).map_err(Error::io("open", &data))
    }

    /// Appends all of `data`. On failure (a full disk) the ingest is as it
    /// was before the call.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Err(error) = self.file.write_all(data) {
            // Some of it may have arrived, and would be taken for good bytes.
            if let Err(error) = self.cut(self.status.offset) {
                log::warn!(reference = self.reference(), error:% = error; "cut a failed write off");
            }
            return Err(Error::io("write", &self.ingest.data())(error));
        }
        self.hasher.update(data);
        self.status.offset += data.len() as u64;
        self.status.updated_at = SystemTime::now();
        self.hand_over();
        Ok(())
    }

    /// Has the kernel begin with what has gathered.
    fn hand_over(&mut self) {
        let gathered = self.status.offset - self.handed_over;
        if gathered < WRITEBACK {
            return;
        }
        // It is the sync that counts, and that may fail.
        let _ = davit_sys::integrity::begin_writeback(&self.file, self.handed_over, gathered);
        self.handed_over = self.status.offset;
    }

    /// Empties the ingest. As with containerd, `size` can only be 0.
    pub fn truncate(&mut self, size: u64) -> Result<(), Error> {
        if size != 0 {
            return Err(Error::UnsupportedTruncate);
        }
        self.cut(0).map_err(Error::io("truncate", &self.ingest.data()))?;
        self.hasher = Hasher::new(self.hasher.algorithm());
        self.status.offset = 0;
        self.handed_over = 0;
        Ok(())
    }

    fn cut(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.file.seek(SeekFrom::Start(size)).map(drop)
    }

    /// Brings what is written to the disk. `commit` does it too; calling it
    /// before keeps `commit` short.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_all().map_err(Error::io("sync", &self.ingest.data()))
    }

    /// Makes the ingest a blob: checks `size` (0: any) and `expected`, syncs,
    /// and only then names it. When the blob exists already, the ingest is
    /// removed and the answer is [`Error::AlreadyExists`]. After any other
    /// failure the ingest is left, and can be resumed.
    pub fn commit(mut self, size: u64, expected: Option<&Digest>) -> Result<BlobInfo, Error> {
        let actual = self.status.offset;
        if size > 0 && size != actual {
            return Err(Error::UnexpectedSize { actual, expected: size });
        }
        let digest = self.hasher.digest();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Error::UnexpectedDigest { actual: digest, expected: expected.clone() });
        }
        let dir = self.blobs.path.join(digest.algorithm().as_str());
        let target = dir.join(digest.hex());
        if is_whole(&target, actual) {
            self.discard();
            return Err(Error::AlreadyExists(digest));
        }
        let now = SystemTime::now();
        self.seal(now)?;
        self.name(&dir, &target)?;
        self.discard();
        Ok(BlobInfo { digest, size: actual, created_at: now, updated_at: now })
    }

    /// Brings the bytes and the blob's times to the disk.
    fn seal(&mut self, now: SystemTime) -> Result<(), Error> {
        let times = FileTimes::new().set_modified(now).set_accessed(now);
        self.file.set_times(times).map_err(Error::io("touch", &self.ingest.data()))?;
        self.sync()
    }

    fn name(&mut self, dir: &Path, target: &Path) -> Result<(), Error> {
        if !dir.exists() {
            make_dir(dir)?;
            sync_dir(&self.blobs.path)?;
        }
        fs::rename(self.ingest.data(), target).map_err(Error::io("rename", target))?;
        // Only now: a file that cannot be written could not be resumed.
        if let Err(error) = self.file.set_permissions(Permissions::from_mode(0o400)) {
            log::warn!(path:% = target.display(), error:% = error; "make a blob read-only");
        }
        sync_dir(dir)?;
        if self.blobs.verity {
            self.verify_from_now_on(target);
        }
        Ok(())
    }

    /// Lets the kernel check what is read of the blob. One that it does not
    /// check is as good as on other file systems, so a failure is only logged.
    fn verify_from_now_on(&mut self, target: &Path) {
        // The kernel wants nobody to have it open for writing.
        let reopened = File::open(target).map(|file| self.file = file);
        let enabled = reopened.and_then(|()| davit_sys::integrity::enable_verity(&self.file));
        if let Err(error) = enabled {
            log::warn!(path:% = target.display(), error:%; "a blob is not checked by the kernel");
        }
    }

    /// Removes the ingest's directory; what is left of one is harmless, so a
    /// failure is only logged.
    fn discard(&mut self) {
        self.committed = true;
        if let Err(error) = self.ingest.remove() {
            log::warn!(reference = self.reference(), error:% = error; "remove an ingest");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.committed || !self.ingest.path.exists() {
            return;
        }
        if let Err(error) = self.ingest.set_updated_at(self.status.updated_at) {
            log::warn!(reference = self.reference(), error:% = error; "note the time of an ingest");
        }
    }
}

/// Whether there is a blob at `path` of the length that its digest implies.
/// One of another length has lost bytes, and is replaced.
fn is_whole(path: &Path, size: u64) -> bool {
    match fs::symlink_metadata(path) {
        Err(_) => false,
        Ok(meta) if meta.len() == size => true,
        Ok(meta) => {
            log::warn!(path:% = path.display(), size, found = meta.len(); "replace a damaged blob");
            false
        }
    }
}

/// The ingest that is there, if it is one of `reference` and of that size.
fn resumable(ingest: &Ingest, reference: &str, total: u64) -> Option<IngestStatus> {
    let why = match ingest.status() {
        Ok(None) => return None,
        Ok(Some(status)) if status.reference != reference => {
            format!("ref key does not match: {:?}", status.reference)
        }
        Ok(Some(status)) if total > 0 && status.total > 0 && total != status.total => {
            format!("provided total differs from status: {total} != {}", status.total)
        }
        Ok(Some(status)) => return Some(status),
        Err(error) => error.to_string(),
    };
    log::info!(reference, why = why.as_str(); "begin an ingest again");
    None
}

/// A new ingest; when it cannot be made, nothing is left of it.
fn begin(ingest: &Ingest, reference: &str, total: u64) -> Result<IngestStatus, Error> {
    let now = SystemTime::now();
    if let Err(error) = ingest.begin(reference, total, now) {
        if let Err(error) = ingest.remove() {
            log::warn!(reference, error:% = error; "remove an ingest");
        }
        return Err(error);
    }
    Ok(IngestStatus {
        reference: reference.to_owned(),
        offset: 0,
        total,
        expected: None,
        started_at: now,
        updated_at: now,
    })
}

/// Feeds the whole file to `hasher` and leaves the position at its end.
fn hash_file(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(offset),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
