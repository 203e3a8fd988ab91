//! Who may import whom, and what else the layout promises
//! (docs/ARCHITECTURE.md, "Layout").

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use davit_tests::{list, metadata, workspace};

/// Every crate with the crates of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("davit-types", &[]),
    ("runc-client", &[]),
    ("davit-sys", &["davit-types"]),
    ("davit-protocols", &["davit-types"]),
    ("davit-content", &["davit-types", "davit-sys"]),
    ("davit-snapshots", &["davit-types", "davit-sys"]),
    ("davit-events", &["davit-types", "davit-sys"]),
    ("davit-diff", &["davit-types", "davit-sys"]),
    ("davit-index", &["davit-types", "davit-sys", "davit-content", "davit-snapshots"]),
    (
        "davit-distribution",
        &["davit-types", "davit-sys", "davit-content", "davit-snapshots", "davit-diff"],
    ),
    (
        "davit-runtime",
        &["davit-types", "davit-sys", "davit-protocols", "davit-events", "runc-client"],
    ),
    ("davit-client", &["davit-types", "davit-protocols", "davit-diff", "davit-distribution"]),
    (
        "davit-daemon",
        &[
            "davit-types",
            "davit-sys",
            "davit-protocols",
            "davit-content",
            "davit-snapshots",
            "davit-diff",
            "davit-distribution",
            "davit-index",
            "davit-events",
            "davit-runtime",
            "davit-client",
        ],
    ),
    ("davit-shim", &["davit-types", "davit-sys", "davit-protocols", "runc-client"]),
    ("davit-cli", &["davit-types", "davit-client", "davit-protocols", "davit-distribution"]),
];

/// Crates that only test the others and may depend on any of them.
const TESTING: &[&str] = &["davit-tests", "davit-integration", "davit-fuzz"];

fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let names: BTreeSet<String> =
        list(&metadata, "packages").filter(|p| p["source"].is_null()).map(name).collect();
    let ours = |package: &serde_json::Value| {
        list(package, "dependencies")
            .filter(|dependency| dependency["kind"] != "dev")
            .map(name)
            .filter(|dependency| names.contains(dependency))
            .collect()
    };
    list(&metadata, "packages")
        .filter(|package| package["source"].is_null())
        .map(|package| (name(package), ours(package)))
        .collect()
}

fn name(value: &serde_json::Value) -> String {
    value["name"].as_str().expect("everything in the metadata has a name").to_owned()
}

#[test]
fn nobody_imports_upwards() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    for (package, dependencies) in imports() {
        if TESTING.contains(&package.as_str()) {
            continue;
        }
        let permitted = allowed
            .get(package.as_str())
            .unwrap_or_else(|| panic!("{package} is not in the table of layers"));
        for dependency in dependencies {
            assert!(permitted.contains(&dependency.as_str()), "{package} imports {dependency}");
        }
    }
}

#[test]
fn the_table_of_layers_names_only_what_exists() {
    let imports = imports();
    for (package, _) in ALLOWED {
        assert!(imports.contains_key(*package), "{package} does not exist");
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the workspace can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with(".git") && !path.ends_with("scratch") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let mut files = Vec::new();
    sources(&workspace(), &mut files);
    assert!(files.len() > 50, "the sources were not found");
    let keyword = concat!("un", "safe ");
    for file in files {
        if file.starts_with(workspace().join("crates/sys")) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file is text");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let used =
                line.contains(&format!("{keyword}{{")) || line.contains(&format!("{keyword}fn"));
            assert!(!used, "{}: {line}", file.display());
        }
    }
}

#[test]
fn every_top_level_directory_is_one_that_the_architecture_names() {
    let text = fs::read_to_string(workspace().join("docs/ARCHITECTURE.md")).expect("it exists");
    for entry in fs::read_dir(workspace()).expect("the workspace can be read").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') || ["target", "scratch"].contains(&name.as_str());
        if entry.path().is_dir() && !hidden {
            assert!(text.contains(&format!("{name}/")), "{name}/ is not in docs/ARCHITECTURE.md");
        }
    }
}
