//! Notices that a container has run out of memory.
//!
//! The loop reads the notices itself, once when it is woken and once before
//! the init's exit is published: so none is lost, and none comes after.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;

use davit_sys::cgroup::{Cgroup, OomEvent, OomWatch};
use davit_sys::polled::Polled;
use davit_types::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::event::Event;

/// Watches one container. Dropping it ends the watch.
pub struct OomMonitor {
    watch: RefCell<OomWatch>,
    task: JoinHandle<()>,
}

impl OomMonitor {
    /// Starts to watch; the loop is told with [`Event::Oom`]. `None` when the
    /// group cannot be watched, which is logged.
    pub fn new(container: &str, cgroup: &Cgroup, events: mpsc::Sender<Event>) -> Option<Self> {
        let failed = |error: &str| {
            log::error!(container, error; "cannot watch for running out of memory");
        };
        let watch = cgroup.watch_oom().map_err(|error| failed(&error.full_message())).ok()?;
        let polled = poll(&watch).map_err(|error| failed(&error.to_string())).ok()?;
        let task = tokio::task::spawn_local(notify(polled, container.to_owned(), events));
        Some(Self { watch: RefCell::new(watch), task })
    }

    /// Whether a process was killed since the last look.
    pub fn has_killed(&self) -> bool {
        match self.watch.borrow_mut().read() {
            Ok(OomEvent::Kill) => true,
            Ok(OomEvent::None) => false,
            Ok(OomEvent::Gone) => {
                self.task.abort();
                false
            }
            Err(error) => {
                log::warn!(error:% = error.full_message(); "cannot read memory events");
                false
            }
        }
    }
}

impl Drop for OomMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The same descriptor, for a task to wait for.
fn poll(watch: &OomWatch) -> io::Result<Polled> {
    Polled::reader(watch.as_fd().try_clone_to_owned()?)
}

async fn notify(polled: Polled, container: String, events: mpsc::Sender<Event>) {
    while polled.notified().await.is_ok() {
        if events.send(Event::Oom(container.clone())).await.is_err() {
            return;
        }
    }
}
