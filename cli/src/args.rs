//! The words of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use davit_client::spec::SpecMount;
use davit_types::{ContainerId, Namespace, Platform};

use crate::parse::{self, Signal};
use crate::terminal::DetachKeys;

const EXIT_CODES: &str = "\
Exit codes:
  run, exec and start --attach end with the exit code of the container's own
  process (128 and the signal's number when a signal ended it). Otherwise:
    125  davit or the daemon failed, or the command line is wrong
    126  the program in the container cannot be run
    127  the program in the container was not found
  All other commands end with 0 or 125.";

const EXAMPLES: &str = "\
First steps:
  davit pull busybox                  # or: davit import busybox.tar
  davit images
  davit run --rm -it busybox sh       # leave it running with ctrl-p ctrl-q
  davit run -d --name web IMAGE
  davit ps; davit exec web ps; davit stop web; davit rm web";

/// Runs containers, through davitd or any containerd.
#[derive(Debug, Parser)]
#[command(name = "davit", version, disable_help_subcommand = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Arguments {
    /// Applies to every command.
    #[command(flatten)]
    global: Global,
    /// Beside `--address`, for `-a` means something else after some commands.
    #[arg(short = 'a', hide = true, value_name = "PATH")]
    address_in_short: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// What was asked, and the options that apply to every command.
    pub fn split(self) -> (Global, Command) {
        let mut global = self.global;
        if let Some(address) = self.address_in_short {
            global.address = address;
        }
        (global, self.command)
    }
}

/// Options that every command has.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The daemon's socket; in short -a, before the command
    #[arg(
        long,
        global = true,
        env = "DAVIT_ADDRESS",
        default_value = "/run/davit/davit.sock",
        value_name = "PATH"
    )]
    pub address: PathBuf,
    /// The namespace that containers and images are looked for in
    #[arg(short, long, global = true, env = "CONTAINERD_NAMESPACE", default_value = "default")]
    pub namespace: Namespace,
    /// How to print: a table for people, or json for programs
    #[arg(long, global = true, value_enum, default_value = "table", hide_possible_values = true)]
    pub format: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a container of an image and run it
    Run(Box<Run>),
    /// Run another program in a running container
    Exec(Exec),
    /// List containers
    #[command(visible_alias = "list")]
    Ps(Ps),
    /// Start containers that have ended, or were never started
    Start(Start),
    /// Ask containers to end, and end those that do not
    Stop(Stop),
    /// Send a signal to containers
    Kill(Kill),
    /// Remove containers with all that they wrote
    Rm(Remove),
    /// List images
    Images(Images),
    /// Fetch an image from a registry
    Pull(Box<Pull>),
    /// Send an image to a registry
    Push(Box<Push>),
    /// Take images from an archive
    Import(Import),
    /// Write images into an archive
    Export(Export),
    /// Remove names of images; what no name leads to is collected
    Rmi(RemoveImages),
    /// Give an image another name
    Tag(Tag),
    /// Remove what nothing holds any more, or show what would go
    Gc(Gc),
    /// Show what keeps something from being collected
    Why(Why),
    /// Show what happens in the daemon, while it happens
    Events(Events),
    /// Show everything about containers and images, as JSON
    Inspect(Inspect),
    /// Show what the daemon is and has
    Info,
    /// Show the versions of davit and of the daemon
    Version,
    /// Wait for a container that nobody looks at, and tidy up after it
    #[command(hide = true)]
    Attend(Attend),
}

const RUN_HELP: &str = "\
Mounts:
  --volume SOURCE:TARGET[:OPTIONS]     a directory or file of this machine
  --mount type=bind,src=/a,dst=/b,ro   the same in full; other types go to mount(2)
  --mount type=tmpfs,dst=/tmp,options=size=64m:mode=1777

Network:
  A container gets a network of its own with nothing but a loopback interface,
  or that of this machine with --net-host.

