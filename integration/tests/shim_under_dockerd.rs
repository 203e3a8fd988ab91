//! dockerd 20.10 and 28 run containers by our shim: on the containerd that
//! each is released with, and on davitd.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use davit_integration::daemon::{Daemon, Server, Shim};
use davit_integration::docker::{Docker, Version};
use davit_integration::{describe, image, terminal, wait_for};

fn docker(version: Version, server: Server, runtime: &str) -> Docker {
    let docker = Docker::start(version, Daemon::with_shim(server, Shim::Ours), runtime);
    docker.load_image();
    docker
}

macro_rules! stacks {
    ($($stack:ident: $version:ident on $server:ident with $runtime:literal;)+) => {
        $(mod $stack {
            fn docker() -> super::Docker {
                super::docker(super::Version::$version, super::Server::$server, $runtime)
            }

            #[test]
            fn life_of_containers() {
                super::life_of_containers(&docker());
            }

            #[test]
            fn limits_and_restarts() {
                super::limits_and_restarts(&docker());
            }
        })+
    };
}

stacks! {
    docker20_on_containerd16_with_runc: V20 on Containerd16 with "runc";
    docker20_on_containerd16_with_crun: V20 on Containerd16 with "crun";
    docker28_on_containerd21_with_runc: V28 on Containerd21 with "runc";
    docker28_on_containerd21_with_crun: V28 on Containerd21 with "crun";
    docker20_on_davitd: V20 on Davit with "runc";
    docker28_on_davitd: V28 on Davit with "runc";
}

/// `docker run` without a network.
fn run<'a>(flags: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--network=none"], flags, &[image::NAME], words].concat()
}

fn life_of_containers(docker: &Docker) {
    runs_and_exit_codes(docker);
    terminals_and_execs(docker);
    logs_follow(docker);
    stops_and_pauses(docker);
}

fn runs_and_exit_codes(docker: &Docker) {
    let script = "echo out; echo err >&2; exit 7";
    let mut command = docker.command(&run(&["--rm"], &["sh", "-c", script]));
    let output = command.output().expect("docker can be started");
    assert_eq!(output.status.code(), Some(7), "{}", describe(&command, &output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");

    let missing = docker.command(&run(&["--rm"], &["/no/such"])).output().expect("docker");
    // docker 20.10 knows runc's words for this, not crun's.
    let stderr = String::from_utf8_lossy(&missing.stderr);
    assert!(matches!(missing.status.code(), Some(125 | 127)), "{stderr}");
    assert!(stderr.contains("/no/such"), "{stderr}");

    let mut child = docker
        .command(&run(&["--rm", "-i"], &["sh", "-c", "cat; echo end"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker can be started");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"typed\n").expect("read");
    let output = child.wait_with_output().expect("the child was started");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "typed\nend\n");
}

fn terminals_and_execs(docker: &Docker) {
    let script = "tty; test -t 0 && echo terminal; exit 4";
    let (text, code) =
        terminal::run(&docker.command(&run(&["--rm", "-it"], &["sh", "-c", script])), "");
    assert!(text.contains("/dev/pts/0\nterminal"), "{text}");
    assert_eq!(code, Some(4), "{text}");

    docker.ok(&run(&["-d", "--name", "host"], &["sleep", "1000"]));
    assert_eq!(docker.ok(&["exec", "host", "echo", "hello"]), "hello\n");
    assert_eq!(
        docker.ok(&["exec", "-w", "/tmp", "-e", "A=b", "host", "sh", "-c", "pwd; echo $A"]),
        "/tmp\nb\n"
    );
    let failed = docker.command(&["exec", "host", "sh", "-c", "exit 9"]).status().expect("docker");
    assert_eq!(failed.code(), Some(9));
    let missing = docker.command(&["exec", "host", "/no/such"]).output().expect("docker");
    assert!(matches!(missing.status.code(), Some(126 | 127)), "{missing:?}");
    let (text, code) = terminal::run(&docker.command(&["exec", "-it", "host", "tty"]), "");
    assert!(text.contains("/dev/pts/"), "{text}");
    assert_eq!(code, Some(0));
    let top = docker.ok(&["top", "host"]);
    assert!(top.contains("sleep 1000"), "{top}");
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "host"]);
    assert!(stats.starts_with("1 ") && !stats.contains(" 0B /"), "{stats}");
    docker.ok(&["rm", "-f", "host"]);
}

fn logs_follow(docker: &Docker) {
    let script = "for i in $(seq 1 200); do echo line $i; done; sleep 1000";
    docker.ok(&run(&["-d", "--name", "talker"], &["sh", "-c", script]));
    let followed = tempfile::NamedTempFile::new().expect("a file can be made");
    let told = || fs::read_to_string(followed.path()).expect("text");
    let mut follower = docker
        .command(&["logs", "-f", "talker"])
        .stdout(followed.reopen().expect("our file"))
        .spawn()
        .expect("docker can be started");
    wait_for("all lines are followed", 60, || told().contains("line 200\n").then_some(()));
    docker.ok(&["rm", "-f", "talker"]);
    let _ = follower.wait();
    assert_eq!(told().lines().count(), 200, "{}", told());
}

fn stops_and_pauses(docker: &Docker) {
    let script = "trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    docker.ok(&run(&["-d", "--name", "polite"], &["sh", "-c", script]));
    wait_for("the trap is set", 20, || {
        docker.ok(&["logs", "polite"]).contains("ready").then_some(())
    });
    docker.ok(&["stop", "polite"]);
    assert_eq!(docker.inspect("polite", "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    assert!(docker.ok(&["logs", "polite"]).contains("stopping"));
    docker.ok(&["start", "polite"]);
    assert_eq!(docker.inspect("polite", "{{.State.Status}}"), "running");
    docker.ok(&["pause", "polite"]);
    assert_eq!(docker.inspect("polite", "{{.State.Status}}"), "paused");
    docker.ok(&["unpause", "polite"]);
    docker.ok(&["kill", "polite"]);
    let ended = || docker.inspect("polite", "{{.State.Status}} {{.State.ExitCode}}");
    wait_for("it is killed", 20, || (ended() == "exited 137").then_some(()));
    docker.ok(&["rm", "polite"]);
}

fn limits_and_restarts(docker: &Docker) {
    // The pages are touched one megabyte at a time until the limit is met.
    let hungry = "yes | tail -n 1000000000 >/dev/null";
    docker.ok(&run(&["-d", "--name", "hungry", "-m", "24m"], &["sh", "-c", hungry]));
    wait_for("the hungry one is killed", 60, || {
        (docker.inspect("hungry", "{{.State.Status}}") == "exited").then_some(())
    });
    assert_eq!(docker.inspect("hungry", "{{.State.OOMKilled}}"), "true");

    docker.ok(&run(
        &["-d", "--name", "again", "--restart=always"],
        &["sh", "-c", "sleep 0.2; exit 1"],
    ));
    wait_for("it was started again twice", 60, || {
        docker
            .inspect("again", "{{.RestartCount}}")
            .parse::<u32>()
            .is_ok_and(|n| n >= 2)
            .then_some(())
    });
    docker.ok(&["stop", "again"]);
    let count = docker.inspect("again", "{{.RestartCount}}");
    sleep(Duration::from_secs(1)); // long enough for a restart that must not happen
    assert_eq!(docker.inspect("again", "{{.RestartCount}}"), count);
}
