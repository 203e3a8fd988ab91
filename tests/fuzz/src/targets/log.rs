//! The log and the stderr of a runtime binary, which a container can write to
//! in part.

use runc_client::{classify, parse_log};

use super::list;

/// Reads it, and says what kind of failure each entry is.
pub fn run(data: &[u8]) {
    let entries = parse_log(data);
    assert!(entries.len() <= data.len(), "more entries than bytes");
    for entry in entries {
        classify("exec", &entry.message);
    }
}

/// What runc, crun and runsc write, and pieces of it.
pub fn seeds() -> Vec<Vec<u8>> {
    list([
        br#"{"level":"error","msg":"container does not exist","time":"2026-01-01T00:00:00Z"}"#,
        br#"{"msg":"exec failed: No such file or directory","level":"error","time":"x"}{"msg":"b","level":"debug"}"#,
        b"time=\"2026-01-01T00:00:00Z\" level=error msg=\"unable to start: \\\"a\\\" exited\"\n",
        b"ERRO[0000] container_linux.go:380: starting container process caused: exec\n",
        b"2026-01-01T00:00:00.000000Z: error opening file `x`: No such file or directory\n",
        b"\xff\xfe\n\n{\"level\":",
    ])
}
