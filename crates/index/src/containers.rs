//! Containers: what is to run, not what runs (containerd,
//! `core/metadata/containers.go`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use davit_types::{Any, ContainerId, Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::adaptors::record_filters;
use crate::objects::{Kind, validate_labels};
use crate::references::{Reference, Via};
use crate::time::from_nanos;
use crate::{Error, Index, Result, anys, objects};

/// A container's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name, unique within the namespace.
    pub id: String,
    /// What clients attached.
    pub labels: Labels,
    /// The image's name, which need not exist.
    pub image: String,
    /// Which runtime runs it.
    pub runtime: Runtime,
    /// The OCI spec, as its client encoded it.
    pub spec: Option<Any>,
    /// The snapshotter of its root filesystem.
    pub snapshotter: String,
    /// Its root filesystem's key there.
    pub snapshot_key: String,
    /// When it was made; ignored on create and update.
    pub created_at: SystemTime,
    /// When it was last changed; ignored on create and update.
    pub updated_at: SystemTime,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox it is in, or empty.
    pub sandbox_id: String,
}

/// A runtime and what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `io.containerd.runc.v2`
    pub name: String,
    /// For the runtime alone to understand.
    pub options: Option<Any>,
}

/// The containers of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Containers<'a> {
    pub(crate) index: &'a Index,
}

impl Containers<'_> {
    /// One container.
    pub fn get(&self, namespace: &Namespace, id: &str) -> Result<Container> {
        self.index.look(|connection| {
            let name = namespace.as_str();
            find(connection, namespace, id)?
                .map(|(_, container)| container)
                .ok_or_else(|| Error::NotFound(format!("container {id:?} in namespace {name:?}")))
        })
    }

    /// Those that any of `filters` matches, all when there is none, by id.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Container>> {
        let filters = record_filters(filters)?;
        if let Some(ids) = filters.values_of(&["id"]) {
            let named = self.index.look(|connection| {
                let find = |id: &str| find(connection, namespace, id).transpose();
                ids.into_iter().filter_map(find).collect::<Result<Vec<_>>>()
            })?;
            let containers = named.into_iter().map(|(_, container)| container);
            return Ok(containers.filter(|container| filters.matches(container)).collect());
        }
        self.index.look_long(|connection| {
            let mut labels = objects::all_labels(connection, namespace, Kind::Container)?;
            let mut extensions = anys::all_extensions(connection, namespace, Kind::Container)?;
            let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 ORDER BY o.key");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows =
                statement.query(params![namespace.as_str(), Kind::Container.as_str()])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let (object, mut container) = read(row)?;
                container.labels = labels.remove(&object).unwrap_or_default();
                container.extensions = extensions.remove(&object).unwrap_or_default();
                if filters.matches(&container) {
                    found.push(container);
                }
            }
            Ok(found)
        })
    }

    /// Adds a container; answers it with its times.
    pub fn create(&self, namespace: &Namespace, container: Container) -> Result<Container> {
        let mut container = container;
        validate(&container, "create container failed validation")?;
        let namespace = namespace.clone();
        self.index.change(move |connection| {
            let now = SystemTime::now();
            let object =
                objects::insert(connection, &namespace, Kind::Container, &container.id, now)?
                    .ok_or_else(|| Error::AlreadyExists(format!("container {:?}", container.id)))?;
            container.created_at = now;
            container.updated_at = now;
            write(connection, object, &mut container)?;
            Ok(container)
        })
    }

    /// Changes the fields that `paths` names; without any, all that may
    /// change, and a change of another is refused. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        container: Container,
        paths: &[String],
    ) -> Result<Container> {
        if container.id.is_empty() {
            return Err(Error::InvalidArgument("must specify a container id".into()));
        }
        let (namespace, paths) = (namespace.clone(), paths.to_vec());
        self.index.loosen(move |connection| {
            let (object, mut updated) = find(connection, &namespace, &container.id)?
                .ok_or_else(|| Error::NotFound(format!("container {:?}", container.id)))?;
            apply(&mut updated, &container, &paths)?;
            validate(&updated, "update failed validation")?;
            updated.updated_at = SystemTime::now();
            objects::touch(connection, object, updated.updated_at)?;
            write(connection, object, &mut updated)?;
            Ok(updated)
        })
    }

    /// Deletes a container.
    pub fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.index.loosen(move |connection| {
            if objects::delete(connection, &namespace, Kind::Container, &id)? {
                Ok(())
            } else {
                Err(Error::NotFound(format!("container {id}")))
            }
        })
    }
}

const SELECT: &str = "
    SELECT o.id, o.key, o.created, o.updated, c.image, c.runtime, c.options_type, c.options,
           c.spec_type, c.spec, c.snapshotter, c.snapshot_key, c.sandbox
    FROM objects o JOIN containers c ON c.id = o.id";

