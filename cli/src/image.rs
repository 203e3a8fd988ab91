//! Images: finding, unpacking, listing, importing, naming, removing.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use davit_client::image::Image;
use davit_client::{Client, import};
use davit_protocols::grpc::containerd::services::images::v1 as api;
use davit_types::ErrorKind;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::{Format, Images, Import, RemoveImages, Tag};
use crate::container::Defaults;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::table::{self, Table};
use crate::{Error, names, output};

/// The characters of a digest that tables show.
const SHORT: usize = "sha256:".len() + 12;

/// How often it is looked how far an import is.
const GLANCE: Duration = Duration::from_millis(100);

async fn list(client: &Client) -> Result<Vec<api::Image>, Error> {
    let response = client.images().list(api::ListImagesRequest::default()).await?;
    let mut images = response.into_inner().images;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(images)
}

/// Finds the image that `name` means: the one of that name, or the only one
/// whose name ends with it, `:latest` being understood.
///
/// # Errors
/// When there is none, or several, with what to do about it.
pub async fn find(client: &Client, name: &str) -> Result<Image, Error> {
    match Image::get(client, name).await {
        Err(davit_client::Error::Daemon { kind: ErrorKind::NotFound, message }) => {
            let known = list(client).await?;
            if known.iter().any(|image| image.name == name) {
                return Err(Error::usage(format!("the image {name} is not complete: {message}")));
            }
            let meant = resolve(name, &known, client)?;
            Ok(Image::get(client, &meant).await?)
        }
        // A short name that is not even a valid reference is none of theirs.
        other => Ok(other?),
    }
}

/// The full name that a short one stands for.
fn resolve(name: &str, known: &[api::Image], client: &Client) -> Result<String, Error> {
    let fits = |full: &str| {
        let full = full.strip_suffix(":latest").unwrap_or(full);
        let name = name.strip_suffix(":latest").unwrap_or(name);
        full == name || full.strip_suffix(name).is_some_and(|rest| rest.ends_with('/'))
    };
    let meant: Vec<&str> =
        known.iter().map(|image| image.name.as_str()).filter(|full| fits(full)).collect();
    match meant[..] {
        [only] => Ok(only.to_owned()),
        [] => {
            let near = names::near(name, known.iter().map(|image| image.name.as_str()));
            let hint = match near[..] {
                [] => "`davit images` lists those that there are".to_owned(),
                _ => format!("did you mean {}?", near.join(" or ")),
            };
            Err(Error::usage(format!(
                "no image is called {name} in the namespace {}; {hint}\n\
                 To fetch one: davit pull IMAGE; from an archive: davit import FILE",
                client.namespace()
            )))
        }
        _ => Err(Error::usage(format!("{name} could be any of {}", meant.join(", ")))),
    }
}

/// Unpacks an image; a signal to end stops it and leaves nothing half-done.
///
/// # Errors
/// What the daemon answers, or [`Error::Interrupted`].
pub async fn unpack(
    client: &Client,
    image: &Image,
    snapshotter: &str,
    signals: &mut Signals,
) -> Result<(), Error> {
    let mut signal = 0;
    let stop = async { signal = signals.ending().await };
    match image.unpack(client, snapshotter, stop).await {
        Err(davit_client::Error::Stopped) => Err(Error::Interrupted { signal }),
        other => Ok(other?),
    }
}

/// Counts what is read.
struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// `davit import`.
///
/// # Errors
/// What is wrong with the archive, or what the daemon answers.
pub async fn import(client: &Client, import: Import, format: Format) -> Result<u8, Error> {
    let mut total = None;
    let archive: Box<dyn Read + Send> = if import.file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        let failed = || Error::io(import.file.display().to_string());
        let file = File::open(&import.file).map_err(failed())?;
        total = file.metadata().ok().filter(Metadata::is_file).map(|meta| meta.len());
        Box::new(file)
    };
    let count = Arc::new(AtomicU64::new(0));
    let archive = Counted { input: archive, count: Arc::clone(&count) };
    let mut signals = Signals::catch()?;
    let mut signal = 0;
    let stop = async { signal = signals.ending().await };
    let mut progress = Progress::new(format);
    let reading = import::archive(client, archive, import.name.as_deref(), stop);
    let result = {
        let read = || count.load(Ordering::Relaxed);
        let mut reading = std::pin::pin!(reading);
        loop {
            tokio::select! {
                result = &mut reading => break result,
                () = tokio::time::sleep(GLANCE) => progress.archive("importing", read(), total),
            }
        }
    };
    let imported = match result {
        Err(davit_client::Error::Stopped) => return Err(Error::Interrupted { signal }),
        other => other?,
    };
    progress.archive("complete", count.load(Ordering::Relaxed), total);
    progress.end();
    if !import.no_unpack {
        let snapshotter = match import.snapshotter {
            Some(name) => name,
            None => Defaults::of(client).await?.snapshotter,
        };
        for image in &imported {
            if let Some(image) = Image::if_any(client, &image.name, &image.target).await? {
                unpack(client, &image, &snapshotter, &mut signals).await?;
            }
        }
    }
    output::names(format, "image", imported.iter().map(|image| image.name.as_str()))?;
    Ok(0)
}

