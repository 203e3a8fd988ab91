//! The machine's other first process: this machine's systemd, which is only
//! installed here and runs there.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{Init, program, script_file};
use crate::{must, peers};

/// Boots into the script, as far as that wants the rest of systemd.
pub(super) const INIT: Init = Init {
    program: "/lib/systemd/systemd",
    arguments: "loglevel=1 systemd.unit=script.service systemd.getty_auto=no systemd.show_status=no",
    install,
};

/// What the files are taken from. udev is not among it: there are no devices
/// to wait for.
const PACKAGES: &[&str] = &[
    "systemd",
    "libsystemd-shared",
    "dbus",
    "dbus-bin",
    "dbus-daemon",
    "dbus-system-bus-common",
    "dbus-session-bus-common",
];

/// Files that nobody reads there.
const LEFT_OUT: &[&str] = &["/usr/share/doc", "/usr/share/man", "/usr/share/locale"];

/// Units that only take time.
const MASKED: &[&str] = &["systemd-update-utmp.service", "systemd-ask-password-console.path"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";
const GROUP: &str = "root:x:0:
tty:x:5:
messagebus:x:100:
nogroup:x:65534:
";

/// Ends before it has started, as far as systemd knows: it is all that the
/// machine is for.
const UNIT: &str = "[Unit]
Requires=basic.target dbus.service
After=basic.target dbus.service
[Service]
Type=oneshot
ExecStart=/bin/start
Environment=PATH=/usr/bin:/usr/sbin:/bin
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
";

/// The script's output goes through a pipe: what is told that it speaks to a
/// terminal decorates it.
const START: &str = r#"#!/bin/busybox sh
set -o pipefail
echo "=== script"
sh /root/script 2>&1 | cat
echo "=== end $?"
sync
poweroff -f
"#;

fn install(root: &Path) {
    let files = must(Command::new("dpkg").arg("-L").args(PACKAGES));
    for path in files.lines().map(Path::new).filter(|path| path.is_absolute()) {
        if !LEFT_OUT.iter().any(|directory| path.starts_with(directory)) {
            copy(root, path);
        }
    }
    let etc = root.join("etc");
    fs::write(etc.join("passwd"), PASSWD).expect("a file");
    fs::write(etc.join("group"), GROUP).expect("a file");
    fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n").expect("a file");
    let units = etc.join("systemd/system");
    fs::write(units.join("script.service"), UNIT).expect("a file");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).expect("nobody else masks it");
    }
    let template = peers::workspace().join("daemon/davit.service.in");
    let unit = fs::read_to_string(template).expect("our unit is there");
    fs::write(units.join("davit.service"), unit.replace("@PREFIX@", "/usr")).expect("a file");
    script_file(&root.join("bin/start"), START);
}

/// Copies a file of a package, in its kind.
fn copy(root: &Path, path: &Path) {
    let name = path.strip_prefix("/").expect("it is absolute");
    let target = root.join(name);
    // dpkg names some things twice, and some that a package's scripts remove.
    let Ok(kind) = path.symlink_metadata().map(|found| found.file_type()) else { return };
    if target.symlink_metadata().is_ok() {
        return;
    }
    if kind.is_dir() || path.is_dir() {
        return fs::create_dir_all(target).expect("our directory");
    }
    fs::create_dir_all(target.parent().expect("it has one")).expect("our directory");
    if kind.is_symlink() {
        let to = fs::read_link(path).expect("it is a link");
        symlink(to, target).expect("nothing is there");
    } else if is_elf(path) {
        program(root, path, &name.to_string_lossy());
    } else {
        fs::copy(path, target).expect("a package's file can be read");
    }
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}
