//! What all kinds of things have in common: a row of `objects` with labels
//! and references hanging on it.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use davit_types::{Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, params};

use crate::references::{self, Reference};
use crate::time::to_nanos;
use crate::{Error, Result};

/// A kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Container,
    Content,
    Image,
    Ingest,
    Lease,
    Sandbox,
    Snapshot,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Content => "content",
            Self::Image => "image",
            Self::Ingest => "ingest",
            Self::Lease => "lease",
            Self::Sandbox => "sandbox",
            Self::Snapshot => "snapshot",
        }
    }

    /// Whether things of this kind stay although nothing refers to them.
    fn is_root(self, labels: &Labels) -> bool {
        match self {
            Self::Container | Self::Image | Self::Lease | Self::Sandbox => true,
            Self::Content | Self::Snapshot => references::is_root(labels),
            Self::Ingest => false,
        }
    }

    /// Until when things of this kind stay.
    fn expiry(self, labels: &Labels) -> Option<i64> {
        match self {
            Self::Image | Self::Lease => references::expiry(labels),
            _ => None,
        }
    }
}

/// Finds the thing called `key`.
pub(crate) fn find(
    connection: &Connection,
    namespace: &Namespace,
    kind: Kind,
    key: &str,
) -> Result<Option<i64>> {
    let id = connection
        .prepare_cached("SELECT id FROM objects WHERE namespace = ?1 AND kind = ?2 AND key = ?3")?
        .query_row(params![namespace.as_str(), kind.as_str(), key], |row| row.get(0))
        .optional()?;
    Ok(id)
}

/// Adds a thing called `key`, and its namespace if need be; `None` when there
/// is one of that name.
pub(crate) fn insert(
    connection: &Connection,
    namespace: &Namespace,
    kind: Kind,
    key: &str,
    now: SystemTime,
) -> Result<Option<i64>> {
    ensure_namespace(connection, namespace)?;
    let id = connection
        .prepare_cached(
            "INSERT INTO objects (namespace, kind, key, created, updated, root)
             VALUES (?1, ?2, ?3, ?4, ?4, 0) ON CONFLICT DO NOTHING RETURNING id",
        )?
        .query_row(params![namespace.as_str(), kind.as_str(), key, to_nanos(now)], |row| row.get(0))
        .optional()?;
    Ok(id)
}

/// Makes the row that a namespace needs before anything can be in it.
pub(crate) fn ensure_namespace(connection: &Connection, namespace: &Namespace) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO namespaces (name) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([namespace.as_str()])?;
    Ok(())
}

/// Replaces a thing's labels and references: `own` are those that it has by
/// itself, the labels' are found here. Labels without a value are dropped, as
/// containerd drops them.
pub(crate) fn describe(
    connection: &Connection,
    id: i64,
    kind: Kind,
    labels: &mut Labels,
    own: &[Reference],
) -> Result<()> {
    labels.retain(|_, value| !value.is_empty());
    connection.prepare_cached("DELETE FROM labels WHERE object = ?1")?.execute([id])?;
    let mut insert =
        connection.prepare_cached("INSERT INTO labels (object, key, value) VALUES (?1, ?2, ?3)")?;
    for (key, value) in labels.iter() {
        insert.execute(params![id, key, value])?;
    }
    connection
        .prepare_cached("UPDATE objects SET root = ?2, expires = ?3 WHERE id = ?1")?
        .execute(params![id, kind.is_root(labels), kind.expiry(labels)])?;
    if kind == Kind::Lease {
        return Ok(());
    }
    connection.prepare_cached("DELETE FROM refs WHERE source = ?1")?.execute([id])?;
    for reference in own.iter().chain(&references::of_labels(labels)) {
        refer(connection, id, reference)?;
    }
    Ok(())
}

/// Adds a reference.
pub(crate) fn refer(connection: &Connection, source: i64, reference: &Reference) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO refs (source, kind, key, via) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![source, reference.kind.as_str(), reference.key, reference.via.as_str()])?;
    Ok(())
}

/// Says when a thing was last changed.
pub(crate) fn touch(connection: &Connection, id: i64, now: SystemTime) -> Result<()> {
    connection
        .prepare_cached("UPDATE objects SET updated = ?2 WHERE id = ?1")?
        .execute(params![id, to_nanos(now)])?;
    Ok(())
}

