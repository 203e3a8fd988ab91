//! Blobs: reading whole ones, writing with the digest checked.

use bytes::Bytes;
use davit_protocols::grpc::containerd::services::content::v1 as api;
use davit_types::{Digest, ErrorKind, Labels};
use tokio_stream::{Stream, StreamExt};

use crate::unique::unique_part;
use crate::{Client, Error};

/// What is sent in one message, in bytes; containerd's clients send as much.
pub(crate) const CHUNK: usize = 1 << 20;

/// The most that [`read`] takes into memory: manifests and configurations.
const READ_LIMIT: i64 = 8 << 20;

/// Reads a small blob and its labels; one over [`READ_LIMIT`] is refused.
pub(crate) async fn read(client: &Client, digest: &Digest) -> Result<(Vec<u8>, Labels), Error> {
    let info = api::InfoRequest { digest: digest.to_string() };
    let info = client.content().info(info).await?.into_inner().info.unwrap_or_default();
    if info.size > READ_LIMIT {
        let reason =
            format!("{} bytes, more than the {READ_LIMIT} that a document may have", info.size);
        return Err(Error::invalid(digest.as_str(), reason));
    }
    let request =
        api::ReadContentRequest { digest: digest.to_string(), offset: 0, size: info.size };
    let mut stream = client.content().read(request).await?.into_inner();
    let mut bytes = Vec::with_capacity(info.size as usize);
    while let Some(part) = stream.next().await {
        bytes.extend_from_slice(&part?.data);
    }
    Ok((bytes, info.labels))
}

/// The length of a blob in bytes; `None` when there is no such blob.
pub(crate) async fn size(client: &Client, digest: &Digest) -> Result<Option<u64>, Error> {
    let request = api::InfoRequest { digest: digest.to_string() };
    match client.content().info(request).await.map_err(Error::from) {
        Ok(answer) => Ok(Some(answer.into_inner().info.unwrap_or_default().size as u64)),
        Err(Error::Daemon { kind: ErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A piece of a blob on its way to the daemon.
#[derive(Debug)]
pub(crate) enum Part {
    /// The next bytes, at most [`CHUNK`] of them.
    Data(Bytes),
    /// There are no more, and this is what they are.
    End(Digest),
}

/// Writes a blob under a name of its own and has the daemon check its size and
/// digest. What is there already is left alone.
pub(crate) async fn write(
    client: &Client,
    reference: &str,
    size: u64,
    parts: impl Stream<Item = Part> + Send + 'static,
) -> Result<(), Error> {
    let base = api::WriteContentRequest {
        r#ref: reference.to_owned(),
        total: size as i64,
        ..Default::default()
    };
    let mut offset = 0;
    let messages = parts.map(move |part| {
        let mut message = api::WriteContentRequest { offset, ..base.clone() };
        match part {
            Part::Data(data) => {
                offset += data.len() as i64;
                message.action = api::WriteAction::Write.into();
                message.data = data;
            }
            Part::End(digest) => {
                message.action = api::WriteAction::Commit.into();
                message.expected = digest.to_string();
            }
        }
        message
    });
    let result = async {
        let mut answers = client.content().write(messages).await?.into_inner();
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok::<_, tonic::Status>(())
    };
    match result.await.map_err(Error::from) {
        Err(Error::Daemon { kind: ErrorKind::AlreadyExists, .. }) => Ok(()),
        other => other,
    }
}

/// Writes a blob that is in memory, with labels.
pub(crate) async fn write_whole(
    client: &Client,
    bytes: Vec<u8>,
    digest: &Digest,
    labels: &Labels,
) -> Result<(), Error> {
    let bytes = Bytes::from(bytes);
    let size = bytes.len();
    let chunks = (0..size).step_by(CHUNK);
    let mut parts: Vec<Part> =
        chunks.map(|at| Part::Data(bytes.slice(at..size.min(at + CHUNK)))).collect();
    parts.push(Part::End(digest.clone()));
    // Others may be writing the same; nothing is gone on with here.
    let reference = format!("write-{}-{digest}", unique_part());
    write(client, &reference, size as u64, tokio_stream::iter(parts)).await?;
    set_labels(client, digest.to_string(), labels).await
}

/// Adds labels to a blob.
pub(crate) async fn set_labels(
    client: &Client,
    digest: String,
    labels: &Labels,
) -> Result<(), Error> {
    if labels.is_empty() {
        return Ok(());
    }
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = api::UpdateRequest {
        info: Some(api::Info { digest, labels: labels.clone(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    client.content().update(request).await?;
    Ok(())
}
