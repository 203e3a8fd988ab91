//! The runtime's part of `-info`.

use davit_shim::{Failure, Reaper};
use davit_types::{Any, ErrorKind};

use crate::options::Options;
use crate::runtime;

/// The type under which containerd packs the OCI `Features`, which is JSON.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The options as they came, and what the runtime says of its features; a
/// runtime that does not know the command has none.
///
/// # Errors
/// Options that cannot be read; a runtime that is not there.
pub async fn info(
    options: Option<Any>,
    reaper: &Reaper,
) -> Result<(Option<Any>, Option<Any>), Failure> {
    let read = Options::from_any(options.as_ref())?;
    let temp = std::env::temp_dir();
    let runtime = runtime::client("", &temp, &read, reaper);
    let features = match runtime.features().await {
        Ok(features) => Some(Any { type_url: FEATURES.to_owned(), value: features.json }),
        Err(error @ runc_client::Error::BinaryNotFound { .. }) => {
            let text = format!("failed to look up the path of {:?}", read.binary());
            log::debug!(error:%; "no runtime");
            return Err(Failure::new(ErrorKind::Unknown, text));
        }
        Err(error) => {
            log::debug!(error:%; "the runtime tells no features");
            None
        }
    };
    Ok((options, features))
}
