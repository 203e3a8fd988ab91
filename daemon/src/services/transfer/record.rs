//! What a client wants to see of the traffic with a registry (containerd,
//! `pkg/httpdbg`): requests and answers on a stream of the client's or in the
//! log, connections in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use davit_distribution::registry::Record;
use davit_protocols::grpc::containerd::types::transfer::HttpDebug;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::outgoing;
use crate::services::streaming::Opened;

/// Requests and answers that wait for a client to take them; more are left
/// out, and it is told so.
const WAITING_MAX: usize = 4096;
/// How long a client may take over the last ones.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// What is written down, and where.
struct Recorder {
    exchanges: bool,
    connections: bool,
    /// The client's stream; without one it is the log.
    stream: Option<mpsc::Sender<Bytes>>,
    lost: AtomicU64,
}

/// What goes on until all is written.
#[derive(Default)]
pub(super) struct Recording {
    writing: Option<JoinHandle<()>>,
}

/// Begins to write down what `wanted` says.
pub(super) fn begin(
    wanted: HttpDebug,
    stream: Option<Opened>,
) -> (Option<Arc<dyn Record>>, Recording) {
    let (exchanges, connections) = match wanted {
        HttpDebug::Disabled => return (None, Recording::default()),
        HttpDebug::Debug => (true, false),
        HttpDebug::Trace => (false, true),
        HttpDebug::Both => (true, true),
    };
    let (sender, writing) = match stream {
        None => (None, None),
        Some(stream) => {
            let (sender, texts) = mpsc::channel(WAITING_MAX);
            let writing = tokio::spawn(async move {
                // A client that has gone has seen enough.
                let _ = outgoing::send_at_once(stream, texts).await;
            });
            (Some(sender), Some(writing))
        }
    };
    let recorder = Recorder { exchanges, connections, stream: sender, lost: AtomicU64::default() };
    (Some(Arc::new(recorder)), Recording { writing })
}

impl Recording {
    /// Waits until the client has taken what there is, once nobody writes any
    /// more.
    pub(super) async fn end(mut self) {
        let Some(mut writing) = self.writing.take() else { return };
        if tokio::time::timeout(FLUSH_LIMIT, &mut writing).await.is_err() {
            log::warn!("a client is slow to take what was said to a registry");
            writing.abort();
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(writing) = &self.writing {
            writing.abort();
        }
    }
}

impl Record for Recorder {
    fn exchange(&self, text: Bytes) {
        if !self.exchanges {
            return;
        }
        let Some(stream) = &self.stream else {
            let text = String::from_utf8_lossy(&text);
            return log::info!(target: "davit_daemon::registry", "{}", text.trim_end());
        };
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 && stream.try_send(format!("[{lost} left out]\r\n").into()).is_ok() {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        if stream.try_send(text).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn connection(&self, host: &str, peer: &str, reused: bool) {
        if self.connections {
            log::debug!(host, remote_addr = peer, reused; "Connection successful");
        }
    }
}
