//! Random worlds, held against a second reading of containerd's rules; and
//! collections among writers that change everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use davit_types::{Labels, Namespace};
use rusqlite::{Connection, OptionalExtension, params};

use super::graph::Graph;
use super::sweep::{self, Sweep};
use crate::objects::{self, Kind};
use crate::references::{Reference, Via};
use crate::{Index, LeaseId, Result, leases};

const PAST: &str = "2001-01-01T00:00:00Z";
const FUTURE: &str = "2200-01-01T00:00:00Z";

/// Numbers that look random and are the same in each run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

/// A thing of the model: its name says its kind, `content/3`, `snapshot/s/4`.
#[derive(Clone, Debug, Default)]
struct Thing {
    labels: Labels,
    /// What it refers to by itself: a target, a parent, a lease's resources.
    own: BTreeSet<String>,
    /// An ingest's end.
    ends: Option<bool>,
}

type World = BTreeMap<String, Thing>;

const KINDS: [Kind; 7] = [
    Kind::Container,
    Kind::Content,
    Kind::Image,
    Kind::Ingest,
    Kind::Lease,
    Kind::Sandbox,
    Kind::Snapshot,
];

fn name(kind: Kind, number: usize) -> String {
    match kind {
        Kind::Snapshot => format!("snapshot/s/{number}"),
        other => format!("{}/{number}", other.as_str()),
    }
}

fn random_labels(dice: &mut Dice, size: usize) -> Labels {
    const WORDS: [&str; 13] = [
        "ref.content",
        "ref.content.l.0",
        "ref.content/config",
        "ref.contents",
        "ref.image.x",
        "ref.snapshot.s",
        "ref.snapshot.s/a",
        "bref.content.x",
        "bref.image",
        "bref.container",
        "bref.snapshot.s",
        "root",
        "other",
    ];
    let mut labels = Labels::new();
    if size == 0 {
        return labels;
    }
    for _ in 0..dice.roll(3) {
        let label = format!("containerd.io/gc.{}", dice.pick(&WORDS));
        labels.insert(label, dice.roll(size).to_string());
    }
    match dice.roll(8) {
        0 => drop(labels.insert("containerd.io/gc.expire".into(), PAST.into())),
        1 => drop(labels.insert("containerd.io/gc.expire".into(), FUTURE.into())),
        2 => drop(labels.insert("containerd.io/gc.flat".into(), "1".into())),
        _ => {}
    }
    labels
}

fn random_own(dice: &mut Dice, kind: Kind, number: usize, size: usize) -> BTreeSet<String> {
    let target = match kind {
        Kind::Image => name(Kind::Content, dice.roll(size)),
        Kind::Container => name(Kind::Snapshot, dice.roll(size)),
        // A parent is older, so that there is no circle.
        Kind::Snapshot if number > 0 => name(Kind::Snapshot, dice.roll(number)),
        Kind::Ingest if dice.roll(2) == 0 => name(Kind::Content, dice.roll(size)),
        Kind::Lease => {
            let held = [Kind::Content, Kind::Snapshot, Kind::Image, Kind::Ingest];
            return (0..dice.roll(4)).map(|_| name(dice.pick(&held), dice.roll(size))).collect();
        }
        _ => return BTreeSet::new(),
    };
    BTreeSet::from_iter(Some(target).filter(|_| dice.roll(4) > 0))
}

fn random_world(dice: &mut Dice, size: usize) -> World {
    let mut world = World::new();
    for kind in KINDS {
        for number in 0..size {
            if dice.roll(4) == 0 {
                continue;
            }
            let own = random_own(dice, kind, number, size);
            let ends = (kind == Kind::Ingest && dice.roll(2) == 0).then(|| dice.roll(2) == 0);
            // Ingests have no labels.
            let labels = random_labels(dice, if kind == Kind::Ingest { 0 } else { size });
            world.insert(name(kind, number), Thing { labels, own, ends });
        }
    }
    // The index holds on to parents, so they exist.
    for number in 0..size {
        let snapshot = name(Kind::Snapshot, number);
        let missing = |thing: &Thing| thing.own.iter().any(|parent| !world.contains_key(parent));
        if world.get(&snapshot).is_some_and(missing) {
            world.remove(&snapshot);
        }
    }
    world
}

