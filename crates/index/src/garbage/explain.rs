//! Why a thing stays, or that nothing holds it.

use std::time::SystemTime;

use davit_types::{Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, params};

use super::graph::Chain;
use super::{Collector, Thing};
use crate::references::{self, Via};
use crate::time::{from_nanos, to_nanos};
use crate::{Error, Result, objects};

/// How many chains an explanation tells, of those that there are.
const CHAINS_MAX: usize = 16;
/// How many things of one name are explained.
const NAMESAKES_MAX: i64 = 16;
/// How many things a refusal names when a beginning could be that of several.
const NAMED_MAX: usize = 5;

/// Why a thing stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked about.
    pub thing: Thing,
    /// Ways from a root down to it, the shortest first, one for each root,
    /// 16 at most. None when nothing holds it: the next collection takes it.
    pub chains: Vec<Vec<Link>>,
    /// How many roots hold it.
    pub roots: usize,
}

/// A thing on the way from a root to another thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The thing.
    pub thing: Thing,
    /// What makes the one before it hold it, or what makes it a root, in a
    /// few words that name the label if it is one.
    pub held_by: String,
    /// When it ends by itself, where it does.
    pub expires: Option<SystemTime>,
}

impl Collector {
    /// Says why the things that `words` name stay: a digest, a snapshot's key
    /// or `SNAPSHOTTER/KEY`, the name of an image, container, lease, sandbox
    /// or ingest; else the one whose name begins so.
    ///
    /// # Errors
    /// `NotFound` when nothing is called so, `InvalidArgument` when the names
    /// of several things begin so.
    pub fn explain(&self, namespace: &Namespace, words: &str) -> Result<Vec<Explanation>> {
        if words.is_empty() {
            return Err(Error::InvalidArgument("the name must not be empty".into()));
        }
        self.index.look_long(|connection| {
            let found = find(connection, namespace, words)?;
            let now = to_nanos(SystemTime::now());
            let graph = self.graph(connection, Some(namespace))?;
            let explain = |(id, thing)| {
                let chains = graph.chains(id, now);
                let roots = chains.len();
                let told = chains.iter().take(CHAINS_MAX).map(|chain| links(connection, chain));
                Ok(Explanation { thing, chains: told.collect::<Result<_>>()?, roots })
            };
            found.into_iter().map(explain).collect()
        })
    }
}

/// The things that `words` can mean: those called so, else the only one whose
/// name begins so.
fn find(connection: &Connection, namespace: &Namespace, words: &str) -> Result<Vec<(i64, Thing)>> {
    let whole = candidates(connection, namespace, words, false)?;
    if !whole.is_empty() {
        return Ok(whole);
    }
    let begun = candidates(connection, namespace, words, true)?;
    match &begun[..] {
        [] => Err(Error::NotFound(format!("{words:?} in namespace {:?}", namespace.as_str()))),
        [_] => Ok(begun),
        several => {
            let names = several.iter().take(NAMED_MAX).map(|(_, thing)| {
                let slash = if thing.snapshotter.is_empty() { "" } else { "/" };
                format!("{} {}{slash}{}", thing.kind, thing.snapshotter, thing.name)
            });
            let names = names.collect::<Vec<_>>().join(", ");
            let more = if several.len() > NAMED_MAX { " or more" } else { "" };
            Err(Error::InvalidArgument(format!("{words:?} could be any of {names}{more}")))
        }
    }
}

/// Things called `words`, or whose names begin so. The algorithm of a digest
/// and the snapshotter of a snapshot may be left out.
fn candidates(
    connection: &Connection,
    namespace: &Namespace,
    words: &str,
    begun: bool,
) -> Result<Vec<(i64, Thing)>> {
    let length = if begun { "length(?2)" } else { "length(key)" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id, kind, key FROM objects WHERE namespace = ?1 AND (
             substr(key, 1, {length}) = ?2
             OR kind = 'snapshot' AND substr(key, instr(key, '/') + 1, {length}) = ?2
             OR kind = 'content' AND substr(key, instr(key, ':') + 1, {length}) = ?2)
         ORDER BY kind, key LIMIT ?3",
    ))?;
    let mut rows = statement.query(params![namespace.as_str(), words, NAMESAKES_MAX])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (kind, key): (String, String) = (row.get(1)?, row.get(2)?);
        found.push((row.get(0)?, Thing::new(&kind, &key)));
    }
    Ok(found)
}

/// A row of `objects`, as chains are told of.
struct Named {
    id: i64,
    kind: String,
    key: String,
    expires: Option<i64>,
}

fn links(connection: &Connection, chain: &Chain) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut before: Option<Named> = None;
    for id in chain {
        let named = connection
            .prepare_cached("SELECT kind, key, expires FROM objects WHERE id = ?1")?
            .query_row([id], |row| {
                let (kind, key, expires) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(Named { id: *id, kind, key, expires })
            })?;
        let held_by = match &before {
            None => itself(connection, &named)?,
            Some(holder) => by(connection, holder, &named)?,
        };
        let thing = Thing::new(&named.kind, &named.key);
        links.push(Link { thing, held_by, expires: named.expires.map(from_nanos) });
        before = Some(named);
    }
    Ok(links)
}

/// What makes a thing a root.
fn itself(connection: &Connection, root: &Named) -> Result<String> {
    let label = match root.kind.as_str() {
        "content" | "snapshot" => {
            let labels = objects::labels(connection, root.id)?;
            labels.into_keys().find(|label| references::is_root_label(label))
        }
        _ => None,
    };
    let kind = &root.kind;
    Ok(label
        .map_or_else(|| format!("{kind}s stay by themselves"), |label| format!("label {label}")))
}

/// What makes `holder` hold `held`.
fn by(connection: &Connection, holder: &Named, held: &Named) -> Result<String> {
    let reference = |source: &Named, target: &Named, back: bool| {
        connection
            .prepare_cached(
                "SELECT via FROM refs WHERE source = ?1 AND kind = ?2 AND key = ?3
                 AND (via = 'back') = ?4 ORDER BY via DESC",
            )?
            .query_row(params![source.id, target.kind, target.key, back], |row| {
                row.get::<_, String>(0)
            })
            .optional()
    };
    let label = |source: &Named, target: &Named, via: Via| {
        let labels: Labels = objects::labels(connection, source.id)?;
        let named = references::label_naming(&labels, &target.kind, &target.key, via);
        Ok::<_, Error>(named.unwrap_or_default().to_owned())
    };
    Ok(match reference(holder, held, false)?.as_deref() {
        Some("self") => match holder.kind.as_str() {
            "image" => "its target".into(),
            "container" => "its root filesystem".into(),
            "ingest" => "the blob that it is".into(),
            _ => "its parent".into(),
        },
        Some("label") => format!("label {}", label(holder, held, Via::Label)?),
        Some("flat") => "held by the flat lease".into(),
        Some(_) => "held by the lease".into(),
        None => match label(held, holder, Via::Back)? {
            label if label.is_empty() => {
                "its own label about something that both name and that is not there".into()
            }
            label => format!("its own label {label}"),
        },
    })
}
