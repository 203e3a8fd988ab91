//! Images: names of content (containerd, `core/metadata/images.go`).

use std::time::SystemTime;

use davit_types::{Descriptor, Labels, Namespace};
use rusqlite::{Connection, Row, params};

use crate::adaptors::record_filters;
use crate::objects::{Kind, validate_labels};
use crate::references::{Reference, Via};
use crate::time::from_nanos;
use crate::{Error, Index, LeaseId, Result, digests, leases, objects, references};

/// An image's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, unique within the namespace: `docker.io/library/busybox:latest`.
    pub name: String,
    /// What clients attached.
    pub labels: Labels,
    /// The manifest or index it names.
    pub target: Descriptor,
    /// When it was made; ignored on create and update.
    pub created_at: SystemTime,
    /// When it was last changed; ignored on create and update.
    pub updated_at: SystemTime,
}

/// What is to become of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUpdate {
    /// Which image.
    pub name: String,
    /// Its new labels.
    pub labels: Labels,
    /// What it is to name; need not be given where no path names it.
    pub target: Option<Descriptor>,
    /// The target's new annotations, for a path that names these alone.
    pub annotations: Labels,
}

/// The images of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    pub(crate) index: &'a Index,
}

impl Images<'_> {
    /// One image.
    pub fn get(&self, namespace: &Namespace, name: &str) -> Result<Image> {
        self.index.look(|connection| {
            find(connection, namespace, name)?.map(|(_, image)| image).ok_or_else(|| missing(name))
        })
    }

    /// Those that any of `filters` matches, all when there is none, by name.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Image>> {
        let filters = record_filters(filters)?;
        if let Some(names) = filters.values_of(&["name"]) {
            let named = self.index.look(|connection| {
                let find = |name: &str| find(connection, namespace, name).transpose();
                names.into_iter().filter_map(find).collect::<Result<Vec<_>>>()
            })?;
            let images = named.into_iter().map(|(_, image)| image);
            return Ok(images.filter(|image| filters.matches(image)).collect());
        }
        self.index.look_long(|connection| {
            let mut found: Vec<Image> = Vec::new();
            let mut after = String::new();
            loop {
                let images = page(connection, namespace, &after)?;
                let is_last = images.len() < objects::PAGE;
                after = images.last().map(|image| image.name.clone()).unwrap_or_default();
                found.extend(images.into_iter().filter(|image| filters.matches(image)));
                if is_last {
                    return Ok(found);
                }
            }
        })
    }

    /// Adds an image; answers it with its times, `now` instead of the clock
    /// where given (`SOURCE_DATE_EPOCH`). `lease` holds it only if it expires.
    pub fn create(
        &self,
        namespace: &Namespace,
        image: Image,
        now: Option<SystemTime>,
        lease: Option<&LeaseId>,
    ) -> Result<Image> {
        let mut image = image;
        validate(&image)?;
        let (namespace, lease) = (namespace.clone(), lease.cloned());
        self.index.change(move |connection| {
            let now = now.unwrap_or_else(SystemTime::now);
            hold(connection, &namespace, &image, lease.as_ref())?;
            let object = objects::insert(connection, &namespace, Kind::Image, &image.name, now)?
                .ok_or_else(|| Error::AlreadyExists(format!("image {:?}", image.name)))?;
            image.created_at = now;
            image.updated_at = now;
            write(connection, object, &mut image)?;
            Ok(image)
        })
    }

    /// Changes the fields that `paths` names (`labels`, `labels.KEY`,
    /// `target`, `annotations`, `annotations.KEY`); without any, all of them.
    /// Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        update: ImageUpdate,
        paths: &[String],
        now: Option<SystemTime>,
        lease: Option<&LeaseId>,
    ) -> Result<Image> {
        if update.name.is_empty() {
            return Err(Error::InvalidArgument("image name is required for update".into()));
        }
        let (namespace, paths, lease) = (namespace.clone(), paths.to_vec(), lease.cloned());
        self.index.loosen(move |connection| {
            let (object, mut image) =
                find(connection, &namespace, &update.name)?.ok_or_else(|| missing(&update.name))?;
            apply(&mut image, &update, &paths)?;
            validate(&image)?;
            hold(connection, &namespace, &image, lease.as_ref())?;
            image.updated_at = now.unwrap_or_else(SystemTime::now);
            objects::touch(connection, object, image.updated_at)?;
            write(connection, object, &mut image)?;
            Ok(image)
        })
    }

    /// Deletes an image; with `target`, only if that digest is what it names.
    pub fn delete(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Option<&str>,
        lease: Option<&LeaseId>,
    ) -> Result<()> {
        let (namespace, name) = (namespace.clone(), name.to_owned());
        let (target, lease) = (target.map(str::to_owned), lease.cloned());
        self.index.loosen(move |connection| {
            leases::release(connection, &namespace, lease.as_ref(), Kind::Image, &name)?;
            if let Some(wanted) = target {
                let (_, image) =
                    find(connection, &namespace, &name)?.ok_or_else(|| missing(&name))?;
                let actual = image.target.digest;
                if actual.as_str() != wanted {
                    return Err(Error::NotFound(format!(
                        "image {name:?} has target {actual}, not {wanted}"
                    )));
                }
            }
            if objects::delete(connection, &namespace, Kind::Image, &name)? {
                Ok(())
            } else {
                Err(missing(&name))
            }
        })
    }
}