/// containerd's collection, read once more from its source: what `scanRoots`
/// sends, and what `references` makes of it. A `*` behind a name is its type
/// "flat".
fn model(world: &World) -> BTreeSet<String> {
    let expired =
        |thing: &Thing| thing.labels.get("containerd.io/gc.expire").is_some_and(|end| end == PAST);
    let mut roots = Vec::new();
    let mut back: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, thing) in world {
        let kind = name.split('/').next().unwrap();
        let flat = thing.labels.contains_key("containerd.io/gc.flat");
        match kind {
            "lease" if !expired(thing) => {
                roots.push(name.clone());
                for held in &thing.own {
                    let star = if flat && !held.starts_with("ingest/") { "*" } else { "" };
                    roots.push(format!("{held}{star}"));
                }
            }
            "image" if !expired(thing) => roots.push(name.clone()),
            "container" => roots.push(name.clone()),
            "ingest" if thing.ends == Some(true) => roots.push(name.clone()),
            "sandbox" => roots.extend(labelled(thing, "ref")),
            "content" | "snapshot"
                if thing.labels.keys().any(|l| l.starts_with("containerd.io/gc.root")) =>
            {
                roots.push(name.clone());
            }
            _ => {}
        }
        if ["content", "snapshot", "image", "container"].contains(&kind) {
            for target in labelled(thing, "bref") {
                back.entry(target).or_default().push(name.clone());
            }
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(node) = roots.pop() {
        if !seen.insert(node.clone()) {
            continue;
        }
        roots.extend(back.get(&node).into_iter().flatten().cloned());
        let (name, star) = node.strip_suffix('*').map_or((&*node, ""), |name| (name, "*"));
        let Some(thing) = world.get(name) else { continue };
        if !(name.starts_with("content/") || name.starts_with("lease/")) {
            roots.extend(thing.own.iter().map(|target| format!("{target}{star}")));
        }
        if star.is_empty() && !name.starts_with("ingest/") && !name.starts_with("lease/") {
            roots.extend(labelled(thing, "ref"));
        }
    }
    let stays = |name: &String| {
        // Neither is ever collected.
        let kept = name.starts_with("container/") || name.starts_with("sandbox/");
        kept || seen.contains(name) || seen.contains(&format!("{name}*"))
    };
    world.keys().filter(|name| !stays(name)).cloned().collect()
}

fn labelled(thing: &Thing, way: &str) -> Vec<String> {
    let prefix = format!("containerd.io/gc.{way}.");
    let target = |(label, value): (&String, &String)| {
        let rest = label.strip_prefix(&prefix)?;
        let word = rest.split(['.', '/']).next().unwrap();
        match word {
            "snapshot" => Some(format!("snapshot/s/{value}")),
            "content" | "image" => Some(format!("{word}/{value}")),
            "container" if way == "bref" => Some(format!("{word}/{value}")),
            _ => None,
        }
    };
    thing.labels.iter().filter_map(target).collect()
}

fn kind_of(name: &str) -> Kind {
    *KINDS.iter().find(|kind| name.starts_with(&format!("{}/", kind.as_str()))).unwrap()
}

fn reference(name: &str, via: Via) -> Reference {
    let (_, key) = name.split_once('/').unwrap();
    Reference { kind: kind_of(name), key: key.to_owned(), via }
}

/// Adds or replaces a thing, as the stores do.
fn put(connection: &Connection, space: &Namespace, name: &str, thing: &Thing) -> Result<()> {
    let (kind, (_, key)) = (kind_of(name), name.split_once('/').unwrap());
    let id = match objects::find(connection, space, kind, key)? {
        Some(id) => id,
        None => objects::insert(connection, space, kind, key, SystemTime::now())?.unwrap(),
    };
    let own: Vec<Reference> = thing.own.iter().map(|to| reference(to, Via::Own)).collect();
    objects::describe(connection, id, kind, &mut thing.labels.clone(), &own)?;
    match kind {
        Kind::Lease => {
            for held in &thing.own {
                let Reference { kind, key, .. } = reference(held, Via::Lease);
                let lease = LeaseId::new(name.strip_prefix("lease/").unwrap());
                leases::hold(connection, space, Some(&lease), kind, &key)?;
            }
        }
        Kind::Snapshot => {
            let parent = thing.own.first().map(|parent| reference(parent, Via::Own).key);
            let parent: Option<i64> = match parent {
                Some(key) => objects::find(connection, space, Kind::Snapshot, &key)?,
                None => None,
            };
            connection.execute(
                "INSERT INTO snapshots VALUES (?1, 's', 'committed', ?2, ?1, 0, 0)
                 ON CONFLICT DO UPDATE SET parent = ?2",
                params![id, parent],
            )?;
        }
        Kind::Ingest => {
            let end = thing.ends.map(|later| if later { i64::MAX } else { 0 });
            connection.execute(
                "UPDATE objects SET root = ?2, expires = ?3 WHERE id = ?1",
                params![id, end.is_some(), end],
            )?;
        }
        _ => {}
    }
    Ok(())
}

fn names(connection: &Connection, ids: &[i64]) -> Result<Vec<String>> {
    let name = |id: &i64| {
        connection
            .prepare_cached("SELECT kind || '/' || key FROM objects WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
    };
    Ok(ids.iter().map(name).collect::<rusqlite::Result<_>>()?)
}

fn now() -> i64 {
    crate::time::to_nanos(SystemTime::now())
}

fn index() -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db")).unwrap();
    (dir, index)
}

#[test]
fn garbage_is_what_containerd_takes_for_it() {
    let (_dir, index) = index();
    let space = Namespace::new("default").unwrap();
    let mut sizes = BTreeSet::new();
    for seed in 1..=300 {
        let world = random_world(&mut Dice(seed * 7919), 6);
        let expected = model(&world);
        sizes.insert(expected.len());
        let (space, written) = (space.clone(), world.clone());
        let order = index.upkeep(move |connection| {
            connection.execute("DELETE FROM objects", [])?;
            for (name, thing) in &written {
                put(connection, &space, name, thing)?;
            }
            let order = Graph::load(connection, None)?.garbage(now());
            names(connection, &order)
        });
        let order = order.unwrap();
        let found: BTreeSet<String> = order.iter().cloned().collect();
        assert_eq!(found, expected, "seed {seed}: {world:#?}");
        // Children go before their parents.
        for (at, name) in order.iter().enumerate() {
            let parents = world[name].own.iter().filter(|_| name.starts_with("snapshot/"));
            for parent in parents {
                assert!(!order[..at].contains(parent), "seed {seed}: {parent} before {name}");
            }
        }
    }
    assert!(sizes.len() > 5, "the worlds are all alike: {sizes:?}");
}

/// Does something random to a random thing.
fn disturb(connection: &Connection, space: &Namespace, dice: &mut Dice) -> Result<()> {
    const SIZE: usize = 12;
    let (kind, number) = (dice.pick(&KINDS), dice.roll(SIZE));
    let name = name(kind, number);
    let (_, key) = name.split_once('/').unwrap();
    let child = connection
        .query_row(
            "SELECT s.id FROM snapshots s JOIN objects p ON p.id = s.parent
             WHERE p.namespace = ?1 AND p.kind = ?2 AND p.key = ?3",
            params![space.as_str(), kind.as_str(), key],
            |row| row.get::<_, i64>(0),
        )
        .optional()?;
    if dice.roll(5) < 2 {
        if child.is_none() {
            objects::delete(connection, space, kind, key)?;
        }
        return Ok(());
    }
    if kind == Kind::Lease && dice.roll(2) == 0 {
        let held = reference(&self::name(Kind::Content, dice.roll(SIZE)), Via::Lease);
        let lease = LeaseId::new(key);
        if objects::find(connection, space, Kind::Lease, key)?.is_some() {
            leases::hold(connection, space, Some(&lease), held.kind, &held.key)?;
        }
        return Ok(());
    }
    let mut thing = Thing {
        labels: random_labels(dice, if kind == Kind::Ingest { 0 } else { SIZE }),
        own: random_own(dice, kind, number, SIZE),
        ends: (kind == Kind::Ingest).then(|| dice.roll(2) == 0),
    };
    if kind == Kind::Snapshot {
        let exists = |parent: &String| {
            let key = reference(parent, Via::Own).key;
            objects::find(connection, space, Kind::Snapshot, &key)
        };
        for parent in thing.own.clone() {
            if exists(&parent)?.is_none() {
                thing.own.remove(&parent);
            }
        }
    }
    put(connection, space, &name, &thing)
}

/// A collection as [`super::Collector`] makes it; before each batch it is
/// found out anew, in the same transaction, what no root leads to.
fn collect_and_check(index: &Index) -> usize {
    index.upkeep(sweep::begin).unwrap();
    let find = |connection: &Connection| Ok(Graph::load(connection, None)?.garbage(now()));
    let mut sweep = Sweep::new(index.look(find).unwrap());
    let mut count = 0;
    while !sweep.is_done() {
        let (gone, dead);
        (sweep, gone, dead) = index
            .upkeep(move |connection| {
                let dead = names(connection, &find(connection)?)?;
                let gone = sweep.batch(connection)?;
                Ok((sweep, gone, dead))
            })
            .unwrap();
        count += gone.len();
        for victim in gone {
            let name = format!("{}/{}", victim.kind, victim.key);
            assert!(dead.contains(&name), "{name} was removed although something held it");
        }
    }
    index.upkeep(sweep::end).unwrap();
    count
}

/// Has the writers stop when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_that_is_held_goes_while_others_write() {
    let (_dir, index) = index();
    let space = Namespace::new("default").unwrap();
    let (index, stop) = (&index, &AtomicBool::new(false));
    let (mut collected, mut rounds) = (0, 0);
    std::thread::scope(|scope| {
        // Also when an assertion fails.
        let _stop = Stop(stop);
        for worker in 1..=4_u64 {
            let space = space.clone();
            scope.spawn(move || {
                let mut seed = worker * 104_729;
                while !stop.load(Ordering::Relaxed) {
                    seed += 7;
                    let space = space.clone();
                    let work = move |c: &Connection| disturb(c, &space, &mut Dice(seed * 31));
                    index.change(work).unwrap();
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            collected += collect_and_check(index);
            rounds += 1;
        }
    });
    assert!(collected > 20, "{collected} things in {rounds} collections");
    let left = index.look(|connection| Ok(Graph::load(connection, None)?.garbage(now()).len()));
    let found = collect_and_check(index);
    assert_eq!(found, left.unwrap());
}
