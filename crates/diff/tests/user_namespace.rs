//! Layers unpacked in a user namespace, for an overlay that is mounted with
//! `userxattr`: what they delete is gone.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Archive, listing};
use davit_diff::{ApplyOptions, Whiteouts, apply};
use davit_types::Mount;

/// What is set for the half of the test that runs inside.
const INSIDE: &str = "DAVIT_INSIDE_A_USER_NAMESPACE";
/// Where root of the namespace is outside.
const OUTSIDE: u32 = 100_000;

/// A user namespace, kept by a process that sleeps in it.
struct Users(Child);

impl Users {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "sleep", "1000"]).stdin(Stdio::null());
        let users = Self(command.spawn().unwrap());
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        let theirs = format!("/proc/{}/ns/user", users.0.id());
        let deadline = Instant::now() + Duration::from_secs(30);
        while fs::read_link(&theirs).is_ok_and(|theirs| theirs == own) {
            assert!(Instant::now() < deadline, "no user namespace was made");
            std::thread::yield_now();
        }
        for name in ["uid_map", "gid_map"] {
            let map = format!("0 {OUTSIDE} 200000");
            fs::write(format!("/proc/{}/{name}", users.0.id()), map).unwrap();
        }
        users
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn deletions_are_seen_through_an_overlay_in_a_user_namespace() {
    if let Some(directory) = std::env::var_os(INSIDE) {
        return inside(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let (work, program) = (directory.path().join("work"), directory.path().join("test"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&work).unwrap();
    chown(&work, Some(OUTSIDE), Some(OUTSIDE)).unwrap();
    // Where the build is, others may not come.
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let users = Users::new();
    let output = Command::new("nsenter")
        .args(["--user", "--setuid", "0", "--setgid", "0", "--target"])
        .arg(users.0.id().to_string())
        .args(["unshare", "--mount"])
        .arg(&program)
        .arg("--nocapture")
        .env(INSIDE, &work)
        .env("TMPDIR", &work)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

fn inside(directory: &Path) {
    let path = |name: &str| directory.join(name);
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(path(name)).unwrap();
    }
    let unpack = |archive: Archive, to: &str| {
        let options = ApplyOptions { whiteouts: Whiteouts::OverlayUser, ..ApplyOptions::default() };
        apply(&archive.bytes()[..], &path(to), &options).unwrap();
    };
    let lower = Archive::new()
        .file("gone", "below")
        .dir("dir")
        .file("dir/gone", "below")
        .file("dir/kept", "below")
        .dir("opaque")
        .file("opaque/gone", "below")
        .dir("tree")
        .file("tree/gone", "below");
    unpack(lower, "lower");
    let upper = Archive::new()
        .file(".wh.gone", "")
        .file("dir/.wh.gone", "")
        .file("dir/new", "above")
        .hard_link("dir/hard", "dir/new")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "above")
        .file(".wh.tree", "");
    unpack(upper, "upper");
    let option = |name: &str, at: &str| format!("{name}={}", path(at).display());
    let mount = Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            "userxattr".into(),
            option("workdir", "work"),
            option("upperdir", "upper"),
            option("lowerdir", "lower"),
        ],
    };
    davit_sys::mount::mount(&mount, &path("merged")).unwrap();
    assert_eq!(
        listing(&path("merged")),
        [
            "dir/",
            "dir/hard=above",
            "dir/kept=below",
            "dir/new=above",
            "opaque/",
            "opaque/new=above"
        ]
    );
    let inode = |name: &str| path("merged").join(name).metadata().unwrap().ino();
    assert_eq!(inode("dir/hard"), inode("dir/new"));
}
