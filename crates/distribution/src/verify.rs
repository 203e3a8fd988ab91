//! Programs that say whether an image may be pulled (containerd,
//! `docs/image-verification.md` and `pkg/imageverifier/bindir`).
//!
//! Every file in a directory is asked, one after another in the order of
//! their names, and all must agree. No answer is a no.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use davit_types::{Descriptor, Digest, ErrorKind, Kind, Labels, duration};
use serde::Serialize;
use tokio::process::Command;

use crate::process::{self, Finished, Limits, Output};

/// How much of what a verifier says is kept, in bytes.
const MAX_OUTPUT: usize = 32 << 10;
/// What verifiers get to read.
const INPUT: &str = "application/vnd.oci.descriptor.v1+json";
/// What containerd calls this way to verify, in errors.
const NAME: &str = "bindir";

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifiers {
    /// Where the programs are. Without it everything may be pulled.
    pub directory: PathBuf,
    /// How many are asked; all where there is no limit.
    pub limit: Option<usize>,
    /// How long each may take.
    pub timeout: Duration,
}

/// Why an image may not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A verifier says so.
    #[error(
        "image verifier {NAME} blocked pull of {name} with digest {digest} for reason: verifier \
         {verifier} rejected image (exit code {code}): {reason}"
    )]
    Blocked {
        /// The image.
        name: String,
        /// What it resolved to.
        digest: Digest,
        /// The program.
        verifier: String,
        /// Its exit code.
        code: i32,
        /// Its words.
        reason: String,
    },
    /// A verifier gave no answer.
    #[error(
        "blocking pull of {name} with digest {digest}: image verifier {NAME} returned error: \
         failed to call verifier {verifier} (runtime {})", duration::format(*runtime)
    )]
    Silent {
        /// The image.
        name: String,
        /// What it resolved to.
        digest: Digest,
        /// The program.
        verifier: String,
        /// How long it took.
        runtime: Duration,
        /// Why there is none.
        #[source]
        source: io::Error,
    },
    /// Nobody knows whom to ask.
    #[error(
        "blocking pull of {name} with digest {digest}: image verifier {NAME} returned error: \
         failed to list directory contents"
    )]
    Directory {
        /// The image.
        name: String,
        /// What it resolved to.
        digest: Digest,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Kind for Error {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Unknown
    }
}

impl Verifiers {
    /// Asks whether the image `name`, which is resolved to `image`, may be
    /// pulled. Answers with the reasons why it may.
    ///
    /// # Errors
    /// It may not.
    pub async fn verify(&self, name: &str, image: &Descriptor) -> Result<String, Error> {
        let digest = &image.digest;
        let listed = self.list().await.map_err(|source| Error::Directory {
            name: name.to_owned(),
            digest: digest.clone(),
            source,
        })?;
        let directory = self.directory.display();
        let Some(programs) = listed else {
            return Ok(format!("image verifier directory {directory} does not exist"));
        };
        if programs.is_empty() {
            return Ok(format!("no image verifier binaries found in {directory}"));
        }
        let count = self.limit.unwrap_or(programs.len());
        if count < programs.len() {
            log::warn!(
                "image verifiers are skipped: {directory} has {}, and {count} are to be asked",
                programs.len()
            );
        }
        let mut reasons = Vec::new();
        for verifier in programs.into_iter().take(count) {
            let reason = self.ask(&verifier, name, image).await?;
            reasons.push(format!("{verifier} => {reason}"));
        }
        Ok(reasons.join(", "))
    }

    /// The names of the programs, sorted; `None` without a directory.
    async fn list(&self) -> io::Result<Option<Vec<String>>> {
        let directory = self.directory.clone();
        let list =
            move || {
                let entries = match fs::read_dir(&directory) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    entries => entries?,
                };
                let mut names = Vec::new();
                for entry in entries {
                    names.push(entry?.file_name().into_string().map_err(|name| {
                        io::Error::other(format!("the name {name:?} is no text"))
                    })?);
                }
                names.sort();
                Ok(Some(names))
            };
        tokio::task::spawn_blocking(list).await.map_err(io::Error::other)?
    }

    /// One verifier's reason to agree.
    async fn ask(&self, verifier: &str, name: &str, image: &Descriptor) -> Result<String, Error> {
        let digest = &image.digest;
        let mut command = Command::new(self.directory.join(verifier));
        command.args(["-name", name, "-digest", digest.as_str(), "-stdin-media-type", INPUT]);
        let limits = Limits { time: self.timeout, output: MAX_OUTPUT };
        let start = Instant::now();
        let finished = process::run(command, &input(image), limits).await;
        let silent = |source| Error::Silent {
            name: name.to_owned(),
            digest: digest.clone(),
            verifier: verifier.to_owned(),
            runtime: start.elapsed(),
            source,
        };
        let Finished { status, stdout, stderr } = finished.map_err(silent)?;
        for line in text(&stderr).lines() {
            log::debug!(image_verifier = verifier, stream = "stderr"; "{line}");
        }
        let cut = if stdout.is_cut { "(stdout truncated)" } else { "" };
        let reason = format!("{}{cut}", text(&stdout).trim());
        match status.code() {
            Some(0) => {
                log::debug!(image_verifier = verifier, image = name; "allowed: {reason}");
                Ok(reason)
            }
            Some(code) => Err(Error::Blocked {
                name: name.to_owned(),
                digest: digest.clone(),
                verifier: verifier.to_owned(),
                code,
                reason,
            }),
            None => Err(silent(io::Error::other(status.to_string()))),
        }
    }
}

/// A descriptor, in the order in which Go writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Input<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    annotations: &'a Labels,
}

fn input(image: &Descriptor) -> Vec<u8> {
    let Descriptor { media_type, digest, size, annotations } = image;
    let input = Input { media_type, digest: digest.as_str(), size: *size, annotations };
    let mut bytes = serde_json::to_vec(&input).expect("texts and numbers can be written");
    bytes.push(b'\n');
    bytes
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.bytes).into_owned()
}

#[cfg(test)]
mod tests;
