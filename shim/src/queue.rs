//! A queue of byte strings that is bounded in memory and not in length: what
//! does not fit lies in a file without a name, and order is kept.
//!
//! Nothing is ever dropped. When the file cannot be written (a full disk),
//! memory takes what it cannot; that is the one case in which the bound is
//! left.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How many bytes are kept in memory before the file is used.
pub(crate) const MEMORY_MAX: usize = 256 << 10;

/// The queue. Elements leave in the order in which they came: first those of
/// `head`, then those of the file, then those of `tail`.
#[derive(Debug)]
pub(crate) struct Queue {
    dir: PathBuf,
    head: VecDeque<Vec<u8>>,
    head_bytes: usize,
    file: Option<Spill>,
    tail: VecDeque<Vec<u8>>,
}

/// Elements in a file, each behind its length (four bytes, little end first).
#[derive(Debug)]
struct Spill {
    file: File,
    read: u64,
    written: u64,
}

impl Queue {
    /// An empty queue whose file, if it ever needs one, is made in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            head: VecDeque::new(),
            head_bytes: 0,
            file: None,
            tail: VecDeque::new(),
        }
    }

    /// Appends an element.
    pub(crate) fn push(&mut self, element: Vec<u8>) {
        if self.file.is_none() && self.tail.is_empty() {
            // An empty queue takes any element, however long.
            if self.head.is_empty() || self.head_bytes + element.len() <= MEMORY_MAX {
                self.head_bytes += element.len();
                self.head.push_back(element);
                return;
            }
            self.file = Spill::new(&self.dir).ok();
        }
        let spilled = match &mut self.file {
            Some(spill) if self.tail.is_empty() => spill.push(&element),
            _ => Err(io::ErrorKind::StorageFull.into()),
        };
        if let Err(e) = spilled {
            log::debug!(error:% = e; "events are kept in memory");
            self.tail.push_back(element);
        }
    }

    /// The oldest element, which stays until [`pop`](Self::pop).
    pub(crate) fn front(&mut self) -> Option<&[u8]> {
        if self.head.is_empty() {
            self.refill();
        }
        self.head.front().map(Vec::as_slice)
    }

    /// Forgets the oldest element.
    pub(crate) fn pop(&mut self) {
        if let Some(element) = self.head.pop_front() {
            self.head_bytes -= element.len();
        }
        if self.head.is_empty() {
            self.head = VecDeque::new();
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.file.is_none() && self.tail.is_empty()
    }

    fn refill(&mut self) {
        let element = self.file.as_mut().map(Spill::pop);
        match element {
            Some(Ok(Some(element))) => {
                self.head_bytes = element.len();
                self.head.push_back(element);
                return;
            }
            Some(Err(e)) => log::error!(error:% = e; "events that were kept in a file are lost"),
            Some(Ok(None)) | None => {}
        }
        self.file = None;
        self.head = std::mem::take(&mut self.tail);
        self.head_bytes = self.head.iter().map(Vec::len).sum();
    }
}

impl Spill {
    fn new(dir: &Path) -> io::Result<Self> {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(dir);
        Ok(Self { file: options?, read: 0, written: 0 })
    }

    /// Appends all of the element or, as far as a reader can tell, nothing.
    fn push(&mut self, element: &[u8]) -> io::Result<()> {
        let length = u32::try_from(element.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.file.write_all_at(&length.to_le_bytes(), self.written)?;
        self.file.write_all_at(element, self.written + 4)?;
        self.written += 4 + u64::from(length);
        Ok(())
    }

    fn pop(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.read == self.written {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.file.read_exact_at(&mut length, self.read)?;
        let mut element = vec![0; u32::from_le_bytes(length) as usize];
        self.file.read_exact_at(&mut element, self.read + 4)?;
        self.read += 4 + element.len() as u64;
        Ok(Some(element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue) -> Vec<u32> {
        let mut seen = Vec::new();
        while let Some(front) = queue.front() {
            seen.push(u32::from_le_bytes(front[..4].try_into().unwrap()));
            queue.pop();
        }
        seen
    }

    fn element(number: u32) -> Vec<u8> {
        let mut element = number.to_le_bytes().to_vec();
        element.resize(1000, 0);
        element
    }

    #[test]
    fn order_is_kept_through_memory_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = Queue::new(dir.path());
        for number in 0..2000 {
            queue.push(element(number));
        }
        assert!(queue.file.is_some() && queue.head_bytes <= MEMORY_MAX);
        for number in 0..500 {
            assert_eq!(queue.front().unwrap(), element(number));
            queue.pop();
        }
        for number in 2000..2100 {
            queue.push(element(number));
        }
        assert_eq!(drain(&mut queue), (500..2100).collect::<Vec<_>>());
        assert!(queue.is_empty());
        queue.push(element(7));
        assert!(queue.file.is_none(), "an empty queue starts in memory again");
        assert_eq!(drain(&mut queue), [7]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn memory_takes_what_the_disk_cannot() {
        let mut queue = Queue::new(Path::new("/nonexistent"));
        for number in 0..1000 {
            queue.push(element(number));
        }
        assert_eq!(drain(&mut queue), (0..1000).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }
}
