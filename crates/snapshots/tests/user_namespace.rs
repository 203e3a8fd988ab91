//! Overlays in a user namespace, where their attributes are `user.overlay.*`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use davit_snapshots::SnapshotKind::Active;
use davit_snapshots::{Backend, Overlay, OverlayConfig, conformance};
use davit_types::Labels;

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
fn overlays_keep_their_promises_in_a_user_namespace() {
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
    let root = directory.join("options");
    let overlay = Overlay::open(&root, OverlayConfig::default()).unwrap();
    let mounts = overlay.mounts(2, Active, &[1], &Labels::new()).unwrap();
    assert!(mounts[0].options.contains(&"userxattr".to_owned()), "{mounts:?}");
    let open = |root: &Path| Overlay::open(root, OverlayConfig::default()).unwrap();
    conformance::run(&directory.join("suite"), |root| Box::new(open(root)));
}
