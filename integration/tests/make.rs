//! The targets of the Makefile that people use and CI does not: `install`, and
//! the demonstration.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use davit_integration::{describe, leftovers, must, peers};

const BINARIES: [&str; 3] = ["containerd-shim-davit-v2", "davit", "davitd"];

/// `make install` of the binaries under test, with the variables given and a
/// umask that would close everything.
fn install(binaries: &str, destination: &Path, variables: &[&str]) -> (Command, Output) {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077 && exec make \"$@\"", "sh", "--no-print-directory", "install"]);
    command.arg(format!("BINARIES={binaries}"));
    command.arg(format!("DESTDIR={}", destination.display())).args(variables);
    // What a make above this test wants is none of this one's business.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").current_dir(peers::workspace());
    let output = command.output().expect("make is installed");
    (command, output)
}

fn binaries() -> String {
    BINARIES.map(|name| peers::ours(name).to_string_lossy().into_owned()).join(" ")
}

/// Every file and directory below `top`, with its mode.
fn tree(top: &Path) -> BTreeMap<String, u32> {
    let (mut found, mut open) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("it was installed").flatten() {
            let meta = entry.metadata().expect("it was installed");
            let path = entry.path();
            let name = path.strip_prefix(top).expect("it is below").to_string_lossy().into_owned();
            found.insert(name, meta.permissions().mode() & 0o7777);
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

fn installs(prefix: &str, variables: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let (command, output) = install(&binaries(), directory.path(), variables);
    assert!(output.status.success(), "{}", describe(&command, &output));
    let top = directory.path().join(prefix.trim_start_matches('/'));
    let mut expected = BTreeMap::new();
    for name in ["bin", "lib", "lib/systemd", "lib/systemd/system"] {
        expected.insert(name.to_owned(), 0o755);
    }
    for name in BINARIES {
        expected.insert(format!("bin/{name}"), 0o755);
        let installed = fs::read(top.join("bin").join(name)).expect("it was installed");
        assert!(installed == fs::read(peers::ours(name)).expect("it was built"), "{name}");
    }
    expected.insert("lib/systemd/system/davit.service".to_owned(), 0o644);
    assert_eq!(tree(&top), expected);
    // Nothing is beside it.
    let all = tree(directory.path());
    let above = Path::new(prefix.trim_start_matches('/')).ancestors().count() - 1;
    assert_eq!(all.len(), expected.len() + above, "{all:?}");

    let unit = fs::read_to_string(top.join("lib/systemd/system/davit.service"));
    let unit = unit.expect("it was installed");
    let start = format!("ExecStart={prefix}/bin/davitd");
    assert!(unit.lines().any(|line| line == start) && !unit.contains('@'), "{unit}");
    let version = must(Command::new(top.join("bin/davitd")).arg("--version"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn install_puts_binaries_and_unit_below_destdir() {
    installs("/usr/local", &[]);
    installs("/opt/davit", &["PREFIX=/opt/davit"]);
}

#[test]
fn install_says_what_has_not_been_built() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let missing = directory.path().join("davitd");
    let destination = directory.path().join("destination");
    let (command, output) = install(&missing.to_string_lossy(), &destination, &[]);
    let told = describe(&command, &output);
    assert!(!output.status.success(), "{told}");
    let wanted = format!("{} is missing: run 'make release' first", missing.display());
    assert!(told.contains(&wanted), "{told}");
    assert!(!destination.exists(), "nothing is installed");
}

/// What `make demo` does once the binaries are there: it prints what a
/// container said, and leaves nothing.
#[test]
fn the_demo_runs_a_container_and_ends_what_it_started() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let mut demo = Command::new(peers::workspace().join("integration/demo.sh"));
    demo.arg(peers::bin_dir()).env("TMPDIR", directory.path());
    let text = must(&mut demo);
    for line in ["hello from demo, pid 1, on Linux ", "uid=0", "\n42\n"] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    let top = directory.path().to_string_lossy().into_owned();
    assert_eq!(leftovers::processes_with(&top), Vec::<String>::new());
    assert_eq!(leftovers::mounts_below(directory.path()), Vec::<std::path::PathBuf>::new());
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 0);
}
