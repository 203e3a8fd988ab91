//! The service `containerd.services.version.v1.Version`.

use davit_protocols::grpc::containerd::services::version::v1 as wire;
use tonic::{Request, Response, Status};
use wire::version_server::Version as Service;

/// What clients are told, in containerd's numbers, because they decide by
/// them what they may ask for: the release whose API this is, with our own
/// version as build metadata, which takes no part in comparisons (Semantic
/// Versioning 2.0, section 10).
pub const VERSION: &str = concat!("v2.2.0+davit.", env!("CARGO_PKG_VERSION"));

/// The commit that the daemon was built from, where the build says so.
pub const REVISION: &str = match option_env!("DAVIT_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Says which version this is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Version;

#[tonic::async_trait]
impl Service for Version {
    async fn version(&self, _: Request<()>) -> Result<Response<wire::VersionResponse>, Status> {
        Ok(Response::new(wire::VersionResponse {
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
        }))
    }
}
