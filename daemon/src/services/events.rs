//! The service `containerd.services.events.v1.Events` (containerd,
//! `plugins/services/events`).

use std::pin::Pin;
use std::sync::Arc;

use davit_events::{Exchange, Subscription};
use davit_protocols::convert::grpc::{any_from, time};
use davit_protocols::error::status;
use davit_protocols::grpc::containerd::services::events::v1::events_server::Events as Service;
use davit_protocols::grpc::containerd::services::events::v1::{
    ForwardRequest, PublishRequest, SubscribeRequest,
};
use davit_protocols::grpc::containerd::types;
use davit_types::{Any, Envelope, Namespace};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::namespace;

/// Publishes what clients tell, and tells them what happens.
pub struct Events {
    /// Where all events go through.
    pub exchange: Arc<Exchange>,
}

type Envelopes = Pin<Box<dyn Stream<Item = Result<types::Envelope, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Events {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request).map_err(|refusal| {
            Status::new(refusal.code(), format!("failed publishing event: {}", refusal.message()))
        })?;
        let PublishRequest { topic, event } = request.into_inner();
        let event = event.map(any_from).unwrap_or_default();
        self.exchange.publish(&namespace, &topic, event).map_err(|error| status(&error))?;
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = envelope(request.into_inner().envelope.unwrap_or_default())?;
        self.exchange.forward(envelope).map_err(|error| status(&error))?;
        Ok(Response::new(()))
    }

    type SubscribeStream = Envelopes;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Envelopes>, Status> {
        let filters = request.into_inner().filters;
        let subscription = self.exchange.subscribe(&filters).map_err(|error| status(&error))?;
        Ok(Response::new(stream(subscription)))
    }
}

fn stream(subscription: Subscription) -> Envelopes {
    Box::pin(subscription.map(|event| match event {
        Ok(envelope) => Ok(Envelope::clone(&envelope).into()),
        Err(error) => Err(status(&error)),
    }))
}

/// A forwarded envelope, refused with containerd's words when its namespace or
/// time is wrong.
fn envelope(wire: types::Envelope) -> Result<Envelope, Status> {
    let namespace = Namespace::new(wire.namespace).map_err(|error| {
        Status::invalid_argument(format!("event envelope has invalid namespace: {error}"))
    })?;
    let no_time = || status(&davit_events::Error::NoTimestamp);
    let stamp = wire.timestamp.ok_or_else(no_time)?;
    let timestamp = time("timestamp", &stamp).map_err(|error| status(&error))?;
    let event: Any = wire.event.map(any_from).unwrap_or_default();
    Ok(Envelope { timestamp, namespace, topic: wire.topic, event })
}

#[cfg(test)]
mod tests {
    use davit_protocols::event_field;
    use tonic::Code;

    use super::*;

    fn service() -> Events {
        Events { exchange: Arc::new(Exchange::new(event_field)) }
    }

    fn in_namespace<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", "n1".parse().unwrap());
        request
    }

    fn exit() -> prost_types::Any {
        let exit = davit_protocols::grpc::containerd::events::TaskExit {
            container_id: "c1".into(),
            ..Default::default()
        };
        davit_protocols::convert::grpc::any(davit_protocols::convert::grpc::pack(&exit))
    }

    #[tokio::test]
    async fn what_is_published_arrives_where_the_filter_wants_it() {
        let service = service();
        let filters = vec![r#"topic=="/tasks/exit",event.container_id==c1"#.to_owned()];
        let subscribed = service.subscribe(Request::new(SubscribeRequest { filters })).await;
        let mut events = subscribed.unwrap().into_inner();
        for topic in ["/tasks/start", "/tasks/exit"] {
            let event = PublishRequest { topic: topic.into(), event: Some(exit()) };
            service.publish(in_namespace(event)).await.unwrap();
        }
        let event = events.next().await.unwrap().unwrap();
        assert_eq!((event.namespace.as_str(), event.topic.as_str()), ("n1", "/tasks/exit"));
        assert_eq!(event.event.unwrap(), exit());
        assert!(futures::poll!(events.next()).is_pending());
    }

    #[tokio::test]
    async fn a_forwarded_event_is_checked_and_kept_as_it_is() {
        let service = service();
        let mut events = service
            .subscribe(Request::new(SubscribeRequest::default()))
            .await
            .unwrap()
            .into_inner();
        let good = types::Envelope {
            timestamp: Some(prost_types::Timestamp { seconds: 5, nanos: 6 }),
            namespace: "other".into(),
            topic: "/a/b".into(),
            event: Some(exit()),
        };
        let bad = [
            (types::Envelope { timestamp: None, ..good.clone() }, "timestamp must be set on"),
            (types::Envelope { namespace: "..".into(), ..good.clone() }, "event envelope has in"),
            (types::Envelope { topic: "a".into(), ..good.clone() }, "envelope topic \"a\": must"),
        ];
        for (envelope, words) in bad {
            let request = Request::new(ForwardRequest { envelope: Some(envelope) });
            let refusal = service.forward(request).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument);
            assert!(refusal.message().starts_with(words), "{}", refusal.message());
        }
        let request = Request::new(ForwardRequest { envelope: Some(good.clone()) });
        service.forward(request).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap(), good);
    }

    #[tokio::test]
    async fn a_bad_filter_is_refused() {
        let request = SubscribeRequest { filters: vec!["a==".into(), "==".into()] };
        let Err(refusal) = service().subscribe(Request::new(request)).await else {
            panic!("accepted")
        };
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().starts_with("failed parsing subscription filters: filters:"));
    }
}
