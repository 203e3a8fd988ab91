//! Pulls from a registry on this machine: `davit pull` on davitd beside `ctr
//! image pull` on containerd, everybody with default settings.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use davit_integration::layout::Layout;
use davit_integration::leftovers::becomes_empty;
use davit_integration::registry::Registry;
use davit_integration::{Client, Daemon, Server, must, peers};
use serde_json::json;

use crate::memory::{field, peak_rss, reset_peak};
use crate::{Figure, Promise, Report, median, milliseconds};

/// How often each pulls each image, unless `BENCH_ROUNDS` says it.
const ROUNDS: usize = 3;
/// How often workers are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// An image of files that Debian packages brought here.
struct Recipe {
    /// `gzip` or `zstd`.
    compressor: &'static str,
    layers: usize,
    /// Bytes of all layers, compressed with gzip.
    size: u64,
    what: &'static str,
    /// Our time, divided by the other's.
    promise: f64,
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        compressor: "gzip",
        layers: 10,
        size: 400_000_000,
        what: "pull of 400 MB in 10 gzip layers",
        promise: 0.5,
    },
    Recipe {
        compressor: "gzip",
        layers: 1,
        size: 300_000_000,
        what: "pull of 300 MB in one gzip layer",
        // At least one and a half times as fast.
        promise: 0.67,
    },
    Recipe {
        compressor: "zstd",
        layers: 10,
        size: 400_000_000,
        what: "pull of the 10 layers in zstd",
        promise: 0.5,
    },
];

/// The files that packages installed, in the order of their paths, with their
/// sizes.
fn package_files() -> Vec<(PathBuf, u64)> {
    let mut files = BTreeMap::new();
    for list in fs::read_dir("/var/lib/dpkg/info").expect("this is Debian").flatten() {
        let path = list.path();
        if path.extension().is_none_or(|extension| extension != "list") {
            continue;
        }
        let lines = BufReader::new(File::open(&path).expect("a list is readable")).lines();
        for line in lines.map_while(Result::ok).filter(|line| line.starts_with("/usr/")) {
            match fs::symlink_metadata(&line) {
                Ok(data) if data.is_file() => files.insert(line.into(), data.len()),
                _ => continue,
            };
        }
    }
    files.into_iter().collect()
}

/// How many bytes of files gzip makes one of.
fn ratio(files: &[(PathBuf, u64)]) -> f64 {
    // Every hundredth file is sample enough.
    let sample: Vec<_> = files.iter().step_by(100).cloned().collect();
    let whole: u64 = sample.iter().map(|(_, size)| size).sum();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let packed = directory.path().join("sample");
    compress(&sample, "gzip", &packed);
    whole as f64 / fs::metadata(&packed).expect("it was written").len() as f64
}

/// Writes files as a compressed archive; the digest of the archive itself.
fn compress(files: &[(PathBuf, u64)], compressor: &str, to: &Path) -> String {
    let (bare, list) = (to.with_extension("tar"), to.with_extension("list"));
    let mut names = File::create(&list).expect("the directory is writable");
    for (path, _) in files {
        writeln!(names, "{}", path.display()).expect("the directory is writable");
    }
    must(
        Command::new("tar")
            .args(["--create", "--sort=none", "--mtime=@1700000000", "--no-recursion"])
            .args(["--verbatim-files-from", "--absolute-names", "--transform=s,^/,,"])
            .arg("--file")
            .arg(&bare)
            .arg("--files-from")
            .arg(&list),
    );
    let packed = File::create(to).expect("the directory is writable");
    must(Command::new(compressor).args(["--stdout", "--quiet"]).arg(&bare).stdout(packed));
    let digest = sha256(&bare);
    fs::remove_file(&bare).expect("it was just written");
    fs::remove_file(&list).expect("it was just written");
    digest
}

fn sha256(file: &Path) -> String {
    let sum = must(Command::new("sha256sum").arg(file));
    format!("sha256:{}", sum.split_whitespace().next().unwrap_or_default())
}

