//! A token server, as registries send their clients to: bearer tokens for
//! whom knows the password, signed with a key that the registry trusts.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::http::{Connection, Head, Server};
use crate::must;
use crate::registry::USER;

/// What the refresh token of [`USER`] is.
pub const REFRESH: &str = "davit-refresh-token";

/// For how many seconds registries take a token that has expired.
const LEEWAY: u64 = 60;

/// The seconds after 1970.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// What was asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `GET`, or `POST` as OAuth 2 has it.
    pub method: String,
    /// Whose password or refresh token came along, where it was right.
    pub account: Option<String>,
    /// Every scope: `repository:NAME:pull,push`.
    pub scopes: Vec<String>,
}

struct Shared {
    directory: PathBuf,
    seen: Mutex<Vec<Wanted>>,
    /// For how many seconds a token is good.
    life: Mutex<u64>,
    /// After how many the registry refuses it, where its clients are told
    /// another number.
    validity: Mutex<Option<u64>>,
    /// When the registry refuses the newest token, in seconds after 1970.
    end: Mutex<u64>,
}

/// A running token server.
pub struct TokenServer {
    server: Server,
    shared: Arc<Shared>,
}

impl TokenServer {
    /// What registries call themselves in front of it.
    pub const SERVICE: &str = "davit test registry";
    /// What it calls itself in tokens.
    pub const ISSUER: &str = "davit test issuer";

    /// Starts one with a key of its own, in a `directory` that it makes.
    pub fn start(directory: &Path) -> Self {
        fs::create_dir(directory).expect("the directory is new");
        let mut command = Command::new("/usr/bin/openssl");
        must(
            command
                .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
                .args(["-subj", "/CN=davit test issuer", "-keyout"])
                .arg(directory.join("key.pem"))
                .arg("-out")
                .arg(directory.join("certificate.pem")),
        );
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            seen: Mutex::default(),
            life: Mutex::new(300),
            validity: Mutex::default(),
            end: Mutex::default(),
        });
        let server = Server::start({
            let shared = Arc::clone(&shared);
            move |head, connection| shared.serve(&head, connection)
        });
        Self { server, shared }
    }

    /// Its realm.
    pub fn url(&self) -> String {
        format!("http://{}/token", self.server.address())
    }

    /// The file with the certificate of its key.
    pub fn certificate(&self) -> PathBuf {
        self.shared.directory.join("certificate.pem")
    }

    /// Gives tokens out for so many seconds from now on.
    pub fn set_life(&self, seconds: u64) {
        *self.shared.life.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
    }

    /// Has the registry refuse tokens after so many seconds from now on, and
    /// tells their owners nothing of it.
    pub fn set_validity(&self, seconds: u64) {
        *self.shared.validity.lock().unwrap_or_else(PoisonError::into_inner) = Some(seconds);
    }

    /// What waits until the registry refuses the newest token.
    pub fn expiry(&self) -> impl Fn() + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            crate::wait_for("the newest token expires", 30, || {
                let end = *shared.end.lock().unwrap_or_else(PoisonError::into_inner);
                (seconds() > end).then_some(())
            });
        }
    }

    /// All that it was asked.
    pub fn seen(&self) -> Vec<Wanted> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(&self, head: &Head, connection: &mut Connection) -> io::Result<bool> {
        let method = head.word(0).to_owned();
        let mut body = Vec::new();
        connection.pass_body(head, &mut body)?;
        let query = head.word(1).split_once('?').map_or("", |(_, query)| query);
        let fields =
            form(if method == "POST" { std::str::from_utf8(&body).unwrap_or("") } else { query });
        let account = match method.as_str() {
            "POST" => by_grant(&fields),
            _ => by_header(head.get("authorization")),
        };
        let Ok(account) = account else {
            connection.answer(401, &[("Content-Type", "application/json")], b"{}")?;
            return Ok(true);
        };
        let named = fields.iter().filter(|(name, _)| name == "scope");
        let scopes: Vec<String> =
            named.flat_map(|(_, value)| value.split(' ')).map(str::to_owned).collect();
        let wanted = Wanted { method, account: account.clone(), scopes: scopes.clone() };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(wanted);
        let life = *self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let token = self.token(account.as_deref(), &scopes, life);
        let answer = json!({"token": token, "access_token": token, "expires_in": life});
        connection.answer(
            200,
            &[("Content-Type", "application/json")],
            answer.to_string().as_bytes(),
        )?;
        Ok(true)
    }

    /// A JSON web token for what `account` may do of what is wanted.
    fn token(&self, account: Option<&str>, scopes: &[String], life: u64) -> String {
        let now = seconds();
        let validity = *self.validity.lock().unwrap_or_else(PoisonError::into_inner);
        let end = now + validity.unwrap_or(life);
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
        let end = if validity.is_some() { end - LEEWAY } else { end };
        let pem = fs::read_to_string(self.directory.join("certificate.pem")).expect("it was made");
        let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
        let access: Vec<Value> =
            scopes.iter().filter_map(|scope| granted(account, scope)).collect();
        let claims = json!({
            "iss": TokenServer::ISSUER, "aud": TokenServer::SERVICE, "sub": account.unwrap_or(""),
            "iat": now, "nbf": now - 5, "exp": end, "jti": "1", "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut openssl = Command::new("/usr/bin/openssl")
            .args(["dgst", "-sha256", "-sign"])
            .arg(self.directory.join("key.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let mut input = openssl.stdin.take().expect("piped");
        input.write_all(bytes).expect("openssl reads");
        drop(input);
        let mut signature = Vec::new();
        openssl.stdout.take().expect("piped").read_to_end(&mut signature).expect("it writes");
        assert!(openssl.wait().expect("it was started").success());
        signature
    }
}

/// What of a scope is granted: all to [`USER`], to others pulls of what is
/// public.
fn granted(account: Option<&str>, scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let allowed =
        |action: &&str| account.is_some() || (*action == "pull" && name.starts_with("public/"));
    let actions: Vec<&str> = actions.split(',').filter(allowed).collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

/// Whose password the header has; an error where it is wrong.
fn by_header(header: Option<&str>) -> Result<Option<String>, ()> {
    let Some(header) = header else { return Ok(None) };
    let encoded = header.strip_prefix("Basic ").ok_or(())?;
    let login = STANDARD.decode(encoded).map_err(drop)?;
    let right = login == format!("{}:{}", USER.0, USER.1).as_bytes();
    right.then(|| Some(USER.0.to_owned())).ok_or(())
}

/// The same of an OAuth 2 request.
fn by_grant(fields: &[(String, String)]) -> Result<Option<String>, ()> {
    let field = |wanted: &str| {
        fields.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.as_str())
    };
    let right = match field("grant_type") {
        "password" => (field("username"), field("password")) == USER,
        "refresh_token" => field("refresh_token") == REFRESH,
        _ => false,
    };
    right.then(|| Some(USER.0.to_owned())).ok_or(())
}

/// The fields of a query or a form.
fn form(text: &str) -> Vec<(String, String)> {
    let fields = text.split('&').filter_map(|field| field.split_once('='));
    fields.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}
