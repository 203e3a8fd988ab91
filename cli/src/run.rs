//! `davit run`: from the name of an image to an exit code, and nothing left
//! over when something fails on the way.

use std::path::{Path, PathBuf};

use davit_client::image::Image;
use davit_client::spec::{SPEC_TYPE, Wish};
use davit_client::{Client, user};
use davit_protocols::convert;
use davit_protocols::grpc::containerd::runc::v1::Options;
use davit_protocols::grpc::containerd::services::containers::v1 as containers;
use davit_protocols::grpc::containerd::services::snapshots::v1::PrepareSnapshotRequest;
use davit_protocols::grpc::containerd::services::tasks::v1::CreateTaskRequest;
use davit_protocols::grpc::containerd::types::Mount;
use davit_types::{ContainerId, ErrorKind, Labels};
use serde_json::{Value, json};

use crate::args::{Global, Run};
use crate::attend::{self, Needs};
use crate::container::{self, Container, Defaults};
use crate::signals::Signals;
use crate::streams::{Streams, Wanted};
use crate::task::{Outcome, Process, attach, wanted};
use crate::{Error, image, names, output, parse};

/// Runs a container and hands back what davit ends with.
///
/// # Errors
/// Whatever fails; what had been made is removed again.
pub async fn run(client: &Client, run: Run, global: &Global) -> Result<u8, Error> {
    let wanted = wanted(run.interactive, run.tty)?;
    let env = parse::environment(&run.env_file, &run.env, |name| std::env::var(name).ok())?;
    let id = match &run.name {
        Some(name) => name.clone(),
        None => ContainerId::new(names::readable()).expect("made-up names are valid"),
    };
    let mut signals = Signals::catch()?;
    let (defaults, image) = tokio::join!(Defaults::of(client), image::find(client, &run.image));
    let (defaults, image) = (defaults?, image?);
    let snapshotter = run.snapshotter.clone().unwrap_or(defaults.snapshotter);
    image::unpack(client, &image, &snapshotter, &mut signals).await?;

    let wish = wish(&run, &id, env, client);
    let spec = wish.spec(&image.config).map_err(|error| Error::usage(error.to_string()))?;
    let record = record(&run, &id, &image, &snapshotter, &defaults.runtime, &spec);
    create_record(client, record).await?;
    let mut made = Made { client, id: &id, snapshotter: &snapshotter, snapshot: false };
    let user = run.user.clone().or_else(|| image_user(&image)).unwrap_or_default();
    let result = async {
        let mounts = made.prepare(&image).await?;
        if !user.is_empty() {
            set_user(client, &id, spec, &user, &mounts).await?;
        }
        made.start(&run, mounts, wanted, &mut signals).await
    };
    match result.await {
        Ok(Some(outcome)) => made.finish(outcome, run.rm, global).await,
        Ok(None) => {
            if run.rm {
                attend::spawn(global, &id, Needs { exec: None, streams: None, remove: true })?;
            }
            output::names(global.format, "container", [id.as_str()])?;
            Ok(0)
        }
        // Nobody is there who could remove it, and it may well run.
        Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            // The first error is the one to tell.
            let _ = made.remove().await;
            Err(error)
        }
    }
}

/// What was made for a container: its record, and what came after.
struct Made<'a> {
    client: &'a Client,
    id: &'a ContainerId,
    snapshotter: &'a str,
    /// Whether the snapshot of the container's name is ours.
    snapshot: bool,
}