impl Recipe {
    /// The image as a layout, made now unless it has been before.
    fn layout(&self) -> Layout {
        let Self { compressor, layers, size, .. } = self;
        let kept = peers::workspace().join("target/images");
        let path = kept.join(format!("bench-{compressor}-{layers}-{size}"));
        if !path.exists() {
            eprintln!("making {}", path.display());
            fs::create_dir_all(&kept).expect("target/ is writable");
            let new = tempfile::tempdir_in(&kept).expect("target/ is writable");
            self.make(new.path());
            fs::rename(new.keep(), &path).expect("target/ is writable");
        }
        Layout::open(&path)
    }

    fn make(&self, at: &Path) {
        let blobs = at.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a new directory is writable");
        let keep = |file: &Path| {
            let digest = sha256(file);
            let size = fs::metadata(file).expect("it was written").len();
            fs::rename(file, blobs.join(&digest[7..])).expect("a new directory is writable");
            (digest, size)
        };
        let document = |value: serde_json::Value| {
            let file = at.join("document");
            fs::write(&file, value.to_string()).expect("a new directory is writable");
            keep(&file)
        };
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for files in self.split(&package_files()) {
            let file = at.join("layer");
            diff_ids.push(compress(&files, self.compressor, &file));
            let media_type = format!("application/vnd.oci.image.layer.v1.tar+{}", self.compressor);
            let (digest, size) = keep(&file);
            layers.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
        }
        let (config, size) = document(json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }));
        let media = |kind: &str| format!("application/vnd.oci.image.{kind}.v1+json");
        let config = json!({"mediaType": media("config"), "digest": config, "size": size});
        let (manifest, size) = document(json!({
            "schemaVersion": 2, "mediaType": media("manifest"), "config": config, "layers": layers,
        }));
        let target = json!({"mediaType": media("manifest"), "digest": manifest, "size": size});
        let index = json!({"schemaVersion": 2, "manifests": [target]}).to_string();
        fs::write(at.join("index.json"), index).expect("a new directory is writable");
        fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("a new directory is writable");
    }

    /// As many files as make the size, layer by layer.
    fn split(&self, files: &[(PathBuf, u64)]) -> Vec<Vec<(PathBuf, u64)>> {
        let whole = (self.size as f64 * ratio(files)) as u64;
        let share = whole / self.layers as u64;
        // From all over the packages, and none too large for a layer.
        let mut rest = files.iter().filter(|(_, size)| *size < share / 2).cloned();
        let mut layer = || {
            let mut sum = 0;
            let mut taken = Vec::new();
            while sum < share {
                let Some((path, size)) = rest.next() else { break };
                sum += size;
                taken.push((path, size));
            }
            assert!(!taken.is_empty(), "the packages here are too small for {}", self.what);
            taken
        };
        (0..self.layers).map(|_| layer()).collect()
    }
}

/// A daemon with what pulls on it.
struct Puller {
    daemon: Daemon,
    /// What `--version` says, more or less.
    name: &'static str,
}

impl Puller {
    fn pull(&self, reference: &str) {
        match self.daemon.server() {
            Server::Davit => must(
                Command::new(peers::ours("davit"))
                    .arg("--address")
                    .arg(self.daemon.socket())
                    .args([
                        "--namespace",
                        &self.daemon.namespace(),
                        "pull",
                        "--plain-http",
                        reference,
                    ])
                    .stdin(Stdio::null()),
            ),
            other => must(self.daemon.ctr(client(other)).args([
                "image",
                "pull",
                "--plain-http",
                reference,
            ])),
        };
    }

    /// Removes the image with all that it brought, so that the next pull
    /// brings it again. Returns when the files are gone, too: to remove them
    /// takes a daemon some seconds more, which the next one's pull would share.
    fn forget(&self, reference: &str) {
        let client = client(self.daemon.server());
        self.daemon.ctr_ok(client, &["image", "rm", "--sync", reference]);
        assert_eq!(self.daemon.ctr_ok(client, &["content", "ls", "-q"]), "", "content is left");
        assert_eq!(
            self.daemon.ctr_ok(client, &["snapshots", "ls"]).lines().count(),
            1,
            "snapshots are left"
        );
        let directory = self.daemon.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        becomes_empty(&directory, 120);
    }
}

fn client(server: Server) -> Client {
    match server {
        Server::Containerd16 => Client::Ctr16,
        Server::Containerd21 | Server::Davit => Client::Ctr21,
    }
}