In the background:
  With --detach, davit prints the name and ends once the container runs; its
  output is thrown away unless --log-file takes it. With --rm too, a davit
  process stays behind until the container has ended, and removes it.

Examples:
  davit run --rm IMAGE echo hello
  davit run --rm -it -v $PWD:/work:ro -w /work IMAGE sh
  davit run -d --name db --memory 512m --cpus 1.5 --log-file /var/log/db.log IMAGE
  tar c . | davit run --rm -i IMAGE tar t

Without a terminal, signals that davit receives go to the container.";

/// `davit run`.
#[derive(Debug, Args)]
#[command(after_help = format!("{RUN_HELP}\n\n{EXIT_CODES}"))]
pub struct Run {
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Print the name and leave the container running
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The container's name; a readable one is made up without it
    #[arg(long)]
    pub name: Option<ContainerId>,
    /// Share the network of this machine
    #[arg(long)]
    pub net_host: bool,
    /// The shim [default: the namespace's, or io.containerd.davit.v2]
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// What the shim runs containers with, runc or crun for instance
    #[arg(long, value_name = "PROGRAM")]
    pub runtime_binary: Option<String>,
    /// Where the root filesystem is made [default: the namespace's, or overlayfs]
    #[arg(long, value_name = "NAME")]
    pub snapshotter: Option<String>,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables that a file lists, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Mount something: type=…,src=…,dst=…,options=a:b[,ro]
    #[arg(long, value_name = "SPEC", value_parser = parse::mount)]
    pub mount: Vec<SpecMount>,
    /// Mount a directory or file of this machine
    #[arg(short, long, value_name = "SOURCE:TARGET[:OPTIONS]", value_parser = parse::volume)]
    pub volume: Vec<SpecMount>,
    /// The working directory
    #[arg(short, long, value_name = "DIR", value_parser = parse::absolute)]
    pub workdir: Option<String>,
    /// Who runs it, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The host name [default: the container's name]
    #[arg(long, value_parser = parse::hostname)]
    pub hostname: Option<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    pub read_only: bool,
    /// Attach a label
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = parse::label)]
    pub label: Vec<(String, String)>,
    /// The most memory it may use, with k, m or g behind
    #[arg(short, long, value_name = "BYTES", value_parser = parse::size)]
    pub memory: Option<i64>,
    /// How many processors' worth of time it may use
    #[arg(long, value_name = "NUMBER", value_parser = parse::cpus)]
    pub cpus: Option<f64>,
    /// How many processes it may have
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    pub pids_limit: Option<i64>,
    /// Give it a capability, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = parse::capability)]
    pub cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = parse::capability)]
    pub cap_drop: Vec<String>,
    /// The program to run instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// With --detach: append what it prints to this file
    #[arg(long, value_name = "PATH", requires = "detach")]
    pub log_file: Option<PathBuf>,
    /// The keys that leave the container running in the background
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    pub detach_keys: DetachKeys,
    /// The image's name
    pub image: String,
    /// What to run instead of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

const EXEC_HELP: &str = "\
Examples:
  davit exec web ps
  davit exec -it web sh
  davit exec -u nobody -e DEBUG=1 -w /tmp web env";

/// `davit exec`.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXEC_HELP}\n\n{EXIT_CODES}"))]
pub struct Exec {
    /// Do not wait for the program
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables that a file lists, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// The working directory [default: the container's]
    #[arg(short, long, value_name = "DIR", value_parser = parse::absolute)]
    pub workdir: Option<String>,
    /// Who runs it [default: whoever runs the container]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The keys that leave the program running in the background
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    pub detach_keys: DetachKeys,
    /// The container's name
    pub container: ContainerId,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

/// `davit ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Show those too that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// `davit start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Show the output, and end when the container does
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on; with --attach
    #[arg(short, long, requires = "attach")]
    pub interactive: bool,
    /// The keys that leave the container running in the background
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    pub detach_keys: DetachKeys,
    /// The containers' names
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<ContainerId>,
}