/// A target as a client writes it, checked.
///
/// # Errors
/// `InvalidArgument`, with containerd's words, for a digest that is none, a
/// size that is not positive, or no media type.
pub fn image_target(
    media_type: String,
    digest: &str,
    size: i64,
    annotations: Labels,
) -> Result<Descriptor> {
    let digest = digest.parse().map_err(|_| {
        let fault = digests::fault(digest);
        Error::InvalidArgument(format!("Target.Digest {digest:?} invalid: {fault}"))
    })?;
    let size = u64::try_from(size).unwrap_or_default();
    let target = Descriptor { media_type, digest, size, annotations };
    validate_target(&target)?;
    Ok(target)
}

fn missing(name: &str) -> Error {
    Error::NotFound(format!("image {name:?}"))
}

const SELECT: &str = "
    SELECT o.id, o.key, o.created, o.updated, i.media_type, i.digest, i.size
    FROM objects o JOIN images i ON i.id = o.id";

fn find(
    connection: &Connection,
    namespace: &Namespace,
    name: &str,
) -> Result<Option<(i64, Image)>> {
    let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key = ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![namespace.as_str(), Kind::Image.as_str(), name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let object = row.get(0)?;
    let mut image = read(row)?;
    image.labels = objects::labels(connection, object)?;
    image.target.annotations =
        objects::pairs(connection, "SELECT key, value FROM annotations WHERE image = ?1", object)?;
    Ok(Some((object, image)))
}

fn read(row: &Row<'_>) -> Result<Image> {
    let target = Descriptor {
        media_type: row.get(4)?,
        digest: digests::stored(&row.get::<_, String>(5)?)?,
        size: row.get::<_, i64>(6)?.unsigned_abs(),
        annotations: Labels::new(),
    };
    Ok(Image {
        name: row.get(1)?,
        labels: Labels::new(),
        target,
        created_at: from_nanos(row.get(2)?),
        updated_at: from_nanos(row.get(3)?),
    })
}

/// The first images behind a name.
fn page(connection: &Connection, namespace: &Namespace, after: &str) -> Result<Vec<Image>> {
    let sql = format!(
        "{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key > ?3 ORDER BY o.key LIMIT {}",
        objects::PAGE
    );
    let kind = Kind::Image;
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![namespace.as_str(), kind.as_str(), after])?;
    let mut found: Vec<(i64, Image)> = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, read(row)?));
    }
    let Some((_, last)) = found.last() else { return Ok(Vec::new()) };
    let page = objects::Page { namespace, kind, after, last: &last.name };
    let (mut labels, mut annotations) =
        (page.labels(connection)?, page.maps(connection, ANNOTATIONS)?);
    for (object, image) in &mut found {
        image.labels = labels.remove(object).unwrap_or_default();
        image.target.annotations = annotations.remove(object).unwrap_or_default();
    }
    Ok(found.into_iter().map(|(_, image)| image).collect())
}

const ANNOTATIONS: &str = "
    SELECT a.image, a.key, a.value FROM objects o CROSS JOIN annotations a ON a.image = o.id
    WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key > ?3 AND o.key <= ?4";

/// Writes all but name and times.
fn write(connection: &Connection, object: i64, image: &mut Image) -> Result<()> {
    let target = &mut image.target;
    connection
        .prepare_cached(
            "INSERT INTO images (id, media_type, digest, size) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET media_type = ?2, digest = ?3, size = ?4",
        )?
        .execute(params![
            object,
            target.media_type,
            target.digest.as_str(),
            target.size.cast_signed()
        ])?;
    target.annotations.retain(|_, value| !value.is_empty());
    connection.prepare_cached("DELETE FROM annotations WHERE image = ?1")?.execute([object])?;
    let mut insert = connection
        .prepare_cached("INSERT INTO annotations (image, key, value) VALUES (?1, ?2, ?3)")?;
    for (key, value) in &target.annotations {
        insert.execute(params![object, key, value])?;
    }
    let key = target.digest.as_str().to_owned();
    let reference = Reference { kind: Kind::Content, key, via: Via::Own };
    objects::describe(connection, object, Kind::Image, &mut image.labels, &[reference])
}

/// Takes over from `wanted` what `paths` names.
fn apply(image: &mut Image, wanted: &ImageUpdate, paths: &[String]) -> Result<()> {
    let target = || {
        wanted.target.clone().map_or_else(|| image_target(String::new(), "", 0, Labels::new()), Ok)
    };
    if paths.is_empty() {
        image.labels.clone_from(&wanted.labels);
        image.target = target()?;
    }
    for path in paths {
        if let Some(key) = path.strip_prefix("labels.") {
            objects::set(&mut image.labels, &wanted.labels, key);
        } else if let Some(key) = path.strip_prefix("annotations.") {
            objects::set(&mut image.target.annotations, &wanted.annotations, key);
        } else {
            match path.as_str() {
                "labels" => image.labels.clone_from(&wanted.labels),
                "target" => image.target = target()?,
                "annotations" => image.target.annotations.clone_from(&wanted.annotations),
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "cannot update {other:?} field on image {:?}",
                        wanted.name
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Makes `lease` hold an image that would expire otherwise.
fn hold(
    connection: &Connection,
    namespace: &Namespace,
    image: &Image,
    lease: Option<&LeaseId>,
) -> Result<()> {
    if references::expires(&image.labels) {
        leases::hold(connection, namespace, lease, Kind::Image, &image.name)?;
    }
    Ok(())
}

fn validate(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(Error::InvalidArgument("image name must not be empty".into()));
    }
    validate_labels(&image.labels, "image.Labels")?;
    validate_target(&image.target)
}

fn validate_target(target: &Descriptor) -> Result<()> {
    if target.size == 0 {
        return Err(Error::InvalidArgument("Target.Size must be greater than zero".into()));
    }
    if target.media_type.is_empty() {
        return Err(Error::InvalidArgument("Target.MediaType must be set".into()));
    }
    Ok(())
}
