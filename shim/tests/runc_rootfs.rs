//! Root filesystems that take more than one mount: mapped owners, images in
//! files, programs that mount; and the switch that leaves the old root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod runc_harness;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use davit_protocols::ttrpc::{options, task, types};
use protobuf::MessageField;
use runc_harness::{Bundle, Daemon, SHIM, answer, any, install, must, rootfs, unique, wait_for};

with_each_runtime! {
    a_bind_mount_with_mapped_owners, an_overlay_with_mapped_owners, an_image_in_a_file,
    programs_that_mount, the_root_is_not_pivoted,
}

/// The container's root is this user outside.
const HOST_ROOT: u32 = 100_000;

fn mount(kind: &str, source: &Path, options: &[&str]) -> types::Mount {
    types::Mount {
        type_: kind.into(),
        source: source.to_str().unwrap().into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Default::default()
    }
}

fn mounts_below(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(path.to_str().unwrap())).count()
}

/// A container of its bundle's `rootfs` that runs a script.
fn on_mounts(daemon: &Daemon, script: &str) -> Bundle {
    daemon.bundle(&["sh", "-c", script]).with(|config| config["root"]["path"] = "rootfs".into())
}

/// The same in a user namespace, to whose users the way there is open.
fn in_user_namespace(daemon: &Daemon, script: &str) -> Bundle {
    let open = fs::Permissions::from_mode(0o711);
    fs::set_permissions(daemon.dir.path(), open).unwrap();
    on_mounts(daemon, script).with(|config| {
        let map = serde_json::json!([{"containerID": 0, "hostID": HOST_ROOT, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(serde_json::json!({"type": "user"}));
    })
}

/// Runs a container on `mounts` to its end; what it has written.
fn output_on(daemon: &Daemon, bundle: &Bundle, mounts: Vec<types::Mount>, runtime: &str) -> String {
    let out = daemon.dir.path().join(unique("out"));
    let mut shim = daemon.start(bundle);
    let uri = format!("file://{}", out.display());
    let request = task::CreateTaskRequest {
        rootfs: mounts,
        stdout: uri.clone(),
        stderr: uri,
        ..bundle.create(runtime)
    };
    shim.run(&request);
    let status = shim.wait(&bundle.id, "").unwrap().exit_status;
    let text = fs::read_to_string(&out).unwrap();
    assert_eq!(status, 0, "{text}");
    shim.delete(&bundle.id, "").unwrap();
    assert_eq!(mounts_below(&bundle.path), 0);
    assert!(shim.children().is_empty(), "{:?}", shim.children());
    text
}

/// A root filesystem of our own.
fn own_rootfs(daemon: &Daemon) -> PathBuf {
    let own = daemon.dir.path().join(unique("own"));
    must(Command::new("cp").arg("-a").arg(rootfs()).arg(&own));
    own
}

const MAPS: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];
const LOOK: &str = "cat /proc/self/uid_map; ls -ln /bin/busybox; echo new > /made; ls -ln /made";

fn owners(text: &str) -> Vec<(&str, &str)> {
    let files = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    files.map(|words| (words[2], words[3])).collect()
}

fn a_bind_mount_with_mapped_owners(runtime: &str) {
    let daemon = Daemon::new();
    let own = own_rootfs(&daemon);
    let bundle = in_user_namespace(&daemon, LOOK);
    let root = mount("bind", &own, &[&["rbind", "rw"][..], &MAPS].concat());
    let text = output_on(&daemon, &bundle, vec![root], runtime);
    assert!(text.contains("100000"), "{text}");
    assert_eq!(owners(&text), [("0", "0"), ("0", "0")], "{text}");
    let made = fs::metadata(own.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0), "on disk nothing is mapped");
}

fn an_overlay_with_mapped_owners(runtime: &str) {
    let daemon = Daemon::new();
    let own = own_rootfs(&daemon);
    let bundle = in_user_namespace(&daemon, LOOK);
    // Overlays do not lie on every file system that tests may have.
    let layers = daemon.dir.path().join("layers");
    fs::create_dir(&layers).unwrap();
    let tmpfs =
        davit_types::Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
    davit_sys::mount::mount(&tmpfs, &layers).unwrap();
    let [upper, work] = ["upper", "work"].map(|name| layers.join(name));
    for dir in [&upper, &work] {
        fs::create_dir(dir).unwrap();
        // As the snapshotter does: the upper layer is not mapped.
        chown(dir, Some(HOST_ROOT), Some(HOST_ROOT)).unwrap();
    }
    let options = [
        format!("lowerdir={}", own.display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).chain(MAPS).collect();
    let root = mount("overlay", Path::new("overlay"), &options);
    let text = output_on(&daemon, &bundle, vec![root], runtime);
    assert_eq!(owners(&text), [("0", "0"), ("0", "0")], "{text}");
    let made = fs::metadata(upper.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (HOST_ROOT, HOST_ROOT));
    davit_sys::mount::unmount(&layers, true).unwrap();
}

fn an_image_in_a_file(runtime: &str) {
    let daemon = Daemon::new();
    let image = daemon.dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    must(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(rootfs()).arg(&image));
    let bundle = on_mounts(&daemon, "echo new > /made && cat /made");
    let root = mount("ext4", &image, &["loop"]);
    assert_eq!(output_on(&daemon, &bundle, vec![root], runtime), "new\n");
    let holds_it = || {
        fs::read_dir("/sys/block").unwrap().any(|device| {
            let file = device.unwrap().path().join("loop/backing_file");
            fs::read_to_string(file).is_ok_and(|path| path.trim() == image.to_str().unwrap())
        })
    };
    wait_for("the loop device goes", || (!holds_it()).then_some(()));
    // What was written is in the image.
    let again = on_mounts(&daemon, "cat /made; touch /made 2>/dev/null || echo refused");
    let root = mount("ext4", &image, &["loop", "ro"]);
    assert_eq!(output_on(&daemon, &again, vec![root], runtime), "new\nrefused\n");
}

/// `mount.fuse3`, stood in for by a script: what matters is who waits for it.
fn programs_that_mount(runtime: &str) {
    let daemon = Daemon::new();
    let bin = daemon.dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let program = bin.join("mount.fuse3");
    let script = "#!/bin/sh\n[ \"$1\" != /broken ] || { echo 'it is broken' >&2; exit 3; }\n\
                  exec mount --bind \"$1\" \"$2\"\n";
    install(&program, script);
    let bundle = on_mounts(&daemon, "true");
    let mut command = daemon.shim_command(SHIM, &bundle, "start");
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", bin.display())).stdin(Stdio::null());
    let mut shim = daemon.connect(&answer(&command.output().unwrap()), &bundle);
    // Often: it and whoever collects all exits are as fast as each other.
    for _ in 0..20 {
        let mut request = bundle.create(runtime);
        request.rootfs = vec![mount("fuse3.any", &rootfs(), &["a=b"])];
        shim.run(&request);
        assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
        shim.delete(&bundle.id, "").unwrap();
        request.rootfs = vec![mount("fuse3.any", Path::new("/broken"), &[])];
        let refusal = shim.create(&request).unwrap_err();
        assert!(refusal.contains("it is broken"), "{refusal}");
        assert_eq!(mounts_below(&bundle.path), 0);
    }
}

/// Without pivot_root(2), which a root in a RAM disk has not, the old root
/// is moved away from; it stays in the kernel's list.
fn the_root_is_not_pivoted(runtime: &str) {
    let daemon = Daemon::new();
    let told = daemon.dir.path().join("told");
    let recorder = daemon.dir.path().join("runtime");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nexec {runtime} \"$@\"\n", told.display());
    install(&recorder, script);
    for no_pivot_root in [false, true] {
        let _ = fs::remove_file(&told);
        let bundle = daemon.bundle(&["test", "-e", "/bin/busybox"]);
        let mut shim = daemon.start(&bundle);
        let wanted = options::Options {
            binary_name: recorder.to_str().unwrap().into(),
            no_pivot_root,
            ..Default::default()
        };
        let mut request = bundle.create(runtime);
        request.options = MessageField::some(any("containerd.runc.v1.Options", &wanted));
        shim.run(&request);
        assert_eq!(shim.wait(&bundle.id, "").unwrap().exit_status, 0);
        shim.delete(&bundle.id, "").unwrap();
        let told = fs::read_to_string(&told).unwrap();
        let create = told.lines().find(|line| line.contains(" create ")).unwrap();
        assert_eq!(create.contains(" --no-pivot "), no_pivot_root, "{create}");
    }
}
