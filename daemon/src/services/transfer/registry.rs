//! A registry as a client names it (containerd,
//! `core/transfer/registry/registry.go`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use davit_distribution::credentials::{self, Anonymous, Credentials, Login};
use davit_distribution::hosts;
use davit_distribution::registry::{Access, Registry, Repository};
use davit_protocols::grpc::containerd::types::transfer::{self as types, HttpDebug};
use davit_types::{Namespace, Reference};
use prost::Message;
use prost_types::Any;
use tokio::sync::Mutex;
use tonic::Status;

use super::record::{self, Recording};
use crate::services::status;
use crate::services::streaming::{Opened, Streams, decode};

/// How long a client may take to say who it is; somebody may have to type.
const LOGIN_LIMIT: Duration = Duration::from_secs(120);

/// The longest list of headers that a client may have sent along.
const HEADERS_MAX: usize = 64;

/// One repository, and what it was called.
pub(super) struct Remote {
    pub(super) repository: Repository,
    pub(super) reference: Reference,
    /// As the client wrote it.
    pub(super) name: String,
}

/// A registry, and what is written down of the traffic with it.
pub(super) type Recorded = (Remote, Recording);

impl Remote {
    /// What `source` names. Hosts that it does not describe are looked for in
    /// `directories`.
    pub(super) async fn of(
        registry: &Registry,
        streams: &Streams,
        namespace: &Namespace,
        source: types::OciRegistry,
        directories: Vec<PathBuf>,
    ) -> Result<Recorded, Status> {
        let types::OciRegistry { reference: name, resolver } = source;
        let reference = Reference::parse(&name).map_err(status)?;
        let mut resolver = resolver.unwrap_or_default();
        if resolver.headers.len() > HEADERS_MAX {
            let text = format!("more than {HEADERS_MAX} headers: invalid argument");
            return Err(Status::invalid_argument(text));
        }
        let credentials: Arc<dyn Credentials> = match resolver.auth_stream.as_str() {
            "" => Arc::new(Anonymous),
            id => {
                let stream = Mutex::new(Some(streams.take(namespace, id)?));
                Arc::new(Client { stream, reference: name.clone() })
            }
        };
        let directories = match resolver.host_dir.as_str() {
            "" => directories,
            given => vec![PathBuf::from(given)],
        };
        let scheme =
            Some(std::mem::take(&mut resolver.default_scheme)).filter(|scheme| !scheme.is_empty());
        let config =
            hosts::Config { directories, default_scheme: scheme, ..hosts::Config::default() };
        let domain = reference.domain().to_owned();
        let hosts = tokio::task::spawn_blocking(move || config.hosts(&domain)).await;
        let hosts = hosts.map_err(|error| Status::internal(error.to_string()))?.map_err(status)?;
        let debug = resolver.http_debug();
        let stream = match resolver.logs_stream.as_str() {
            id if debug != HttpDebug::Disabled && !id.is_empty() => {
                Some(streams.take(namespace, id)?)
            }
            _ => None,
        };
        let (record, recording) = record::begin(debug, stream);
        let headers = resolver.headers.into_iter().collect();
        let access = Access { hosts, credentials, headers, record };
        let repository = registry.repository(&reference, access).map_err(status)?;
        Ok((Self { repository, reference, name }, recording))
    }

    /// How reports call it.
    pub(super) fn title(&self) -> String {
        format!("OCI Registry ({})", self.name)
    }
}

/// A client that is asked on its stream who it is: AuthRequest one way,
/// AuthResponse the other.
struct Client {
    /// `None` once it has failed.
    stream: Mutex<Option<Opened>>,
    reference: String,
}

impl Credentials for Client {
    fn login<'a>(&'a self, host: &'a str, challenges: &'a [String]) -> credentials::Pending<'a> {
        Box::pin(async move {
            // One question at a time: an answer does not say what it answers.
            let mut place = self.stream.lock().await;
            let failed = |reason: String| credentials::Error::Failed { host: host.into(), reason };
            let Some(mut stream) = place.take() else {
                return Err(failed("the client has not answered before".into()));
            };
            let answer = ask(&mut stream, host, &self.reference, challenges);
            let answer = match tokio::time::timeout(LOGIN_LIMIT, answer).await {
                Ok(answer) => answer.map_err(|error| failed(error.message().to_owned()))?,
                Err(_) => return Err(failed(format!("no answer in {LOGIN_LIMIT:?}"))),
            };
            *place = Some(stream);
            Ok(login(answer))
        })
    }
}

async fn ask(
    stream: &mut Opened,
    host: &str,
    reference: &str,
    challenges: &[String],
) -> Result<types::AuthResponse, Status> {
    let request = types::AuthRequest {
        host: host.to_owned(),
        reference: reference.to_owned(),
        wwwauthenticate: challenges.to_vec(),
    };
    let type_url = "containerd.types.transfer.AuthRequest".to_owned();
    let gone = || Status::unavailable("the client is gone: unavailable");
    let any = Any { type_url, value: request.encode_to_vec() };
    stream.outgoing.send(Ok(any)).await.map_err(|_| gone())?;
    let message = tokio::select! {
        message = stream.incoming.message() => message?.ok_or_else(gone)?,
        () = stream.outgoing.closed() => return Err(gone()),
    };
    decode(&message, "containerd.types.transfer.AuthResponse")
}

/// What an answer says. Nothing at all is nobody.
fn login(answer: types::AuthResponse) -> Option<Login> {
    let types::AuthResponse { secret, username, .. } = &answer;
    match answer.auth_type() {
        types::AuthType::None => None,
        types::AuthType::Credentials => Login::of(username, secret),
        types::AuthType::Refresh => Login::of("", secret),
        types::AuthType::Header => {
            Some(Login::Header(secret.clone())).filter(|_| !secret.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_logins() {
        let answer = |auth_type: types::AuthType, username: &str, secret: &str| {
            let (username, secret) = (username.to_owned(), secret.to_owned());
            let auth_type = auth_type.into();
            login(types::AuthResponse { auth_type, username, secret, expire_at: None })
        };
        let basic = Login::Basic { username: "me".into(), password: "pw".into() };
        assert_eq!(answer(types::AuthType::Credentials, "me", "pw"), Some(basic));
        assert_eq!(answer(types::AuthType::Refresh, "", "t"), Some(Login::Refresh("t".into())));
        assert_eq!(answer(types::AuthType::Header, "", "h"), Some(Login::Header("h".into())));
        assert_eq!(answer(types::AuthType::Refresh, "", ""), None, "ctr without --user");
        assert_eq!(answer(types::AuthType::None, "me", "pw"), None);
    }
}
