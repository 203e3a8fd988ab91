//! Images from and to registries: `davit pull`, `push`.

use std::fs;

use davit_client::transfer::{self, Registry, types};
use davit_client::{Client, image::Image};
use davit_protocols::grpc::containerd::services::images::v1 as images;
use davit_types::platform::Matcher;
use davit_types::{ErrorKind, Platform, Reference};
use serde_json::json;
use tempfile::TempDir;

use crate::args::{Format, Pull, Push, Remote};
use crate::container::Defaults;
use crate::image;
use crate::login::Logins;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::{Error, output};

/// Where a registry is, for the daemon. The directory lives as long as this.
struct Place {
    registry: Registry,
    _hosts: Option<TempDir>,
}

impl Place {
    fn of(reference: &Reference, remote: &Remote) -> Result<Self, Error> {
        let mut registry = Registry {
            reference: reference.to_string(),
            plain_http: remote.plain_http,
            ..Registry::default()
        };
        if let Some(directory) = &remote.hosts_dir {
            let path = std::path::absolute(directory)
                .map_err(Error::io(directory.display().to_string()))?;
            registry.hosts_dir = path.display().to_string();
        }
        let hosts = match remote.skip_verify {
            true => Some(trusting(reference.domain())?),
            false => None,
        };
        if let Some(hosts) = &hosts {
            registry.hosts_dir = hosts.path().display().to_string();
        }
        Ok(Self { registry, _hosts: hosts })
    }
}

