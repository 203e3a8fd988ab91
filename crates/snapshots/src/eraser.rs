//! Removing directories in the background, so that whoever removes a snapshot
//! with a million files, or a collection of many, need not wait for them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use davit_types::Kind;

use crate::Error;
use crate::dirs::Dirs;

/// Directories that wait at a time. Whoever comes after that many removes
/// its own.
const WAITING_MAX: usize = 1 << 14;

/// The background. There is a thread while there is something to do.
#[derive(Debug, Default)]
pub(crate) struct Eraser(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<PathBuf>,
    running: bool,
}

impl Eraser {
    /// Has `dirs` remove the directory `path`, which has lost its name
    /// already: what is left when the process ends is found by its next
    /// cleanup.
    pub(crate) fn erase(&self, dirs: &Arc<Dirs>, path: PathBuf) -> Result<(), Error> {
        {
            let mut queue = lock(&self.0);
            if queue.waiting.len() >= WAITING_MAX {
                drop(queue);
                return dirs.erase(&path);
            }
            queue.waiting.push_back(path);
            if std::mem::replace(&mut queue.running, true) {
                return Ok(());
            }
        }
        let (queue, dirs) = (Arc::clone(&self.0), Arc::clone(dirs));
        let work = move || run(&queue, &dirs);
        match thread::Builder::new().name("snapshot-eraser".to_owned()).spawn(work.clone()) {
            Ok(_) => {}
            // No thread to be had: this one does it.
            Err(_) => work(),
        }
        Ok(())
    }
}

fn run(queue: &Mutex<Queue>, dirs: &Dirs) {
    loop {
        let path = {
            let mut queue = lock(queue);
            match queue.waiting.pop_front() {
                Some(path) => path,
                None => {
                    queue.running = false;
                    return;
                }
            }
        };
        if let Err(error) = dirs.erase(&path) {
            let error = error.full_message();
            log::warn!(path:% = path.display(), error = error.as_str();
                "a removed snapshot stays on disk");
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
