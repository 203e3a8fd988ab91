use std::io::Write;

use super::*;

fn entry(level: impl Into<Option<Level>>, message: &str) -> LogEntry {
    LogEntry { level: level.into(), message: message.into() }
}

#[test]
fn reads_every_runtimes_form() {
    let table: &[(&str, &[LogEntry])] = &[
        (
            r#"{"level":"error","msg":"container does not exist","time":"2026-11-22T06:20:23Z"}"#,
            &[entry(Level::Error, "container does not exist")],
        ),
        (
            r#"{"msg":"container `a` already exists","level":"error","time":"2026-11-22T06:20:25.073861Z"}"#,
            &[entry(Level::Error, "container `a` already exists")],
        ),
        (
            r#"{"msg":"one","level":"error","time":"x"}{"msg":"two","level":"warning","time":"y"}"#,
            &[entry(Level::Error, "one"), entry(Level::Warning, "two")],
        ),
        (
            "{\n  \"msg\": \"Using debug verbosity\",\n  \"level\": \"debug\",\n  \"time\": \"x\"\n}\n{\n  \
             \"msg\": \"open `\\/state\\/a\\/status`: No such file\",\n  \"level\": \"error\"\n}\nplain",
            &[
                entry(Level::Debug, "Using debug verbosity"),
                entry(Level::Error, "open `/state/a/status`: No such file"),
                entry(None, "plain"),
            ],
        ),
        (
            r#"{"level":"fatal","msg":"nsexec-1[2820]: failed to open /proc/2458/ns/ipc","time":"x"}"#,
            &[entry(Level::Error, "nsexec-1[2820]: failed to open /proc/2458/ns/ipc")],
        ),
        (
            r#"{"error":"exit status 1","level":"warning","msg":"cleanup","time":"x"}"#,
            &[entry(Level::Warning, "cleanup: exit status 1")],
        ),
        (
            r#"{"level":"error","msg":"criu failed: type DUMP errno 0\nlog file: dump.log"}"#,
            &[entry(Level::Error, "criu failed: type DUMP errno 0\nlog file: dump.log")],
        ),
        (
            r#"time="2026-11-22T06:20:23Z" level=error msg="exec: \"x\": not found" extra=1"#,
            &[entry(Level::Error, "exec: \"x\": not found")],
        ),
        ("level=info msg=ready", &[entry(Level::Info, "ready")]),
        (r#"level=error msg="bad \x1b escape""#, &[entry(Level::Error, r"bad \x1b escape")]),
        ("ERRO[0000] container does not exist", &[entry(Level::Error, "container does not exist")]),
        ("2026-11-22T06:20:25.073861Z: cannot do", &[entry(None, "cannot do")]),
        ("unknown command features", &[entry(None, "unknown command features")]),
        ("", &[]),
        ("\n \n", &[]),
    ];
    for (text, expected) in table {
        assert_eq!(parse_log(text.as_bytes()), *expected, "{text}");
    }
}

#[test]
fn takes_what_is_broken_as_plain_lines() {
    let cut = br#"{"level":"error","msg":"contai"#;
    assert_eq!(parse_log(cut), [entry(None, r#"{"level":"error","msg":"contai"#)]);
    let foreign = br#"{"a":1}"#;
    assert_eq!(parse_log(foreign), [entry(None, r#"{"a":1}"#)]);
    let tail = br#"{"level":"error","msg":"one"} and more"#;
    assert_eq!(parse_log(tail), [entry(Level::Error, "one"), entry(None, "and more")]);
    let invalid = b"{\"level\":\"error\",\"msg\":\"a\xff\xfeb\"}\n\xff";
    let entries = parse_log(invalid);
    assert_eq!(entries, [entry(Level::Error, "a\u{fffd}\u{fffd}b"), entry(None, "\u{fffd}")]);
    parse_log("{".repeat(100_000).as_bytes());
}

#[test]
fn keeps_every_error_once() {
    let log = br#"{"level":"warning","msg":"odd"}
{"level":"fatal","msg":"stage 1 failed"}
{"level":"error","msg":"exec failed:\nexit status 1"}"#;
    assert_eq!(
        errors(log, b"exec failed:\nexit status 1\n"),
        ["stage 1 failed", "exec failed:\nexit status 1"]
    );
    assert_eq!(errors(b"", b"level=debug msg=x\nunknown command ps\n"), ["unknown command ps"]);
    assert_eq!(errors(b"cannot destroy\n", b""), ["cannot destroy"]);
    assert_eq!(errors(br#"{"level":"warning","msg":"odd"}"#, b""), ["odd"]);
    assert_eq!(errors(b"", b""), [""; 0]);
}

#[test]
fn reads_what_a_call_added_and_no_more_than_the_limit() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "before").unwrap();
    let mark = LogMark::at_end_of(file.path());
    assert_eq!(mark.read(), b"");
    writeln!(file, "after").unwrap();
    assert_eq!(mark.read(), b"after\n");
    for number in 0..LOG_LIMIT {
        writeln!(file, "line {number}").unwrap();
    }
    let tail = mark.read();
    assert!(tail.len() <= LOG_LIMIT && tail.len() > LOG_LIMIT / 2);
    assert!(tail.starts_with(b"line "));
    assert!(tail.ends_with(format!("line {}\n", LOG_LIMIT - 1).as_bytes()));
    file.as_file().set_len(0).unwrap();
    std::fs::write(file.path(), "new\n").unwrap();
    assert_eq!(mark.read(), b"new\n", "a truncated log is read from its beginning");
    let mark = LogMark::at_end_of(std::path::Path::new("/nonexistent/log"));
    assert_eq!(mark.read(), b"");
}
