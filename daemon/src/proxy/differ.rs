//! Differs that run elsewhere, and the order in which differs are asked
//! (containerd, `plugins/services/diff` and `core/diff/proxy`).

use std::sync::Arc;
use std::time::Duration;

use davit_protocols::grpc::containerd::services::diff::v1 as wire;
use davit_types::Namespace;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use wire::diff_client::DiffClient;
use wire::diff_server::Diff as Service;

use super::Error;
use super::link::{Link, MESSAGE_LIMIT, about};
use crate::services::diff::Diff;
use crate::services::{namespace, status};

/// For one layer, however large.
const LAYER_LIMIT: Duration = Duration::from_secs(3600);

/// A differ in another process.
#[derive(Debug)]
pub struct Differ {
    link: Link,
}

fn client(channel: Channel) -> DiffClient<Channel> {
    DiffClient::new(channel)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

impl Differ {
    pub(super) fn new(link: Link) -> Self {
        Self { link }
    }

    async fn apply(
        &self,
        namespace: &Namespace,
        message: wire::ApplyRequest,
    ) -> Result<wire::ApplyResponse, Error> {
        let applied = self.link.call(LAYER_LIMIT, |channel| async move {
            client(channel).apply(about(namespace, message)).await
        });
        applied.await.map(Response::into_inner)
    }

    async fn diff(
        &self,
        namespace: &Namespace,
        message: wire::DiffRequest,
    ) -> Result<wire::DiffResponse, Error> {
        let made = self.link.call(LAYER_LIMIT, |channel| async move {
            client(channel).diff(about(namespace, message)).await
        });
        made.await.map(Response::into_inner)
    }
}

/// One of those that are asked.
#[derive(Clone)]
enum Asked {
    Walking(Diff),
    Proxy(Arc<Differ>),
}

/// Several differs, asked in turn: the first that does not say that it
/// cannot do such a thing is right.
#[derive(Clone)]
pub struct Differs(Vec<Asked>);

impl Differs {
    /// `order` names differs; `walking` is our own.
    ///
    /// # Errors
    /// The first that is not there.
    pub fn new(order: &[String], walking: &Diff, proxies: &super::Proxies) -> Result<Self, String> {
        let find = |name: &String| match proxies.differs.get(name) {
            Some(differ) => Ok(Asked::Proxy(Arc::clone(differ))),
            None if name == "walking" => Ok(Asked::Walking(walking.clone())),
            None => Err(format!("needed differ {name:?} not loaded")),
        };
        Ok(Self(order.iter().map(find).collect::<Result<_, _>>()?))
    }
}

/// A request once more, for the next differ.
fn again<T: Clone>(request: &Request<T>) -> Request<T> {
    let mut copy = Request::new(request.get_ref().clone());
    *copy.metadata_mut() = request.metadata().clone();
    copy
}

fn nobody() -> Status {
    Status::unimplemented("no differ is configured: not implemented")
}

#[tonic::async_trait]
impl Service for Differs {
    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let namespace = namespace(&request)?;
        let mut refusal = nobody();
        for asked in &self.0 {
            let answer = match asked {
                Asked::Walking(diff) => diff.apply(again(&request)).await,
                Asked::Proxy(differ) => {
                    let applied = differ.apply(&namespace, request.get_ref().clone()).await;
                    applied.map(Response::new).map_err(status)
                }
            };
            match answer {
                Err(error) if error.code() == Code::Unimplemented => refusal = error,
                other => return other,
            }
        }
        Err(refusal)
    }

    async fn diff(
        &self,
        request: Request<wire::DiffRequest>,
    ) -> Result<Response<wire::DiffResponse>, Status> {
        let namespace = namespace(&request)?;
        let mut refusal = nobody();
        for asked in &self.0 {
            let answer = match asked {
                Asked::Walking(diff) => diff.diff(again(&request)).await,
                Asked::Proxy(differ) => {
                    let made = differ.diff(&namespace, request.get_ref().clone()).await;
                    made.map(Response::new).map_err(status)
                }
            };
            match answer {
                Err(error) if error.code() == Code::Unimplemented => refusal = error,
                other => return other,
            }
        }
        Err(refusal)
    }
}
