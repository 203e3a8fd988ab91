//! Copies of runtimes' binaries in memory, for shims to run in place of the
//! binaries ([`SealedCopy`] says what that is good for). One serves all
//! containers, which is why it is the daemon that makes it.
//!
//! A shim is told by a variable, which others than ours do not know. What it
//! has opened is its own: nothing depends on the daemon from then on.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use davit_types::Any;
use runc_client::SealedCopy;

use crate::runtime_root;
use crate::tasks::blocking;

/// Tells a shim which descriptor of its parent's is a copy, and of what.
pub(crate) const VARIABLE: &str = "DAVIT_SEALED_RUNTIME";
/// The largest binary that is copied, in bytes: crun has half a million, runc
/// nine million. Others, which have more, copy nothing themselves.
const SIZE_MAX: u64 = 16 << 20;
/// How many copies there are at most.
const COPIES_MAX: usize = 4;
/// How long a task waits for one. A binary may be on a server that does not
/// answer, and a shim does without a copy.
const LIMIT: Duration = Duration::from_millis(500);

/// A copy of one binary, if there is one; locked by who looks at the binary.
type Place = Arc<tokio::sync::Mutex<Option<Arc<SealedCopy>>>>;

/// The copies that have been made, and those being made. Never locked while
/// somebody looks at a binary.
#[derive(Default)]
pub(crate) struct Copies(Mutex<Vec<(PathBuf, Place)>>);

impl Copies {
    /// A copy of the runtime that a task's options name, where one can be
    /// made and is within a limit.
    pub async fn of(&self, options: Option<&Any>) -> Option<Arc<SealedCopy>> {
        let binary = runtime_root::binary(options)?;
        let place = self.place(&binary)?;
        let (path, locked) = (binary.clone(), place.clone().lock_owned());
        let look = async {
            let mut copy = locked.await;
            // Goes on when nobody waits any more, and keeps its place: one
            // thread at most is stuck with a binary.
            blocking(move || {
                // Whoever replaces a binary wants the new one to be run.
                if !copy.as_ref().is_some_and(|copy| copy.is_of(&path)) {
                    *copy = made(&path).map(Arc::new);
                }
                copy.clone()
            })
            .await
        };
        let Ok(copy) = tokio::time::timeout(LIMIT, look).await else {
            log::warn!(binary:% = binary.display(); "a runtime cannot be read now; no copy of it");
            return None;
        };
        if copy.is_none() {
            self.places().retain(|(_, known)| !Arc::ptr_eq(known, &place));
        }
        copy
    }

    /// The place of a binary's copy. None when all are being looked at.
    fn place(&self, binary: &Path) -> Option<Place> {
        let mut places = self.places();
        if let Some((_, place)) = places.iter().find(|(path, _)| path == binary) {
            return Some(Arc::clone(place));
        }
        if places.len() == COPIES_MAX {
            let idle = places.iter().position(|(_, place)| Arc::strong_count(place) == 1)?;
            places.remove(idle);
        }
        let place = Place::default();
        places.push((binary.to_owned(), Arc::clone(&place)));
        Some(place)
    }

    fn places(&self) -> MutexGuard<'_, Vec<(PathBuf, Place)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn made(binary: &Path) -> Option<SealedCopy> {
    SealedCopy::of(binary, SIZE_MAX).unwrap_or_else(|error| {
        log::debug!(binary:% = binary.display(), error:%; "no copy of a runtime in memory");
        None
    })
}

/// The variable's value.
pub(crate) fn told(copy: &SealedCopy) -> String {
    format!("{} {}", copy.as_fd().as_raw_fd(), copy.original())
}

#[cfg(test)]
mod tests {
    use davit_protocols::ttrpc::options::Options;
    use protobuf::Message as _;

    use super::*;

    fn options(binary: &Path) -> Any {
        let binary_name = binary.to_str().unwrap().to_owned();
        let message = Options { binary_name, ..Options::default() };
        let value = message.write_to_bytes().unwrap();
        Any { type_url: "containerd.runc.v1.Options".into(), value }
    }

    #[tokio::test]
    async fn one_copy_serves_until_the_binary_changes() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("crun");
        std::fs::write(&binary, b"\x7fELF 1").unwrap();
        let (copies, options) = (Copies::default(), options(&binary));
        let first = copies.of(Some(&options)).await.unwrap();
        assert!(Arc::ptr_eq(&first, &copies.of(Some(&options)).await.unwrap()));
        std::fs::write(&binary, b"\x7fELF 22").unwrap();
        let second = copies.of(Some(&options)).await.unwrap();
        assert!(second.is_of(&binary) && !first.is_of(&binary));
        assert_eq!(copies.0.lock().unwrap().len(), 1);
        std::fs::remove_file(&binary).unwrap();
        assert!(copies.of(Some(&options)).await.is_none());
        assert!(copies.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn there_are_few_copies() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::default();
        for number in 0..2 * COPIES_MAX {
            let binary = dir.path().join(number.to_string());
            std::fs::write(&binary, b"\x7fELF").unwrap();
            assert!(copies.of(Some(&options(&binary))).await.is_some());
        }
        assert_eq!(copies.0.lock().unwrap().len(), COPIES_MAX);
        assert!(copies.of(None).await.is_none(), "who knows what runs");
        let relative = options(Path::new("./crun"));
        assert!(copies.of(Some(&relative)).await.is_none(), "found elsewhere by the shim");
    }
    /// As long as its place is locked, somebody is stuck with a binary.
    #[tokio::test]
    async fn a_binary_that_cannot_be_read_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::default();
        let binary = |number: usize| {
            let binary = dir.path().join(number.to_string());
            std::fs::write(&binary, b"\x7fELF").unwrap();
            binary
        };
        let stuck: Vec<_> = (1..COPIES_MAX)
            .map(|number| copies.place(&binary(number)).unwrap().try_lock_owned().unwrap())
            .collect();
        for number in COPIES_MAX..2 * COPIES_MAX {
            assert!(copies.of(Some(&options(&binary(number)))).await.is_some());
        }
        assert!(copies.of(Some(&options(&binary(1)))).await.is_none());
        drop(stuck);
        assert!(copies.of(Some(&options(&binary(1)))).await.is_some());
    }
}
