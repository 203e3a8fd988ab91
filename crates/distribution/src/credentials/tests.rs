use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::process::tests::script;

struct Home(tempfile::TempDir);

impl Home {
    fn new(config: &serde_json::Value) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::write(home.0.path().join("config.json"), config.to_string()).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A helper that answers with what `text` prints.
    fn helper(self, name: &str, text: &str) -> Self {
        script(&self.path().join(format!("docker-credential-{name}")), text);
        self
    }

    async fn ask(&self, host: &str) -> Result<Option<Login>, Error> {
        let path = format!("{}:/usr/bin:/bin", self.path().display());
        Docker::new(self.path().join("config.json")).with_path(path).login(host, &[]).await
    }
}

fn basic(username: &str, password: &str) -> Option<Login> {
    Some(Login::Basic { username: username.into(), password: password.into() })
}

fn auth(text: &str) -> serde_json::Value {
    json!({"auth": STANDARD.encode(text)})
}

#[tokio::test]
async fn logins_in_the_file_are_found_by_host() {
    let home = Home::new(&json!({"auths": {
        "https://index.docker.io/v1/": auth("hub:1"),
        "plain.test:5000": auth("plain:a:b"),
        "https://url.test/v2/": auth("url:2\0\0"),
        "clear.test": {"username": "clear", "password": "3"},
        "refresh.test": {"auth": "dTpw", "identitytoken": "r"},
        "bearer.test": {"registrytoken": "t", "identitytoken": "r"},
        "empty.test": {},
        "null.test": null,
        "tls.test": auth("tls:4"),
        "port.test:443": auth("port:5"),
        "token.test": auth("<token>:6"),
    }, "HttpHeaders": {"x": "y"}}));
    for (host, login) in [
        ("registry-1.docker.io", basic("hub", "1")),
        ("docker.io", basic("hub", "1")),
        ("plain.test:5000", basic("plain", "a:b")),
        ("plain.test", None),
        ("url.test", basic("url", "2")),
        ("clear.test", basic("clear", "3")),
        ("refresh.test", Some(Login::Refresh("r".into()))),
        ("bearer.test", Some(Login::Bearer("t".into()))),
        ("empty.test", None),
        ("null.test", None),
        ("tls.test:443", basic("tls", "4")),
        ("port.test", basic("port", "5")),
        ("token.test", Some(Login::Refresh("6".into()))),
        ("test", None),
        ("other.test", None),
    ] {
        assert_eq!(home.ask(host).await.unwrap(), login, "{host}");
    }
}

#[tokio::test]
async fn a_login_counts_at_once_and_no_file_is_no_login() {
    let home = Home::new(&json!({}));
    assert_eq!(home.ask("r.test").await.unwrap(), None);
    let file = home.path().join("config.json");
    fs::write(&file, json!({"auths": {"r.test": auth("u:p")}}).to_string()).unwrap();
    assert_eq!(home.ask("r.test").await.unwrap(), basic("u", "p"));
    fs::write(&file, " \n").unwrap();
    assert_eq!(home.ask("r.test").await.unwrap(), None);
    fs::remove_file(&file).unwrap();
    assert_eq!(home.ask("r.test").await.unwrap(), None);
}

#[tokio::test]
async fn helpers_are_asked_with_the_name_that_docker_uses() {
    let config = json!({
        "auths": {"none.test": auth("file:1"), "r.test": auth("file:2")},
        "credsStore": "store",
        "credHelpers": {"own.test:5000": "own", "none.test": "none", "off.test": ""},
    });
    let echo = r#"test "$1" = get || exit 9; printf '{"ServerURL":"x","Username":"WHO","Secret":"%s"}' "$(cat)""#;
    let home = Home::new(&config)
        .helper("store", &echo.replace("WHO", "store"))
        .helper("own", &echo.replace("WHO", "<token>"))
        .helper("none", "echo credentials not found in native keychain; exit 1");
    for (host, login) in [
        ("registry-1.docker.io", basic("store", "https://index.docker.io/v1/")),
        ("r.test", basic("store", "r.test")),
        ("own.test:5000", Some(Login::Refresh("own.test:5000".into()))),
        ("none.test", basic("file", "1")),
        ("off.test", None),
    ] {
        assert_eq!(home.ask(host).await.unwrap(), login, "{host}");
    }
}

