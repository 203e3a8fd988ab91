//! `davit export`, read by others.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use davit_integration::docker::{Docker, Version};
use davit_integration::layout::{self, Layout, Recipe};
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::seat::Seat;

const CTR: Client = Client::Ctr21;

/// davitd with all of an image in it, pulled; its name.
fn pulled(recipe: &Recipe) -> (Seat, Registry, Layout, String) {
    let (seat, registry, layout) = (Seat::new(), Registry::start(), Layout::of(recipe));
    let name = layout.push(&registry, "some/image:1");
    seat.ok(&["pull", "--all-platforms", "--no-unpack", &name]);
    (seat, registry, layout, name)
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Imports an archive with `davit` on another daemon, from a pipe as well,
/// and runs the image.
fn davit_reads(archive: &Path, name: &str) {
    for compressor in [None, Some("gzip"), Some("zstd")] {
        let other = Seat::new();
        match compressor {
            None => must(other.davit(&["import", "-"]).stdin(File::open(archive).expect("a file"))),
            Some(program) => {
                let mut packing = Command::new(program)
                    .arg("-c")
                    .arg(archive)
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .expect("it is installed");
                let pipe = packing.stdout.take().expect("piped");
                let printed = must(other.davit(&["import", "-"]).stdin(pipe));
                assert!(packing.wait().expect("it was started").success());
                printed
            }
        };
        other.runs_whole(name);
    }
}

/// skopeo copies an image of the archive, every blob verified; its digest.
fn skopeo_reads(seat: &Seat, archive: &Path) -> String {
    let copy = seat.daemon.path("copied");
    let _ = fs::remove_dir_all(&copy);
    must(
        Command::new("skopeo")
            .args(["copy", "-q", "--preserve-digests"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("dir:{}", copy.display())),
    );
    format!("sha256:{}", layout::sha256(&copy.join("manifest.json")))
}

#[test]
fn one_image_to_a_file_and_to_a_pipe() {
    let (seat, _registry, layout, name) = pulled(&layout::SMALL);
    let (file, piped) = (seat.daemon.path("file.tar"), seat.daemon.path("piped.tar"));
    assert_eq!(seat.ok(&["export", "--output", &text(&file), &name]), format!("{name}\n"));
    let out = File::create(&piped).expect("the directory is writable");
    let exported = seat.davit(&["export", &name]).stdout(out).status();
    assert!(exported.expect("davit can be started").success());
    assert!(fs::read(&file).expect("it was written") == fs::read(&piped).expect("it was written"));
    assert_eq!(skopeo_reads(&seat, &file), layout.manifest("amd64").0);
    davit_reads(&file, &name);
    for server in [Server::Containerd16, Server::Containerd21] {
        let other = Daemon::start(server);
        other.ctr_ok(CTR, &["image", "import", "--local", &text(&file)]);
        let words = [&["run", "--rm", &name, "check"], layout::CHECK].concat();
        assert_eq!(other.ctr_ok(CTR, &words), "whole\n", "{server:?}");
    }
}

#[test]
fn docker_loads_what_was_exported() {
    let (seat, _registry, _layout, name) = pulled(&layout::GZIP);
    let file = seat.daemon.path("file.tar");
    seat.ok(&["export", "-o", &text(&file), &name]);
    for version in [Version::V20, Version::V28] {
        let docker = Docker::start(version, Daemon::start(Server::Davit), "runc");
        docker.ok(&["load", "-i", &text(&file)]);
        let check = layout::CHECK_FILES;
        let words = [&["run", "--rm", "--network=none", &name], check].concat();
        assert_eq!(docker.ok(&words), "whole\n", "{version:?}");
    }
}

#[test]
fn platforms_are_those_that_were_asked_for() {
    let (seat, _registry, layout, name) = pulled(&layout::PLATFORMS);
    let file = seat.daemon.path("file.tar");
    let holds = |digest: &str| {
        let names = must(Command::new("tar").arg("-tf").arg(&file));
        names.contains(digest.trim_start_matches("sha256:"))
    };
    let (ours, other) = (layout.layers("amd64"), layout.layers("arm64"));
    for (words, amd64, arm64) in [
        (&["--all-platforms"][..], true, true),
        (&[][..], true, false),
        (&["--platform", "linux/arm64"][..], false, true),
        (&["--platform", "linux/arm64", "--platform", "linux/amd64"][..], true, true),
    ] {
        seat.ok(&[&["export", "-o", &text(&file)], words, &[&name]].concat());
        // The first one is another on every platform.
        assert_eq!(holds(&ours[0]), amd64, "{words:?}");
        assert_eq!(holds(&other[0]), arm64, "{words:?}");
    }
    assert_eq!(skopeo_reads(&seat, &file), layout.manifest("amd64").0);
    davit_reads(&file, &name);
}

#[test]
fn several_images_and_what_is_not_there() {
    let (seat, registry, _layout, one) = pulled(&layout::SMALL);
    let two = Layout::of(&layout::GZIP).push(&registry, "other/image:2");
    seat.ok(&["pull", &two]);
    let file = seat.daemon.path("file.tar");
    seat.ok(&["export", "-o", &text(&file), &one, &two]);
    let other = Seat::new();
    let printed = other.ok(&["import", &text(&file)]);
    assert!(printed.contains(&one) && printed.contains(&two), "{printed}");
    other.runs_whole(&one);
    other.runs_whole(&two);
    let before = fs::read(&file).expect("it was written");
    seat.fails(&["export", "-o", &text(&file), &one, "none:1"], "none:1");
    assert!(fs::read(&file).expect("it is there") == before, "a failure spoils no file");
    seat.fails(&["export", "-o", "/no/such/directory/x", &one], "/no/such/directory");
    let left: Vec<_> = davit_integration::leftovers::names_in(file.parent().expect("it has one"))
        .into_iter()
        .filter(|name| name.starts_with(".davit-export"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn make_fifo(path: &Path) {
    mkfifo(path, Mode::from_bits_truncate(0o600)).expect("the directory is writable");
}

/// Nodes of our own: one that is replaced is nobody else's.
#[test]
fn what_is_no_file_is_written_to() {
    let (seat, _registry, _layout, name) = pulled(&layout::SMALL);
    let place = |name: &str| seat.daemon.path(name);
    seat.ok(&["export", "-o", &text(&place("file.tar")), &name]);
    let whole = fs::read(place("file.tar")).expect("it was written");

    let (null, full) = (place("null"), place("full"));
    for (node, minor) in [(&null, "3"), (&full, "7")] {
        must(Command::new("mknod").arg(node).args(["c", "1", minor]));
    }
    assert_eq!(seat.ok(&["export", "-o", &text(&null), &name]), format!("{name}\n"));
    seat.fails(&["export", "-o", &text(&full), &name], "No space left on device");
    for node in [&null, &full] {
        let kind = fs::symlink_metadata(node).expect("it is there").file_type();
        assert!(kind.is_char_device(), "{node:?}");
    }

    let fifo = place("fifo");
    make_fifo(&fifo);
    let mut child = seat.davit(&["export", "-o", &text(&fifo), &name]).spawn().expect("davit");
    let reading = std::thread::spawn(move || fs::read(&fifo));
    assert!(child.wait().expect("it was started").success());
    wait_for("the archive's end", 20, || reading.is_finished().then_some(()));
    let read = reading.join().expect("reading does not panic").expect("it is there");
    assert!(read == whole, "{} bytes", read.len());

    // Standard output by another name: nothing follows the archive.
    let link = place("stdout");
    symlink("/proc/self/fd/1", &link).expect("the directory is writable");
    let piped = seat.davit(&["export", "-o", &text(&link), &name]).output().expect("davit");
    assert!(piped.status.success() && piped.stdout == whole, "{} bytes", piped.stdout.len());
}

#[test]
fn files_keep_their_modes_and_links() {
    let (seat, _registry, _layout, name) = pulled(&layout::SMALL);
    let place = |name: &str| seat.daemon.path(name);
    let mode = |name: &str| {
        let meta = fs::symlink_metadata(place(name)).expect("it is there");
        assert!(meta.is_file() && meta.len() > 100_000, "{name}");
        meta.permissions().mode() & 0o7777
    };
    let export = |umask: &str, file: &str| {
        let mut command = Command::new("sh");
        let script = "umask $0; exec \"$@\"";
        let davit = seat.davit(&["export", "-o", &text(&place(file)), &name]);
        command.args(["-c", script, umask]).arg(davit.get_program()).args(davit.get_args());
        let set = davit.get_envs().filter_map(|(key, value)| Some((key, value?)));
        must(command.envs(set));
    };
    export("077", "private");
    assert_eq!(mode("private"), 0o600);
    export("002", "shared");
    assert_eq!(mode("shared"), 0o664);
    for kept in [0o600, 0o640] {
        fs::set_permissions(place("shared"), Permissions::from_mode(kept)).expect("it is ours");
        export("022", "shared");
        assert_eq!(mode("shared"), kept);
    }

    fs::create_dir(place("below")).expect("the directory is writable");
    fs::write(place("below/old"), "old").expect("the directory is writable");
    for (link, file) in [("one", "below/old"), ("two", "below/new")] {
        symlink(file, place(link)).expect("the directory is writable");
        export("022", link);
        assert!(place(link).is_symlink(), "{link}");
        assert_eq!(mode(file), 0o644);
    }
}

/// A disk that fills up takes nothing of the archive that was there.
#[test]
fn a_full_disk_leaves_the_old_file_whole() {
    let (seat, _registry, _layout, name) = pulled(&layout::SMALL);
    let disk = seat.daemon.path("disk");
    fs::create_dir(&disk).expect("the directory is writable");
    must(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&disk));
    let file = disk.join("file.tar");
    fs::write(&file, "old").expect("there is room");
    let mut command = seat.davit(&["export", "-o", &text(&file), &name]);
    let output = command.output().expect("davit can be started");
    let (left, old) = (fs::read_dir(&disk).expect("it is there").count(), fs::read(&file));
    must(Command::new("umount").arg(&disk));
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
    assert_eq!((left, old.expect("it is there").as_slice()), (1, &b"old"[..]));
}

fn ends_by(mut child: Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
    let ended = wait_for("davit has ended", 20, || child.try_wait().expect("it was started"));
    assert_eq!(ended.code(), Some(128 + signal as i32));
}

#[test]
fn signals_end_an_export_that_nobody_reads() {
    let (seat, _registry, _layout, name) = pulled(&layout::SMALL);
    let mut export = seat.davit(&["export", &name]);
    let mut child = export.stdout(Stdio::piped()).spawn().expect("davit can be started");
    let pipe = child.stdout.take().expect("piped");
    wait_for("the pipe is full", 20, || {
        let there = rustix::io::ioctl_fionread(&pipe).expect("it is a pipe");
        (there > 60_000).then_some(())
    });
    ends_by(child, Signal::SIGTERM);

    let fifo = seat.daemon.path("fifo");
    make_fifo(&fifo);
    let child = seat.davit(&["export", "-o", &text(&fifo), &name]).spawn().expect("davit");
    let status = format!("/proc/{}/status", child.id());
    wait_for("davit hears of signals", 20, || {
        let status = fs::read_to_string(&status).expect("it runs");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        let mask = u64::from_str_radix(mask.trim(), 16).expect("a number");
        (mask >> (Signal::SIGINT as u32 - 1) & 1 == 1).then_some(())
    });
    ends_by(child, Signal::SIGINT);
}
