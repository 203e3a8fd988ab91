//! Namespaces and their labels (containerd, `core/metadata/namespaces.go` and
//! `plugins/services/namespaces`).

use davit_types::{Labels, Namespace};
use rusqlite::{Connection, params};

use crate::content::IngestBytes;
use crate::objects::{ensure_namespace, validate_labels};
use crate::{ContentStore, Error, Index, Result};

/// The namespaces. A namespace also comes into being, without labels, when
/// something is first made in it.
#[derive(Clone, Copy, Debug)]
pub struct Namespaces<'a> {
    pub(crate) index: &'a Index,
}

impl Namespaces<'_> {
    /// Makes `namespace` with `labels`.
    pub fn create(&self, namespace: &Namespace, labels: &Labels) -> Result<()> {
        validate_labels(labels, "namespace.Labels")?;
        let (namespace, labels) = (namespace.clone(), labels.clone());
        self.index.change(move |connection| {
            let made = connection
                .prepare_cached("INSERT INTO namespaces (name) VALUES (?1) ON CONFLICT DO NOTHING")?
                .execute([namespace.as_str()])?;
            if made == 0 {
                return Err(Error::AlreadyExists(format!("namespace {:?}", namespace.as_str())));
            }
            for (key, value) in &labels {
                set_label(connection, &namespace, key, value)?;
            }
            Ok(())
        })
    }

    /// The labels of `namespace`; none when there is no such namespace.
    pub fn labels(&self, namespace: &Namespace) -> Result<Labels> {
        self.index.look(|connection| read_labels(connection, namespace))
    }

    /// All namespaces with their labels, in the order of their names.
    pub fn list(&self) -> Result<Vec<(Namespace, Labels)>> {
        self.index.look(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT name FROM namespaces ORDER BY name")?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let namespace = Namespace::new(row.get::<_, String>(0)?)?;
                let labels = read_labels(connection, &namespace)?;
                found.push((namespace, labels));
            }
            Ok(found)
        })
    }

    /// Replaces all labels; with `paths`, sets those named (`labels.KEY`)
    /// alone. An empty value removes a label. As in containerd, a namespace
    /// that is missing is made when there is a label to set.
    pub fn update(&self, namespace: &Namespace, labels: &Labels, paths: &[String]) -> Result<()> {
        let (namespace, labels, paths) = (namespace.clone(), labels.clone(), paths.to_vec());
        self.index.change(move |connection| {
            if paths.is_empty() {
                validate_labels(&labels, "namespace.Labels")?;
                connection
                    .prepare_cached("DELETE FROM namespace_labels WHERE namespace = ?1")?
                    .execute([namespace.as_str()])?;
                for (key, value) in &labels {
                    set_label(connection, &namespace, key, value)?;
                }
            }
            for path in &paths {
                let key = path.strip_prefix("labels.").ok_or_else(|| {
                    // containerd answers with a bare status here.
                    Error::Refused(format!("cannot update {path:?} field"))
                })?;
                let value = labels.get(key).map_or("", String::as_str);
                validate_labels(&[(key.to_owned(), value.to_owned())].into(), "namespace.Labels")?;
                set_label(connection, &namespace, key, value)?;
            }
            Ok(())
        })
    }

    /// Deletes `namespace`, which must hold no images, blobs, containers or
    /// snapshots. Its leases, sandboxes and ingests go with it, the latters'
    /// bytes from `content`.
    pub fn delete(&self, namespace: &Namespace, content: &ContentStore) -> Result<()> {
        let namespace = namespace.clone();
        let ingests = self.index.loosen(move |connection| {
            let name = namespace.as_str();
            let left = contents(connection, &namespace)?;
            if !left.is_empty() {
                return Err(Error::FailedPrecondition(format!(
                    "namespace {name:?} must be empty, but it still has {}",
                    left.join(", ")
                )));
            }
            let ingests = ingests(connection, &namespace)?;
            connection.execute("DELETE FROM objects WHERE namespace = ?1", [name])?;
            let deleted = connection.execute("DELETE FROM namespaces WHERE name = ?1", [name])?;
            if deleted == 0 {
                return Err(Error::NotFound(format!("namespace {name:?}")));
            }
            Ok(ingests)
        })?;
        for bytes in &ingests {
            if let Err(error) = content.remove_ingest(bytes) {
                let reference = bytes.reference.as_str();
                log::warn!(reference, error:%; "an ingest stays behind on disk");
            }
        }
        Ok(())
    }
}

/// Where the bytes of a namespace's ingests are.
fn ingests(connection: &Connection, namespace: &Namespace) -> Result<Vec<IngestBytes>> {
    let mut statement = connection.prepare_cached(
        "SELECT i.reference, i.expected FROM objects o JOIN ingests i ON i.id = o.id
         WHERE o.namespace = ?1 AND o.kind = 'ingest'",
    )?;
    let found = statement.query_map([namespace.as_str()], |row| IngestBytes::read(row, 0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// The labels of `namespace`.
pub(crate) fn read_labels(connection: &Connection, namespace: &Namespace) -> Result<Labels> {
    let mut statement = connection
        .prepare_cached("SELECT key, value FROM namespace_labels WHERE namespace = ?1")?;
    let labels = statement.query_map([namespace.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(labels.collect::<rusqlite::Result<_>>()?)
}

fn set_label(connection: &Connection, namespace: &Namespace, key: &str, value: &str) -> Result<()> {
    ensure_namespace(connection, namespace)?;
    if value.is_empty() {
        connection
            .prepare_cached("DELETE FROM namespace_labels WHERE namespace = ?1 AND key = ?2")?
            .execute(params![namespace.as_str(), key])?;
    } else {
        connection
            .prepare_cached(
                "INSERT INTO namespace_labels (namespace, key, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET value = ?3",
            )?
            .execute(params![namespace.as_str(), key, value])?;
    }
    Ok(())
}

/// What keeps `namespace` from being deleted, in containerd's words.
fn contents(connection: &Connection, namespace: &Namespace) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (kind, word) in [("image", "images"), ("content", "blobs"), ("container", "containers")] {
        let some: bool = connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM objects WHERE namespace = ?1 AND kind = ?2)",
            )?
            .query_row(params![namespace.as_str(), kind], |row| row.get(0))?;
        if some {
            left.push(word.to_owned());
        }
    }
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT s.snapshotter FROM snapshots s JOIN objects o ON o.id = s.id
         WHERE o.namespace = ?1 ORDER BY 1",
    )?;
    let mut rows = statement.query([namespace.as_str()])?;
    while let Some(row) = rows.next()? {
        left.push(format!("snapshots on {:?} snapshotter", row.get::<_, String>(0)?));
    }
    Ok(left)
}