impl Made<'_> {
    /// Makes the root filesystem.
    async fn prepare(&mut self, image: &Image) -> Result<Vec<Mount>, Error> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: self.id.to_string(),
            parent: image.chain_id()?,
            ..Default::default()
        };
        let mounts = self.client.snapshots().prepare(request).await?.into_inner().mounts;
        self.snapshot = true;
        Ok(mounts)
    }

    /// Starts the container, and stays with it unless it is to be detached
    /// from; there is no outcome then.
    async fn start(
        &self,
        run: &Run,
        rootfs: Vec<Mount>,
        wanted: Wanted,
        signals: &mut Signals,
    ) -> Result<Option<Outcome>, Error> {
        let process = Process::first(self.client, self.id);
        let failed = |error| start_error(self.id, error);
        if run.detach {
            let log = run.log_file.as_deref().map(log_uri).transpose()?;
            create_task(self.client, self.id, rootfs, None, false, log.as_deref()).await?;
            process.start().await.map_err(failed)?;
            return Ok(None);
        }
        let streams = Streams::new(wanted)?;
        create_task(self.client, self.id, rootfs, Some(&streams), wanted.terminal, None).await?;
        attach(&process, streams, wanted, &run.detach_keys, signals).await.map_err(failed).map(Some)
    }

    /// Removes all of it, however far it came.
    async fn remove(&self) -> Result<(), Error> {
        let ended = Process::first(self.client, self.id).end().await;
        let key = if self.snapshot { self.id.as_str() } else { "" };
        let removed = container::remove(self.client, self.id, self.snapshotter, key).await;
        ended.and(removed)
    }

    /// After the container has ended or was left, what becomes of it.
    async fn finish(&self, outcome: Outcome, remove: bool, global: &Global) -> Result<u8, Error> {
        match outcome {
            Outcome::Exited(code) => {
                self.ended(code, remove).await?;
                Ok(code as u8)
            }
            Outcome::Detached(streams) => {
                let needs = Needs { exec: None, streams: Some(&streams), remove };
                attend::spawn(global, self.id, needs)?;
                output::line(&format!("\n{} goes on in the background", self.id))?;
                Ok(0)
            }
        }
    }

    /// Forgets the task, and removes the container or notes how it ended.
    async fn ended(&self, code: u32, remove: bool) -> Result<(), Error> {
        Process::first(self.client, self.id).delete().await?;
        if remove {
            let key = self.id.as_str();
            return container::remove(self.client, self.id, self.snapshotter, key).await;
        }
        let label = container::EXIT_STATUS;
        match container::set_label(self.client, self.id, label, &code.to_string()).await {
            // Somebody has removed it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

fn image_user(image: &Image) -> Option<String> {
    image.config.config().as_ref()?.user().clone()
}

fn wish(run: &Run, id: &ContainerId, env: Vec<String>, client: &Client) -> Wish {
    let name: String = id.as_str().chars().take(parse::HOSTNAME_LIMIT).collect();
    Wish {
        command: run.command.clone(),
        entrypoint: run
            .entrypoint
            .clone()
            .map(|program| if program.is_empty() { Vec::new() } else { vec![program] }),
        env,
        cwd: run.workdir.clone(),
        terminal: run.tty,
        hostname: Some(run.hostname.clone().unwrap_or(name)),
        read_only: run.read_only,
        host_network: run.net_host,
        mounts: run.volume.iter().chain(&run.mount).cloned().collect(),
        memory: run.memory,
        cpus: run.cpus,
        pids: run.pids_limit,
        cap_add: run.cap_add.clone(),
        cap_drop: run.cap_drop.clone(),
        cgroup: format!("/{}/{id}", client.namespace()),
        cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        ..Wish::default()
    }
}

fn record(
    run: &Run,
    id: &ContainerId,
    image: &Image,
    snapshotter: &str,
    runtime: &str,
    spec: &Value,
) -> Container {
    let mut labels: Labels = run.label.iter().cloned().collect();
    let config = image.config.config().as_ref();
    if let Some(signal) = config.and_then(|config| config.stop_signal().clone()) {
        labels.insert(container::STOP_SIGNAL.to_owned(), signal);
    }
    let options = run.runtime_binary.as_ref().map(|binary| {
        let options = Options { binary_name: binary.clone(), ..Options::default() };
        convert::grpc::any(convert::grpc::pack(&options))
    });
    Container {
        id: id.to_string(),
        labels,
        image: image.name.clone(),
        runtime: Some(containers::container::Runtime {
            name: run.runtime.clone().unwrap_or_else(|| runtime.to_owned()),
            options,
        }),
        spec: Some(spec_any(spec)),
        snapshotter: snapshotter.to_owned(),
        snapshot_key: id.to_string(),
        ..Container::default()
    }
}

fn spec_any(spec: &Value) -> prost_types::Any {
    prost_types::Any { type_url: SPEC_TYPE.to_owned(), value: spec.to_string().into_bytes() }
}

/// The record comes first: it takes the name, and holds the snapshot that is
/// made next.
async fn create_record(client: &Client, record: Container) -> Result<(), Error> {
    let id = record.id.clone();
    let request = containers::CreateContainerRequest { container: Some(record) };
    match client.containers().create(request).await.map_err(Error::from) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::usage(format!(
            "the name {id} is in use; take another --name, or remove the container that has it: \
             davit rm {id}"
        ))),
        other => other.map(|_| ()),
    }
}

/// Looks the user up in the image, now that it is unpacked, and puts the
/// numbers into the specification.
async fn set_user(
    client: &Client,
    id: &ContainerId,
    mut spec: Value,
    name: &str,
    mounts: &[Mount],
) -> Result<(), Error> {
    let found = user::find(name, &user::layers(mounts))?;
    spec["process"]["user"] = user_json(&found);
    let request = containers::UpdateContainerRequest {
        container: Some(Container {
            id: id.to_string(),
            spec: Some(spec_any(&spec)),
            ..Container::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec".into()] }),
    };
    client.containers().update(request).await?;
    Ok(())
}

/// A user as specifications have it.
pub fn user_json(user: &user::User) -> Value {
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups})
}

/// Makes the task of a container; `log` takes its output when it has no
/// streams.
///
/// # Errors
/// [`Error::Start`] for what the daemon answers.
pub async fn create_task(
    client: &Client,
    id: &ContainerId,
    rootfs: Vec<Mount>,
    streams: Option<&Streams>,
    terminal: bool,
    log: Option<&str>,
) -> Result<(), Error> {
    let log = log.unwrap_or_default();
    let request = CreateTaskRequest {
        container_id: id.to_string(),
        rootfs,
        stdin: streams.map(Streams::stdin).unwrap_or_default(),
        stdout: streams.map_or_else(|| log.to_owned(), Streams::stdout),
        stderr: streams.map_or_else(|| log.to_owned(), Streams::stderr),
        terminal,
        ..CreateTaskRequest::default()
    };
    let result = client.tasks().create(request).await;
    result.map(|_| ()).map_err(|status| start_error(id, status.into()))
}

/// What kept a container from starting, in its own words.
pub fn start_error(id: &ContainerId, error: Error) -> Error {
    match error {
        Error::Client(davit_client::Error::Daemon { kind, message })
            if kind != ErrorKind::Unavailable =>
        {
            Error::Start { id: id.to_string(), message }
        }
        other => other,
    }
}

/// The file that takes a container's output, as the URI that shims know.
fn log_uri(path: &Path) -> Result<String, Error> {
    let absolute: PathBuf =
        std::path::absolute(path).map_err(Error::io(path.display().to_string()))?;
    let text = absolute.to_str().ok_or_else(|| Error::usage(format!("{path:?} is not UTF-8")))?;
    let mut uri = String::from("file://");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(byte.into());
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_files_become_uris() {
        assert_eq!(log_uri("/var/log/a b%.log".as_ref()).unwrap(), "file:///var/log/a%20b%25.log");
        assert!(log_uri("relative".as_ref()).unwrap().ends_with("/relative"));
    }
}
