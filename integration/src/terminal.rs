//! A terminal for programs that want one; `script` of util-linux makes it.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a command on a terminal of its own, types `input`, and hands back
/// what the terminal showed and the exit code.
///
/// # Panics
/// When `script` cannot be started.
pub fn run(command: &Command, input: &str) -> (String, Option<i32>) {
    let quote =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let mut line = quote(command.get_program());
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quote(argument));
    }
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "dumb");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is part of util-linux");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("script reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("the child was started");
    // The end of the input shows as ^@ or ^D, before or after what is printed.
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    (text.replace("^@", "").replace("^D\u{8}\u{8}", ""), output.status.code())
}
