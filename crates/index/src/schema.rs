//! The tables, and how an older file comes to have them.
//!
//! What can refer or be referred to is a row of `objects`, whatever it is;
//! its labels and references hang on that row and go with it, and so does the
//! row of its own kind's table. A reference names its target by kind and key,
//! not by id, because labels may name what does not exist yet. Source and
//! target are always of one namespace.
//!
//! `refs.via` says where a reference comes from, and so how far it reaches:
//! `self` (an image's target, a container's snapshot, a snapshot's parent, an
//! ingest's blob), `label` (`containerd.io/gc.ref.*`), `back`
//! (`containerd.io/gc.bref.*`: the target holds the source), `lease` (a
//! lease's resource) and `flat` (that of a lease which holds no more than
//! what it names).
//!
//! Times are nanoseconds since 1970.

use rusqlite::Connection;

/// Marks a file as ours: `DAVT`.
pub(crate) const APPLICATION_ID: i32 = 0x4441_5654;

/// What brings a file from version N to N + 1, at index N. Entries are only
/// ever added.
pub(crate) const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3];

/// The version of a file that has all tables.
pub(crate) const VERSION: usize = MIGRATIONS.len();

const VERSION_1: &str = "
CREATE TABLE namespaces (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE namespace_labels (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    key       TEXT NOT NULL,
    value     TEXT NOT NULL,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE objects (
    id        INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL REFERENCES namespaces,
    kind      TEXT NOT NULL,
    key       TEXT NOT NULL,
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    root      INTEGER NOT NULL, -- 1: kept although nothing refers to it
    expires   INTEGER,          -- until when, where that ends
    UNIQUE (namespace, kind, key)
) STRICT;

CREATE TABLE labels (
    object INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (object, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE refs (
    source INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    kind   TEXT NOT NULL,
    key    TEXT NOT NULL,
    via    TEXT NOT NULL,
    PRIMARY KEY (source, kind, key, via)
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_back ON refs (kind, key) WHERE via = 'back';

CREATE TABLE containers (
    id           INTEGER PRIMARY KEY REFERENCES objects ON DELETE CASCADE,
    image        TEXT NOT NULL,
    runtime      TEXT NOT NULL,
    options_type TEXT,
    options      BLOB,
    spec_type    TEXT,
    spec         BLOB,
    snapshotter  TEXT NOT NULL,
    snapshot_key TEXT NOT NULL,
    sandbox      TEXT NOT NULL
) STRICT;

CREATE TABLE sandboxes (
    id           INTEGER PRIMARY KEY REFERENCES objects ON DELETE CASCADE,
    runtime      TEXT NOT NULL,
    options_type TEXT,
    options      BLOB,
    spec_type    TEXT,
    spec         BLOB,
    sandboxer    TEXT NOT NULL
) STRICT;

CREATE TABLE extensions (
    object   INTEGER NOT NULL REFERENCES objects ON DELETE CASCADE,
    name     TEXT NOT NULL,
    type_url TEXT NOT NULL,
    value    BLOB NOT NULL,
    PRIMARY KEY (object, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    id         INTEGER PRIMARY KEY REFERENCES objects ON DELETE CASCADE,
    media_type TEXT NOT NULL,
    digest     TEXT NOT NULL,
    size       INTEGER NOT NULL
) STRICT;

CREATE TABLE annotations (
    image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (image, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    id   INTEGER PRIMARY KEY REFERENCES objects ON DELETE CASCADE,
    size INTEGER NOT NULL
) STRICT;

CREATE TABLE ingests (
    id        INTEGER PRIMARY KEY REFERENCES objects ON DELETE CASCADE,
    reference TEXT NOT NULL UNIQUE, -- the blob store's name for it
    expected  TEXT                  -- the blob of another namespace that it is
) STRICT;
CREATE INDEX ingests_by_expected ON ingests (expected) WHERE expected IS NOT NULL;

CREATE TABLE snapshots (
    id          INTEGER PRIMARY KEY REFERENCES objects ON DELETE CASCADE,
    snapshotter TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    parent      INTEGER REFERENCES snapshots,
    directory   INTEGER NOT NULL,
    inodes      INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    UNIQUE (snapshotter, directory)
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent) WHERE parent IS NOT NULL;

CREATE TABLE sequences (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const VERSION_2: &str = "
-- When there will be something to collect although nobody changes anything.
CREATE INDEX objects_by_expiry ON objects (expires) WHERE expires IS NOT NULL;
";

/// What the snapshotters call snapshots that keep a graph of their own.
const VERSION_3: &str = "
CREATE TABLE remote_snapshots (
    id   INTEGER PRIMARY KEY REFERENCES snapshots ON DELETE CASCADE,
    name TEXT NOT NULL
) STRICT;
CREATE INDEX remote_snapshots_by_name ON remote_snapshots (name);
";

/// Takes the steps of `migrations` from `from` on, each in a transaction of
/// its own. The caller has made sure that the file is not beyond.
pub(crate) fn migrate(
    connection: &Connection,
    from: usize,
    migrations: &[&str],
) -> rusqlite::Result<()> {
    for (step, sql) in migrations.iter().enumerate().skip(from) {
        let taken = connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {sql}; PRAGMA application_id = {APPLICATION_ID}; \
             PRAGMA user_version = {}; COMMIT;",
            step + 1
        ));
        if taken.is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        taken?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(connection: &Connection) -> (i64, i64) {
        let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
        let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0));
        (version.unwrap(), tables.unwrap())
    }

    #[test]
    fn steps_are_taken_once_and_as_a_whole() {
        let connection = Connection::open_in_memory().unwrap();
        let good = ["CREATE TABLE a (x)", "CREATE TABLE b (x)"];
        let bad = ["CREATE TABLE a (x)", "CREATE TABLE b (x); CREATE TABLE a (x)"];
        migrate(&connection, 0, &good[..1]).unwrap();
        assert_eq!(state(&connection), (1, 1));
        migrate(&connection, 1, &bad).unwrap_err();
        assert_eq!(state(&connection), (1, 1));
        migrate(&connection, 1, &good).unwrap();
        assert_eq!(state(&connection), (2, 2));
        migrate(&connection, 2, &good).unwrap();
        assert_eq!(state(&connection), (2, 2));
    }

    #[test]
    fn the_tables_can_be_made() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection, 0, MIGRATIONS).unwrap();
        assert_eq!(state(&connection).0, i64::try_from(VERSION).unwrap());
        migrate(&connection, VERSION, MIGRATIONS).unwrap();
    }
}
