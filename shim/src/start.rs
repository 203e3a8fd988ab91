//! The entry: one process image, several actions.
//!
//! `start` is what a container's creation waits for, so it does without a
//! runtime: it reads the annotations, binds the socket, runs itself again as
//! the serving process with the listener as standard input, and answers.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use davit_protocols::ttrpc::task;
use davit_protocols::ttrpc::types::{RuntimeInfo, RuntimeVersion};
use davit_types::ErrorKind;
use protobuf::Message;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::bootstrap::{self, Annotations, StartRequest};
use crate::cli::{self, Action, Invocation};
use crate::{Failure, Reaper, Shim, logging, sealed, serve, socket};

/// The file in the bundle that holds the shim's address, for daemons that
/// find their shims again.
pub const ADDRESS_FILE: &str = "address";

/// Variables that are about the daemon's own process and must not reach a
/// shim or a container.
const DAEMON_VARIABLES: [&str; 5] =
    ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_USEC"];

/// Runs the shim: parses the command line and does what it says. To be the
/// whole of `main`.
pub fn run<S: Shim>() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let invocation = match cli::parse(args) {
        Ok(invocation) => invocation,
        Err(e) => {
            eprintln!("{}: {e}", S::NAME);
            return ExitCode::from(2);
        }
    };
    let result = match invocation.action {
        Action::Version => print_version::<S>(Path::new(&program)),
        Action::Info => info::<S>(),
        Action::Start => start::<S>(&invocation),
        Action::Delete => delete::<S>(&invocation),
        Action::Serve => serve::serve::<S>(&invocation),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}: {e}", S::NAME);
            ExitCode::FAILURE
        }
    }
}

fn print_version<S: Shim>(program: &Path) -> Result<(), Failure> {
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    print(format!("{name}:\n  Version:  {}\n  Runtime:  {}\n\n", S::VERSION, S::NAME).as_bytes())
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|e| Failure::io("write the answer", &e))
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(bootstrap::STDIN_MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::io("read stdin", &e))?;
    Ok(bytes)
}

fn info<S: Shim>() -> Result<(), Failure> {
    logging::to_stderr(false);
    let options = bootstrap::parse_options(&read_stdin()?);
    let (options, features) = serve::run_local(async {
        let reaper = Reaper::new().map_err(|e| Failure::io("become a subreaper", &e))?;
        S::info(options, &reaper).await
    })?;
    let mut info = RuntimeInfo::new();
    info.name = S::NAME.to_owned();
    let version = RuntimeVersion { version: S::VERSION.to_owned(), ..RuntimeVersion::default() };
    info.version = Some(version).into();
    info.options = options.map(bootstrap::wire_any).into();
    info.features = features.map(bootstrap::wire_any).into();
    print(&info.write_to_bytes().unwrap_or_default())
}

fn delete<S: Shim>(invocation: &Invocation) -> Result<(), Failure> {
    logging::to_stderr(invocation.debug);
    let bundle = match invocation.bundle.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => invocation.bundle.clone(),
    };
    let cleaned = serve::run_local(async {
        let reaper = Reaper::new().map_err(|e| Failure::io("become a subreaper", &e))?;
        S::cleanup(invocation, &reaper).await
    })?;
    if let Ok(address) = std::fs::read_to_string(bundle.join(ADDRESS_FILE)) {
        socket::remove_if_dead(Path::new(address.strip_prefix(socket::SCHEME).unwrap_or(&address)));
    }
    let mut response = task::DeleteResponse::new();
    response.pid = cleaned.pid;
    response.exit_status = cleaned.exit_status;
    response.exited_at = Some(timestamp(cleaned.exited_at)).into();
    print(&response.write_to_bytes().unwrap_or_default())
}

/// A point in time as the messages carry it. Times before 1970 become 1970.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut timestamp = Timestamp::new();
    timestamp.seconds = since.as_secs() as i64;
    timestamp.nanos = since.subsec_nanos() as i32;
    timestamp
}

