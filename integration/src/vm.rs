//! A virtual machine for what this machine's kernel is not set up for: cgroup
//! v2, alone or with systemd, and fs-verity. It boots Debian's cloud kernel under
//! software emulation into a RAM disk that holds our binaries, the runtimes, `ctr`
//! and a script.

mod systemd;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{image, must, peers};

/// The longest that a machine may take.
const LIMIT: Duration = Duration::from_secs(420);

/// Moves everything from the RAM disk to a tmpfs, where a root can be pivoted.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /new
/bin/busybox mount -t tmpfs -o size=80% tmpfs /new
for name in bin etc lib lib64 usr root; do /bin/busybox cp -a /$name /new/; done
/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/var
for module in overlay inet_diag tcp_diag udp_diag unix_diag netlink_diag af_packet_diag nfnetlink \
    libcrc32c nf_tables tun veth; do
    /bin/busybox insmod /root/$module.ko
done
exec /bin/busybox switch_root /new INIT
"#;

const START: &str = r#"#!/bin/busybox sh
export PATH=/usr/bin:/usr/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in cpu memory pids io cpuset hugetlb; do
    echo +$controller > /sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
echo "=== script"
sh /root/script
echo "=== end $?"
sync
poweroff -f
"#;

/// What the machine's first process is, and does before it runs the script.
struct Init {
    program: &'static str,
    /// For the kernel and for systemd.
    arguments: &'static str,
    install: fn(&Path),
}

/// Boots, runs `script` with busybox's shell, and hands back what it printed.
/// In `$PATH` there are `davitd`, `davit`, our shim, `runc`, `crun`, `criu` and
/// `ctr`, and containerd's shim as the runtime `io.containerd.go.v2`;
/// `/root/image.tar` is the busybox image.
///
/// # Panics
/// When the machine does not come to the script's end, or the script fails.
pub fn run(script: &str) -> String {
    run_with(&[], script)
}

/// The same with further programs of this machine, given by their paths.
///
/// # Panics
/// As [`run`].
pub fn run_with(programs: &[&str], script: &str) -> String {
    let install = |root: &Path| script_file(&root.join("bin/start"), START);
    boot(programs, script, &Init { program: "/bin/start", arguments: "", install })
}

/// As [`run`], under Debian 12's systemd with its bus and its journal; the
/// unit `davit.service` is there and not started.
///
/// # Panics
/// As [`run`].
pub fn run_under_systemd(script: &str) -> String {
    boot(&[], script, &systemd::INIT)
}

fn boot(programs: &[&str], script: &str, init: &Init) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = ram_disk(&directory, programs, script, init);
    let log = directory.path().join("serial");
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none"])
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(peers::kernel("vmlinuz"))
        .arg("-initrd")
        .arg(disk)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init {}", init.arguments))
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-system-x86 is installed");
    let deadline = Instant::now() + LIMIT;
    while machine.try_wait().expect("it is our child").is_none() {
        if Instant::now() > deadline {
            let _ = machine.kill();
            let _ = machine.wait();
            panic!("the machine did not end\n{}", serial(&log));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = serial(&log);
    let (_, text) = text.split_once("=== script\n").unwrap_or_else(|| panic!("no script\n{text}"));
    let (text, status) = text.split_once("=== end ").unwrap_or_else(|| panic!("no end\n{text}"));
    assert!(status.starts_with('0'), "the script failed\n{text}=== end {status}");
    text.to_owned()
}

fn serial(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).replace('\r', "")
}

fn ram_disk(directory: &TempDir, programs: &[&str], script: &str, init: &Init) -> PathBuf {
    let root = directory.path().join("root");
    for name in ["bin", "etc", "lib", "lib64", "usr/bin", "usr/sbin", "root"] {
        fs::create_dir_all(root.join(name)).expect("the directory is new");
    }
    program(&root, Path::new("/bin/busybox"), "bin/busybox");
    let applets = must(Command::new("/bin/busybox").arg("--list"));
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("/bin/busybox", root.join("bin").join(applet)).expect("the directory is new");
    }
    for name in ["davitd", "davit", "containerd-shim-davit-v2"] {
        let path = peers::bin_dir().join(name);
        if path.exists() {
            program(&root, &path, &format!("usr/bin/{name}"));
        }
    }
    symlink("containerd-shim-davit-v2", root.join("usr/bin/containerd-shim-runc-v2"))
        .expect("the directory is new");
    for path in programs.iter().map(Path::new) {
        let name = path.file_name().expect("a program has a name");
        program(&root, path, &format!("usr/bin/{}", name.display()));
    }
    let theirs = Path::new("/usr/bin/containerd-shim-runc-v2");
    program(&root, theirs, "usr/bin/containerd-shim-go-v2");
    program(&root, Path::new("/usr/sbin/runc"), "usr/bin/runc");
    program(&root, Path::new("/usr/bin/crun"), "usr/bin/crun");
    program(&root, Path::new("/usr/bin/ctr"), "usr/bin/ctr");
    program(&root, Path::new("/usr/sbin/criu"), "usr/sbin/criu");
    // For criu, which wants more of it than busybox's does.
    program(&root, Path::new("/bin/tar"), "usr/bin/tar");
    image::write_archive(&root.join("root/image.tar")).expect("an archive can be written");
    for module in fs::read_dir(peers::kernel("")).expect("setup.sh was run").flatten() {
        if module.path().extension().is_some_and(|extension| extension == "ko") {
            fs::copy(module.path(), root.join("root").join(module.file_name())).expect("a copy");
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("a file");
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").expect("a file");
    fs::write(root.join("etc/resolv.conf"), "").expect("a file");
    fs::write(root.join("root/script"), script).expect("a file");
    script_file(&root.join("init"), &INIT.replace("INIT", init.program));
    (init.install)(&root);
    let disk = directory.path().join("disk");
    must(
        Command::new("sh")
            .arg("-c")
            .arg("find . | cpio --quiet -o -H newc > \"$0\"")
            .arg(&disk)
            .current_dir(&root),
    );
    disk
}

fn script_file(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our file");
}

/// Copies a program and the libraries that it is linked with.
fn program(root: &Path, source: &Path, target: &str) {
    fs::copy(source, root.join(target))
        .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let Ok(linked) = Command::new("ldd").arg(source).output() else { return };
    for word in String::from_utf8_lossy(&linked.stdout).split_whitespace() {
        let library = Path::new(word);
        if !library.is_absolute() {
            continue;
        }
        let copy = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().expect("it is absolute")).expect("our directory");
        if !copy.exists() {
            fs::copy(library, copy).expect("a library can be read");
        }
    }
}
