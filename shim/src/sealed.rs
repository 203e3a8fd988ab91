//! The copy of a runtime's binary that davitd has in memory, on its way to the
//! serving process: as the standard output of that, which has no other. Daemons
//! that know nothing of it offer none.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use runc_client::SealedCopy;

use crate::cli::Invocation;

/// What davitd tells `start`: the number of a descriptor of its own, and what
/// that is a copy of.
pub(crate) const VARIABLE: &str = "DAVIT_SEALED_RUNTIME";

/// A copy that the daemon offers.
pub(crate) struct Offer {
    /// The copy, open.
    pub file: OwnedFd,
    /// What it is a copy of.
    pub original: String,
}

/// What the daemon offers this `start`. Where it cannot be had, the binary is
/// as good.
pub(crate) fn offered() -> Option<Offer> {
    let told = std::env::var(VARIABLE).ok()?;
    let (number, original) = told.split_once(' ')?;
    let number: u32 = number.parse().ok()?;
    let daemon = nix::unistd::getppid();
    let file = File::open(format!("/proc/{daemon}/fd/{number}")).ok()?;
    // Or else the number was that of another process by now.
    (nix::unistd::getppid() == daemon)
        .then(|| Offer { file: file.into(), original: original.into() })
}

/// The copy that `start` has left to this process, if it had one.
pub(crate) fn inherited(invocation: &Invocation) -> Option<Arc<SealedCopy>> {
    if invocation.sealed_runtime.is_empty() {
        return None;
    }
    let adopted = standard_output()
        .and_then(|file| SealedCopy::adopt(file, invocation.sealed_runtime.parse()?));
    match adopted {
        Ok(copy) => Some(Arc::new(copy)),
        Err(error) => {
            log::warn!(error:%; "the daemon's copy of the runtime is of no use");
            None
        }
    }
}

/// Takes what is standard output, and leaves nothing in its place.
fn standard_output() -> io::Result<OwnedFd> {
    let file = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(file)
}
