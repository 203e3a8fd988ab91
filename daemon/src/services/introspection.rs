//! The service `containerd.services.introspection.v1.Introspection`: what
//! plugins there are, who the daemon is, and what a runtime says of itself.
//!
//! Inherited from containerd 2 (`plugins/services/introspection`): filters on
//! `type` and `id` alone, the error texts, and where the daemon's uuid is kept.

use std::borrow::Cow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use davit_protocols::convert::grpc::{any_from, unpack};
use davit_protocols::grpc::containerd::services::introspection::v1 as wire;
use davit_protocols::grpc::containerd::types::RuntimeRequest;
use davit_protocols::grpc::google::rpc;
use davit_runtime::{Deadline, Tasks};
use davit_types::ErrorKind;
use davit_types::filter::{Adaptor, Filter};
use tonic::{Request, Response, Status};
use wire::introspection_server::Introspection as Service;

use super::status;
use crate::error::Error;
use crate::lock::make_directory;
use crate::plugins::Plugin;

/// The plugin whose shims can be asked about their runtime.
const RUNTIME_PLUGIN: (&str, &str) = ("io.containerd.runtime.v2", "task");

/// How long a shim may take to say what its runtime is.
const INFO_LIMIT: Duration = Duration::from_secs(10);

/// Tells of the daemon.
pub struct Introspection {
    /// What there is, in order.
    pub plugins: Vec<Plugin>,
    /// Who the daemon is, beyond its restarts.
    pub uuid: String,
    /// The inode of its pid namespace.
    pub pidns: u64,
    /// Runs shims for what they say of their runtime.
    pub tasks: Tasks,
}

#[tonic::async_trait]
impl Service for Introspection {
    async fn plugins(
        &self,
        request: Request<wire::PluginsRequest>,
    ) -> Result<Response<wire::PluginsResponse>, Status> {
        let filter = Filter::parse_all(&request.get_ref().filters).map_err(status)?;
        let wanted = self.plugins.iter().filter(|plugin| filter.matches(&Fields(plugin)));
        Ok(Response::new(wire::PluginsResponse { plugins: wanted.map(message).collect() }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<wire::ServerResponse>, Status> {
        Ok(Response::new(wire::ServerResponse {
            uuid: self.uuid.clone(),
            pid: u64::from(std::process::id()),
            pidns: self.pidns,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<wire::PluginInfoRequest>,
    ) -> Result<Response<wire::PluginInfoResponse>, Status> {
        let wire::PluginInfoRequest { r#type: kind, id, options } = request.into_inner();
        let Some(plugin) =
            self.plugins.iter().find(|plugin| plugin.kind == kind && plugin.id == id)
        else {
            return Err(Status::not_found(format!("plugin {kind}.{id} not found: not found")));
        };
        let extra = match options {
            None => None,
            Some(_) if plugin.failure.is_some() => {
                return Err(Status::failed_precondition(
                    "cannot get extra info, plugin not successfully loaded: failed precondition",
                ));
            }
            Some(options) if (plugin.kind, plugin.id.as_str()) == RUNTIME_PLUGIN => {
                Some(self.runtime_info(options).await?)
            }
            Some(_) => {
                return Err(Status::unimplemented(
                    "plugin does not provided extra information: not implemented",
                ));
            }
        };
        Ok(Response::new(wire::PluginInfoResponse { plugin: Some(message(plugin)), extra }))
    }
}

impl Introspection {
    async fn runtime_info(&self, options: prost_types::Any) -> Result<prost_types::Any, Status> {
        let options = any_from(options);
        let request: RuntimeRequest = unpack(&options).map_err(|_| {
            let name = &options.type_url;
            Status::unimplemented(format!("unknown request type {name}: not implemented"))
        })?;
        let deadline = Deadline::after(INFO_LIMIT);
        let info = self
            .tasks
            .runtime_info(&request.runtime_path, request.options.map(any_from), deadline)
            .await
            .map_err(status)?;
        Ok(prost_types::Any { type_url: "containerd.types.RuntimeInfo".to_owned(), value: info })
    }
}

/// A plugin as filters see it.
struct Fields<'a>(&'a Plugin);

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["type", ..] => Some(Cow::Borrowed(self.0.kind)),
            ["id", ..] => Some(Cow::Borrowed(self.0.id.as_str())),
            _ => None,
        }
    }
}

fn message(plugin: &Plugin) -> wire::Plugin {
    let failure = plugin.failure.as_ref().map(|reason| rpc::Status {
        code: davit_protocols::error::code(ErrorKind::Unknown),
        message: reason.clone(),
        details: Vec::new(),
    });
    wire::Plugin {
        r#type: plugin.kind.to_owned(),
        id: plugin.id.clone(),
        requires: plugin.requires.iter().map(|required| (*required).to_owned()).collect(),
        platforms: plugin.platform.clone().map(Into::into).into_iter().collect(),
        exports: plugin.exports.clone(),
        capabilities: plugin.capabilities.clone(),
        init_err: failure,
    }
}

/// The daemon's uuid, from the file `uuid` in `directory`, which is made when
/// it is missing or empty.
///
/// # Errors
/// The file holds something else, or cannot be read or made.
pub fn uuid(directory: &Path) -> Result<String, Error> {
    let path = directory.join("uuid");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.map_err(Error::io("read", &path))?,
    };
    let text = text.trim();
    if is_uuid(text) {
        return Ok(text.to_owned());
    }
    if !text.is_empty() {
        return Err(Error::Input(format!("{} holds no uuid: {text:?}", path.display())));
    }
    make_directory(directory, 0o700)?;
    let source = "/proc/sys/kernel/random/uuid";
    let made = std::fs::read_to_string(source).map_err(Error::io("read", source))?;
    let made = made.trim();
    std::fs::write(&path, made).map_err(Error::io("write", path))?;
    Ok(made.to_owned())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// The inode of the daemon's pid namespace, by which clients see whether they
/// share it.
///
/// # Errors
/// There is no `/proc`.
pub fn pidns() -> Result<u64, Error> {
    let path = "/proc/self/ns/pid";
    Ok(std::fs::metadata(path).map_err(Error::io("look at", path))?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("io.containerd.grpc.v1.introspection");
        let first = uuid(&directory).unwrap();
        assert!(is_uuid(&first), "{first}");
        assert_eq!(uuid(&directory).unwrap(), first);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_uuid_is_reported_and_an_empty_one_made_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("uuid"), "").unwrap();
        assert!(is_uuid(&uuid(dir.path()).unwrap()));
        std::fs::write(dir.path().join("uuid"), "no uuid").unwrap();
        assert!(uuid(dir.path()).is_err());
    }

    #[test]
    fn the_pid_namespace_is_the_one_that_ps_shows() {
        let link = std::fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(link.to_str().unwrap(), format!("pid:[{}]", pidns().unwrap()));
    }
}
