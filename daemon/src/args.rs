//! The command line: containerd's, as far as it means something here.
//!
//! Go's flag package takes long flags with one dash, too; scripts use that
//! (`-log-level debug`), so it is understood.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::services::version::REVISION;

/// The long flags that may be written with one dash.
const LONG_FLAGS: [&str; 10] = [
    "address",
    "config",
    "help",
    "log-level",
    "namespace",
    "root",
    "state",
    "topic",
    "version",
    "publish-binary",
];

/// `davitd [flags] [command]`
#[derive(Debug, Parser)]
#[command(
    name = "davitd",
    about = "Runs containers: serves containerd's API, keeps the index, and starts one small \
             process per container.",
    disable_version_flag = true,
    args_conflicts_with_subcommands = false
)]
pub struct Args {
    /// Path to the configuration file [default: /etc/davit/config.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log: trace, debug, info, warn, error, fatal or panic
    #[arg(short, long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Path of the socket that clients speak gRPC to
    #[arg(short, long, global = true, value_name = "PATH")]
    pub address: Option<PathBuf>,
    /// Directory for what must survive a reboot
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Directory for what must not survive a reboot
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print the version
    #[arg(short, long)]
    pub version: bool,
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print configurations
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publish an event that is read from stdin, on behalf of a shim
    Publish {
        /// The namespace that the event happened in
        #[arg(long, default_value = "")]
        namespace: String,
        /// The topic to publish it under
        #[arg(long, default_value = "")]
        topic: String,
    },
    /// Run a program as an OCI hook, with what the runtime says filled into
    /// its arguments and environment: {{id}}, {{bundle}}, {{rootfs}}, {{pid}},
    /// {{status}}, {{annotation "KEY"}}
    OciHook {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
}

/// Which configuration to print.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// The configuration that is used when there is no file
    Default,
    /// What the daemon would run with: file, imports and flags together
    Dump,
    /// The configuration file in the latest version of the format
    Migrate,
}

impl Args {
    /// Reads the arguments of this process; prints help or what is wrong, and
    /// exits, where that is called for.
    pub fn of_process() -> Self {
        Self::parse_from(std::env::args_os().map(two_dashes))
    }
}

/// `-address` as `--address`.
fn two_dashes(argument: OsString) -> OsString {
    let single = argument.to_str().and_then(|text| text.strip_prefix('-'));
    let name = single.map(|text| text.split_once('=').map_or(text, |(name, _)| name));
    match (single, name) {
        (Some(text), Some(name)) if LONG_FLAGS.contains(&name) => format!("--{text}").into(),
        _ => argument,
    }
}

/// What `--version` prints, in containerd's form: name, package, version and
/// commit.
pub fn version() -> String {
    format!("davitd davit v{} {REVISION}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Args {
        let arguments = ["davitd"].iter().chain(arguments).map(OsString::from).map(two_dashes);
        Args::try_parse_from(arguments).unwrap()
    }

    #[test]
    fn long_flags_may_have_one_dash_and_stand_anywhere() {
        for arguments in [
            &["-address", "/a", "-log-level=debug", "config", "dump"][..],
            &["--address=/a", "-l", "debug", "config", "dump"],
            &["config", "dump", "-a", "/a", "--log-level", "debug"],
        ] {
            let args = parse(arguments);
            assert_eq!(args.address, Some("/a".into()), "{arguments:?}");
            assert_eq!(args.log_level.as_deref(), Some("debug"));
            assert!(matches!(args.command, Some(Command::Config(ConfigCommand::Dump))));
        }
    }

    #[test]
    fn a_hook_gets_its_arguments_as_they_are() {
        let args = parse(&["oci-hook", "--", "/bin/echo", "-n", "{{id}}"]);
        let Some(Command::OciHook { program }) = args.command else { panic!("{args:?}") };
        assert_eq!(program, ["/bin/echo", "-n", "{{id}}"]);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for arguments in [&["--nope"][..], &["serve"], &["config"], &["config", "nope"]] {
            let arguments = ["davitd"].iter().chain(arguments);
            assert!(Args::try_parse_from(arguments).is_err());
        }
    }
}