fn start<S: Shim>(invocation: &Invocation) -> Result<(), Failure> {
    let max_version = std::env::var("MAX_SHIM_VERSION").ok();
    let request = bootstrap::parse_start(
        &read_stdin()?,
        &invocation.id,
        &invocation.namespace,
        max_version.as_deref(),
    );
    let bundle = match invocation.bundle.as_os_str().is_empty() {
        true => std::env::current_dir().map_err(|e| Failure::io("getwd", &e))?,
        false => invocation.bundle.clone(),
    };
    let annotations = Annotations::read(&bundle)?;
    let group = S::group(&annotations).unwrap_or(&invocation.id);
    let daemon = request.grpc_address.as_deref().unwrap_or(&invocation.address);
    let path = socket::path(&socket_dir(&request), daemon, &invocation.namespace, group);
    let address = format!("{}{}", socket::SCHEME, path.display());
    // Before there is a socket: whoever ends us at any moment finds it by this.
    write_address(&bundle, &address)?;
    let tell = || print(&bootstrap::answer(request.dialect, &address));
    let socket::Bound::Here(listener) = socket::bind(&path)? else { return tell() };
    let mut server = spawn_server(invocation, &request, &bundle, listener.into())
        .inspect_err(|_| socket::remove(&path))?;
    place::<S>(server.id(), &request).and_then(|()| tell()).inspect_err(|_| {
        // Nobody has heard of it, so nobody would ever end it.
        socket::remove(&path);
        let _ = server.kill();
    })
}

fn socket_dir(request: &StartRequest) -> PathBuf {
    let named = || std::env::var_os(socket::DIR_VARIABLE).filter(|d| !d.is_empty());
    match &request.socket_dir {
        Some(dir) => dir.clone(),
        None => named().map_or_else(|| socket::DEFAULT_DIR.into(), PathBuf::from),
    }
}

/// Runs this program again to serve. Of our descriptors it gets the listener
/// and nothing that the caller waits on.
fn spawn_server(
    invocation: &Invocation,
    request: &StartRequest,
    bundle: &Path,
    listener: OwnedFd,
) -> Result<Child, Failure> {
    if std::env::var_os("SCHED_CORE").is_some_and(|v| !v.is_empty()) {
        davit_sys::process::create_sched_core()?;
    }
    let program = std::env::current_exe().map_err(|e| Failure::io("find the executable", &e))?;
    let mut command = Command::new(program);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.args(["-namespace", &invocation.namespace, "-id", &invocation.id]);
    command.args(["-address", request.grpc_address.as_ref().unwrap_or(&invocation.address)]);
    if !invocation.publish_binary.is_empty() {
        command.args(["-publish-binary", &invocation.publish_binary]);
    }
    if invocation.debug || request.debug {
        command.arg("-debug");
    }
    if let Some(address) = &request.ttrpc_address {
        command.env("TTRPC_ADDRESS", address);
    }
    for variable in DAEMON_VARIABLES {
        command.env_remove(variable);
    }
    let stdout = match sealed::offered() {
        None => Stdio::null(),
        Some(sealed::Offer { file, original }) => {
            command.args(["-sealed-runtime", &original]);
            file.into()
        }
    };
    command.env_remove(sealed::VARIABLE);
    // A pipe of the caller's that stayed open in a process that stays would
    // never end.
    davit_sys::process::close_on_exec_from(3);
    command
        .current_dir(bundle)
        .stdin(Stdio::from(listener))
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Failure::io("start the serving process", &e))
}

/// Puts the serving process where the operator wants it.
fn place<S: Shim>(pid: u32, request: &StartRequest) -> Result<(), Failure> {
    if let Some(group) = request.options.as_ref().and_then(S::cgroup) {
        let found = davit_sys::cgroup::at(&group).map_err(|_| {
            let text =
                format!("failed to load cgroup {}: cgroups: cgroup deleted", group.display());
            Failure::new(ErrorKind::Unknown, text)
        })?;
        found.add_process(pid)?;
    }
    // The daemon is to outlive its shims when memory runs out. Not worth
    // failing for: raising is refused in some sandboxes.
    if let Ok(score) = davit_sys::process::oom_score_adj(nix::unistd::getppid().as_raw() as u32) {
        let _ = davit_sys::process::set_oom_score_adj(pid, (score + 1).min(1000));
    }
    Ok(())
}

/// Written under another name first, so that a reader never sees half of it.
fn write_address(bundle: &Path, address: &str) -> Result<(), Failure> {
    let temporary = bundle.join(".address");
    let path = bundle.join(ADDRESS_FILE);
    std::fs::write(&temporary, address)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|e| Failure::io(format!("write {}", path.display()), &e))
}
