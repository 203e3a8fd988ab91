//! Sandboxes: what holds containers together (containerd,
//! `core/metadata/sandbox.go`).

use std::collections::BTreeMap;
use std::time::SystemTime;

use davit_types::{Any, ContainerId, Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::adaptors::record_filters;
use crate::objects::Kind;
use crate::time::from_nanos;
use crate::{Error, Index, Result, Runtime, anys, objects};

/// A sandbox's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name, unique within the namespace.
    pub id: String,
    /// What clients attached.
    pub labels: Labels,
    /// Which runtime runs it.
    pub runtime: Runtime,
    /// What it is to be, as its client encoded it.
    pub spec: Option<Any>,
    /// Who looks after it: `shim`, `podsandbox`.
    pub sandboxer: String,
    /// When it was made; ignored on create and update.
    pub created_at: SystemTime,
    /// When it was last changed; ignored on create and update.
    pub updated_at: SystemTime,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, Any>,
}

/// The sandboxes of all namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Sandboxes<'a> {
    pub(crate) index: &'a Index,
}

impl Sandboxes<'_> {
    /// One sandbox.
    pub fn get(&self, namespace: &Namespace, id: &str) -> Result<Sandbox> {
        self.index.look(|connection| {
            find(connection, namespace, id)?.map(|(_, sandbox)| sandbox).ok_or_else(|| missing(id))
        })
    }

    /// Those that any of `filters` matches, all when there is none, by id.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<Sandbox>> {
        let filters = record_filters(filters)?;
        self.index.look(|connection| {
            let mut labels = objects::all_labels(connection, namespace, Kind::Sandbox)?;
            let mut extensions = anys::all_extensions(connection, namespace, Kind::Sandbox)?;
            let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 ORDER BY o.key");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![namespace.as_str(), Kind::Sandbox.as_str()])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let (object, mut sandbox) = read(row)?;
                sandbox.labels = labels.remove(&object).unwrap_or_default();
                sandbox.extensions = extensions.remove(&object).unwrap_or_default();
                if filters.matches(&sandbox) {
                    found.push(sandbox);
                }
            }
            Ok(found)
        })
    }

    /// Adds a sandbox; answers it with its times.
    pub fn create(&self, namespace: &Namespace, sandbox: Sandbox) -> Result<Sandbox> {
        let mut sandbox = sandbox;
        validate(&sandbox, "failed to validate sandbox: ")?;
        let namespace = namespace.clone();
        self.index.change(move |connection| {
            let now = SystemTime::now();
            let object = objects::insert(connection, &namespace, Kind::Sandbox, &sandbox.id, now)?
                .ok_or_else(|| {
                    Error::AlreadyExists(format!(
                        "write error: sandbox bucket {:?} already exists",
                        sandbox.id
                    ))
                })?;
            sandbox.created_at = now;
            sandbox.updated_at = now;
            write(connection, object, &mut sandbox)?;
            Ok(sandbox)
        })
    }

    /// Changes the fields that `paths` names; without any, all that may
    /// change. Answers the result.
    pub fn update(
        &self,
        namespace: &Namespace,
        sandbox: Sandbox,
        paths: &[String],
    ) -> Result<Sandbox> {
        let (namespace, paths) = (namespace.clone(), paths.to_vec());
        self.index.loosen(move |connection| {
            let (object, mut updated) =
                find(connection, &namespace, &sandbox.id)?.ok_or_else(|| missing(&sandbox.id))?;
            apply(&mut updated, &sandbox, &paths)?;
            validate(&updated, "")?;
            updated.updated_at = SystemTime::now();
            objects::touch(connection, object, updated.updated_at)?;
            write(connection, object, &mut updated)?;
            Ok(updated)
        })
    }

    /// Deletes a sandbox.
    pub fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let (namespace, id) = (namespace.clone(), id.to_owned());
        self.index.loosen(move |connection| {
            if objects::delete(connection, &namespace, Kind::Sandbox, &id)? {
                Ok(())
            } else {
                Err(Error::NotFound(format!("failed to delete sandbox {id:?}")))
            }
        })
    }
}

