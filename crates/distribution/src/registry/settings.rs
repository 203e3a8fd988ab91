//! How patient we are with registries.

use std::time::Duration;

/// What a [`Registry`](super::Registry) goes by. The default suits nearly
/// everybody.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How we call ourselves to registries.
    pub user_agent: String,
    /// After so many failed attempts without progress, the error is told. A
    /// host that cannot be reached at all is tried less often.
    pub retries: u32,
    /// The pause after the first failed attempt; it doubles with each.
    pub backoff: Duration,
    /// The longest pause of our own choice.
    pub backoff_limit: Duration,
    /// The longest pause that a server's `Retry-After` may impose. One that
    /// asks for more is not asked again.
    pub retry_after_limit: Duration,
    /// How long a connection may take until it is ready, where the host's own
    /// configuration does not say.
    pub connect_timeout: Duration,
    /// The same, while there is another host left to ask.
    pub mirror_connect_timeout: Duration,
    /// How long a server may say nothing, before the answer and within it.
    pub stall_timeout: Duration,
    /// The same, while there is another host left to ask. A mirror may have to
    /// fetch first what it is asked for.
    pub mirror_timeout: Duration,
    /// How long a server may take to answer after it has got all of an upload,
    /// and at most to begin with a blob where there is no other host left to
    /// ask: it gets twice as much time at each attempt.
    pub commit_timeout: Duration,
    /// Bytes a second; a host that is slower while there is another one left
    /// to ask is left.
    pub slow_rate: u64,
    /// How long the rest of a blob may take at a host's pace; a host that needs
    /// longer while there is another one left to ask is left, and gone back to
    /// when that one needs longer still.
    pub slow_rest: Duration,
    /// How long a host that was dead or slow is asked last.
    pub bad_host_memory: Duration,
    /// Downloads at a time from one host; 0 is any number.
    pub downloads: usize,
    /// How one large blob is fetched in parallel; `None` is not at all, as
    /// with containerd.
    pub ranges: Option<Ranges>,
    /// Uploads go in chunks of so many bytes. `None` is all in one piece, as
    /// with containerd, unless the registry asks for chunks.
    pub upload_chunk: Option<u64>,
}

/// How one blob is fetched in parallel pieces. Memory is bounded by the
/// product of both figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Pieces at a time, at least 2.
    pub count: usize,
    /// Bytes of a piece.
    pub size: u64,
}

impl Default for Ranges {
    fn default() -> Self {
        Self { count: 4, size: 2 << 20 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_agent: concat!("davit/", env!("CARGO_PKG_VERSION")).to_owned(),
            retries: 5,
            backoff: Duration::from_millis(250),
            backoff_limit: Duration::from_secs(10),
            retry_after_limit: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            mirror_connect_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(30),
            mirror_timeout: Duration::from_secs(10),
            commit_timeout: Duration::from_secs(600),
            slow_rate: 16 << 10,
            slow_rest: Duration::from_secs(60),
            bad_host_memory: Duration::from_secs(60),
            downloads: 0,
            ranges: None,
            upload_chunk: None,
        }
    }
}
