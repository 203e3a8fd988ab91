//! What a runtime tells a hook, and the templates that it is filled into.

use std::fs;

use davit_daemon::oci_hook::prepare;
use davit_daemon::template::{Argument, TemplateError, render};

use super::list;

/// A state, with the specification that its bundle holds: the program is the
/// one that was asked for, whatever the container says of itself.
pub fn oci_hook(data: &[u8]) {
    let bundle = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let bundle = bundle.expect("a directory can be made");
    fs::write(bundle.path().join("config.json"), data).expect("the directory is writable");
    let program = ["/bin/true", "{{id}}", "{{rootfs}}", "{{annotation \"a\"}}"].map(String::from);
    if let Ok(command) = prepare(&program, data) {
        assert_eq!(command.get_program(), "/bin/true");
        assert_eq!(command.get_args().count(), 3);
    }
    let state = serde_json::json!({"id": "a", "bundle": bundle.path(), "pid": 7});
    let state = state.to_string();
    if let Ok(command) = prepare(&program, state.as_bytes()) {
        assert_eq!(command.get_args().next().expect("three arguments"), "a");
    }
}

/// States and a specification.
pub fn hook_seeds() -> Vec<Vec<u8>> {
    list([
        br#"{"ociVersion":"1.0.2","id":"a","status":"created","pid":7,"bundle":"/","annotations":{"a":"b{{id}}"}}"#,
        br#"{"ociVersion":"1.0.2","root":{"path":"rootfs"}}"#,
        br#"{"root":{"path":"/abs"},"id":"x","bundle":"/nosuch"}"#,
        b"{}",
    ])
}

/// Text without a call comes out as it went in; a call's answer is not looked
/// at again.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let echo = |name: &str, arguments: &[Argument]| match name {
        "fail" => Err(TemplateError::Failed("so".into())),
        _ => Ok(format!("{{{{{name}}}}}{}", arguments.len())),
    };
    match render(text, echo) {
        Ok(rendered) if !text.contains("{{") => assert_eq!(rendered, text),
        Ok(rendered) => assert!(rendered.len() <= 8 * text.len()),
        Err(error) => assert!(text.contains("{{"), "{error}"),
    }
}

/// Calls, and what looks like one.
pub fn template_seeds() -> Vec<Vec<u8>> {
    list([
        b"plain",
        b"{{id}} and {{annotation \"a b\"}} {{n -7 9223372036854775807}}",
        b"{{ fail }}",
        b"{{\"}}\"}} {{ }} }}",
        b"{{a",
    ])
}
