//! The reaper owns every child of its process, so it has a test binary of its
//! own with one test in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

use std::process::{Command, Stdio};
use std::time::Duration;

use davit_shim::Reaper;
use runc_client::Spawner;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// A shell that leaves an orphan behind, as `runc create` does: prints the
/// orphan's pid and exits at once.
fn orphan(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("({script}) >/dev/null 2>&1 & echo $!")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

async fn read_pid(child: &mut davit_shim::Child) -> u32 {
    let mut text = String::new();
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
    assert_eq!(soon(child.exit()).await.status, 0);
    text.trim().parse().unwrap()
}

async fn all_cases() {
    let reaper = Reaper::new().unwrap();
    // Exits and signals.
    let mut child = reaper.spawn(Command::new("sh").args(["-c", "exit 9"])).unwrap();
    let exit = soon(child.exit()).await;
    assert_eq!((exit.pid, exit.status, exit.signal), (child.pid, 9, 0));
    let mut child = reaper.spawn(Command::new("sleep").arg("1000")).unwrap();
    child.signal(9).unwrap();
    assert_eq!(soon(child.exit()).await.status, 137);
    assert!(child.signal(9).is_err(), "the pid may be another's by now");

    // An orphan that is watched while it runs.
    let mut parent = reaper.spawn(&mut orphan("sleep 0.2; exit 3")).unwrap();
    let window = reaper.keep_orphans();
    let pid = read_pid(&mut parent).await;
    assert_eq!(soon(reaper.watch(pid)).await.status, 3);
    drop(window);

    // One that has ended before anybody asks: kept while a window is open.
    let window = reaper.keep_orphans();
    // It waits until it is one, or the shell would collect it.
    let script = "while kill -0 $$; do :; done; exit 4";
    let mut parent = reaper.spawn(&mut orphan(script)).unwrap();
    let pid = read_pid(&mut parent).await;
    let gone = async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(gone).await;
    let exit = soon(reaper.watch(pid)).await;
    assert_eq!((exit.pid, exit.status), (pid, 4));
    drop(window);

    // Many at once: none lost, none left behind as a zombie.
    let children: Vec<_> = (0..100u32)
        .map(|n| {
            let script = format!("exit {}", n % 50);
            (n, reaper.spawn(Command::new("sh").args(["-c", &script])).unwrap())
        })
        .collect();
    for (n, mut child) in children {
        assert_eq!(soon(child.exit()).await.status, n % 50);
    }

    // As runc-client uses it: the status is passed on, dropping kills.
    let spawner: &dyn Spawner = &reaper;
    let mut command = Command::new("sh");
    command.args(["-c", "kill -TERM $$"]);
    let mut child = spawner.spawn(command).unwrap();
    let status = soon(std::future::poll_fn(|cx| child.poll_exit(cx))).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    let mut command = Command::new("sleep");
    command.arg("1000");
    let child = spawner.spawn(command).unwrap();
    let pid = child.pid();
    drop(child);
    let reaped = async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(reaped).await;
}

#[test]
fn every_exit_is_delivered_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, all_cases());
}
