//! How much a daemon does at the same time, as it is configured.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::time::Duration;

use davit_integration::fault_proxy::{Asked, Fault, FaultProxy};
use davit_integration::layout::{self, Layout};
use davit_integration::leftovers::{children_with, open_files};
use davit_integration::registry::Registry;
use davit_integration::{describe, peers};

use crate::seat::{CTR, Seat};

const TABLE: &str = "plugins.\"io.containerd.transfer.v1.local\"";

/// The seat's daemon with these settings, and no others but its own.
fn configure(seat: &mut Seat, settings: &str) {
    seat.daemon.reconfigure(|config| {
        let (own, _) = config.split_once(&format!("[{TABLE}]")).unwrap_or((&config, ""));
        format!("{own}[{TABLE}]\n{settings}\n")
    });
}

/// Pushes an image to two repositories that have nothing of it, both at the
/// same time; how many uploads were on their way at once.
fn uploads_at_once(seat: &Seat) -> usize {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address(), |asked| match asked.is_upload() {
        true => Fault::Late(Duration::from_millis(200)),
        false => Fault::None,
    });
    let push = |name: &str| {
        let mut ctr = seat.daemon.ctr(CTR);
        ctr.args(["image", "push", "--plain-http", &format!("{}/{name}", proxy.host())]);
        ctr.arg(&seat.reference).stdout(Stdio::null()).spawn().expect("ctr can be started")
    };
    for mut push in [push("one:1"), push("two:1")] {
        assert!(push.wait().expect("it was started").success());
    }
    // The layers and the configuration.
    let blobs = seat.layout.layers("amd64").len() + 1;
    assert_eq!(proxy.uploads().len(), 2 * blobs, "{:#?}", proxy.uploads());
    for name in ["one:1", "two:1"] {
        assert_eq!(registry.digest(name), seat.layout.digest());
    }
    proxy.uploads_at_once()
}

#[test]
fn so_many_blobs_are_sent_at_a_time() {
    let mut seat = Seat::new(&layout::SMALL, |_| Fault::None);
    seat.pulls();
    assert_eq!(uploads_at_once(&seat), 3, "nothing is configured");
    configure(&mut seat, "max_concurrent_uploaded_layers = 1");
    assert_eq!(uploads_at_once(&seat), 1);
    configure(&mut seat, "max_concurrent_uploaded_layers = 0");
    let at_once = uploads_at_once(&seat);
    assert!(at_once > 3, "{at_once} without a limit");
}

/// A rule that has every layer take as long as any other.
fn a_second_each(layout: &Layout) -> impl FnMut(&Asked) -> Fault + Send + use<> {
    let size = |digest: &String| fs::metadata(layout.file(digest)).expect("it is there").len();
    let layers = layout.layers("amd64").into_iter();
    let sizes: BTreeMap<_, _> = layers.map(|digest| (size(&digest), digest)).collect();
    move |asked| {
        let of = sizes.iter().find(|(_, digest)| asked.target.ends_with(digest.as_str()));
        of.filter(|_| asked.is_blob()).map_or(Fault::None, |(size, _)| Fault::Slow(*size))
    }
}

/// Pulls an image whose layers all arrive during the same second, removes it
/// again; what the workers that unpacked the most of them at once had open.
fn unpacks_at_once(seat: &Seat) -> Vec<Vec<String>> {
    let (mut pull, mut most) = (seat.starts(), Vec::new());
    // Whoever started us may have left us a pipe, and we the daemon.
    let inherited = open_files(std::process::id());
    let own_of = |worker: u32| -> Vec<String> {
        open_files(worker).into_iter().filter(|file| !inherited.contains(file)).collect()
    };
    let status = loop {
        if let Some(status) = pull.try_wait().expect("it was started") {
            break status;
        }
        let workers = children_with(seat.daemon.pid(), "unpack-worker");
        let files: Vec<_> =
            workers.into_iter().map(own_of).filter(|files| has_a_layer(files)).collect();
        if files.len() > most.len() {
            most = files;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    seat.removes(&seat.reference);
    most
}

/// Whether a worker with these files has been given a layer: as a pipe, or as a
/// file. Others only put directories right, in a moment.
fn has_a_layer(files: &[String]) -> bool {
    let is_layer = |file: &String| file.starts_with("pipe:") || file.contains(".content.v1.");
    files.iter().any(is_layer)
}

#[test]
fn so_many_layers_are_unpacked_at_a_time() {
    let mut seat = Seat::new(&layout::SMALL, |_| Fault::None);
    seat.proxy.rule(a_second_each(&seat.layout));
    let layers = seat.layout.layers("amd64").len();
    for (limit, places) in [("1", 1), ("3", 3), ("0", processors())] {
        let settings = "max_concurrent_downloads = 0\nmax_concurrent_unpacks = ";
        configure(&mut seat, &format!("{settings}{limit}"));
        // A machine that is busy may not look at the right moment.
        let all_places_taken = (0..5).any(|_| {
            let at_once = unpacks_at_once(&seat);
            // When the first is there, it is done with beside one that arrives.
            assert!(at_once.len() <= 2 * places, "with a limit of {limit}: {at_once:#?}");
            at_once.len() >= places.min(layers)
        });
        assert!(all_places_taken, "with a limit of {limit}");
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The daemon says which line is wrong, and touches nothing.
#[test]
fn limits_that_are_none_are_refused() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = |name: &str| directory.path().join(name);
    let (config, root) = (path("config.toml"), path("root"));
    let head = format!(
        "version = 3\nroot = {root:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[{TABLE}]\n",
        path("state"),
        path("daemon.sock"),
    );
    for key in ["downloads", "uploaded_layers", "unpacks"] {
        for (value, reason) in [
            ("-1", "-1 is not between 0 and 2147483647"),
            ("\"three\"", "expected an integer, found string"),
        ] {
            let key = format!("max_concurrent_{key}");
            fs::write(&config, format!("{head}{key} = {value}\n")).expect("it is writable");
            // One that starts all the same is ended.
            let mut command = Command::new("timeout");
            command.arg("20").arg(peers::ours("davitd")).arg("--config").arg(&config);
            let output = command.stdin(Stdio::null()).output().expect("davitd can be started");
            let told = describe(&command, &output);
            assert_eq!(output.status.code(), Some(1), "{told}");
            let column = key.len() + 4;
            let words = format!("{}:7:{column}: {TABLE}.{key}: {reason}", config.display());
            assert!(String::from_utf8_lossy(&output.stderr).contains(&words), "{words}\n{told}");
            assert!(!root.exists() && !path("state").exists(), "{told}");
        }
    }
}
