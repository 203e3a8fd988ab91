//! A namespace's content, as pulls and pushes see it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use davit_content::Reader;
use davit_distribution::pull::{self, Failure};
use davit_distribution::push;
use davit_distribution::registry::BlobSource;
use davit_events::Exchange;
use davit_index::{ContentStore, ContentWriter, Error, LeaseId, WriterRequest};
use davit_types::{Descriptor, Digest, ErrorKind, Kind, Labels, Namespace};

use crate::services::content::publish_created;

/// The content of one namespace; what is made is held by one lease.
#[derive(Clone)]
pub struct Contents {
    /// All content.
    pub content: Arc<ContentStore>,
    /// Who is told of new blobs.
    pub events: Arc<Exchange>,
    /// Whose content.
    pub namespace: Namespace,
    /// What holds it.
    pub lease: Option<LeaseId>,
}

/// A blob on its way.
struct Ingest {
    place: Contents,
    reference: String,
    /// `None` once it was given up.
    writer: Option<ContentWriter>,
}

impl pull::Store for Contents {
    fn ingest(
        &self,
        reference: &str,
        blob: &Descriptor,
    ) -> Result<Option<Box<dyn pull::Ingest>>, Failure> {
        let request = WriterRequest {
            reference: reference.to_owned(),
            total: blob.size,
            expected: Some(blob.digest.clone()),
        };
        match self.content.writer(&self.namespace, request, self.lease.as_ref()) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error @ Error::Content(davit_content::Error::Away { .. })) => {
                Err(Failure::of(&error).lasting())
            }
            Err(error) => Err(Failure::of(&error)),
            Ok(mut writer) => {
                // Left by somebody who did not know when to stop.
                if writer.offset() > blob.size {
                    writer.truncate(0).map_err(|error| Failure::of(&error))?;
                }
                let reference = reference.to_owned();
                let writer = Some(writer);
                Ok(Some(Box::new(Ingest { place: self.clone(), reference, writer })))
            }
        }
    }

    fn open(&self, digest: &Digest) -> Result<File, Failure> {
        let file = self.reader(digest)?.into_file();
        file.map_err(|error| Failure::io(&format!("read {digest}"), &error))
    }

    fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Failure> {
        let reader = self.reader(digest)?;
        if reader.size() > limit {
            return Err(pull::too_large(digest, limit));
        }
        let failed = |error| Failure::io(&format!("read {digest}"), &error);
        let mut bytes = Vec::new();
        let mut rest = reader.into_read(0).map_err(failed)?;
        rest.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn labels(&self, digest: &Digest) -> Result<Labels, Failure> {
        let info = self.content.info(&self.namespace, digest);
        Ok(info.map_err(|error| Failure::of(&error))?.labels)
    }

    fn label(&self, digest: &Digest, labels: &Labels) -> Result<(), Failure> {
        let paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        let updated = self.content.update(&self.namespace, digest, labels, &paths);
        updated.map(drop).map_err(|error| Failure::of(&error))
    }
}

impl pull::Ingest for Ingest {
    fn offset(&self) -> u64 {
        self.writer.as_ref().map_or(0, ContentWriter::offset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let result = self.writer()?.write(bytes);
        result.map_err(|error| {
            let failure = Failure::of(&error);
            // On a full disk it is in everybody's way, its own included.
            if error.kind() == ErrorKind::ResourceExhausted {
                self.writer = None;
                self.place.throw_away(&self.reference);
            }
            failure
        })
    }

    fn file(&self) -> Result<Option<File>, Failure> {
        let writer = self.writer.as_ref().ok_or_else(given_up)?;
        writer.file().map_err(|error| Failure::of(&error))
    }

    fn commit(mut self: Box<Self>, size: u64, digest: &Digest) -> Result<(), Failure> {
        let writer = self.writer.take().ok_or_else(given_up)?;
        match writer.commit(size, Some(digest), &Labels::new()) {
            Ok(info) => {
                publish_created(&self.place.events, &self.place.namespace, &info);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => {
                let failure = Failure::of(&error);
                // Going on with it would come to the same.
                let spoilt = [ErrorKind::FailedPrecondition, ErrorKind::ResourceExhausted];
                if spoilt.contains(&error.kind()) {
                    self.place.throw_away(&self.reference);
                }
                Err(failure)
            }
        }
    }
}

impl Ingest {
    fn writer(&mut self) -> Result<&mut ContentWriter, Failure> {
        self.writer.as_mut().ok_or_else(given_up)
    }
}

fn given_up() -> Failure {
    Failure::new(ErrorKind::Aborted, "the ingest was given up: aborted")
}

impl Contents {
    fn reader(&self, digest: &Digest) -> Result<Reader, Failure> {
        self.content.reader(&self.namespace, digest).map_err(|error| Failure::of(&error))
    }

    fn throw_away(&self, reference: &str) {
        let aborted = self.content.abort(&self.namespace, reference, self.lease.as_ref());
        if let Err(error) = aborted
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!(reference, error = error.full_message().as_str(); "a bad ingest stays");
        }
    }
}

impl push::Source for Contents {
    fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Failure> {
        pull::Store::document(self, digest, limit)
    }

    fn labels(&self, digest: &Digest) -> Result<Labels, Failure> {
        match self.content.info(&self.namespace, digest) {
            Ok(info) => Ok(info.labels),
            Err(Error::NotFound(_)) => Ok(Labels::new()),
            Err(error) => Err(Failure::of(&error)),
        }
    }

    fn blob(&self, blob: &Descriptor) -> Result<Arc<dyn BlobSource>, Failure> {
        let place = self.clone();
        // Found missing here and not in the middle of a request.
        place.reader(&blob.digest)?;
        Ok(Arc::new(Blob { place, digest: blob.digest.clone() }))
    }
}

/// A blob that is sent somewhere.
struct Blob {
    place: Contents,
    digest: Digest,
}

impl BlobSource for Blob {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        self.place.reader(&self.digest).map_err(io::Error::other)?.into_read(offset)
    }
}
