//! Times what is done most, over many records:
//! `cargo run --release -p davit-index --example measure`.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use davit_content::LocalStore;
use davit_index::{
    Collector, Container, ContentStore, Error, Image, Index, Resource, Runtime, Sharing, Sizes,
    image_target,
};
use davit_types::{Any, Labels, Namespace};

/// Images, each with a manifest, a config and three layers.
const IMAGES: usize = 10_000;

fn main() -> Result<(), Error> {
    let directory = std::env::temp_dir().join(format!("davit-measure-{}", std::process::id()));
    let outcome = measure(&directory);
    if let Err(error) = std::fs::remove_dir_all(&directory) {
        eprintln!("{}: {error}", directory.display());
    }
    outcome
}

fn measure(directory: &std::path::Path) -> Result<(), Error> {
    std::fs::create_dir(directory).map_err(|error| Error::Unknown(error.to_string()))?;
    let index = Arc::new(Index::open(&directory.join("index.db"))?);
    let space = Namespace::new("default")?;
    for writers in [1, 8, 32] {
        writing(&index, &space, writers)?;
    }
    filling(&index, &space)?;
    let local = Arc::new(LocalStore::open(&directory.join("content"))?);
    let content = Arc::new(ContentStore::new(index.clone(), local, Sharing::Shared));
    let collector = Collector::new(index.clone(), content, Vec::new());
    let images = index.images();
    timed("list all images", || images.list(&space, &[]))?;
    timed("list one image by filter", || images.list(&space, &["name==image-5".to_owned()]))?;
    timed("get one image", || images.get(&space, "image-5"))?;
    timed("find that there is no garbage", || collector.garbage(&mut |_| true))?;
    timed("explain", || collector.explain(&space, "image-5"))?;
    collecting(&index, &space, &collector)
}

/// Takes away the names of half of the images, and then what they held.
fn collecting(index: &Index, space: &Namespace, collector: &Collector) -> Result<(), Error> {
    for number in 0..IMAGES / 2 {
        index.images().delete(space, &format!("image-{number}"), None, None)?;
    }
    let start = Instant::now();
    let mut count = 0;
    collector.garbage(&mut |_| {
        count += 1;
        true
    })?;
    println!("find {count} things to collect: {:?}", start.elapsed());
    let (start, mut gone) = (Instant::now(), 0);
    collector.collect(Sizes::Known, &mut |_| gone += 1)?;
    println!("collect {gone} things: {:?}", start.elapsed());
    Ok(())
}

fn timed<T>(what: &str, work: impl Fn() -> Result<T, Error>) -> Result<(), Error> {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed());
    }
    println!("{what}: {best:?}");
    Ok(())
}

/// Containers made by several at once, each waiting for the disk.
fn writing(index: &Index, space: &Namespace, writers: usize) -> Result<(), Error> {
    const EACH: usize = 50;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let write = |writer| {
            (0..EACH).try_for_each(|round| {
                let id = format!("c{writers}-{writer}-{round}");
                index.containers().create(space, container(id)).map(drop)
            })
        };
        let threads: Vec<_> =
            (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Unknown("a writer panicked".into())))
        })
    })?;
    let each = start.elapsed().div_f64((writers * EACH) as f64);
    println!("create a container, {writers} at once: {each:?} each");
    Ok(())
}

/// Fills the index with images; a lease stands for their blobs' references.
fn filling(index: &Index, space: &Namespace) -> Result<(), Error> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let fill = |worker: usize| {
            (worker..IMAGES).step_by(64).try_for_each(|number| {
                let name = format!("image-{number}");
                let labels: Labels = (0..4)
                    .map(|l| (format!("containerd.io/gc.ref.content.{l}"), digest(number * 8 + l)))
                    .collect();
                let target = image_target("m".to_owned(), &digest(number * 8), 1, Labels::new())?;
                let (created_at, updated_at) = (UNIX_EPOCH, UNIX_EPOCH);
                let image = Image { name: name.clone(), labels, target, created_at, updated_at };
                index.images().create(space, image, None, None)?;
                let lease = davit_index::LeaseId::new(name);
                index.leases().create(space, &lease, &Labels::new())?;
                let resource = Resource { id: digest(number * 8), kind: "content".to_owned() };
                index.leases().add_resource(space, &lease, &resource)
            })
        };
        let threads: Vec<_> = (0..64).map(|worker| scope.spawn(move || fill(worker))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Unknown("a writer panicked".into())))
        })
    })?;
    println!("{IMAGES} images and as many leases: {:?}", start.elapsed());
    Ok(())
}

fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn container(id: String) -> Container {
    let any = Any { type_url: "spec".to_owned(), value: vec![b'x'; 8 * 1024] };
    Container {
        snapshot_key: id.clone(),
        id,
        labels: Labels::from([("k".to_owned(), "v".to_owned())]),
        image: "image".to_owned(),
        runtime: Runtime { name: "io.containerd.runc.v2".to_owned(), options: None },
        spec: Some(any),
        snapshotter: "overlayfs".to_owned(),
        created_at: UNIX_EPOCH,
        updated_at: UNIX_EPOCH,
        extensions: Default::default(),
        sandbox_id: String::new(),
    }
}
