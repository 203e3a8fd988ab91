//! Copies of runtimes' binaries in memory, for shims to run in place of the
//! binaries ([`SealedCopy`] says what that is good for). One serves all
//! containers, which is why it is the daemon that makes it.
//!
//! A shim is told by a variable, which others than ours do not know. What it
//! has opened is its own: nothing depends on the daemon from then on.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use davit_types::Any;
use runc_client::SealedCopy;

use crate::runtime_root;

/// Tells a shim which descriptor of its parent's is a copy, and of what.
pub(crate) const VARIABLE: &str = "DAVIT_SEALED_RUNTIME";
/// The largest binary that is copied, in bytes: crun has half a million, runc
/// nine million. Others, which have more, copy nothing themselves.
const SIZE_MAX: u64 = 16 << 20;
/// How many copies there are at most.
const COPIES_MAX: usize = 4;

/// The copies that have been made.
#[derive(Default)]
pub(crate) struct Copies(Mutex<Vec<(PathBuf, Arc<SealedCopy>)>>);

impl Copies {
    /// A copy of the runtime that a task's options name, where one can be
    /// made. Blocks.
    pub fn of(&self, options: Option<&Any>) -> Option<Arc<SealedCopy>> {
        let binary = runtime_root::binary(options)?;
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever replaces a binary wants the new one to be run.
        copies.retain(|(path, copy)| *path != binary || copy.is_of(path));
        if let Some((_, copy)) = copies.iter().find(|(path, _)| *path == binary) {
            return Some(Arc::clone(copy));
        }
        let copy = Arc::new(made(&binary)?);
        if copies.len() == COPIES_MAX {
            copies.remove(0);
        }
        copies.push((binary, Arc::clone(&copy)));
        Some(copy)
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

    #[test]
    fn one_copy_serves_until_the_binary_changes() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("crun");
        std::fs::write(&binary, b"\x7fELF 1").unwrap();
        let (copies, options) = (Copies::default(), options(&binary));
        let first = copies.of(Some(&options)).unwrap();
        assert!(Arc::ptr_eq(&first, &copies.of(Some(&options)).unwrap()));
        std::fs::write(&binary, b"\x7fELF 22").unwrap();
        let second = copies.of(Some(&options)).unwrap();
        assert!(second.is_of(&binary) && !first.is_of(&binary));
        assert_eq!(copies.0.lock().unwrap().len(), 1);
        std::fs::remove_file(&binary).unwrap();
        assert!(copies.of(Some(&options)).is_none());
        assert!(copies.0.lock().unwrap().is_empty());
    }

    #[test]
    fn there_are_few_copies() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::default();
        for number in 0..2 * COPIES_MAX {
            let binary = dir.path().join(number.to_string());
            std::fs::write(&binary, b"\x7fELF").unwrap();
            assert!(copies.of(Some(&options(&binary))).is_some());
        }
        assert_eq!(copies.0.lock().unwrap().len(), COPIES_MAX);
        assert!(copies.of(None).is_none(), "who knows what runs");
        let relative = options(Path::new("./crun"));
        assert!(copies.of(Some(&relative)).is_none(), "found elsewhere by the shim");
    }
}
