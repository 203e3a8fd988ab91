//! Under construction.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Cgroup;
use crate::Result;

/// What an [`OomWatch`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// Nothing since the last look.
    None,
    /// At least one process was killed.
    Kill,
    /// The group has been removed; nothing more will come.
    Gone,
}

/// Watches a group for kills. Its descriptor is non-blocking and becomes
/// readable when there may be something to [`read`](Self::read).
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
}

impl OomWatch {
    pub(super) fn new(_group: &Cgroup) -> Result<Self> {
        todo!()
    }

    /// What has happened since the last call. Does not wait. Also to be
    /// called once after the container's exit, before that is published.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self) -> Result<OomEvent> {
        todo!()
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
