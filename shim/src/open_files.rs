//! The limit of open files. A shim has some open for each process until
//! Delete, and so may open as many as it is allowed to, as Go's shim does. Its
//! children start with the limit that it was started with: containers inherit
//! it.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;

use davit_sys::process::{raise_open_files, restore_open_files};
use nix::libc::{EBADF, EMFILE};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit that this process was started with, once it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises this process's limit as far as it is allowed to.
pub(crate) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from).and_then(|before| {
        raise_open_files().map_err(io::Error::other)?;
        Ok(before.0)
    });
    match raised {
        Ok(before) => drop(BEFORE.set(before)),
        Err(error) => log::warn!(error:%; "the limit of open files stays"),
    }
}

/// Starts a command with the limit that this process was started with.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let Some(&before) = BEFORE.get() else { return command.spawn() };
    let (raised, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // This process's own limit, for a moment: a child that has to lower it
    // itself cannot be made without copying this process.
    setrlimit(Resource::RLIMIT_NOFILE, before.min(raised), hard)?;
    let spawned = command.spawn();
    // Up to the hard limit it cannot be refused.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, raised, hard);
    let is_over = |error: &io::Error| matches!(error.raw_os_error(), Some(EMFILE | EBADF));
    match spawned {
        // More files are open than that, or one that the child is to get has a
        // higher number, which glibc's posix_spawn refuses.
        Err(error) if is_over(&error) => {
            restore_open_files(command);
            command.spawn()
        }
        spawned => spawned,
    }
}
