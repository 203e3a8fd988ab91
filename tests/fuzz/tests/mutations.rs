//! Each target with its seeds, its corpus and mutations of both: the same
//! ones on every run.

use std::path::Path;

use davit_fuzz::mutate::{Numbers, mutate};
use davit_fuzz::{TARGETS, Target, target};

/// Mutations of each target; `DAVIT_FUZZ_ROUNDS` says otherwise.
const ROUNDS: u64 = 4_000;

/// Prints the input when the target panics.
struct Tell<'a>(&'a Target, &'a [u8]);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {} failed on b\"{}\"", self.0.name, self.1.escape_ascii());
        }
    }
}

fn try_one(target: &Target, data: &[u8]) {
    let _tell = Tell(target, data);
    (target.run)(data);
}

/// What was found before and is kept.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(directory).into_iter().flatten().flatten().collect();
    files.sort_by_key(std::fs::DirEntry::path);
    files.iter().map(|file| std::fs::read(file.path()).expect("a corpus is of files")).collect()
}

fn rounds() -> u64 {
    std::env::var("DAVIT_FUZZ_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"))
}

fn attack(name: &str) {
    let target = target(name).expect("it is in the table");
    let mut inputs = (target.seeds)();
    inputs.extend(corpus(name));
    inputs.push(Vec::new());
    for input in &inputs {
        try_one(target, input);
    }
    for round in 0..rounds() {
        try_one(target, &mutate(&inputs, &mut Numbers::new(round)));
    }
}

macro_rules! attack {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { attack(stringify!($name)); })*
        const ATTACKED: &[&str] = &[$(stringify!($name)),*];
    };
}

attack!(
    archive,
    bootstrap,
    checkpoint,
    config,
    docker_login,
    events,
    filter,
    hosts,
    http_headers,
    image_config,
    image_user,
    layer,
    manifest,
    messages,
    names,
    oci_hook,
    platform,
    reference,
    runc_answers,
    runc_log,
    shim_answer,
    shim_options,
    shim_specs,
    shim_streams,
    shim_uris,
    tar,
    template,
    ttrpc,
);

#[test]
fn every_target_is_attacked() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, ATTACKED);
}
