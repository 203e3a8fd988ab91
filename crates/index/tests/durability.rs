//! What survives: the end of the daemon at any instruction, damage, other
//! versions.

#![allow(clippy::unwrap_used, reason = "a failure is to end the test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use davit_index::{Error, Index, LeaseId};
use davit_types::{ErrorKind, Kind, Labels};

const DIRECTORY: &str = "DAVIT_TEST_CRASH_DIRECTORY";

/// Makes things and says so, until it is killed.
#[test]
#[ignore = "is run, and killed, by the test that needs it"]
fn make_things_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let stores = Box::leak(Box::new(open(
        tempfile::tempdir_in(directory).unwrap(),
        davit_index::Sharing::Shared,
    )));
    println!("directory {}", stores.dir.path().display());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let stores = &*stores;
            scope.spawn(move || {
                let space = ns(&format!("space{worker}"));
                for round in 0.. {
                    let id = format!("c{round}");
                    stores.lease(&space, &id, &[]);
                    let lease = LeaseId::new(id.as_str());
                    let labels = Labels::new();
                    stores.snapshots.prepare(&space, &id, "", &labels, Some(&lease)).unwrap();
                    let data = format!("{worker} {round}");
                    stores.put(&space, data.as_bytes(), &[("k", "v")], Some(&lease)).unwrap();
                    stores.index.containers().create(&space, container(&id)).unwrap();
                    println!("made {worker} {round}");
                }
            });
        }
    });
}

/// Runs the maker and kills it after `count` things; what it said it made,
/// and where.
fn kill_after(scratch: &Path, count: usize) -> (std::path::PathBuf, Vec<(usize, usize)>) {
    let mut maker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "make_things_until_killed", "--ignored", "--nocapture"])
        .env(DIRECTORY, scratch)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(maker.stdout.take().unwrap()).lines();
    let (mut directory, mut made) = (None, Vec::new());
    // Lines that were on their way when it was killed count, too.
    for line in lines.map_while(Result::ok) {
        if let Some((_, path)) = line.split_once("directory ") {
            directory = Some(path.into());
        }
        if let Some((worker, round)) =
            line.strip_prefix("made ").and_then(|numbers| numbers.split_once(' '))
        {
            made.push((worker.parse().unwrap(), round.parse().unwrap()));
        }
        if made.len() == count {
            maker.kill().unwrap();
        }
    }
    maker.wait().unwrap();
    (directory.unwrap(), made)
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let scratch = tempfile::tempdir().unwrap();
    for count in [1, 7, 40, 150] {
        let (directory, made) = kill_after(scratch.path(), count);
        assert!(made.len() >= count);
        let index = std::sync::Arc::new(Index::open(&directory.join("index.db")).unwrap());
        let snapshots = native(&directory, &index);
        for (worker, round) in made {
            let (space, id) = (ns(&format!("space{worker}")), format!("c{round}"));
            let found = index.containers().get(&space, &id).unwrap();
            assert_eq!(found.labels, map(&[("name", &id)]));
            snapshots.stat(&space, &id).unwrap();
            let held = index.leases().list_resources(&space, &LeaseId::new(id)).unwrap();
            assert_eq!(held.len(), 2, "{held:?}");
            assert_eq!(held[0].id, digest(format!("{worker} {round}").as_bytes()).to_string());
        }
        // Every row has its directory, and every directory its row.
        snapshots.cleanup().unwrap();
        let rows: usize = (0..4)
            .map(|worker| snapshots.list(&ns(&format!("space{worker}")), &[]).unwrap().len())
            .sum();
        let numbered = |entry: &fs::DirEntry| {
            entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())
        };
        let directories = fs::read_dir(directory.join("native/snapshots")).unwrap();
        let directories = directories.map(Result::unwrap).filter(numbered).count();
        assert_eq!(rows, directories);
    }
}

#[test]
fn many_writers_lose_nothing() {
    let stores = stores();
    let space = ns("default");
    std::thread::scope(|scope| {
        for worker in 0..16 {
            let (stores, space) = (&stores, &space);
            scope.spawn(move || {
                for round in 0..25 {
                    let id = format!("c{worker}-{round}");
                    stores.index.containers().create(space, container(&id)).unwrap();
                    // What a caller was told is there for everybody.
                    stores.index.containers().get(space, &id).unwrap();
                    // A counter that all of them change.
                    let labels = map(&[(&id, "1")]);
                    let paths = [format!("labels.{id}")];
                    stores.index.namespaces().update(space, &labels, &paths).unwrap();
                }
            });
        }
    });
    assert_eq!(stores.index.containers().list(&space, &[]).unwrap().len(), 400);
    assert_eq!(stores.index.namespaces().labels(&space).unwrap().len(), 400);
}

fn refused(path: &Path) -> String {
    let error = Index::open(path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    let message = error.full_message();
    assert!(message.contains(&format!("{path:?}")), "{message} does not name the file");
    message
}

#[test]
fn a_file_that_is_no_index_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let text = b"this is no database, but somebody's diary\n".repeat(100);
    fs::write(&path, &text).unwrap();
    assert!(refused(&path).contains("file is not a database"));
    assert_eq!(fs::read(&path).unwrap(), text);

    let other = dir.path().join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(refused(&other).contains("a database of something else"));
}

#[test]
fn a_damaged_file_is_found_out_after_an_unclean_end() {
    let stores = stores();
    let space = ns("default");
    for number in 0..200 {
        stores.index.containers().create(&space, container(&format!("c{number}"))).unwrap();
    }
    let path = stores.dir.path().join("index.db");
    let Stores { dir, index, local, content, snapshots, collector } = stores;
    drop((index, local, content, snapshots, collector));
    let mut bytes = fs::read(&path).unwrap();
    // All pages but the first, which says what the file is.
    for byte in bytes.iter_mut().skip(8192).step_by(512) {
        *byte ^= 0x5a;
    }
    fs::write(&path, bytes).unwrap();
    fs::write(dir.path().join("index.db-wal"), b"left by a crash").unwrap();
    refused(&path);
}

#[test]
fn a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    drop(Index::open(&path).unwrap());
    let file = rusqlite::Connection::open(&path).unwrap();
    let version: i64 = file.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert!(version >= 1);
    file.execute_batch("PRAGMA user_version = 9000").unwrap();
    drop(file);
    assert!(refused(&path).contains("later version (schema 9000"));
}

#[test]
fn the_file_is_its_owners_and_anybodys_sqlite_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let stores = stores();
    stores.index.containers().create(&ns("default"), container("c")).unwrap();
    let path = stores.dir.path().join("index.db");
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", path.display());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let other = rusqlite::Connection::open(&path).unwrap();
    let key: String = other
        .query_row("SELECT key FROM objects WHERE kind = 'container'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(key, "c");
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let error = Index::open(Path::new("/nonexistent/index.db")).unwrap_err();
    let message = error.full_message();
    assert!(message.starts_with("open index \"/nonexistent/index.db\": "), "{message}");
}