/// A directory that says that the registry's certificate is not looked at:
/// the daemon has no other way to be told.
fn trusting(domain: &str) -> Result<TempDir, Error> {
    let failed = || Error::io("cannot describe the registry to the daemon");
    let directory = tempfile::Builder::new().prefix("davit-hosts-").tempdir().map_err(failed())?;
    let server = match domain {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let text = format!("server = \"https://{server}\"\nskip_verify = true\n");
    let host = directory.path().join("_default");
    fs::create_dir(&host).map_err(failed())?;
    fs::write(host.join("hosts.toml"), text).map_err(failed())?;
    Ok(directory)
}

fn reference(name: &str) -> Result<Reference, Error> {
    Reference::parse_familiar(name).map_err(|error| Error::usage(format!("{name}: {error}")))
}

/// `davit pull`.
///
/// # Errors
/// What the daemon answers, with the registry's words.
pub async fn pull(client: &Client, pull: Pull, format: Format) -> Result<u8, Error> {
    let reference = reference(&pull.image)?;
    let place = Place::of(&reference, &pull.remote)?;
    let logins = Logins::of(&reference, &pull.remote)?;
    let platforms = match (pull.all_platforms, pull.platform.as_slice()) {
        (true, _) => Vec::new(),
        (false, []) => vec![Platform::host()],
        (false, given) => given.to_vec(),
    };
    let snapshotter = match (&pull.snapshotter, pull.no_unpack) {
        (_, true) => None,
        (Some(name), _) => Some(name.clone()),
        (None, _) => Some(Defaults::of(client).await?.snapshotter),
    };
    let unpack = |name: &String| {
        let of = |platform: &Platform| types::UnpackConfiguration {
            platform: Some(platform.clone().into()),
            snapshotter: name.clone(),
        };
        platforms.iter().map(of).collect()
    };
    let name = reference.to_string();
    let store = types::ImageStore {
        name: name.clone(),
        unpacks: snapshotter.as_ref().map(unpack).unwrap_or_default(),
        platforms: platforms.into_iter().map(Into::into).collect(),
        all_metadata: true,
        ..Default::default()
    };
    let mut signals = Signals::catch()?;
    let mut progress = Progress::new(format);
    let pulling = transfer::pull(
        client,
        &place.registry,
        &store,
        async |request| logins.answer(request).await,
        |report| progress.tell(report),
    );
    let result = stoppable(pulling, &mut signals).await;
    progress.end();
    result.map_err(|error| logins.explain(error))?;
    for wanted in &pull.platform {
        has_platform(client, &name, wanted).await?;
    }
    // Only this machine's, when all were fetched.
    if let (true, Some(snapshotter)) = (pull.all_platforms, snapshotter) {
        let target = davit_client::image::target(client, &name).await?;
        if let Some(image) = Image::if_any(client, &name, &target).await? {
            image::unpack(client, &image, &snapshotter, &mut signals).await?;
        }
    }
    print(client, format, &name).await
}

/// Makes sure that an image has what was asked for: the daemon, as containerd,
/// pulls nothing but the index when it has not.
async fn has_platform(client: &Client, name: &str, wanted: &Platform) -> Result<(), Error> {
    let Some(there) = davit_client::image::platforms(client, name).await? else { return Ok(()) };
    let matcher = Matcher::only(wanted);
    if there.is_empty() || there.iter().any(|platform| matcher.matches(platform)) {
        return Ok(());
    }
    let there: Vec<String> = there.iter().map(Platform::to_string).collect();
    Err(Error::usage(format!("{name} has nothing for {wanted}, only for {}", there.join(", "))))
}

/// `davit push`.
///
/// # Errors
/// What the daemon answers, with the registry's words.
pub async fn push(client: &Client, push: Push, format: Format) -> Result<u8, Error> {
    let name = image::full_name(client, &push.image).await?;
    let reference = reference(push.to.as_deref().unwrap_or(&name))?;
    for wanted in &push.platform {
        has_platform(client, &name, wanted).await?;
    }
    let place = Place::of(&reference, &push.remote)?;
    let logins = Logins::of(&reference, &push.remote)?;
    let mut signals = Signals::catch()?;
    let mut progress = Progress::new(format);
    let pushing = transfer::push_platforms(
        client,
        &name,
        &push.platform,
        &place.registry,
        async |request| logins.answer(request).await,
        |report| progress.tell(report),
    );
    let result = stoppable(pushing, &mut signals).await;
    progress.end();
    match result {
        Err(error) if push.platform.is_empty() && error.kind() == ErrorKind::NotFound => {
            return Err(lacks_platforms(client, &name, error).await);
        }
        other => other.map_err(|error| logins.explain(error))?,
    }
    print(client, format, &name).await
}

/// Says with a push that found something missing what that is, when it is the
/// content of other platforms: a pull leaves it where it was.
async fn lacks_platforms(client: &Client, name: &str, error: Error) -> Error {
    let Ok(here) = transfer::here(client, name).await else { return error };
    let list = |platforms: &[Platform]| {
        platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
    };
    if here.missing.is_empty() {
        return error;
    }
    let options: String =
        here.whole.iter().map(|platform| format!(" --platform {platform}")).collect();
    let or_less = match options.as_str() {
        "" => String::new(),
        _ => format!(
            "\nOr push what is here, if the registry takes an index without the rest: \
             davit push{options} …"
        ),
    };
    Error::usage(format!(
        "{name} is not here for all of its platforms, but lacks {} ({})\n\
         Fetch all of it first, by the name that it was pulled by: \
         davit pull --all-platforms …{or_less}",
        list(&here.missing),
        error.message(),
    ))
}

async fn print(client: &Client, format: Format, name: &str) -> Result<u8, Error> {
    if format == Format::Table {
        output::line(name)?;
        return Ok(0);
    }
    let request = images::GetImageRequest { name: name.to_owned() };
    let image = client.images().get(request).await?.into_inner().image.unwrap_or_default();
    let target = image.target.unwrap_or_default();
    let (media_type, size) = (target.media_type, target.size);
    output::json(&json!([
        {"image": name, "digest": target.digest, "mediaType": media_type, "size": size}
    ]))?;
    Ok(0)
}

/// Does `work` until a signal asks for the end; dropping it tells the daemon.
///
/// # Errors
/// Those of `work`, or [`Error::Interrupted`].
pub async fn stoppable<T, E>(
    work: impl Future<Output = Result<T, E>>,
    signals: &mut Signals,
) -> Result<T, Error>
where
    Error: From<E>,
{
    tokio::select! {
        result = work => Ok(result?),
        signal = signals.ending() => Err(Error::Interrupted { signal }),
    }
}