#[tokio::test]
async fn what_helpers_do_wrong_is_told_without_secrets() {
    let helpers = json!({"fails.test": "fails", "odd.test": "odd", "long.test": "long",
        "leaks.test": "leaks", "missing.test": "missing", "path.test": "../../bin/sh",
        "slash.test": "a/b", "space.test": "a b"});
    let home = Home::new(&json!({"credHelpers": helpers}))
        .helper("fails", "echo no bus; echo more; echo hidden >&2; exit 1")
        .helper("odd", "echo geheim")
        .helper("long", "head -c 70000 /dev/zero")
        .helper("leaks", r#"echo '{"Secret":"geheim"}'; exit 2"#);
    let config = home.path().join("config.json");
    let config = config.display();
    for (host, message) in [
        ("fails.test", "credentials for fails.test: docker-credential-fails: exit status: 1: no bus".to_owned()),
        ("odd.test", "credentials for odd.test: docker-credential-odd: an answer that is none".into()),
        ("long.test", "credentials for long.test: docker-credential-long: an answer of over 65536 bytes".into()),
        ("leaks.test", "credentials for leaks.test: docker-credential-leaks: exit status: 2: ".into()),
        ("missing.test", "credentials for missing.test: docker-credential-missing: No such file or directory (os error 2)".into()),
        ("path.test", format!("{config}: \"../../bin/sh\" is no name of a credential helper")),
        ("slash.test", format!("{config}: \"a/b\" is no name of a credential helper")),
        ("space.test", format!("{config}: \"a b\" is no name of a credential helper")),
    ] {
        assert_eq!(home.ask(host).await.unwrap_err().to_string(), message);
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_file_is_told_without_secrets() {
    let home = Home::new(&json!({}));
    let file = home.path().join("config.json");
    for (text, message) in [
        ("{\n \"auths\": \"geheim\"}", ":2:"),
        ("{\"auths\": {\"r.test\": {\"auth\": 7}}}", ":1:"),
        ("{\"credsStore\": [\"geheim\"]}", ":1:"),
        ("{", ":1:"),
        (
            "{\"auths\": {\"r.test\": {\"auth\": \"geheim!\"}}}",
            ": the login for \"r.test\" is not NAME:PASSWORD in base64",
        ),
        (
            "{\"auths\": {\"https://r.test/v1/\": {\"auth\": \"Z2VoZWlt\"}}}",
            ": the login for \"https://r.test/v1/\" is not NAME:PASSWORD in base64",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let error = home.ask("r.test").await.unwrap_err();
        let words = error.full_message();
        assert!(words.starts_with(&format!("{}{message}", file.display())), "{words}");
        assert!(!words.contains("geheim"), "{words}");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(home.ask("r.test").await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(home.ask("r.test").await.is_err());
}

#[test]
fn docker_s_directory_is_where_the_variables_say() {
    let file = |config: Option<&str>, home: Option<&str>| {
        let docker = Docker::of_variables(config.map(Into::into), home.map(Into::into));
        docker.map(|docker| docker.file().to_owned())
    };
    assert_eq!(file(Some("/d"), Some("/h")), Some("/d/config.json".into()));
    assert_eq!(file(Some(""), Some("/h")), Some("/h/.docker/config.json".into()));
    assert_eq!(file(None, Some("/h")), Some("/h/.docker/config.json".into()));
    assert_eq!(file(None, Some("")), None);
    assert_eq!(file(None, None), None);
}

#[tokio::test]
async fn a_given_login_is_for_its_registry_alone() {
    let login = Login::of_user("u:p:q").unwrap();
    assert_eq!(Some(login.clone()), basic("u", "p:q"));
    let at = Static::new("r.test:5000", login.clone());
    assert_eq!(at.login("r.test:5000", &[]).await.unwrap(), Some(login.clone()));
    assert_eq!(at.login("r.test", &[]).await.unwrap(), None);
    assert_eq!(at.login("mirror.test", &[]).await.unwrap(), None);
    let hub = Static::new("docker.io", login.clone());
    assert_eq!(hub.login("registry-1.docker.io", &[]).await.unwrap(), Some(login));
    assert_eq!(hub.login("r.test:5000", &[]).await.unwrap(), None);
    assert_eq!(Login::of_user(""), None);
    assert_eq!(Login::of_user("u"), basic("u", ""));
    assert_eq!(Login::of("", "t"), Some(Login::Refresh("t".into())));
}

#[test]
fn secrets_are_not_printed() {
    let logins = [
        basic("u", "geheim"),
        Login::of("", "geheim"),
        Some(Login::Bearer("geheim".into())),
        Some(Login::Header("geheim".into())),
    ];
    for login in logins.into_iter().flatten() {
        assert!(!format!("{:?}", Static::new("r.test", login)).contains("geheim"));
    }
}