fn find(
    connection: &Connection,
    namespace: &Namespace,
    id: &str,
) -> Result<Option<(i64, Container)>> {
    let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key = ?3");
    let found = connection
        .prepare_cached(&sql)?
        .query_row(params![namespace.as_str(), Kind::Container.as_str(), id], read)
        .optional()?;
    let Some((object, mut container)) = found else { return Ok(None) };
    container.labels = objects::labels(connection, object)?;
    container.extensions = anys::extensions(connection, object)?;
    Ok(Some((object, container)))
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Container)> {
    let container = Container {
        id: row.get(1)?,
        labels: Labels::new(),
        image: row.get(4)?,
        runtime: Runtime { name: row.get(5)?, options: anys::read(row, 6)? },
        spec: anys::read(row, 8)?,
        snapshotter: row.get(10)?,
        snapshot_key: row.get(11)?,
        created_at: from_nanos(row.get(2)?),
        updated_at: from_nanos(row.get(3)?),
        extensions: BTreeMap::new(),
        sandbox_id: row.get(12)?,
    };
    Ok((row.get(0)?, container))
}

/// Writes all but id and times.
fn write(connection: &Connection, object: i64, container: &mut Container) -> Result<()> {
    let (options_type, options) = anys::columns(container.runtime.options.as_ref());
    let (spec_type, spec) = anys::columns(container.spec.as_ref());
    connection
        .prepare_cached(
            "INSERT INTO containers (id, image, runtime, options_type, options, spec_type, spec,
                 snapshotter, snapshot_key, sandbox)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT DO UPDATE SET image = ?2, runtime = ?3, options_type = ?4, options = ?5,
                 spec_type = ?6, spec = ?7, snapshotter = ?8, snapshot_key = ?9, sandbox = ?10",
        )?
        .execute(params![
            object,
            container.image,
            container.runtime.name,
            options_type,
            options,
            spec_type,
            spec,
            container.snapshotter,
            container.snapshot_key,
            container.sandbox_id,
        ])?;
    anys::write_extensions(connection, object, &container.extensions)?;
    let snapshot = (!container.snapshotter.is_empty()).then(|| Reference {
        kind: Kind::Snapshot,
        key: format!("{}/{}", container.snapshotter, container.snapshot_key),
        via: Via::Own,
    });
    objects::describe(
        connection,
        object,
        Kind::Container,
        &mut container.labels,
        snapshot.as_slice(),
    )
}

/// Takes over from `wanted` what `paths` names.
fn apply(updated: &mut Container, wanted: &Container, paths: &[String]) -> Result<()> {
    let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    if paths.is_empty() {
        let immutable =
            |field| Error::InvalidArgument(format!("container.{field} field is immutable"));
        if updated.snapshotter != wanted.snapshotter {
            return Err(immutable("Snapshotter"));
        }
        if updated.runtime.name != wanted.runtime.name {
            return Err(immutable("Runtime.Name"));
        }
        paths = vec!["labels", "spec", "extensions", "image", "snapshotkey"];
    }
    for path in paths {
        if let Some(key) = path.strip_prefix("labels.") {
            objects::set(&mut updated.labels, &wanted.labels, key);
        } else if let Some(key) = path.strip_prefix("extensions.") {
            if key.is_empty() {
                return Err(Error::InvalidArgument(
                    "update failed validation: container.Extension keys must not be zero-length"
                        .into(),
                ));
            }
            objects::set(&mut updated.extensions, &wanted.extensions, key);
        } else {
            match path {
                "labels" => updated.labels.clone_from(&wanted.labels),
                "spec" => updated.spec.clone_from(&wanted.spec),
                "extensions" => updated.extensions.clone_from(&wanted.extensions),
                "image" => updated.image.clone_from(&wanted.image),
                "snapshotkey" => updated.snapshot_key.clone_from(&wanted.snapshot_key),
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "cannot update {other:?} field on {:?}",
                        wanted.id
                    )));
                }
            }
        }
    }
    Ok(())
}

fn validate(container: &Container, context: &str) -> Result<()> {
    let refuse = |text: &str| Err(Error::InvalidArgument(format!("{context}: {text}")));
    if let Err(error) = ContainerId::new(container.id.as_str()) {
        return Err(Error::invalid(format_args!("{context}: container.ID: {error}")));
    }
    if container.extensions.contains_key("") {
        return refuse("container.Extension keys must not be zero-length");
    }
    validate_labels(&container.labels, &format!("{context}: containers.Labels"))?;
    if container.runtime.name.is_empty() {
        return refuse("container.Runtime.Name must be set");
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return refuse("container.Snapshotter must be set if container.SnapshotKey is set");
    }
    Ok(())
}
