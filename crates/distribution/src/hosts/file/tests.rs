use std::time::Duration;

use super::*;

const PATH: &str = "/etc/certs.d/r.test/hosts.toml";

fn parsed(text: &str) -> (Vec<Draft>, Vec<String>) {
    parse(Path::new(PATH), text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    parse(Path::new(PATH), text).expect_err(text).to_string()
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
    let (drafts, warnings) = parsed(
        r#"
server = "https://upstream.test"
ca = "/etc/default.pem"
[header]
  x-custom = "one"

[host."https://zulu.test"]
  capabilities = ["pull"]
  [host."https://zulu.test".header]
    x-several = ["a", "b"]
    Authorization = "Basic c2VjcmV0"

[host."https://mike.test/us"]
[host."http://alpha.test:5000/v2/"]
[host."https://odd.test/api//prefix/"]
  override_path = true
[host."https://bare.test"]
  override_path = true
[host."yankee.test".header]
  x = "y"
[host."yankee.test"]
  dial_timeout = "1m3s"
"#,
    );
    let found: Vec<(&str, &str, &str)> = drafts
        .iter()
        .map(|draft| &draft.host)
        .map(|host| (host.scheme.as_str(), host.authority.as_str(), host.path.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("https", "zulu.test", "/v2"),
            ("https", "mike.test", "/us/v2"),
            ("http", "alpha.test:5000", "/v2"),
            ("https", "odd.test", "/api/prefix"),
            ("https", "bare.test", ""),
            ("https", "yankee.test", "/v2"),
            ("https", "upstream.test", "/v2"),
        ]
    );
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let headers = [("x-several", "a"), ("x-several", "b"), ("Authorization", "Basic c2VjcmV0")];
    assert_eq!(drafts[0].host.headers, headers.map(owned));
    assert_eq!(drafts[5].host.headers, [owned(("x", "y"))]);
    assert_eq!(drafts[5].host.dial_timeout, Some(Duration::from_secs(63)));
    assert_eq!(drafts[6].host.headers, [owned(("x-custom", "one"))]);
    assert_eq!(drafts[6].host.tls.ca, [PathBuf::from("/etc/default.pem")]);
    assert_eq!(drafts[0].host.capabilities, Capabilities { pull: true, ..Default::default() });
    assert_eq!(drafts[1].host.capabilities, Capabilities::ALL);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(!format!("{drafts:?}").contains("c2VjcmV0"));
}

#[test]
fn certificates_are_files_beside_the_file() {
    let directory = Path::new(PATH).parent().unwrap();
    let here = |name: &str| directory.join(name);
    for (text, ca, client) in [
        ("ca = \"a.pem\"", vec![here("a.pem")], vec![]),
        ("ca = [\"a.pem\", \"/b.pem\"]", vec![here("a.pem"), "/b.pem".into()], vec![]),
        ("client = \"c.pem\"", vec![], vec![(here("c.pem"), None)]),
        (
            "client = [\"c.pem\", \"d.pem\"]",
            vec![],
            vec![(here("c.pem"), None), (here("d.pem"), None)],
        ),
        (
            "client = [[\"c.cert\", \"c.key\"], [\"d.pem\", \"\"], \"e.pem\"]",
            vec![],
            vec![
                (here("c.cert"), Some(here("c.key"))),
                (here("d.pem"), None),
                (here("e.pem"), None),
            ],
        ),
        ("ca = []\nclient = []", vec![], vec![]),
    ] {
        let (drafts, _) = parsed(text);
        assert_eq!((&drafts[0].host.tls.ca, &drafts[0].host.tls.client), (&ca, &client), "{text}");
        assert_eq!(drafts[0].host.authority, "", "{text}");
    }
}

#[test]
fn capabilities_are_named() {
    for (list, pull, resolve, push, referrers) in [
        ("[]", true, true, true, true),
        ("[\"Pull\", \"RESOLVE\"]", true, true, false, false),
        ("[\"push\", \"referrers\"]", false, false, true, true),
    ] {
        let (drafts, _) = parsed(&format!("capabilities = {list}"));
        let wanted = Capabilities { pull, resolve, push, referrers };
        assert_eq!(drafts[0].host.capabilities, wanted, "{list}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    for (text, message) in [
        ("\n[host.\"https://a.test\"\n", "2:"),
        ("server = 7", "1:10: server: expected a string, found integer"),
        ("host = 7", "1:8: host: expected a table, found integer"),
        ("[host]\nx = 7", "2:5: x: expected a table, found integer"),
        ("a = 1\ncapabilities = [\"pull\", \"fly\"]", "2:25: unknown capability fly"),
        (
            "capabilities = \"pull\"",
            "1:16: capabilities: expected an array of strings, found string",
        ),
        ("ca = [1]", "1:7: ca: expected a string, found integer"),
        ("ca = \"\"", "1:6: ca: a file has a name"),
        ("client = [[\"a\"]]", "1:11: client: a pair is a certificate and a key"),
        ("skip_verify = \"yes\"", "1:15: skip_verify: expected a boolean, found string"),
        ("dial_timeout = \"5\"", "1:16: dial_timeout: not a length of time such as \"1m30s\""),
        ("[header]\n\"a b\" = \"c\"", "2:1: \"a b\" is no name of a header"),
        ("[header]\na = \"b\\nc\"", "2:5: header: a has control characters"),
        ("[header]\na = 1", "2:5: header: expected a string, found integer"),
        (
            "server = \"ftp://a.test\"",
            "1:10: \"ftp://a.test\": the scheme is neither http nor https",
        ),
        (
            "server = \"https://a.test/../b\"",
            "1:10: \"https://a.test/../b\": the path leads upwards",
        ),
        ("server = \"https://\"", "1:10: \"https://\": not the address of a server"),
        ("server = \"https://u:p@a.test\"", "1:10: \"https://u:p@a.test\": not the address"),
        ("server = \"https://a.test?x\"", "1:10: \"https://a.test?x\": not the address"),
        ("[host.\"https://a b\"]", "1:7: \"https://a b\": not the address of a server"),
    ] {
        let error = refused(text);
        let place = format!("{PATH}:{message}");
        assert!(error.starts_with(&place), "{text}: {error}");
    }
}

#[test]
fn what_does_not_apply_is_warned_of() {
    let (_, warnings) = parsed("proxy = \"http://p\"\n[host.\"https://a.test\"]\n pul = 1\n");
    assert_eq!(
        warnings,
        [
            format!("{PATH}:3: pul does not apply and is ignored"),
            format!("{PATH}:1: proxy does not apply and is ignored"),
        ]
    );
}
