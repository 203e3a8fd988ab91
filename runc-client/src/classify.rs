//! What kind of failure a message tells of.
//!
//! One table of wordings: those of runc 1.0 to 1.3, crun 1.8 to 1.28 and
//! runsc. Nothing else looks into a runtime's messages.

use crate::error::ErrorKind::{
    self, AlreadyExists, CommandNotExecutable, CommandNotFound, InvalidArgument, NotFound,
    NotRunning, PermissionDenied, ResourceExhausted, Unsupported,
};

/// A message that holds all of `words` (in lower case), said in one of
/// `operations` (any, if none is named), tells of `kind`.
struct Rule {
    kind: ErrorKind,
    operations: &'static [&'static str],
    words: &'static [&'static str],
}

const fn rule(
    kind: ErrorKind,
    operations: &'static [&'static str],
    words: &'static [&'static str],
) -> Rule {
    Rule { kind, operations, words }
}

const ANY: &[&str] = &[];
const MAKING: &[&str] = &["create", "run", "restore"];
const RUNNING: &[&str] = &["create", "run", "start", "exec"];
const SIGNALLING: &[&str] = &["kill"];
const OPTIONAL: &[&str] = &["checkpoint", "restore", "pause", "resume", "events", "features"];

/// The first rule that holds decides.
const RULES: &[Rule] = &[
    // What the binary lacks: unknown operations and flags, missing CRIU.
    rule(Unsupported, ANY, &["unknown command"]),
    rule(Unsupported, ANY, &["no help topic for"]),
    rule(Unsupported, ANY, &["flag provided but not defined"]),
    rule(Unsupported, ANY, &["unrecognized option"]),
    rule(Unsupported, ANY, &["invalid value \"", "\" for flag -"]),
    rule(Unsupported, ANY, &["usage: runsc <flags> <subcommand>"]),
    rule(Unsupported, ANY, &["compiled without criu"]),
    rule(Unsupported, ANY, &["configured without criu"]),
    rule(Unsupported, ANY, &["exec: \"criu\"", "not found"]),
    rule(Unsupported, ANY, &["criu version", "not supported"]),
    rule(Unsupported, ANY, &["criu binary not found"]),
    rule(Unsupported, ANY, &["libcriu.so"]),
    rule(Unsupported, ANY, &["rootless container", "cannot checkpoint"]),
    rule(Unsupported, OPTIONAL, &["not supported"]),
    rule(Unsupported, OPTIONAL, &["unsupported"]),
    rule(Unsupported, OPTIONAL, &["not implemented"]),
    // runc.
    rule(NotFound, ANY, &["container does not exist"]),
    rule(AlreadyExists, MAKING, &["container with given id already exists"]),
    rule(AlreadyExists, MAKING, &["container with id exists"]),
    rule(NotRunning, ANY, &["container not running"]),
    rule(NotRunning, ANY, &["container not paused"]),
    rule(NotRunning, ANY, &["container is not running"]),
    rule(NotRunning, ANY, &["container is not paused"]),
    rule(NotRunning, &["delete"], &["container still running"]),
    rule(NotRunning, ANY, &["cannot start a container that has stopped"]),
    rule(NotRunning, ANY, &["cannot start a container that has run and stopped"]),
    rule(NotRunning, ANY, &["cannot start an already running container"]),
    rule(NotRunning, ANY, &["cannot start a container in the"]),
    rule(NotRunning, ANY, &["cannot exec in a stopped container"]),
    rule(NotRunning, ANY, &["cannot exec in a paused container"]),
    rule(NotRunning, ANY, &["cannot exec a container that has stopped"]),
    rule(NotRunning, ANY, &["cannot delete container", "not stopped"]),
    rule(NotRunning, ANY, &["process already finished"]),
    rule(NotRunning, &["exec"], &["nsexec", "failed to open /proc/", "/ns/"]),
    // crun.
    rule(NotFound, ANY, &["/status`: no such file or directory"]),
    rule(NotFound, ANY, &["container `", "` does not exist"]),
    rule(NotFound, &["delete"], &["cannot open directory", "no such file or directory"]),
    rule(AlreadyExists, MAKING, &["container `", "` already exists"]),
    rule(NotRunning, ANY, &["container `", "` is not running"]),
    rule(NotRunning, ANY, &["container `", "` is paused"]),
    rule(NotRunning, ANY, &["container `", "` is not paused"]),
    rule(NotRunning, ANY, &["container `", "` is not in", "state"]),
    rule(NotRunning, &["start"], &["exec.fifo`: no such file or directory"]),
    rule(NotRunning, &["exec"], &["setns(pid=", "no such process"]),
    rule(NotRunning, &["exec"], &["open `/proc/", "/ns/", "no such"]),
    // runsc.
    rule(NotFound, ANY, &["loading container", "file does not exist"]),
    rule(NotFound, ANY, &["loading sandbox", "file does not exist"]),
    rule(AlreadyExists, MAKING, &["container already exists"]),
    rule(AlreadyExists, MAKING, &["container with id", "already exists"]),
    rule(NotRunning, ANY, &["cannot", "container", "in state"]),
    rule(NotRunning, ANY, &["container \"", "\" not started"]),
    rule(NotRunning, ANY, &["sandbox is not running"]),
    rule(NotRunning, ANY, &["no process found in container"]),
    // The program that the container should run.
    rule(CommandNotFound, RUNNING, &["executable file not found in $path"]),
    rule(CommandNotFound, RUNNING, &["executable file `", "not found"]),
    rule(CommandNotExecutable, RUNNING, &["executable file `", "permission denied"]),
    rule(CommandNotFound, RUNNING, &["open executable", "no such file or directory"]),
    rule(CommandNotExecutable, RUNNING, &["open executable", "permission denied"]),
    rule(CommandNotFound, RUNNING, &["exec: \"", "no such file or directory"]),
    rule(CommandNotExecutable, RUNNING, &["exec: \"", "permission denied"]),
    rule(CommandNotExecutable, RUNNING, &["exec: \"", "is a directory"]),
    rule(CommandNotFound, RUNNING, &["exec /", "no such file or directory"]),
    rule(CommandNotExecutable, RUNNING, &["exec /", "permission denied"]),
    rule(CommandNotExecutable, RUNNING, &["exec format error"]),
    rule(CommandNotFound, RUNNING, &["failed to load", "no such file or directory"]),
    rule(CommandNotFound, RUNNING, &["error finding executable", "no such file or directory"]),
    // Arguments.
    rule(InvalidArgument, ANY, &["invalid container id"]),
    rule(InvalidArgument, ANY, &["invalid id format"]),
    rule(InvalidArgument, ANY, &["container id cannot be empty"]),
    rule(InvalidArgument, MAKING, &["cannot create state directory for `"]),
    rule(InvalidArgument, SIGNALLING, &["unknown signal"]),
    rule(InvalidArgument, SIGNALLING, &["invalid signal"]),
    rule(InvalidArgument, SIGNALLING, &["invalid argument"]),
    rule(NotRunning, SIGNALLING, &["no such process"]),
    rule(InvalidArgument, ANY, &["--console-socket"]),
    rule(InvalidArgument, ANY, &["console socket"]),
    rule(InvalidArgument, MAKING, &["chdir ", "no such file or directory"]),
    rule(InvalidArgument, MAKING, &["realpath `", "no such file or directory"]),
    rule(InvalidArgument, MAKING, &["cannot open bundle"]),
    rule(InvalidArgument, MAKING, &["config.json", "not found"]),
    rule(InvalidArgument, MAKING, &["config.json", "no such file or directory"]),
    rule(InvalidArgument, MAKING, &["error loading config.json"]),
    rule(InvalidArgument, MAKING, &["load `config.json`"]),
    rule(InvalidArgument, MAKING, &["unknown version specified"]),
    rule(InvalidArgument, ANY, &["unexpected eof"]),
    rule(InvalidArgument, ANY, &["invalid character"]),
    rule(InvalidArgument, ANY, &["json: cannot unmarshal"]),
    rule(InvalidArgument, ANY, &["unexpected end of json input"]),
    rule(InvalidArgument, ANY, &["cannot parse the data"]),
    rule(InvalidArgument, ANY, &["parse error:"]),
    // The host.
    rule(ResourceExhausted, ANY, &["no space left on device"]),
    rule(ResourceExhausted, ANY, &["cannot allocate memory"]),
    rule(ResourceExhausted, ANY, &["resource temporarily unavailable"]),
    rule(ResourceExhausted, ANY, &["too many open files"]),
    rule(ResourceExhausted, ANY, &["disk quota exceeded"]),
    rule(PermissionDenied, ANY, &["permission denied"]),
    rule(PermissionDenied, ANY, &["operation not permitted"]),
];

