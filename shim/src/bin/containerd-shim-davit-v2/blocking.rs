//! Work that may hang in the kernel: mounts of network and user-space file
//! systems. It gets a thread that ends with it, so that a mount that hangs
//! holds up its own container and no other.

use std::io;

use tokio::sync::oneshot;

/// The thread's stack, in bytes; the work is shallow.
const STACK: usize = 256 << 10;

/// Runs `work` on a thread of its own and waits for what it returns.
///
/// # Errors
/// When there can be no more threads.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    run_first(|| (work(), ())).await
}

/// The same for work that leaves something behind whose end nobody needs to
/// wait for: the second part is dropped on the thread, after the caller has
/// the first.
///
/// # Errors
/// As [`run`].
pub async fn run_first<T: Send + 'static, L>(
    work: impl FnOnce() -> (T, L) + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let (first, left) = work();
        // A caller that has gone is no error.
        let _ = sender.send(first);
        drop(left);
    })?;
    result.await.map_err(|_| io::Error::other("the thread has ended without a result"))
}
