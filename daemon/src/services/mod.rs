//! The gRPC services, one file each, and what they share: who asks, on behalf
//! of which lease, how a failure looks on the wire, and the one crossing from
//! async to blocking code.
//!
//! A handler converts, calls one domain function, and converts back. Nothing
//! else happens here.

pub mod containers;
pub mod content;
pub mod diff;
pub mod events;
pub mod events_ttrpc;
pub mod health;
pub mod images;
pub mod introspection;
pub mod leases;
pub mod maintenance;
pub mod mounts;
pub mod namespaces;
pub mod snapshots;
pub mod streaming;
pub mod tasks;
pub mod transfer;
pub mod version;

use davit_events::Exchange;
use davit_index::LeaseId;
use davit_types::{Any, Kind, Namespace};
use tokio::sync::Semaphore;
use tonic::{Request, Status};

/// How many long lists are read at once; more wait, without a thread.
pub const LOOKS_MAX: usize = 2;
/// The metadata key that says whose things a call is about (containerd,
/// `pkg/namespaces/grpc.go`).
pub const NAMESPACE_HEADER: &str = "containerd-namespace";
/// The metadata key that says which lease holds what a call makes
/// (containerd, `core/leases/grpc.go`).
pub const LEASE_HEADER: &str = "containerd-lease";

/// The namespace that a call is about.
///
/// # Errors
/// `FailedPrecondition` when the caller named none, `InvalidArgument` when the
/// name breaks the rule for identifiers; both with containerd's words.
pub fn namespace<T>(request: &Request<T>) -> Result<Namespace, Status> {
    let name = header(request, NAMESPACE_HEADER).unwrap_or_default();
    if name.is_empty() {
        return Err(Status::failed_precondition("namespace is required: failed precondition"));
    }
    Namespace::new(name)
        .map_err(|error| Status::invalid_argument(format!("namespace validation: {error}")))
}

/// The lease that is to hold what a call makes; `None` when the caller named
/// none, or an empty one. Whether it exists is the index's question.
pub fn lease<T>(request: &Request<T>) -> Option<LeaseId> {
    header(request, LEASE_HEADER).filter(|id| !id.is_empty()).map(LeaseId::new)
}

fn header<'a, T>(request: &'a Request<T>, key: &str) -> Option<&'a str> {
    request.metadata().get(key).and_then(|value| value.to_str().ok())
}

/// A failure as clients read it: the code that the table in `protocols` gives
/// its kind, and the whole message with every source behind it. For
/// `.map_err(status)`.
pub fn status(error: impl Kind) -> Status {
    davit_protocols::error::status(&error)
}

/// Tells everybody of a change. For use right after the change was committed,
/// in the same piece of blocking work, so that a caller who goes away does
/// not take the news with it.
pub fn publish(events: &Exchange, namespace: &Namespace, topic: &str, event: Any) {
    if let Err(error) = events.publish(namespace, topic, event) {
        log::error!(namespace:%, topic, error:%; "an event could not be published");
    }
}

/// Runs blocking code (files, mounts, the index) on the blocking pool and
/// answers with its result, failures converted by [`status`].
///
/// The closure runs to its end although the caller may have gone: a change is
/// made as a whole or not at all.
///
/// # Errors
/// Those of the closure; `Internal` when it panicked.
pub async fn blocking<T, E, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    E: Kind + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    answering(move || work().map_err(status)).await
}

/// As [`blocking`], for code that finds the words for its failures itself.
///
/// # Errors
/// As with [`blocking`].
pub async fn answering<T, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Status> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => {
            log::error!(failure:%; "a request's blocking part did not finish");
            Err(Status::internal("the request failed inside the daemon: internal"))
        }
    }
}

/// Runs a look at one thing in the index where it is called: to hand it over
/// to another thread and wake that one takes longer than the look, which
/// reads a page or two that are in memory, and waits for nobody who writes.
///
/// # Errors
/// As with [`blocking`].
pub fn brief<T, E: Kind>(look: impl FnOnce() -> Result<T, E>) -> Result<T, Status> {
    look().map_err(status)
}

/// As [`blocking`], for what looks at so much that others would wait if many
/// did it at once: no more than [`LOOKS_MAX`] do.
///
/// # Errors
/// As with [`blocking`].
pub async fn looking<T, E, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    E: Kind + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    static LOOKS: Semaphore = Semaphore::const_new(LOOKS_MAX);
    let _permit = LOOKS.acquire().await;
    blocking(work).await
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn with(key: &'static str, value: &'static str) -> Request<()> {
        let mut request = Request::new(());
        request.metadata_mut().insert(key, value.parse().unwrap());
        request
    }

    #[test]
    fn a_call_without_a_namespace_is_refused_with_containerds_words() {
        for request in [Request::new(()), with(NAMESPACE_HEADER, "")] {
            let refusal = namespace(&request).unwrap_err();
            assert_eq!(refusal.code(), Code::FailedPrecondition);
            assert_eq!(refusal.message(), "namespace is required: failed precondition");
        }
        assert_eq!(namespace(&with(NAMESPACE_HEADER, "moby")).unwrap().as_str(), "moby");
    }

    #[test]
    fn a_namespace_that_could_be_a_path_is_refused() {
        let refusal = namespace(&with(NAMESPACE_HEADER, "../a")).unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().starts_with("namespace validation: identifier \"../a\" must"));
    }

    #[test]
    fn an_empty_lease_is_none() {
        assert_eq!(lease(&Request::new(())), None);
        assert_eq!(lease(&with(LEASE_HEADER, "")), None);
        assert_eq!(lease(&with(LEASE_HEADER, "l1")), Some(LeaseId::new("l1")));
    }

    #[tokio::test]
    async fn a_panic_in_blocking_work_is_an_internal_error() {
        let refusal = blocking(|| -> Result<(), davit_types::InvalidId> { panic!("on purpose") });
        assert_eq!(refusal.await.unwrap_err().code(), Code::Internal);
        let refusal = blocking(|| davit_types::ContainerId::new("")).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert_eq!(refusal.message(), "identifier must not be empty: invalid argument");
    }
}
