use super::*;

#[test]
fn reads_the_runtimes_states() {
    let runc = r#"{"ociVersion":"1.0.2-dev","id":"a1","pid":1013,"status":"created",
        "bundle":"/b","rootfs":"/b/rootfs","created":"2026-11-22T06:20:24.059025862Z",
        "annotations":{"k":"v"},"owner":""}"#;
    let state: State = serde_json::from_str(runc).unwrap();
    assert_eq!((state.pid, state.status.clone()), (1013, Status::Created));
    assert_eq!(state.annotations["k"], "v");
    assert!(state.created_at().is_some());
    let crun = r#"{"ociVersion":"1.0.0","id":"a1","pid":0,"status":"stopped","bundle":"/b",
        "rootfs":"rootfs","created":"2026-11-22T06:20:25.065588Z","systemd-scope":"","owner":"root"}"#;
    let state: State = serde_json::from_str(crun).unwrap();
    assert_eq!((state.pid, state.status), (0, Status::Stopped));
    let runsc = r#"{"ociVersion":"1.0.2-dev","id":"a","status":"stopped","pid":-1,"bundle":"b"}"#;
    assert_eq!(serde_json::from_str::<State>(runsc).unwrap().pid, 0);
    let odd: State = serde_json::from_str(r#"{"id":"x","status":"dreaming"}"#).unwrap();
    assert_eq!(odd.status, Status::Other("dreaming".into()));
    assert!(odd.created_at().is_none());
}

#[test]
fn reads_times() {
    let nanos = |text| {
        let time = parse_rfc3339(text)?;
        time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_nanos())
    };
    assert_eq!(nanos("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(nanos("2026-11-22T06:20:24.059025862Z"), Some(1_795_328_424_059_025_862));
    assert_eq!(nanos("2000-02-29T23:59:59.5Z"), Some(951_868_799_500_000_000));
    assert_eq!(nanos("2026-11-22T07:20:24+01:00"), nanos("2026-11-22T06:20:24Z"));
    assert_eq!(nanos("2026-11-22T00:20:24-06:00"), nanos("2026-11-22T06:20:24Z"));
    let broken = [
        "",
        "T",
        "2026-11-22",
        "2026-11-22T06:20:24",
        "2026-13-01T00:00:00Z",
        "2026-11-22T25:00:00Z",
        "x-y-zT1:2:3Z",
        "2026-11-22T06:20:24.\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}Z",
    ];
    for text in broken {
        assert_eq!(nanos(text), None, "{text}");
    }
}

#[test]
fn reads_tables_of_processes() {
    let table = ProcessTable::parse(
        "UID        PID  PPID  C STIME TTY          TIME CMD\n\
         root      2458     1  0 06:20 ?        00:00:00 sleep 1000\n",
    );
    assert_eq!(table.column("PID"), ["2458"]);
    assert_eq!(table.column("CMD"), ["sleep 1000"]);
    assert!(table.column("X").is_empty());
    assert_eq!(ProcessTable::parse("PID\n3136\n").column("PID"), ["3136"]);
    assert_eq!(ProcessTable::parse(""), ProcessTable::default());
}

#[test]
fn reads_versions() {
    let text =
        "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\ngo: go1.19.8\n";
    let version = Version::parse(text).unwrap();
    assert_eq!((&*version.name, &*version.version), ("runc", "1.1.5+ds1"));
    assert_eq!(version.commit.as_deref(), Some("1.1.5+ds1-1+deb12u1"));
    assert_eq!(version.spec.as_deref(), Some("1.0.2-dev"));
    let version = Version::parse("crun version 1.8.1\nrundir: /run/crun\n+SYSTEMD\n").unwrap();
    assert_eq!((&*version.version, version.commit), ("1.8.1", None));
    assert!(Version::parse("").is_none());
    assert!(Version::parse("hello").is_none());
}

#[test]
fn a_pid_file_holds_a_pid() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, pid) in [("42", Some(42)), ("7\n", Some(7)), ("", None), ("0", None), ("x", None)] {
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(read_pid_file(file.path()).ok(), pid, "{text:?}");
    }
    assert!(matches!(read_pid_file(Path::new("/nonexistent")), Err(Error::Io { .. })));
}