/// Deletes the thing called `key`, with all that hangs on it; whether there
/// was one.
pub(crate) fn delete(
    connection: &Connection,
    namespace: &Namespace,
    kind: Kind,
    key: &str,
) -> Result<bool> {
    let deleted = connection
        .prepare_cached("DELETE FROM objects WHERE namespace = ?1 AND kind = ?2 AND key = ?3")?
        .execute(params![namespace.as_str(), kind.as_str(), key])?;
    Ok(deleted > 0)
}

/// A thing's labels.
pub(crate) fn labels(connection: &Connection, id: i64) -> Result<Labels> {
    pairs(connection, "SELECT key, value FROM labels WHERE object = ?1", id)
}

/// The labels of all things of a kind, for lists.
pub(crate) fn all_labels(
    connection: &Connection,
    namespace: &Namespace,
    kind: Kind,
) -> Result<HashMap<i64, Labels>> {
    let mut statement = connection.prepare_cached(
        "SELECT l.object, l.key, l.value FROM objects o CROSS JOIN labels l ON l.object = o.id
         WHERE o.namespace = ?1 AND o.kind = ?2",
    )?;
    let mut rows = statement.query(params![namespace.as_str(), kind.as_str()])?;
    let mut found: HashMap<i64, Labels> = HashMap::new();
    while let Some(row) = rows.next()? {
        found.entry(row.get(0)?).or_default().insert(row.get(1)?, row.get(2)?);
    }
    Ok(found)
}

/// How many things of a list are read at once.
pub(crate) const PAGE: usize = 500;

/// Things of a kind whose keys follow each other, a part of a list.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) kind: Kind,
    /// The last key of the page before.
    pub(crate) after: &'a str,
    /// The last key of this one.
    pub(crate) last: &'a str,
}

impl Page<'_> {
    /// The labels of those things.
    pub(crate) fn labels(&self, connection: &Connection) -> Result<HashMap<i64, Labels>> {
        self.maps(
            connection,
            "SELECT l.object, l.key, l.value FROM objects o CROSS JOIN labels l ON l.object = o.id
             WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key > ?3 AND o.key <= ?4",
        )
    }

    /// A map of each of those things; `sql` selects the thing, key and value.
    pub(crate) fn maps(&self, connection: &Connection, sql: &str) -> Result<HashMap<i64, Labels>> {
        let mut statement = connection.prepare_cached(sql)?;
        let Self { namespace, kind, after, last } = self;
        let mut rows = statement.query(params![namespace.as_str(), kind.as_str(), after, last])?;
        let mut found: HashMap<i64, Labels> = HashMap::new();
        while let Some(row) = rows.next()? {
            found.entry(row.get(0)?).or_default().insert(row.get(1)?, row.get(2)?);
        }
        Ok(found)
    }
}

/// Reads a map; `sql` selects key and value for the id `?1`.
pub(crate) fn pairs(connection: &Connection, sql: &str, id: i64) -> Result<Labels> {
    let mut statement = connection.prepare_cached(sql)?;
    let pairs = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(pairs.collect::<rusqlite::Result<_>>()?)
}

/// Refuses a label that is too large, in the words of the store (`whose`:
/// `image.Labels`).
pub(crate) fn validate_labels(labels: &Labels, whose: &str) -> Result<()> {
    for (key, value) in labels {
        davit_types::labels::validate(key, value)
            .map_err(|error| Error::invalid(format_args!("{whose}: {error}")))?;
    }
    Ok(())
}

/// Replaces `labels` by those of a request: all of them without `paths`, else
/// those that `paths` names, as `labels` or `labels.KEY`. A path of another
/// field is refused by `refuse`.
pub(crate) fn update_labels(
    labels: &mut Labels,
    wanted: &Labels,
    paths: &[String],
    refuse: impl Fn(&str) -> Error,
) -> Result<()> {
    if paths.is_empty() {
        labels.clone_from(wanted);
    }
    for path in paths {
        if let Some(key) = path.strip_prefix("labels.") {
            set(labels, wanted, key);
        } else if path == "labels" {
            labels.clone_from(wanted);
        } else {
            return Err(refuse(path));
        }
    }
    Ok(())
}

/// Takes one entry over from `wanted`; without a value it is removed.
pub(crate) fn set<V: Clone>(
    map: &mut BTreeMap<String, V>,
    wanted: &BTreeMap<String, V>,
    key: &str,
) {
    match wanted.get(key) {
        Some(value) => map.insert(key.to_owned(), value.clone()),
        None => map.remove(key),
    };
}
