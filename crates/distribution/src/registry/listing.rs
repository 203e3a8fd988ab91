//! What a repository holds: its tags, and what refers to a manifest.

use davit_types::Digest;
use http::Method;
use http::header::{ACCEPT, HeaderValue, LINK};
use serde::Deserialize;

use super::Error;
use super::answer::Answer;
use super::header::next_page;
use super::referrers::{self, INDEX};
use super::repository::Repository;
use super::tour::Turn;
use super::url::Url;
use crate::manifest::{self, Document, Entry, MAX_ENTRIES};

/// The longest page of a list that is read, in bytes.
const LONGEST_PAGE: u64 = 8 << 20;

/// Pages of one list that are read.
const MOST_PAGES: usize = 1_000;

/// Tags of one repository that are read.
const MOST_TAGS: usize = 1_000_000;

/// A page of tags. Registries write `null` for none.
#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository {
    /// All tags, in the registry's order.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a repository that does not exist; whatever kept
    /// the hosts from answering.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        let mut tour = self.tour("resolve", |can| can.resolve)?;
        while let Some(turn) = tour.next().await {
            match self.tags_at(&turn).await {
                Ok(tags) => return Ok(tags),
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
        Err(tour.into_error(|| Error::NoHosts("resolve")))
    }

    /// What refers to the manifest `digest` as its subject, of one
    /// `artifact_type` or of any. A registry that knows no such list may have
    /// one as a tag (OCI distribution specification 1.1, "Referrers tag
    /// schema").
    ///
    /// # Errors
    /// Whatever kept the hosts from answering. Nothing found is no error.
    pub async fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Entry>, Error> {
        let mut tour = self.tour("resolve", |can| can.referrers || can.resolve)?;
        while let Some(turn) = tour.next().await {
            let found = match turn.endpoint.host.capabilities.referrers {
                true => self.referrers_at(&turn, digest, artifact_type).await,
                false => Err(Error::NotFound(digest.to_string())),
            };
            let found = match found {
                Err(Error::NotFound(_)) => self.tagged_referrers_at(&turn, digest).await,
                found => found,
            };
            match found {
                Ok(mut entries) => {
                    // Not every registry has filtered them.
                    entries.retain(|entry| {
                        artifact_type.is_none() || entry.artifact_type.as_deref() == artifact_type
                    });
                    return Ok(entries);
                }
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
        match tour.into_error(|| Error::NoHosts("resolve")) {
            Error::NotFound(_) => Ok(Vec::new()),
            error => Err(error),
        }
    }

    async fn tags_at(&self, turn: &Turn) -> Result<Vec<String>, Error> {
        let mut url = turn.endpoint.mirror_url("tags/list", self.0.reference.domain());
        let mut tags = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.page(turn, url, "application/json").await?;
            let next = following(&answer)?;
            let nonsense = answer.nonsense("no list of tags");
            let body = answer.whole(LONGEST_PAGE, "a list of tags").await?;
            let page: Tags = serde_json::from_slice(&body).map_err(|_| nonsense)?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if tags.len() < MOST_TAGS => url = next,
                _ => break,
            }
        }
        Ok(tags)
    }

    async fn referrers_at(
        &self,
        turn: &Turn,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Entry>, Error> {
        let path = format!("referrers/{digest}");
        let mut url = turn.endpoint.mirror_url(&path, self.0.reference.domain());
        if let Some(artifact_type) = artifact_type {
            url = url.with_query("artifactType", artifact_type);
        }
        let mut entries = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.page(turn, url, INDEX).await?;
            let next = following(&answer)?;
            entries.extend(index(answer).await?);
            match next {
                Some(next) if entries.len() < MAX_ENTRIES => url = next,
                _ => break,
            }
        }
        Ok(entries)
    }

    async fn tagged_referrers_at(&self, turn: &Turn, digest: &Digest) -> Result<Vec<Entry>, Error> {
        let path = format!("manifests/{}", referrers::tag(digest));
        let url = turn.endpoint.mirror_url(&path, self.0.reference.domain());
        index(self.page(turn, url, INDEX).await?).await
    }

    async fn page(&self, turn: &Turn, url: Url, accepted: &'static str) -> Result<Answer, Error> {
        let mut ask = turn.endpoint.ask(Method::GET, url);
        ask.headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        self.send(ask, turn, &self.pull_scope()).await
    }
}

/// Where the next page is.
fn following(answer: &Answer) -> Result<Option<Url>, Error> {
    let links = answer.all(LINK);
    let Some(next) = links.iter().find_map(|link| next_page(link)) else { return Ok(None) };
    answer.url.join(next).map(Some).map_err(|bad| answer.nonsense(format!("next page: {bad}")))
}

async fn index(answer: Answer) -> Result<Vec<Entry>, Error> {
    let url = answer.url.to_string();
    let body = answer.whole(manifest::MAX_DOCUMENT, "a list of referrers").await?;
    match Document::parse(INDEX, &body) {
        Ok(Document::Index(index)) => Ok(index.manifests),
        Ok(Document::Manifest(_)) => {
            Err(Error::Answer { url, what: "a manifest instead of a list".to_owned() })
        }
        Err(error) => {
            let what = format!("failed to decode referrers index: {error}");
            Err(Error::Answer { url, what })
        }
    }
}