/// The largest sum of what the children of a process have resident, in
/// megabytes, until `done`.
fn watch_children(parent: u32, done: &AtomicBool) -> f64 {
    let mut peak: f64 = 0.0;
    while !done.load(Ordering::Relaxed) {
        let path = format!("/proc/{parent}/task");
        let threads = fs::read_dir(path).into_iter().flatten().flatten();
        let mut sum = 0.0;
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
                sum += field(child, "status", &["VmRSS"]);
            }
        }
        peak = peak.max(sum);
        std::thread::sleep(LOOK);
    }
    peak
}

/// What a pull cost.
struct Pull {
    milliseconds: f64,
    peak: f64,
    after: f64,
    workers: f64,
}

/// One pull, with the registry's files in the page cache and nothing left to
/// write of what went before.
fn pull(puller: &Puller, reference: &str, layout: &Layout) -> Pull {
    for digest in layout.all() {
        let mut file = File::open(layout.file(&digest)).expect("it is there");
        std::io::copy(&mut file, &mut std::io::sink()).expect("it can be read");
    }
    must(&mut Command::new("sync"));
    reset_peak(&puller.daemon);
    let (done, pid) = (AtomicBool::new(false), puller.daemon.pid());
    let (took, workers) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_children(pid, &done));
        let took = milliseconds(|| puller.pull(reference));
        done.store(true, Ordering::Relaxed);
        (took, watching.join().expect("looking does not fail"))
    });
    let peak = peak_rss(&puller.daemon);
    std::thread::sleep(Duration::from_secs(2));
    let after = field(pid as i32, "status", &["VmRSS"]);
    puller.forget(reference);
    Pull { milliseconds: took, peak, after, workers }
}

/// Measures all pulls.
pub fn measure(report: &mut Report) {
    let rounds = crate::rounds(ROUNDS);
    let registry = Registry::start();
    let servers = [
        (Server::Containerd16, "containerd 1.6"),
        (Server::Containerd21, "containerd 2.1"),
        (Server::Davit, "davitd"),
    ];
    let pullers = servers.map(|(server, name)| Puller { daemon: Daemon::start(server), name });
    let mut memory: Vec<Vec<Pull>> = pullers.iter().map(|_| Vec::new()).collect();
    for (number, recipe) in RECIPES.iter().enumerate() {
        let layout = recipe.layout();
        let reference = layout.push(&registry, &format!("bench/{number}:1"));
        let size = layout.transfer_size("amd64") as f64 / 1e6;
        report.note(format!("{}: {size:.0} MB come over the wire", recipe.what));
        let mut times: Vec<Vec<f64>> = pullers.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (place, puller) in pullers.iter().enumerate() {
                let pull = pull(puller, &reference, &layout);
                eprintln!("{}, {}: {:.0} ms", recipe.what, puller.name, pull.milliseconds);
                times[place].push(pull.milliseconds);
                memory[place].push(pull);
            }
        }
        let ours = median(times.pop().expect("davitd is the last"));
        for (puller, theirs) in pullers.iter().zip(times) {
            report.figure(Figure {
                what: format!("{}, beside {}", recipe.what, puller.name),
                reference: median(theirs),
                ours,
                unit: "ms",
                promise: Promise::Ratio(recipe.promise),
            });
        }
    }
    memory_figures(report, &memory[1], &memory[2]);
}

fn memory_figures(report: &mut Report, theirs: &[Pull], ours: &[Pull]) {
    let most = |pulls: &[Pull], of: fn(&Pull) -> f64| pulls.iter().map(of).fold(0.0, f64::max);
    let workers = most(ours, |pull| pull.workers);
    report.note(format!("unpack workers of davitd: {workers:.1} MB resident together at most"));
    let mut figure = |what: &str, of: fn(&Pull) -> f64, limit| {
        report.figure(Figure {
            what: format!("{what}, the largest of all pulls, beside containerd 2.1"),
            reference: most(theirs, of),
            ours: most(ours, of),
            unit: "MB",
            promise: Promise::AtMost(limit),
        });
    };
    figure("daemon, resident at most in a pull", |pull| pull.peak, 40.0);
    figure("daemon, resident 2 s after a pull", |pull| pull.after, 15.0);
}
