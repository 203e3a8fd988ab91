//! The service `davit.v1.Maintenance`: ours, not containerd's.

use std::pin::Pin;
use std::sync::Arc;

use davit_events::Exchange;
use davit_index::{Collector, Error, Explanation, Garbage, Link, Sizes, Thing};
use davit_protocols::convert::grpc::timestamp;
use davit_protocols::grpc::davit::v1 as wire;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use wire::maintenance_server::Maintenance as Service;

use super::{blocking, looking, namespace, status};
use crate::gc::collect;

/// How many things one message tells of.
const BLOCK: usize = 100;
/// Messages that wait for a client that is slower than a look at what would
/// go.
const FOUND_WAITING: usize = 2;
/// Messages that wait for a client that is slower than a collection, which
/// waits for nobody.
const COLLECTED_WAITING: usize = 1024;

/// Collections that are asked for at a time: one is under way, and one is for
/// all who asked since it began.
const CALLERS_MAX: usize = 2;
static CALLERS: Semaphore = Semaphore::const_new(CALLERS_MAX);
/// Looks at a time at what would go. They wait for their clients, for whom no
/// collection is to wait.
static LOOKERS: Semaphore = Semaphore::const_new(CALLERS_MAX);

/// Collects, and explains what is not collected.
#[derive(Clone)]
pub struct Maintenance {
    /// What knows what is garbage.
    pub collector: Arc<Collector>,
    /// Who is told what a collection removes.
    pub events: Arc<Exchange>,
}

type Messages = mpsc::Sender<Result<wire::CollectResponse, Status>>;

#[tonic::async_trait]
impl Service for Maintenance {
    type CollectStream = Pin<Box<dyn Stream<Item = Result<wire::CollectResponse, Status>> + Send>>;

    async fn collect(
        &self,
        request: Request<wire::CollectRequest>,
    ) -> Result<Response<Self::CollectStream>, Status> {
        let is_dry = request.into_inner().dry_run;
        let (sender, messages) =
            mpsc::channel(if is_dry { FOUND_WAITING } else { COLLECTED_WAITING });
        let Self { collector, events } = self.clone();
        let permit = if is_dry { &LOOKERS } else { &CALLERS }.acquire().await;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut teller = Teller::new(sender, is_dry);
            let done = if is_dry {
                collector.garbage(&mut |garbage| teller.tell(garbage))
            } else {
                collect(&collector, &events, Sizes::Measured, |garbage| {
                    teller.tell(garbage);
                })
                .map(drop)
            };
            teller.end(done);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let namespace = namespace(&request)?;
        let name = request.into_inner().name;
        let collector = Arc::clone(&self.collector);
        let found = looking(move || collector.explain(&namespace, &name)).await?;
        let explanations = found.into_iter().map(explanation_to_wire).collect();
        Ok(Response::new(wire::ExplainResponse { explanations }))
    }
}

/// Collects for a caller who waits until that is done. Of many at a time all
/// but two wait without a thread, for others need those.
///
/// # Errors
/// Those of the index.
pub(super) async fn collect_now(
    collector: Arc<Collector>,
    events: Arc<Exchange>,
) -> Result<(), Status> {
    let _permit = CALLERS.acquire().await;
    blocking(move || collect(&collector, &events, Sizes::Known, drop)).await.map(drop)
}

/// Tells a client of garbage, in blocks.
struct Teller {
    block: Vec<wire::Garbage>,
    messages: Messages,
    /// Whether it may wait for the client.
    waits: bool,
    /// Whether something was not told.
    is_behind: bool,
}

impl Teller {
    fn new(messages: Messages, waits: bool) -> Self {
        Self { block: Vec::new(), messages, waits, is_behind: false }
    }

    /// Tells of one more thing; whether the client still listens.
    fn tell(&mut self, garbage: Garbage) -> bool {
        let Garbage { namespace, thing, size } = garbage;
        let (namespace, thing) = (namespace.to_string(), Some(thing_to_wire(thing)));
        self.block.push(wire::Garbage { namespace, thing, size });
        if self.block.len() < BLOCK {
            return !self.messages.is_closed();
        }
        let garbage = std::mem::take(&mut self.block);
        self.send(Ok(wire::CollectResponse { garbage }))
    }

    fn send(&mut self, message: Result<wire::CollectResponse, Status>) -> bool {
        let sent = if self.waits {
            self.messages.blocking_send(message).is_ok()
        } else {
            self.messages.try_send(message).is_ok()
        };
        self.is_behind |= !sent;
        sent
    }

    fn end(mut self, done: Result<(), Error>) {
        // The collection is over: nobody is kept waiting by us any more.
        self.waits = true;
        let garbage = std::mem::take(&mut self.block);
        if !garbage.is_empty() {
            self.send(Ok(wire::CollectResponse { garbage }));
        }
        if let Err(error) = done {
            self.send(Err(status(error)));
        } else if self.is_behind {
            let text = "more was collected than the client took: resource exhausted";
            self.send(Err(Status::resource_exhausted(text)));
        }
    }
}

fn thing_to_wire(thing: Thing) -> wire::Thing {
    let Thing { kind, snapshotter, name } = thing;
    wire::Thing { kind, snapshotter, name }
}

fn explanation_to_wire(explanation: Explanation) -> wire::Explanation {
    let link = |link: Link| wire::Link {
        thing: Some(thing_to_wire(link.thing)),
        held_by: link.held_by,
        expires: link.expires.map(timestamp),
    };
    let chain = |links: Vec<Link>| wire::Chain { links: links.into_iter().map(link).collect() };
    wire::Explanation {
        thing: Some(thing_to_wire(explanation.thing)),
        chains: explanation.chains.into_iter().map(chain).collect(),
        roots: explanation.roots as u64,
    }
}
