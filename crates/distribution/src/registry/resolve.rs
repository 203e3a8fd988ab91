//! What a tag stands for now.

use davit_content::digest;
use davit_types::{Algorithm, Descriptor, Digest, Labels};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};

use super::answer::Answer;
use super::header::media_type;
use super::repository::Repository;
use super::tour::Turn;
use super::{Error, header};
use crate::manifest::MAX_RESOLVED;

/// The types that we take, in containerd's order.
const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

const DIGEST_HEADER: &str = "docker-content-digest";

impl Repository {
    /// What the reference's digest or tag stands for. By a digest, something
    /// that is kept as a blob is found, too.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Denied`] when we are not let in; whatever
    /// kept the hosts from answering.
    pub async fn resolve(&self) -> Result<Descriptor, Error> {
        let reference = &self.0.reference;
        let found = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => {
                let expected = Some(digest);
                match self.look_up(&format!("manifests/{digest}"), expected).await {
                    Err(Error::NotFound(_)) => {
                        self.look_up(&format!("blobs/{digest}"), expected).await
                    }
                    found => found,
                }
            }
            (None, Some(tag)) => self.look_up(&format!("manifests/{tag}"), None).await,
            (None, None) => Err(Error::NotFound(reference.to_string())),
        };
        found.map_err(|error| match error {
            Error::NotFound(_) => Error::NotFound(reference.to_string()),
            error @ Error::Unauthorized(_) => Error::Denied("pull", Box::new(error)),
            error => error,
        })
    }

    async fn look_up(&self, path: &str, expected: Option<&Digest>) -> Result<Descriptor, Error> {
        // Which digest a tag has is not for every mirror to say.
        let mut tour =
            self.tour("resolve", |can| can.pull && (expected.is_some() || can.resolve))?;
        while let Some(turn) = tour.next().await {
            match self.look_up_at(&turn, path, expected).await {
                Ok(found) => return Ok(found),
                Err(error) => tour.failed(&turn.endpoint, error),
            }
        }
        Err(tour.into_error(|| Error::NoHosts("resolve")))
    }

    async fn look_up_at(
        &self,
        turn: &Turn,
        path: &str,
        expected: Option<&Digest>,
    ) -> Result<Descriptor, Error> {
        let answer = match self.ask_for(Method::HEAD, turn, path).await? {
            // Not every registry has learnt HEAD.
            answer if answer.status == StatusCode::METHOD_NOT_ALLOWED => {
                answer.discard().await;
                return self.read_at(turn, path, expected.cloned()).await;
            }
            answer => answer.checked().await?,
        };
        let told = told_digest(&answer)?;
        if let (Some(actual), Some(expected)) = (&told, expected)
            && actual.algorithm() == expected.algorithm()
            && actual != expected
        {
            return Err(Error::Digest { actual: actual.clone(), expected: expected.clone() });
        }
        let size = answer.length();
        match (expected.cloned().or(told), size) {
            (Some(digest), Some(size)) => self.descriptor(&answer, digest, size),
            (known, _) => {
                answer.discard().await;
                self.read_at(turn, path, known).await
            }
        }
    }

    /// Reads it all to know its digest and its size.
    async fn read_at(
        &self,
        turn: &Turn,
        path: &str,
        expected: Option<Digest>,
    ) -> Result<Descriptor, Error> {
        let answer = self.ask_for(Method::GET, turn, path).await?.checked().await?;
        let expected = expected.map_or_else(|| told_digest(&answer), |digest| Ok(Some(digest)))?;
        let content_type = answer.header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let name = self.0.reference.to_string();
        let body = answer.whole(MAX_RESOLVED, &name).await?;
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let actual = digest(algorithm, &body);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(Error::Digest { actual, expected });
        }
        Ok(Descriptor {
            media_type: media_type(&content_type),
            digest: actual,
            size: body.len() as u64,
            annotations: Labels::default(),
        })
    }

    async fn ask_for(&self, method: Method, turn: &Turn, path: &str) -> Result<Answer, Error> {
        let url = turn.endpoint.mirror_url(path, self.0.reference.domain());
        let mut ask = turn.endpoint.ask(method, url);
        ask.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        turn.endpoint.send(ask, &self.pull_scope(), turn.patience).await
    }

    fn descriptor(&self, answer: &Answer, digest: Digest, size: u64) -> Result<Descriptor, Error> {
        if size > MAX_RESOLVED {
            return Err(Error::TooLarge { size, what: self.0.reference.to_string() });
        }
        let media_type = header::media_type(answer.header(CONTENT_TYPE).unwrap_or_default());
        Ok(Descriptor { media_type, digest, size, annotations: Labels::default() })
    }
}

/// The digest that the registry tells.
pub(super) fn told_digest(answer: &Answer) -> Result<Option<Digest>, Error> {
    let Some(text) = answer.header(DIGEST_HEADER).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let wrong = |_| {
        answer.nonsense(format!("{:?} in header not a valid digest", super::message::tame(text)))
    };
    text.parse().map(Some).map_err(wrong)
}
