//! Layers: archives applied to directory trees, and the difference of two
//! trees made into an archive.
//!
//! [`apply`] and [`compare`] work in this process, on trees that are mounted
//! or need no mounting. A daemon uses [`worker`] instead, which does the same
//! in a process of its own with little more than the layer and the tree in
//! its reach. Both read archives with [`tar`], which can be used alone.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

mod apply;
mod attributes;
mod compare;
mod compress;
mod data;
mod error;
mod implied;
pub mod media_type;
mod processor;
mod root;
mod stream;
pub mod tar;
mod whiteout;
pub mod worker;

pub use error::Error;
pub use media_type::Compression;
pub use processor::{Processing, Source, StreamProcessor, StreamProcessors};
pub use stream::{Applied, Decompressed, Limits};
pub use whiteout::Whiteouts;

use root::Root;
use stream::Stream;

/// How a layer is applied.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// Whether the bytes may be compressed; the first ones then say how
    /// ([`media_type::may_be_compressed`]).
    pub compressed: bool,
    /// What deletions become.
    pub whiteouts: Whiteouts,
    /// The layers below, nearest first, where the tree holds this layer
    /// alone: directories that the archive only implies are made as they are
    /// there.
    pub lower: Vec<PathBuf>,
    /// The layers below are not there yet, and `lower` is empty: list such
    /// directories in [`Applied::implied`], for [`settle`].
    pub lower_later: bool,
    /// How much the layer may unpack to.
    pub limits: Limits,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self {
            compressed: true,
            whiteouts: Whiteouts::Remove,
            lower: Vec::new(),
            lower_later: false,
            limits: Limits::default(),
        }
    }
}

/// Writes the layer in `input` into the tree at `root`, and says what its
/// uncompressed archive was.
///
/// # Errors
/// Those that are about an entry name it. What was written before stays: the
/// caller throws the tree away.
pub fn apply(
    input: impl Read + Send,
    root: &Path,
    options: &ApplyOptions,
) -> Result<Applied, Error> {
    let tree = Root::open(root).map_err(Error::io("open", root))?;
    let lower = open_all(&options.lower)?;
    apply_in(input, &tree, &lower, options)
}

fn open_all(paths: &[PathBuf]) -> Result<Vec<Root>, Error> {
    paths.iter().map(|path| Root::open(path).map_err(Error::io("open", path))).collect()
}

fn apply_in(
    input: impl Read + Send,
    root: &Root,
    lower: &[Root],
    options: &ApplyOptions,
) -> Result<Applied, Error> {
    let extractor = apply::Extractor::new(root, lower, options);
    let extract = |stream: &mut Stream| extractor.extract(stream);
    let (implied, applied) =
        stream::with_stream(input, options.compressed, options.limits, extract)?;
    Ok(Applied { implied, ..applied })
}

/// Gives directories that a layer only implied what they have in the layers
/// below it: owner, mode, extended attributes and times. `paths` is what
/// [`apply`] has listed when it wrote the layer into the tree at `root`;
/// `lower` are the layers below, nearest first, themselves settled. Those that
/// no lower layer has stay as they are.
///
/// # Errors
/// Those that are about a directory name it; a path that leads through a
/// link, or to something else than a directory, is one.
pub fn settle(root: &Path, lower: &[PathBuf], paths: &[PathBuf]) -> Result<(), Error> {
    let tree = Root::open(root).map_err(Error::io("open", root))?;
    implied::settle(&tree, &open_all(lower)?, paths)
}

/// How the difference of two trees is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareOptions {
    /// How the archive is compressed.
    pub compression: Compression,
    /// No entry says that it is younger, in seconds since 1970
    /// (`SOURCE_DATE_EPOCH`).
    pub newest: Option<i64>,
}

/// Writes what turns the tree at `lower` into the one at `upper`; the same
/// trees give the same bytes. Says what the uncompressed archive was.
///
/// # Errors
/// Those that are about a file name it.
pub fn compare(
    lower: &Path,
    upper: &Path,
    output: impl Write,
    options: CompareOptions,
) -> Result<Applied, Error> {
    let open = |path: &Path| Root::open(path).map_err(Error::io("open", path));
    compare_in([&open(lower)?, &open(upper)?], None, output, options)
        .map_err(Error::io("compare", upper))
}

fn compare_in(
    [lower, upper]: [&Root; 2],
    layer: Option<&Root>,
    output: impl Write,
    options: CompareOptions,
) -> std::io::Result<Applied> {
    let compressor = compress::Compressor::new(output, options.compression)?;
    let buffered = std::io::BufWriter::with_capacity(1 << 16, compressor);
    let comparison = compare::Comparison::new(buffered, options.newest);
    let clone = |root: &Root| root.dir().try_clone();
    let layer = layer.map(clone).transpose()?;
    let buffered = comparison.run(clone(lower)?, clone(upper)?, layer)?;
    let compressor = buffered.into_inner().map_err(|error| error.into_error())?;
    let (mut output, digest, size) = compressor.finish()?;
    output.flush()?;
    Ok(Applied { digest, size, implied: Vec::new() })
}
