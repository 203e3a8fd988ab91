//! Content on its way to a registry.

use std::sync::Arc;

use bytes::Bytes;
use davit_types::{Descriptor, Digest, Kind};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, StatusCode};

use super::Error;
use super::answer::Answer;
use super::body::{BlobSource, Payload};
use super::endpoint::Endpoint;
use super::referrers::Referrer;
use super::repository::{Repository, accept, path_of};
use super::resolve::told_digest;
use super::scope::Scopes;
use super::tour::{Tour, Turn};
use super::upload::Session;
use super::url::Url;

/// Repositories that a registry is asked to take a blob from; those after the
/// first few are not tried.
const MOST_MOUNTS: usize = 3;

/// Registries that want chunks say how long each must be at least (OCI
/// distribution specification 1.1, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// A registry that keeps lists of referrers answers with this to a manifest
/// that has a subject.
const SUBJECT: &str = "oci-subject";

/// How a blob has come to be in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Its bytes were sent.
    Uploaded,
    /// It was there already.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted {
        /// Which.
        from: String,
    },
}

/// One blob to be pushed.
pub(super) struct Parcel<'a> {
    pub blob: &'a Descriptor,
    pub source: Arc<dyn BlobSource>,
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl Repository {
    /// Brings `blob` into the repository, unless it is there: from one of
    /// `mount_from`, other repositories of the same registry, or from
    /// `source`. `progress` is told how many bytes are over; after a failure
    /// that can be fewer than before.
    ///
    /// # Errors
    /// [`Error::Denied`]; [`Error::Source`] when the blob cannot be read;
    /// whatever the registry says.
    pub async fn push_blob(
        &self,
        blob: &Descriptor,
        source: Arc<dyn BlobSource>,
        mount_from: &[String],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Pushed, Error> {
        let parcel = Parcel { blob, source, progress };
        let mut tour = self.push_tour()?;
        while let Some(turn) = tour.next().await {
            match self.push_blob_at(&turn, &parcel, mount_from).await {
                Ok(pushed) => return Ok(pushed),
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
        Err(tour.into_error(|| Error::NoHosts("push")))
    }

    /// Brings a manifest or index into the repository: as `reference`, a tag,
    /// or by its digest alone. What it refers to must be there. One that has a
    /// subject is put into the list of what refers to that, unless the
    /// registry keeps such lists itself.
    ///
    /// # Errors
    /// [`Error::Denied`]; whatever the registry says.
    pub async fn push_manifest(
        &self,
        manifest: &Descriptor,
        bytes: Bytes,
        reference: Option<&str>,
    ) -> Result<(), Error> {
        let mut tour = self.push_tour()?;
        while let Some(turn) = tour.next().await {
            match self.push_manifest_at(&turn, manifest, &bytes, reference).await {
                Ok(()) => return Ok(()),
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
        Err(tour.into_error(|| Error::NoHosts("push")))
    }

    /// Whether the blob or manifest is where pushes go to. Mirrors are not
    /// asked: what they have may be nowhere else.
    ///
    /// # Errors
    /// When that host cannot say.
    pub async fn has(&self, wanted: &Descriptor) -> Result<bool, Error> {
        let mut tour = self.push_tour()?;
        while let Some(turn) = tour.next().await {
            match self.is_there(&turn, &path_of(wanted), wanted).await {
                Ok(is_there) => return Ok(is_there),
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
        Err(tour.into_error(|| Error::NoHosts("push")))
    }

    /// Everything of an image goes to one host.
    fn push_tour(&self) -> Result<Tour, Error> {
        let first = self.0.endpoints.iter().find(|endpoint| endpoint.host.capabilities.push);
        let first = first.ok_or(Error::NoHosts("push"))?.clone();
        let shared = &self.0.shared;
        let (settings, health) = (shared.settings.clone(), shared.health.clone());
        Ok(Tour::new(std::iter::once(first), settings, health))
    }

    pub(super) fn push_scope(&self) -> Scopes {
        Scopes::push(self.0.reference.path())
    }

    async fn push_blob_at(
        &self,
        turn: &Turn,
        parcel: &Parcel<'_>,
        mount_from: &[String],
    ) -> Result<Pushed, Error> {
        let Parcel { blob, .. } = parcel;
        if self.is_there(turn, &path_of(blob), blob).await? {
            return Ok(Pushed::Existed);
        }
        let scopes = self.push_scope();
        let (endpoint, session) = (&turn.endpoint, self.mount(turn, blob, mount_from).await?);
        let session = match session {
            Mount::Done(from) => return Ok(Pushed::Mounted { from }),
            Mount::Begun(session) => session,
            Mount::Refused => {
                let ask = endpoint.ask(Method::POST, uploads(endpoint));
                let answer = endpoint.send(ask, &scopes, turn.patience).await.map_err(denied)?;
                match begun(answer).await? {
                    Begun::Session(session) => session,
                    // The registry had it after all.
                    Begun::Complete => return Ok(Pushed::Existed),
                }
            }
        };
        self.upload(turn, parcel, session, &scopes).await?;
        Ok(Pushed::Uploaded)
    }

    /// Whether `path` holds `content` already.
    async fn is_there(&self, turn: &Turn, path: &str, content: &Descriptor) -> Result<bool, Error> {
        let mut ask = turn.endpoint.ask(Method::HEAD, turn.endpoint.url(path));
        ask.headers.insert(ACCEPT, accept(&content.media_type));
        let sent = turn.endpoint.send(ask, &self.push_scope(), turn.patience).await;
        let answer = match sent {
            // Who may write may not always read.
            Err(Error::Unauthorized(_)) => return Ok(false),
            answer => answer?,
        };
        // Not every registry has learnt HEAD.
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            answer.discard().await;
            return Ok(false);
        }
        let answer = answer.checked().await?;
        // A tag is there with any digest.
        let is_address = path.ends_with(content.digest.as_str());
        Ok(is_address || told_digest(&answer)?.is_some_and(|digest| digest == content.digest))
    }

    /// Has the registry take the blob from another repository, if it can. One
    /// that cannot begins an upload instead.
    async fn mount(
        &self,
        turn: &Turn,
        blob: &Descriptor,
        mount_from: &[String],
    ) -> Result<Mount, Error> {
        let mut outcome = Mount::Refused;
        for from in mount_from.iter().take(MOST_MOUNTS) {
            if let Mount::Begun(session) = std::mem::replace(&mut outcome, Mount::Refused) {
                self.cancel(turn, session).await;
            }
            let url = uploads(&turn.endpoint)
                .with_query("mount", blob.digest.as_str())
                .with_query("from", from);
            let ask = turn.endpoint.ask(Method::POST, url);
            let scopes = self.push_scope().with(&Scopes::pull(from));
            let answer = match turn.endpoint.send(ask, &scopes, turn.patience).await {
                // The other repository may be closed to us.
                Err(Error::Unauthorized(_) | Error::Token { .. }) => continue,
                answer => answer?,
            };
            match answer.status {
                StatusCode::CREATED => {
                    answer.discard().await;
                    return Ok(Mount::Done(from.clone()));
                }
                status if status.is_client_error() => answer.discard().await,
                _ => {
                    if let Begun::Session(session) = begun(answer).await? {
                        outcome = Mount::Begun(session);
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// An upload that nobody needs is taken back; that it fails is no harm,
    /// registries forget such uploads in time.
    async fn cancel(&self, turn: &Turn, session: Session) {
        let ask = turn.endpoint.ask(Method::DELETE, session.location);
        match turn.endpoint.send(ask, &self.push_scope(), turn.patience).await {
            Ok(answer) => answer.discard().await,
            Err(error) => log::debug!(error = error.full_message().as_str(); "cancel an upload"),
        }
    }

    async fn push_manifest_at(
        &self,
        turn: &Turn,
        manifest: &Descriptor,
        bytes: &Bytes,
        reference: Option<&str>,
    ) -> Result<(), Error> {
        let path = format!("manifests/{}", reference.unwrap_or(manifest.digest.as_str()));
        let referrer = Referrer::of(manifest, bytes);
        if self.is_there(turn, &path, manifest).await? {
            return match &referrer {
                // Whoever brought it may have gone no further.
                Some(referrer) => self.ensure_listed(turn, referrer).await,
                None => Ok(()),
            };
        }
        let mut ask = turn.endpoint.ask(Method::PUT, turn.endpoint.url(&path));
        let media_type = HeaderValue::from_str(&manifest.media_type);
        let media_type = media_type.map_err(|_| Error::Host {
            host: turn.endpoint.host.authority.clone(),
            reason: format!("media type {:?} fits into no header", manifest.media_type),
        })?;
        ask.headers.insert(CONTENT_TYPE, media_type);
        ask.payload = Payload::Whole(bytes.clone());
        let sent = turn.endpoint.send(ask, &self.push_scope(), turn.patience).await;
        let answer = taken(sent.map_err(denied)?).await?;
        check_digest(&answer, &manifest.digest)?;
        let is_listed = answer.header(SUBJECT).is_some();
        answer.discard().await;
        match &referrer {
            Some(referrer) if !is_listed => self.list_by_tag(turn, referrer).await,
            _ => Ok(()),
        }
    }
}

/// What came of the wish to mount a blob.
enum Mount {
    Done(String),
    Begun(Session),
    Refused,
}

/// What came of the wish to upload one.
enum Begun {
    Session(Session),
    Complete,
}

/// Where uploads begin.
fn uploads(endpoint: &Endpoint) -> Url {
    endpoint.url("blobs/uploads/")
}

/// Reads the answer to the wish to upload a blob.
async fn begun(answer: Answer) -> Result<Begun, Error> {
    let answer = match answer.status {
        StatusCode::CREATED => {
            answer.discard().await;
            return Ok(Begun::Complete);
        }
        _ => taken(answer).await?,
    };
    let location = answer.header(LOCATION).ok_or_else(|| answer.nonsense("no upload location"))?;
    let location = answer.url.join(location).map_err(|bad| answer.nonsense(bad.to_string()))?;
    if answer.url.origin().is_secure() && !location.origin().is_secure() {
        return Err(answer.nonsense("an upload location without TLS"));
    }
    let least = answer.header(CHUNK_MIN_LENGTH).and_then(|text| text.trim().parse().ok());
    answer.discard().await;
    Ok(Begun::Session(Session { location, chunk_min: least }))
}

/// Itself, where content was taken. 201 is what is specified; registries say
/// other things, too.
pub(super) async fn taken(answer: Answer) -> Result<Answer, Error> {
    match answer.status.as_u16() {
        200 | 201 | 202 | 204 => Ok(answer),
        _ => Err(answer.status_error().await),
    }
}

/// Makes sure that the registry has understood what we have sent.
pub(super) fn check_digest(answer: &Answer, expected: &Digest) -> Result<(), Error> {
    match told_digest(answer)? {
        Some(actual) if actual.algorithm() == expected.algorithm() && actual != *expected => {
            Err(Error::Digest { actual, expected: expected.clone() })
        }
        _ => Ok(()),
    }
}

fn denied(error: Error) -> Error {
    match error {
        error @ Error::Unauthorized(_) => Error::Denied("push", Box::new(error)),
        error => error,
    }
}
