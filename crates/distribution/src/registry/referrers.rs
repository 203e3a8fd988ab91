//! What refers to a manifest as its subject, where the registry keeps no list
//! of that itself: an index under a tag that is made of the subject's digest,
//! which whoever pushes has to keep (OCI distribution specification 1.1,
//! "Pushing Manifests with Subject").
//!
//! Others may write to it at the same time. Our own pushes take turns, the
//! registry is told which list we have read where it says which that was, and
//! afterwards we look whether the list is the one that we wrote.

use bytes::Bytes;
use davit_types::{Descriptor, Digest};
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Error;
use super::body::Payload;
use super::push::taken;
use super::repository::Repository;
use super::tour::Turn;
use crate::manifest::{Document, MAX_DOCUMENT, MAX_ENTRIES};

/// The type of lists of referrers.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Whatever is under a tag. Some registries deny what is of a type that they
/// were not asked for, and an image is not to be taken for nothing.
const ANYTHING: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*";

/// How often the list is written anew because somebody else has written it.
const ATTEMPTS: usize = 5;

/// A manifest that has a subject.
pub(super) struct Referrer {
    subject: Digest,
    digest: Digest,
    /// What the list has of it.
    entry: Value,
}

/// A list as it was read.
struct List {
    index: Value,
    /// Which it was, if the registry says so; `None` of the inner one for a
    /// list that there was not.
    version: Option<Option<HeaderValue>>,
}

impl Referrer {
    /// What `manifest` refers to, if it has a subject. A document that cannot
    /// be read has none.
    pub(super) fn of(manifest: &Descriptor, bytes: &[u8]) -> Option<Self> {
        let document = Document::parse(&manifest.media_type, bytes).ok()?;
        let config = match &document {
            Document::Index(_) => None,
            Document::Manifest(manifest) => Some(manifest.config.blob.media_type.clone()),
        };
        let extras = document.extras();
        let subject = extras.subject.as_ref()?.blob.digest.clone();
        let own = extras.artifact_type.clone().filter(|own| !own.is_empty());
        let mut entry = json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest.as_str(),
            "size": manifest.size,
        });
        if let Some(artifact_type) = own.or(config).filter(|artifact| !artifact.is_empty()) {
            entry["artifactType"] = artifact_type.into();
        }
        if !extras.annotations.is_empty() {
            entry["annotations"] = json!(extras.annotations);
        }
        Some(Self { subject, digest: manifest.digest.clone(), entry })
    }
}

impl Repository {
    /// Makes sure that the registry lists `referrer`: as one that keeps lists
    /// itself does, or under a tag.
    pub(super) async fn ensure_listed(
        &self,
        turn: &Turn,
        referrer: &Referrer,
    ) -> Result<(), Error> {
        match self.keeps_lists(turn, &referrer.subject).await? {
            true => Ok(()),
            false => self.list_by_tag(turn, referrer).await,
        }
    }

    /// Whether the registry keeps lists of referrers itself.
    async fn keeps_lists(&self, turn: &Turn, subject: &Digest) -> Result<bool, Error> {
        let url = turn.endpoint.url(&format!("referrers/{subject}"));
        let mut ask = turn.endpoint.ask(Method::GET, url);
        ask.headers.insert(ACCEPT, HeaderValue::from_static(INDEX));
        let answer = turn.endpoint.send(ask, &self.push_scope(), turn.patience).await?;
        match answer.status.is_client_error() {
            true => answer.discard_with(false).await,
            false => answer.checked().await?.discard_with(true).await,
        }
    }

    /// Adds `referrer` to the list under its subject's tag, unless it is
    /// there.
    pub(super) async fn list_by_tag(&self, turn: &Turn, referrer: &Referrer) -> Result<(), Error> {
        let tag = tag(&referrer.subject);
        let name = format!("{}/{}:{tag}", turn.endpoint.host.authority, self.0.reference.path());
        let _turn = self.0.shared.referrers.take(&name).await;
        let failed = |source| Error::Referrers {
            subject: referrer.subject.clone(),
            source: Box::new(source),
        };
        for _ in 0..ATTEMPTS {
            let list = self.read_list(turn, &tag).await.map_err(failed)?;
            if list.has(&referrer.digest) {
                return Ok(());
            }
            self.write_list(turn, &tag, list.with(referrer)).await.map_err(failed)?;
        }
        let what = format!("others have written it {ATTEMPTS} times meanwhile");
        Err(failed(Error::Answer { url: name, what }))
    }

    async fn read_list(&self, turn: &Turn, tag: &str) -> Result<List, Error> {
        let url = turn.endpoint.url(&format!("manifests/{tag}"));
        let mut ask = turn.endpoint.ask(Method::GET, url);
        ask.headers.insert(ACCEPT, HeaderValue::from_static(ANYTHING));
        let answer = turn.endpoint.send(ask, &self.push_scope(), turn.patience).await?;
        if answer.status == StatusCode::NOT_FOUND {
            answer.discard().await;
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
            return Ok(List { index, version: Some(None) });
        }
        let answer = answer.checked().await?;
        let version = answer.header(ETAG).and_then(|text| HeaderValue::from_str(text).ok());
        let url = answer.url.to_string();
        let none = |what: String| Error::Answer { url, what };
        let bytes = answer.whole(MAX_DOCUMENT, "a list of referrers").await?;
        if let Err(error) = Document::parse(INDEX, &bytes) {
            return Err(none(format!("what is there is no list of referrers: {error}")));
        }
        let index = serde_json::from_slice(&bytes).map_err(|error| none(error.to_string()))?;
        Ok(List { index, version: version.map(Some) })
    }

    /// Writes the list; one that was not taken, because it had changed, is no
    /// failure.
    async fn write_list(&self, turn: &Turn, tag: &str, list: List) -> Result<(), Error> {
        let url = turn.endpoint.url(&format!("manifests/{tag}"));
        let mut ask = turn.endpoint.ask(Method::PUT, url);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static(INDEX));
        match list.version {
            Some(Some(version)) => drop(ask.headers.insert(IF_MATCH, version)),
            Some(None) => drop(ask.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"))),
            None => {}
        }
        let text = list.index.to_string();
        let entries = list.index["manifests"].as_array().map_or(0, Vec::len);
        if text.len() as u64 > MAX_DOCUMENT || entries > MAX_ENTRIES {
            let (url, what) = (ask.url.to_string(), format!("the list has {entries} entries"));
            return Err(Error::Answer { url, what });
        }
        ask.payload = Payload::Whole(Bytes::from(text));
        let answer = turn.endpoint.send(ask, &self.push_scope(), turn.patience).await?;
        let refused = [StatusCode::PRECONDITION_FAILED, StatusCode::CONFLICT];
        let answer = match refused.contains(&answer.status) {
            true => answer,
            false => taken(answer).await?,
        };
        answer.discard().await;
        Ok(())
    }
}

impl List {
    fn has(&self, digest: &Digest) -> bool {
        let mut entries = self.index["manifests"].as_array().into_iter().flatten();
        entries.any(|entry| entry["digest"] == digest.as_str())
    }

    /// The rest stays as others wrote it.
    fn with(mut self, referrer: &Referrer) -> Self {
        match self.index["manifests"].as_array_mut() {
            Some(entries) => entries.push(referrer.entry.clone()),
            None => self.index["manifests"] = json!([referrer.entry]),
        }
        self
    }
}

/// The tag that lists what refers to `digest`.
pub(super) fn tag(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}", digest.algorithm().as_str(), &hex[..hex.len().min(64)])
}