/// What kind of failure a runtime's error message tells of; `Failed` when the
/// wording is unknown. `operation` is the operation's name (`exec`).
pub fn classify(operation: &str, message: &str) -> ErrorKind {
    let message = message.to_lowercase();
    let holds = |rule: &&Rule| {
        (rule.operations.is_empty() || rule.operations.contains(&operation))
            && rule.words.iter().all(|words| message.contains(words))
    };
    RULES.iter().find(holds).map_or(ErrorKind::Failed, |rule| rule.kind)
}

/// The kind of several messages: the last one that is known decides, because
/// it is the one that ended the runtime.
pub(crate) fn classify_all(operation: &str, messages: &[String]) -> ErrorKind {
    let kinds = messages.iter().rev().map(|message| classify(operation, message));
    kinds.into_iter().find(|kind| *kind != ErrorKind::Failed).unwrap_or(ErrorKind::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind::Failed;

    /// What the runtimes really say; collected by running them.
    const MESSAGES: &[(&str, &str, ErrorKind)] = &[
        // runc
        ("state", "container does not exist", NotFound),
        ("exec", "exec failed: container does not exist", NotFound),
        ("create", "runc create failed: container with given ID already exists", AlreadyExists),
        ("create", "runc create failed: invalid container ID format", InvalidArgument),
        ("create", "runc create failed: chdir b: no such file or directory", InvalidArgument),
        ("create", "runc create failed: unexpected EOF", InvalidArgument),
        ("start", "cannot start an already running container", NotRunning),
        ("start", "cannot start a container that has stopped", NotRunning),
        ("resume", "container not paused", NotRunning),
        ("pause", "container not running", NotRunning),
        ("kill", "container not running", NotRunning),
        ("kill", "os: process already finished", NotRunning),
        ("exec", "exec failed: cannot exec in a stopped container", NotRunning),
        (
            "exec",
            "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
            NotRunning,
        ),
        ("delete", "cannot delete container a1 that is not stopped: running", NotRunning),
        ("kill", "unable to signal init: invalid argument", InvalidArgument),
        ("kill", "unknown signal \"FOO\"", InvalidArgument),
        (
            "create",
            "runc create failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH",
            CommandNotFound,
        ),
        (
            "exec",
            "exec failed: unable to start container process: exec: \"/etc\": stat /etc: no such file or directory",
            CommandNotFound,
        ),
        (
            "create",
            "runc create failed: unable to start container process: error during container init: exec: \"/etc\": permission denied: unknown",
            CommandNotExecutable,
        ),
        ("create", "flag provided but not defined: -nosuchflag", Unsupported),
        ("features", "No help topic for 'features'", Unsupported),
        (
            "exec",
            "nsexec-1[2820]: failed to open /proc/2458/ns/ipc: No such file or directory",
            NotRunning,
        ),
        ("checkpoint", "criu failed: type DUMP errno 0\nlog file: dump.log", Failed),
        ("checkpoint", "container still running", Failed),
        ("checkpoint", "exec: \"criu\": executable file not found in $PATH", Unsupported),
        (
            "update",
            "unable to set memory limit to 1 (current usage: 425984, peak usage: 2781184)",
            Failed,
        ),
        (
            "create",
            "runc create failed: cannot specify --console-socket if runc will not detach or allocate tty",
            InvalidArgument,
        ),
        ("create", "runc create failed: mkdir /run/x: no space left on device", ResourceExhausted),
        ("create", "runc create failed: mkdir /run/runc: permission denied", PermissionDenied),
        // crun
        (
            "state",
            "error opening file `/run/crun/nope/status`: No such file or directory",
            NotFound,
        ),
        ("delete", "cannot open directory '/run/crun/nope': No such file or directory", NotFound),
        (
            "state",
            "container `nope` does not exist: open `/run/crun/nope/status`: No such file or directory",
            NotFound,
        ),
        ("create", "container `a1` already exists", AlreadyExists),
        ("create", "realpath `nonex` failed: No such file or directory", InvalidArgument),
        ("create", "cannot create state directory for `a/b`", InvalidArgument),
        ("start", "cannot open `/run/crun/a1/exec.fifo`: No such file or directory", NotRunning),
        ("exec", "the container `a1` is paused", NotRunning),
        ("exec", "the container `a1` is not running.", NotRunning),
        ("exec", "setns(pid=3136, CLONE_NEWUSER): No such process", NotRunning),
        ("delete", "the container `a1` is not in `created` or `stopped` state", NotRunning),
        ("delete", "the container `a1` is not in 'stopped' state", NotRunning),
        ("kill", "kill container: No such process", NotRunning),
        ("kill", "send signal to pidfd: No such process", NotRunning),
        ("kill", "send signal to pidfd: Invalid argument", InvalidArgument),
        (
            "exec",
            "executable file `nosuch` not found in $PATH: No such file or directory",
            CommandNotFound,
        ),
        ("create", "open executable: Permission denied", CommandNotExecutable),
        ("checkpoint", "unknown command checkpoint", Unsupported),
        ("checkpoint", "Compiled without CRIU support. Checkpointing not available.", Unsupported),
        ("create", "create: unrecognized option '--nosuchflag'", Unsupported),
        ("create", "error loading config.json", InvalidArgument),
        ("create", "unknown version specified", InvalidArgument),
        ("create", "load `config.json`: cannot read the file: config.json", InvalidArgument),
        ("checkpoint", "CRIU checkpointing failed: -52: Invalid exchange", Failed),
        ("update", "cannot parse the data: `parse error: premature EOF", InvalidArgument),
        ("update", "writing file `memory.limit_in_bytes`: Device or resource busy", Failed),
        ("create", "use --console-socket with create when a terminal is used", InvalidArgument),
        // runsc
        ("state", "loading container: file does not exist", NotFound),
        ("delete", "loading container \"nope\": file does not exist", NotFound),
        ("exec", "loading sandbox: file does not exist", NotFound),
        (
            "create",
            "creating container: cannot lock container metadata file: container already exists",
            AlreadyExists,
        ),
        ("features", "Usage: runsc <flags> <subcommand> <subcommand args>", Unsupported),
        ("start", "starting container: cannot start container in state running", NotRunning),
        (
            "exec",
            "executing processes for container: cannot execute in container \"x\" in state paused",
            NotRunning,
        ),
        (
            "exec",
            "executing processes for container: executing command \"a\" in sandbox: container \"x\" not started",
            NotRunning,
        ),
        (
            "exec",
            "executing processes for container: executing command \"nosuch\" in sandbox: error finding executable \"nosuch\" in PATH [/bin]: no such file or directory",
            CommandNotFound,
        ),
        // nobody
        ("create", "", Failed),
        ("create", "something new", Failed),
    ];

    #[test]
    fn knows_the_runtimes_wordings() {
        for (operation, message, kind) in MESSAGES {
            assert_eq!(classify(operation, message), *kind, "{operation}: {message}");
        }
    }

    #[test]
    fn a_rule_is_written_in_lower_case() {
        for rule in RULES {
            assert!(rule.words.iter().all(|words| *words == words.to_lowercase()));
        }
    }

    #[test]
    fn the_last_known_message_decides() {
        let messages = ["container not running", "container does not exist", "exit status 1"];
        assert_eq!(classify_all("exec", &messages.map(String::from)), NotFound);
        assert_eq!(classify_all("exec", &[]), Failed);
    }
}
