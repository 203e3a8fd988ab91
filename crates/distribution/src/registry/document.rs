//! Small content that is read whole: manifests, indexes, configurations.

use bytes::Bytes;
use davit_content::digest;
use davit_types::Descriptor;
use http::Method;
use http::header::ACCEPT;

use super::Error;
use super::repository::{Repository, accept, path_of};
use super::tour::Turn;

impl Repository {
    /// Reads `wanted`, which must not be larger than `limit`, and checks its
    /// size and its digest. A host that gives something else is distrusted
    /// and the next one asked.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::Size`] and
    /// [`Error::Digest`]; whatever kept the hosts from answering.
    pub async fn document(&self, wanted: &Descriptor, limit: u64) -> Result<Bytes, Error> {
        if wanted.size > limit {
            let what = wanted.digest.to_string();
            return Err(Error::TooLarge { size: wanted.size, what });
        }
        let mut tour = self.tour("pull", |can| can.pull)?;
        while let Some(turn) = tour.next().await {
            let error = match self.document_at(&turn, wanted).await {
                Ok(document) => return Ok(document),
                Err(error) => error,
            };
            if matches!(error, Error::Digest { .. } | Error::Size { .. }) {
                self.distrust(&turn.endpoint.host.authority);
            }
            tour.failed(&turn.endpoint, error);
        }
        Err(tour.into_error(|| Error::NoHosts("pull")))
    }

    async fn document_at(&self, turn: &Turn, wanted: &Descriptor) -> Result<Bytes, Error> {
        let url = turn.endpoint.mirror_url(&path_of(wanted), self.0.reference.domain());
        let mut ask = turn.endpoint.ask(Method::GET, url);
        ask.headers.insert(ACCEPT, accept(&wanted.media_type));
        let answer = self.send(ask, turn, &self.pull_scope()).await?;
        let wrong_size = |actual| Error::Size { actual, expected: wanted.size };
        let document = match answer.whole(wanted.size, "").await {
            Err(Error::TooLarge { size, .. }) => return Err(wrong_size(size)),
            document => document?,
        };
        if document.len() as u64 != wanted.size {
            return Err(wrong_size(document.len() as u64));
        }
        let actual = digest(wanted.digest.algorithm(), &document);
        if actual != wanted.digest {
            return Err(Error::Digest { actual, expected: wanted.digest.clone() });
        }
        Ok(document)
    }
}