/// `davit images`.
///
/// # Errors
/// What the daemon answers.
pub async fn images(client: &Client, images: Images, format: Format) -> Result<u8, Error> {
    let list = list(client).await?;
    if images.quiet {
        output::names(format, "image", list.iter().map(|image| image.name.as_str()))?;
        return Ok(0);
    }
    let mut table = Table::new(&["NAME", "DIGEST", "SIZE", "CREATED"]);
    let mut rows = Vec::new();
    let now = Timestamp::now();
    for image in list {
        let target = image.target.clone().unwrap_or_default();
        let size = davit_client::image::size(client, &image.name, &target).await;
        let created = image.created_at.as_ref().and_then(output::time);
        table.row([
            image.name.clone(),
            target.digest.chars().take(SHORT).collect(),
            match &size {
                Ok(size) => size.map_or_else(|| "-".into(), table::bytes),
                Err(_) => "incomplete".into(),
            },
            format!("{} ago", table::age(created, now)),
        ]);
        rows.push(json!({
            "name": image.name,
            "digest": target.digest,
            "mediaType": target.media_type,
            "size": size.ok().flatten(),
            "labels": image.labels,
            "createdAt": created.map(|time| time.to_string()),
        }));
    }
    output::rows(format, &table, rows)?;
    Ok(0)
}

/// `davit rmi`.
///
/// # Errors
/// [`Error::Told`] when some could not be removed.
pub async fn remove(client: &Client, remove: RemoveImages, format: Format) -> Result<u8, Error> {
    output::each(format, "image", &remove.images, async |name: &String| {
        let name = full_name(client, name).await?;
        let request = api::DeleteImageRequest { name, sync: true, target: None };
        client.images().delete(request).await?;
        Ok(())
    })
    .await
}

/// The full name that a short one stands for.
///
/// # Errors
/// When there is none, or several, with what to do about it.
pub async fn full_name(client: &Client, name: &str) -> Result<String, Error> {
    let known = list(client).await?;
    if known.iter().any(|image| image.name == name) {
        return Ok(name.to_owned());
    }
    resolve(name, &known, client)
}

/// `davit tag`.
///
/// # Errors
/// What the daemon answers.
pub async fn tag(client: &Client, tag: Tag, format: Format) -> Result<u8, Error> {
    let name = full_name(client, &tag.image).await?;
    let response = client.images().get(api::GetImageRequest { name }).await?;
    let mut image = response.into_inner().image.unwrap_or_default();
    image.name.clone_from(&tag.name);
    let create = api::CreateImageRequest { image: Some(image.clone()), ..Default::default() };
    match client.images().create(create).await.map_err(Error::from) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mask = prost_types::FieldMask { paths: vec!["target".into()] };
            let update = api::UpdateImageRequest {
                image: Some(image),
                update_mask: Some(mask),
                ..Default::default()
            };
            client.images().update(update).await?;
        }
        other => drop(other?),
    }
    output::names(format, "image", [tag.name.as_str()])?;
    Ok(0)
}

/// Everything about an image, for `davit inspect`; `None` where there is none
/// of that name.
///
/// # Errors
/// What the daemon answers.
pub async fn inspect(client: &Client, name: &str) -> Result<Option<Value>, Error> {
    let known = list(client).await?;
    let Some(record) = known.iter().find(|image| image.name == name).or_else(|| {
        let meant = resolve(name, &known, client).ok()?;
        known.iter().find(|image| image.name == meant)
    }) else {
        return Ok(None);
    };
    let target = record.target.clone().unwrap_or_default();
    let whole = Image::get(client, &record.name).await.ok();
    let layers: Option<Vec<Value>> = whole.as_ref().map(|whole| {
        let json = |layer: &davit_protocols::grpc::containerd::types::Descriptor| {
            json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size})
        };
        whole.layers.iter().map(json).collect()
    });
    let config =
        whole.as_ref().map(|whole| &whole.config).and_then(|c| serde_json::to_value(c).ok());
    Ok(Some(json!({
        "type": "image",
        "name": record.name,
        "labels": record.labels,
        "target": {
            "mediaType": target.media_type, "digest": target.digest, "size": target.size,
        },
        "createdAt": record.created_at.as_ref().and_then(output::time).map(|t| t.to_string()),
        "updatedAt": record.updated_at.as_ref().and_then(output::time).map(|t| t.to_string()),
        "configDigest": whole.as_ref().map(|whole| whole.config_digest.to_string()),
        "config": config,
        "layers": layers,
    })))
}
