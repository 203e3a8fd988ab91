//! Lists of content, read a page at a time.

use davit_types::Namespace;
use davit_types::filter::FilterSet;
use rusqlite::{Connection, params};

use super::{ContentInfo, ContentStore, SELECT, find, read};
use crate::Result;
use crate::adaptors::walk_filters;
use crate::objects::{self, Kind};

/// A list of content, and how far it has been read.
#[derive(Clone, Debug)]
pub struct ContentWalk {
    namespace: Namespace,
    filters: FilterSet,
    /// The last digest read; `None` at the end.
    after: Option<String>,
}

impl ContentStore {
    /// Those that any of `filters` matches, all when there is none, by digest.
    pub fn list(&self, namespace: &Namespace, filters: &[String]) -> Result<Vec<ContentInfo>> {
        let mut walk = self.walk(namespace, filters)?;
        let mut found = Vec::new();
        while let Some(page) = self.next_page(&mut walk)? {
            found.extend(page);
        }
        Ok(found)
    }

    /// The same, a page at a time: for callers that do not want to have, or
    /// wait for, all of it.
    pub fn walk(&self, namespace: &Namespace, filters: &[String]) -> Result<ContentWalk> {
        let filters = walk_filters(filters)?;
        Ok(ContentWalk { namespace: namespace.clone(), filters, after: Some(String::new()) })
    }

    /// Those of the next page that match, which can be none; `None` behind
    /// the last page. A page shows what is there when it is read.
    pub fn next_page(&self, walk: &mut ContentWalk) -> Result<Option<Vec<ContentInfo>>> {
        let Some(after) = walk.after.take() else { return Ok(None) };
        if let Some(digests) = walk.filters.values_of(&["digest"]) {
            let named = self.index.look(|connection| {
                let find = |digest: &str| find(connection, &walk.namespace, digest).transpose();
                digests.into_iter().filter_map(find).collect::<Result<Vec<_>>>()
            })?;
            let infos = named.into_iter().map(|(_, info)| info);
            return Ok(Some(infos.filter(|info| walk.filters.matches(info)).collect()));
        }
        let mut infos =
            self.index.look_long(|connection| page(connection, &walk.namespace, &after))?;
        if infos.len() == objects::PAGE {
            walk.after = infos.last().map(|info| info.digest.to_string());
        }
        infos.retain(|info| walk.filters.matches(info));
        Ok(Some(infos))
    }
}

/// The first blobs behind a digest.
fn page(connection: &Connection, namespace: &Namespace, after: &str) -> Result<Vec<ContentInfo>> {
    let sql = format!(
        "{SELECT} WHERE o.namespace = ?1 AND o.kind = ?2 AND o.key > ?3 ORDER BY o.key LIMIT {}",
        objects::PAGE
    );
    let kind = Kind::Content;
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![namespace.as_str(), kind.as_str(), after])?;
    let mut found: Vec<(i64, ContentInfo)> = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((row.get(0)?, read(row)?));
    }
    let Some((_, last)) = found.last() else { return Ok(Vec::new()) };
    let page = objects::Page { namespace, kind, after, last: last.digest.as_str() };
    let mut labels = page.labels(connection)?;
    for (object, info) in &mut found {
        info.labels = labels.remove(object).unwrap_or_default();
    }
    Ok(found.into_iter().map(|(_, info)| info).collect())
}