/// `davit stop`.
#[derive(Debug, Args)]
#[command(after_help = "\
The image can name the signal that asks its containers to end (STOPSIGNAL);
SIGTERM otherwise. Who has not ended when the time is over gets SIGKILL.")]
pub struct Stop {
    /// How long to wait before the container is killed
    #[arg(short = 't', long = "time", value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// The containers' names
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<ContainerId>,
}

/// `davit kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = parse::signal)]
    pub signal: Signal,
    /// Send it to every process in the container, not to its first one alone
    #[arg(long)]
    pub all: bool,
    /// The containers' names
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<ContainerId>,
}

/// `davit rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Kill those that run
    #[arg(short, long)]
    pub force: bool,
    /// The containers' names
    #[arg(required = true, value_name = "CONTAINER")]
    pub containers: Vec<ContainerId>,
}

/// `davit images`.
#[derive(Debug, Args)]
pub struct Images {
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// How to reach a registry.
#[derive(Debug, Args)]
pub struct Remote {
    /// Who you are there; the password is asked for when it is not given
    /// [default: what docker's config.json says]
    #[arg(short, long, value_name = "NAME[:PASSWORD]")]
    pub user: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "user")]
    pub password_stdin: bool,
    /// Speak http with the registry, without TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Take any certificate for the registry's
    #[arg(long, conflicts_with_all = ["plain_http", "hosts_dir"])]
    pub skip_verify: bool,
    /// Where hosts.toml files describe registries and mirrors
    #[arg(long, value_name = "DIR")]
    pub hosts_dir: Option<PathBuf>,
}

const PULL_HELP: &str = "\
What was fetched of an image when a pull ends early is gone on with by the
next one, for ten minutes.

Examples:
  davit pull busybox
  davit pull --platform linux/arm64 registry.example/app:1
  davit pull --plain-http 10.0.0.5:5000/app@sha256:…";

/// `davit pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_HELP)]
pub struct Pull {
    /// How to reach the registry.
    #[command(flatten)]
    pub remote: Remote,
    /// Fetch the image for this platform, such as linux/arm64; may be repeated
    /// [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = parse::platform)]
    pub platform: Vec<Platform>,
    /// Fetch it for all platforms
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
    /// Leave unpacking to the first run
    #[arg(long)]
    pub no_unpack: bool,
    /// Where to unpack [default: the namespace's snapshotter, or overlayfs]
    #[arg(long, value_name = "NAME", conflicts_with = "no_unpack")]
    pub snapshotter: Option<String>,
    /// The image's name, as docker reads it
    pub image: String,
}

const PUSH_HELP: &str = "\
A pull fetches an image for this machine, a push sends it for all platforms:
fetch it with `davit pull --all-platforms` first, or push with --platform. An
index goes with its list of all platforms, which some registries refuse when
they do not have each.

Examples:
  davit push registry.example/app:1
  davit push --platform linux/amd64 busybox registry.example/busybox:1";

/// `davit push`.
#[derive(Debug, Args)]
#[command(after_help = PUSH_HELP)]
pub struct Push {
    /// How to reach the registry.
    #[command(flatten)]
    pub remote: Remote,
    /// Send the image for this platform, such as linux/arm64; may be repeated
    /// [default: all]
    #[arg(long, value_name = "PLATFORM", value_parser = parse::platform)]
    pub platform: Vec<Platform>,
    /// The image
    pub image: String,
    /// Where it is sent [default: where its name says]
    pub to: Option<String>,
}

const EXPORT_HELP: &str = "\
The archive is an OCI image layout that `docker load` reads too.

Examples:
  davit export -o app.tar registry.example/app:1
  davit export busybox | ssh there davit import -";

/// `davit export`.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub struct Export {
    /// The archive; `-` for standard output. A file is replaced once the new
    /// one is whole
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Take the image for this platform; may be repeated
    /// [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = parse::platform)]
    pub platform: Vec<Platform>,
    /// Take it for all platforms; none may be missing
    #[arg(long, conflicts_with = "platform")]
    pub all_platforms: bool,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

