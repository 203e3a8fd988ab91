//! The service `grpc.health.v1.Health`. The daemon as a whole (the empty
//! name) serves as long as it answers; services by name are not watched, as
//! in containerd (`plugins/services/healthcheck`).

use std::pin::Pin;

use davit_protocols::grpc::grpc::health::v1 as wire;
use futures::stream::{self, Stream, StreamExt};
use tonic::{Request, Response, Status};
use wire::health_check_response::ServingStatus;
use wire::health_server::Health as Service;

/// Says that the daemon serves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health;

#[tonic::async_trait]
impl Service for Health {
    async fn check(
        &self,
        request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(serving(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<wire::HealthCheckResponse, Status>> + Send>>;

    /// One answer, and then nothing changes any more.
    async fn watch(
        &self,
        request: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.get_ref().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        let answers = stream::once(async move { Ok(serving(status)) }).chain(stream::pending());
        Ok(Response::new(Box::pin(answers)))
    }
}

fn serving(status: ServingStatus) -> wire::HealthCheckResponse {
    wire::HealthCheckResponse { status: status as i32 }
}
