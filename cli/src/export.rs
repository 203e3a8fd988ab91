//! Images into archives: `davit export`.
//!
//! A file gets its name when it is whole, and keeps what it held until then.
//! Whatever else the name leads to, a pipe or a device, is written to.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use davit_client::Client;
use davit_client::transfer::{self, types};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use crate::args::{Export, Format};
use crate::progress::Progress;
use crate::signals::Signals;
use crate::transfer::stoppable;
use crate::{Error, image, output};

/// Pieces of the archive that may wait to be written.
const PENDING_MAX: usize = 4;
/// How many symbolic links may lead to a file, as in the kernel.
const LINKS_MAX: usize = 40;
/// What a new file may be used for, but for the umask.
const MODE: u32 = 0o666;

/// `davit export`.
///
/// # Errors
/// What the daemon answers, or the file's. A file that is not whole is
/// removed.
pub async fn export(client: &Client, export: Export, format: Format) -> Result<u8, Error> {
    let mut names = Vec::new();
    for name in &export.images {
        names.push(image::full_name(client, name).await?);
    }
    let options = types::ImageExportStream {
        platforms: export.platform.iter().cloned().map(Into::into).collect(),
        all_platforms: export.all_platforms,
        ..Default::default()
    };
    let mut signals = Signals::catch()?;
    let target = Target::of(&export.output)?;
    write(client, &names, options, &target, format, &mut signals).await?;
    let is_stdout = matches!(target, Target::Stdout);
    target.publish()?;
    if !is_stdout {
        output::names(format, "image", names.iter().map(String::as_str))?;
    }
    Ok(0)
}

/// Where an archive goes.
enum Target {
    Stdout,
    /// What takes bytes as they come, as pipes and devices do.
    Stream(PathBuf),
    /// A file that is still to get its name.
    File {
        file: NamedTempFile,
        path: PathBuf,
    },
}

impl Target {
    /// What `output` leads to.
    fn of(output: &Path) -> Result<Self, Error> {
        let failed = || Error::io(output.display().to_string());
        let there = match fs::metadata(output) {
            _ if output.as_os_str() == "-" => return Self::stdout(),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other.map_err(failed())?),
        };
        match there {
            // By another name, such as /dev/stdout.
            Some(there) if is_stdout(&there) => Self::stdout(),
            Some(there) if !there.is_file() => Ok(Self::Stream(output.to_owned())),
            there => Self::file(output, there.as_ref()).map_err(failed()),
        }
    }

    fn stdout() -> Result<Self, Error> {
        if io::stdout().is_terminal() {
            return Err(Error::usage("an archive is nothing for a terminal; give a file"));
        }
        Ok(Self::Stdout)
    }

    /// A file beside the one that `output` leads to, with the owner and the
    /// mode of that one if it is there.
    fn file(output: &Path, there: Option<&Metadata>) -> io::Result<Self> {
        let path = followed(output)?;
        let mode = if there.is_some() { 0o600 } else { MODE };
        let file = tempfile::Builder::new()
            .prefix(".davit-export-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory(&path))?;
        if let Some(there) = there {
            // Only root can give files away; anyone else's becomes the caller's.
            let _ = fchown(file.as_file(), Some(there.uid()), Some(there.gid()));
            file.as_file().set_permissions(there.permissions())?;
        }
        Ok(Self::File { file, path })
    }

    /// What it is called in errors.
    fn title(&self) -> String {
        match self {
            Self::Stdout => "standard output".to_owned(),
            Self::Stream(path) | Self::File { path, .. } => path.display().to_string(),
        }
    }

    /// What writes all `pieces` to it. May block, on a pipe until it has a
    /// reader.
    fn writer<T: AsRef<[u8]>>(
        &self,
        mut pieces: mpsc::Receiver<T>,
    ) -> io::Result<impl FnOnce() -> io::Result<()> + use<T>> {
        let opened = match self {
            Self::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Self::Stream(path) => Err(path.clone()),
            Self::File { file, .. } => Ok(file.as_file().try_clone()?),
        };
        let lasts = matches!(self, Self::File { .. });
        Ok(move || {
            let mut out = match opened {
                Ok(file) => file,
                Err(path) => File::options().write(true).open(path)?,
            };
            while let Some(piece) = pieces.blocking_recv() {
                out.write_all(piece.as_ref())?;
            }
            if lasts { out.sync_all() } else { Ok(()) }
        })
    }

    /// Gives a whole file its name.
    fn publish(self) -> Result<(), Error> {
        let Self::File { file, path } = self else { return Ok(()) };
        let failed = Error::io(path.display().to_string());
        file.persist(&path).map(drop).map_err(|error| failed(error.error))
    }
}

/// Whether a file is our standard output.
fn is_stdout(there: &Metadata) -> bool {
    let own = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let own = own.and_then(|file| file.metadata());
    own.is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
}

/// The file that symbolic links lead to, which need not be there.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(next) => path = directory(&path).join(next),
            Err(error) if is_no_link(&error) => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

fn is_no_link(error: &io::Error) -> bool {
    [ErrorKind::InvalidInput, ErrorKind::NotFound].contains(&error.kind())
}

fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Writes an archive, on a thread of its own: one who does not read on must
/// not keep us from hearing signals.
async fn write(
    client: &Client,
    names: &[String],
    options: types::ImageExportStream,
    target: &Target,
    format: Format,
    signals: &mut Signals,
) -> Result<(), Error> {
    let failed = || Error::io(target.title());
    let (sender, pieces) = mpsc::channel(PENDING_MAX);
    let writer = target.writer(pieces).map_err(failed())?;
    let mut writing = tokio::task::spawn_blocking(writer);
    let (mut progress, mut written) = (Progress::new(format), 0);
    let work = async {
        let exporting = transfer::export(client, names, options, async |bytes| {
            let length = bytes.len() as u64;
            if sender.send(bytes).await.is_err() {
                // The writer has failed, and says itself why.
                std::future::pending::<()>().await;
            }
            written += length;
            progress.archive("exporting", written, None);
            Ok::<_, Error>(())
        });
        let ended = tokio::select! {
            biased;
            ended = &mut writing => ended,
            exported = exporting => {
                exported?;
                drop(sender);
                writing.await
            }
        };
        ended.map_err(io::Error::from).flatten().map_err(failed())
    };
    stoppable(work, signals).await?;
    progress.archive("complete", written, None);
    progress.end();
    Ok(())
}