const IMPORT_HELP: &str = "\
The archive is an OCI image layout or what `docker save` writes, as it is or
compressed with gzip or zstd.

Examples:
  davit import busybox.tar
  docker save busybox | davit import -
  davit import --name registry.example/app:1 layout.tar.gz";

/// `davit import`.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub struct Import {
    /// The name of an image that the archive has no name for
    #[arg(long)]
    pub name: Option<String>,
    /// Leave unpacking to the first run
    #[arg(long)]
    pub no_unpack: bool,
    /// Where to unpack [default: the namespace's snapshotter, or overlayfs]
    #[arg(long, value_name = "NAME")]
    pub snapshotter: Option<String>,
    /// The archive; `-` for standard input
    pub file: PathBuf,
}

/// `davit rmi`.
#[derive(Debug, Args)]
pub struct RemoveImages {
    /// The images' names
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `davit tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// The image
    pub image: String,
    /// The further name; taken from the image that had it
    pub name: String,
}

/// `davit gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
The daemon does this by itself after something was removed, or has expired.
All namespaces are looked at. Only davitd can do it.")]
pub struct Gc {
    /// Show what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

const WHY_HELP: &str = "\
Something stays while an image's name, a container, a lease or a label leads to
it. Only davitd can tell.

Examples:
  davit why sha256:2b3f                   # the beginning of a digest will do
  davit why overlayfs/web
  davit why --format json web";

/// `davit why`.
#[derive(Debug, Args)]
#[command(after_help = WHY_HELP)]
pub struct Why {
    /// A digest, a snapshot, or any other name; or the beginning of one
    pub name: String,
}

const EVENTS_HELP: &str = "\
Filters have containerd's syntax; an event is shown when any of them matches.

Examples:
  davit events
  davit events --filter 'topic~=^/tasks/' --format json
  davit events --filter 'topic==/tasks/exit,event.container_id==web'";

/// `davit events`.
#[derive(Debug, Args)]
#[command(after_help = EVENTS_HELP)]
pub struct Events {
    /// Which events to show
    #[arg(short, long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Show the events of all namespaces
    #[arg(long)]
    pub all_namespaces: bool,
}

/// `davit inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Containers or images
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `davit attend`, which davit starts for itself.
#[derive(Debug, Args)]
pub struct Attend {
    /// Remove the container when it has ended.
    #[arg(long)]
    pub rm: bool,
    /// The process in the container; its first one without it.
    #[arg(long)]
    pub exec: Option<String>,
    /// A directory with the FIFOs to keep reading, removed at the end.
    #[arg(long)]
    pub streams: Option<PathBuf>,
    /// The container.
    pub container: ContainerId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<(Global, Command), clap::Error> {
        let words = std::iter::once("davit").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(Arguments::split)
    }

    #[test]
    fn no_two_options_are_in_each_others_way() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_address_goes_before_and_behind() {
        for line in ["-a /s ps -a", "--address /s ps --all", "ps -a --address /s"] {
            let (global, command) = parse(line).unwrap();
            assert_eq!(global.address.to_str(), Some("/s"), "{line}");
            assert!(matches!(command, Command::Ps(Ps { all: true, .. })), "{line}");
        }
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        let (_, command) = parse("run --rm -it image ls -la --rm -- -x").unwrap();
        let Command::Run(run) = command else { panic!("{command:?}") };
        assert!(run.rm && run.interactive && run.tty);
        assert_eq!(
            (run.image.as_str(), run.command.join(" ")),
            ("image", "ls -la --rm -- -x".into())
        );
    }

    #[test]
    fn what_cannot_go_together_is_refused() {
        for line in [
            "run -d -i image",
            "run -dt image",
            "run --log-file /x image",
            "run",
            "exec web",
            "run --name ../x image",
            "run --memory lots image",
            "run --pids-limit 0 image",
            "stop",
            "start -i web",
            "-n a/b ps",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