fn missing(id: &str) -> Error {
    Error::NotFound(format!("bucket {id:?} not found"))
}

const SELECT: &str = "
    SELECT o.id, o.key, o.created, o.updated, s.runtime, s.options_type, s.options,
           s.spec_type, s.spec, s.sandboxer
    FROM objects o JOIN sandboxes s ON s.id = o.id";

fn find(
    connection: &Connection,
    namespace: &Namespace,
    id: &str,
) -> Result<Option<(i64, Sandbox)>> {
    let sql = format!("{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key = ?3");
    let found = connection
        .prepare_cached(&sql)?
        .query_row(params![namespace.as_str(), Kind::Sandbox.as_str(), id], read)
        .optional()?;
    let Some((object, mut sandbox)) = found else { return Ok(None) };
    sandbox.labels = objects::labels(connection, object)?;
    sandbox.extensions = anys::extensions(connection, object)?;
    Ok(Some((object, sandbox)))
}

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Sandbox)> {
    let sandbox = Sandbox {
        id: row.get(1)?,
        labels: Labels::new(),
        runtime: Runtime { name: row.get(4)?, options: anys::read(row, 5)? },
        spec: anys::read(row, 7)?,
        sandboxer: row.get(9)?,
        created_at: from_nanos(row.get(2)?),
        updated_at: from_nanos(row.get(3)?),
        extensions: BTreeMap::new(),
    };
    Ok((row.get(0)?, sandbox))
}

/// Writes all but id and times.
fn write(connection: &Connection, object: i64, sandbox: &mut Sandbox) -> Result<()> {
    let (options_type, options) = anys::columns(sandbox.runtime.options.as_ref());
    let (spec_type, spec) = anys::columns(sandbox.spec.as_ref());
    connection
        .prepare_cached(
            "INSERT INTO sandboxes (id, runtime, options_type, options, spec_type, spec, sandboxer)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET runtime = ?2, options_type = ?3, options = ?4,
                 spec_type = ?5, spec = ?6, sandboxer = ?7",
        )?
        .execute(params![
            object,
            sandbox.runtime.name,
            options_type,
            options,
            spec_type,
            spec,
            sandbox.sandboxer
        ])?;
    anys::write_extensions(connection, object, &sandbox.extensions)?;
    objects::describe(connection, object, Kind::Sandbox, &mut sandbox.labels, &[])
}

/// Takes over from `wanted` what `paths` names.
fn apply(updated: &mut Sandbox, wanted: &Sandbox, paths: &[String]) -> Result<()> {
    let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    if paths.is_empty() {
        if updated.runtime.name != wanted.runtime.name {
            return Err(Error::InvalidArgument("sandbox.Runtime.Name field is immutable".into()));
        }
        paths = vec!["labels", "extensions", "spec", "runtime"];
    }
    for path in paths {
        if let Some(key) = path.strip_prefix("labels.") {
            objects::set(&mut updated.labels, &wanted.labels, key);
        } else if let Some(key) = path.strip_prefix("extensions.") {
            objects::set(&mut updated.extensions, &wanted.extensions, key);
        } else {
            match path {
                "labels" => updated.labels.clone_from(&wanted.labels),
                "extensions" => updated.extensions.clone_from(&wanted.extensions),
                "runtime" => updated.runtime.clone_from(&wanted.runtime),
                "spec" => updated.spec.clone_from(&wanted.spec),
                other => {
                    return Err(Error::InvalidArgument(format!(
                        "cannot update {other:?} field on sandbox {:?}",
                        wanted.id
                    )));
                }
            }
        }
    }
    Ok(())
}

fn validate(sandbox: &Sandbox, context: &str) -> Result<()> {
    ContainerId::new(sandbox.id.as_str())
        .map(drop)
        .map_err(|error| Error::invalid(format_args!("{context}invalid sandbox ID: {error}")))
}
