//! Messages that only their reader knows, in two columns or in the table of
//! extensions.

use std::collections::{BTreeMap, HashMap};

use davit_types::{Any, Namespace};
use rusqlite::{Connection, Row, params};

use crate::Result;
use crate::objects::Kind;

/// Reads the message whose type is in `column`, its value in the next.
pub(crate) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Any>> {
    let type_url: Option<String> = row.get(column)?;
    let value: Option<Vec<u8>> = row.get(column + 1)?;
    Ok(type_url.zip(value).map(|(type_url, value)| Any { type_url, value }))
}

/// The two columns of a message.
pub(crate) fn columns(any: Option<&Any>) -> (Option<&str>, Option<&[u8]>) {
    (any.map(|any| any.type_url.as_str()), any.map(|any| any.value.as_slice()))
}

/// Replaces what clients keep with a thing.
pub(crate) fn write_extensions(
    connection: &Connection,
    object: i64,
    extensions: &BTreeMap<String, Any>,
) -> Result<()> {
    connection.prepare_cached("DELETE FROM extensions WHERE object = ?1")?.execute([object])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO extensions (object, name, type_url, value) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (name, any) in extensions {
        insert.execute(params![object, name, any.type_url, any.value])?;
    }
    Ok(())
}

/// What clients keep with a thing.
pub(crate) fn extensions(connection: &Connection, object: i64) -> Result<BTreeMap<String, Any>> {
    let mut statement = connection
        .prepare_cached("SELECT name, type_url, value FROM extensions WHERE object = ?1")?;
    let rows = statement.query_map([object], |row| {
        Ok((row.get(0)?, Any { type_url: row.get(1)?, value: row.get(2)? }))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What clients keep with all things of a kind, for lists.
pub(crate) fn all_extensions(
    connection: &Connection,
    namespace: &Namespace,
    kind: Kind,
) -> Result<HashMap<i64, BTreeMap<String, Any>>> {
    let mut statement = connection.prepare_cached(
        "SELECT e.object, e.name, e.type_url, e.value FROM objects o
         CROSS JOIN extensions e ON e.object = o.id WHERE o.namespace = ?1 AND o.kind = ?2",
    )?;
    let mut rows = statement.query(params![namespace.as_str(), kind.as_str()])?;
    let mut found: HashMap<i64, BTreeMap<String, Any>> = HashMap::new();
    while let Some(row) = rows.next()? {
        let any = Any { type_url: row.get(2)?, value: row.get(3)? };
        found.entry(row.get(0)?).or_default().insert(row.get(1)?, any);
    }
    Ok(found)
}
