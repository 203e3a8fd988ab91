//! What a runtime binary answers: JSON, a table, a version, and the pid file
//! that it writes.

use std::fs;

use runc_client::{Event, Features, ProcessTable, State, Version, read_pid_file};

use super::list;

/// Reads it as each of them.
pub fn run(data: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<State>(data) {
        let _ = state.created_at();
    }
    let _ = serde_json::from_slice::<Option<Vec<State>>>(data);
    let _ = serde_json::from_slice::<Vec<u32>>(data);
    let _ = serde_json::from_slice::<Event>(data);
    let _ = serde_json::from_slice::<Features>(data);
    let text = String::from_utf8_lossy(data);
    let table = ProcessTable::parse(&text);
    assert!(table.rows.iter().all(|row| row.len() <= table.titles.len().max(1)));
    for title in &table.titles {
        assert!(table.column(title).len() <= table.rows.len());
    }
    if let Some(version) = Version::parse(&text) {
        assert_eq!(version.text, text);
        assert!(!version.version.contains('\n'));
    }
    let file =
        tempfile::NamedTempFile::new_in("/dev/shm").or_else(|_| tempfile::NamedTempFile::new());
    let file = file.expect("a file can be made");
    fs::write(file.path(), data).expect("the file is writable");
    if let Ok(pid) = read_pid_file(file.path()) {
        assert!(pid > 0);
        assert!(text.contains(&pid.to_string()));
    }
}

/// What runc and crun answer.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        br#"{"ociVersion":"1.0.2","id":"a","pid":7,"status":"running","bundle":"/b","rootfs":"/r","created":"2026-01-02T03:04:05.678901234Z","owner":""}"#,
        br#"[{"ociVersion":"1.0.0","id":"b","pid":0,"status":"stopped","bundle":"/b","rootfs":"","created":"2026-01-02T03:04:05.6+01:00","owner":"root","annotations":{"a":"b"}}]"#,
        b"[1,20,300]",
        br#"{"type":"stats","id":"a","data":{"cpu":{"usage":{"total":1,"percpu":[1,2],"kernel":0,"user":1},"throttling":{}},"memory":{"usage":{"limit":1},"raw":{"anon":1}},"pids":{"current":1},"blkio":null,"hugetlb":{"2MB":{}}}}"#,
        br#"{"type":"oom","id":"a"}"#,
        br#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.0.2","hooks":["prestart"],"mountOptions":["ro"],"linux":{"namespaces":["pid"]},"annotations":{"io.github.seccomp.libseccomp.version":"2.5"}}"#,
        b"UID          PID    PPID  C STIME TTY          TIME CMD\nroot           7       1  0 03:04 ?        00:00:00 sleep 1 000\n",
        b"runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1\nspec: 1.0.2-dev\ngo: go1.19.8\nlibseccomp: 2.5.4\n",
        b"4711\n",
    ])
}
