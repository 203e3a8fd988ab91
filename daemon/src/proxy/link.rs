//! The connection to one part that runs elsewhere.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use davit_protocols::error::RemoteError;
use davit_types::Namespace;
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Error;
use crate::services::NAMESPACE_HEADER;

/// Calls that may be under way at a time; others wait, and their wait counts.
const CALLS_MAX: usize = 64;

/// How long connecting to a socket of this machine may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The largest message that either side sends, in bytes (containerd,
/// `defaults`).
pub(super) const MESSAGE_LIMIT: usize = 16 << 20;

/// One process, by its address. Connects when it is first called, and again
/// when the connection has broken.
#[derive(Debug)]
pub(super) struct Link {
    what: &'static str,
    name: String,
    address: String,
    endpoint: Endpoint,
    channel: OnceLock<Channel>,
    calls: Semaphore,
}

impl Link {
    /// A link to `what` (`snapshotter`) called `name` at the socket `address`,
    /// a path, or `unix://` and one.
    pub(super) fn new(what: &'static str, name: String, address: String) -> Result<Self, Error> {
        let path = address.strip_prefix("unix://").unwrap_or(&address);
        let wrong =
            |reason: String| Error::Address { who: describe(what, &name, &address), reason };
        if !path.starts_with('/') {
            return Err(wrong("its address is no absolute path of a socket".to_owned()));
        }
        let endpoint = Endpoint::try_from(format!("unix://{path}"))
            .map_err(|error| wrong(error.to_string()))?
            .connect_timeout(CONNECT_LIMIT);
        let calls = Semaphore::new(CALLS_MAX);
        Ok(Self { what, name, address, endpoint, channel: OnceLock::new(), calls })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes one call, which has `limit` for everything.
    pub(super) async fn call<T, F>(
        &self,
        limit: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.within(limit, async {
            let _turn = self.calls.acquire().await.map_err(|_| ended())?;
            // Made here, because it needs the runtime.
            let channel = self.channel.get_or_init(|| self.endpoint.connect_lazy()).clone();
            call(channel).await
        })
        .await
    }

    /// Goes on with a call that was made before, for `limit`.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(|status| self.failure(status)),
            Err(_) => Err(Error::Stuck { who: self.who(), limit }),
        }
    }

    fn failure(&self, status: Status) -> Error {
        use std::error::Error as _;
        // A status with a source was made on this side. What a server answers
        // has none.
        let Some(mut source) = status.source() else {
            return Error::Remote(RemoteError::from(status));
        };
        while let Some(deeper) = source.source() {
            source = deeper;
        }
        Error::Away { who: self.who(), reason: source.to_string() }
    }

    /// What it is, what it is called, and where.
    pub(super) fn who(&self) -> String {
        describe(self.what, &self.name, &self.address)
    }
}

/// Turns are never ended.
fn ended() -> Status {
    Status::internal("the daemon ends: internal")
}

fn describe(what: &str, name: &str, address: &str) -> String {
    format!("{what} {name:?} at {address}")
}

/// A request about what is in `namespace`.
pub(super) fn about<T>(namespace: &Namespace, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = namespace.as_str().parse().expect("names are letters, digits and separators");
    request.metadata_mut().insert(NAMESPACE_HEADER, header);
    request
}

#[cfg(test)]
mod tests {
    use davit_types::{ErrorKind, Kind};

    use super::*;

    #[test]
    fn an_address_is_a_path() {
        for (address, good) in [
            ("/run/x.sock", true),
            ("unix:///run/x.sock", true),
            ("", false),
            ("run/x.sock", false),
            ("tcp://127.0.0.1:1", false),
            ("unix://x", false),
        ] {
            let link = Link::new("snapshotter", "x".into(), address.into());
            assert_eq!(link.is_ok(), good, "{address}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_at_once_and_a_stuck_one_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock").to_str().unwrap().to_owned();
        let link = Link::new("snapshotter", "x".into(), path.clone()).unwrap();
        let stat = |limit| {
            link.call(limit, |channel| async move {
                use davit_protocols::grpc::containerd::services::snapshots::v1 as wire;
                let mut client = wire::snapshots_client::SnapshotsClient::new(channel);
                client.stat(wire::StatSnapshotRequest::default()).await
            })
        };
        let away = stat(Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(away.kind(), ErrorKind::Unavailable, "{away}");
        assert!(away.to_string().contains(&path), "{away}");
        // Somebody who takes connections and never says a word.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let stuck = stat(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(stuck.kind(), ErrorKind::DeadlineExceeded, "{stuck}");
    }
}
