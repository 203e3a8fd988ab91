//! Standard streams, terminals, descriptors and logs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use runc_client::{
    ConsoleSocket, CreateOptions, ErrorKind, ExecOptions, Level, RunOptions, Status, Stdio, Stream,
    parse_log,
};
use serde_json::json;

use crate::common::{Bed, DEADLINE, piped_stdout, process, process_json, read_all};

pub async fn streams_are_the_callers(bed: &Bed) {
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sh", "-c", "cat; echo err >&2"]);
    let (input, mut typed) = std::io::pipe().unwrap();
    let (stdio, output) = piped_stdout();
    let (errors, stderr) = std::io::pipe().unwrap();
    let stdio =
        Stdio { stdin: OwnedFd::from(input).into(), stderr: OwnedFd::from(stderr).into(), ..stdio };
    typed.write_all(b"typed").unwrap();
    drop(typed);
    let create = CreateOptions { stdio, ..Default::default() };
    let run = bed.runc.run(&id, &bundle, RunOptions { create, detach: false });
    let (exit, output, errors) =
        tokio::join!(run, read_all(output), read_all(OwnedFd::from(errors).into()));
    assert_eq!(exit.unwrap(), 0);
    assert_eq!((&*output, &*errors), ("typed", "err\n"));

    let id = bed.running().await;
    let (stdio, output) = piped_stdout();
    let options = ExecOptions { stdio, ..Default::default() };
    let process = process_json(&["echo", "from exec"]);
    let exec = bed.runc.exec(&id, &process, options);
    let (exit, output) = tokio::join!(exec, read_all(output));
    assert_eq!((exit.unwrap(), &*output), (0, "from exec\n"));
    bed.remove(&id).await;
}

pub async fn a_terminal_arrives(bed: &Bed) {
    let id = bed.id();
    let mut config = bed.config(&id, &["sh", "-c", "tty; stty size; echo done"]);
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({"height": 24, "width": 80});
    let bundle = bed.bundle_of(&id, config);
    let socket = ConsoleSocket::new_in(bed.dir.path()).unwrap();
    let options =
        CreateOptions { console_socket: Some(socket.path().into()), ..Default::default() };
    let create = bed.runc.create(&id, &bundle, options);
    let (created, master) = tokio::join!(create, socket.receive(DEADLINE));
    created.unwrap();
    let output = tokio::spawn(read_all(File::from(master.unwrap())));
    bed.runc.start(&id).await.unwrap();
    bed.until(&id, Status::Stopped).await;
    let output = output.await.unwrap();
    assert!(output.contains("/dev/pts/") || bed.is("runsc"), "{output}");
    assert!(output.ends_with("done\r\n"), "{output}");
    bed.delete(&id).await;
}

pub async fn exec_has_a_terminal(bed: &Bed) {
    if bed.is("runsc") {
        return; // Versions of 2024 lose the process file when they detach with a console.
    }
    let id = bed.running().await;
    let mut process = process(&["sh", "-c", "tty; echo done"]);
    process["terminal"] = json!(true);
    let socket = ConsoleSocket::new_in(bed.dir.path()).unwrap();
    let console_socket = Some(socket.path().into());
    // runc takes a console socket only so.
    let options = ExecOptions { console_socket, detach: true, ..Default::default() };
    let process = process.to_string();
    let exec = bed.runc.exec(&id, process.as_bytes(), options);
    let output = async { read_all(File::from(socket.receive(DEADLINE).await.unwrap())).await };
    let (exit, output) = tokio::join!(exec, output);
    assert_eq!(exit.unwrap(), 0);
    assert!(output.contains("/dev/pts/") || bed.is("runsc"), "{output}");
    assert!(output.ends_with("done\r\n"), "{output}");
    let silent = ConsoleSocket::new().unwrap();
    let error = silent.receive(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    bed.remove(&id).await;
}

pub async fn descriptors_are_preserved(bed: &Bed) {
    let file = |text: &str| -> OwnedFd {
        let path = bed.path(&format!("preserved-{text}"));
        fs::write(&path, text).unwrap();
        File::open(path).unwrap().into()
    };
    let id = bed.id();
    let bundle = bed.bundle(&id, &["sh", "-c", "cat <&3; cat <&4; sleep 1000"]);
    let (stdio, mut output) = piped_stdout();
    let preserved_fds = vec![file("one"), file("two")];
    let options = CreateOptions { stdio, preserved_fds, ..Default::default() };
    let created = bed.runc.create(&id, &bundle, options).await;
    if bed.is("runsc") {
        // Only newer versions have the option.
        let error = created.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Failed), "{error}");
        return;
    }
    created.unwrap();
    bed.runc.start(&id).await.unwrap();
    let (stdio, exec_output) = piped_stdout();
    let options = ExecOptions { stdio, preserved_fds: vec![file("three")], ..Default::default() };
    let process = process_json(&["sh", "-c", "cat <&3"]);
    let exec = bed.runc.exec(&id, &process, options);
    let (exit, exec_output) = tokio::join!(exec, read_all(exec_output));
    assert_eq!((exit.unwrap(), &*exec_output), (0, "three"));
    let both = tokio::task::spawn_blocking(move || {
        let mut both = [0; 6];
        output.read_exact(&mut both).map(|()| (both, output))
    });
    let both = tokio::time::timeout(DEADLINE, both).await.expect("it reads both");
    let (both, rest) = both.unwrap().unwrap();
    assert_eq!(&both, b"onetwo");
    bed.remove(&id).await;
    assert_eq!(read_all(rest).await, "");
}

pub async fn the_log_is_kept(bed: &Bed) {
    let log = bed.path("log.json");
    let runc = bed.runc.clone().log(&log).debug(true);
    let error = runc.state("nonexistent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let entries = parse_log(&fs::read(&log).unwrap());
    let errors: Vec<_> = entries.iter().filter(|entry| entry.level == Some(Level::Error)).collect();
    assert_eq!(errors.len(), 1, "{entries:?}");
    assert_eq!(error.failure().unwrap().last_message(), Some(&*errors[0].message));

    // A second failure's message is its own alone.
    let stdio = Stdio { stdout: Stream::Null, ..Default::default() };
    let options = ExecOptions { stdio, detach: true, ..Default::default() };
    let error = runc.exec("other", &process_json(&["true"]), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(error.failure().unwrap().messages.len(), 1, "{error}");
}
