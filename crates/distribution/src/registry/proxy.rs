//! Proxies from the environment: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`,
//! in upper or lower case, with the rules of Go's `httpproxy`, by which
//! containerd goes. Servers on this very machine are asked directly.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use http::HeaderValue;

use super::message::tame;
use super::url::{Origin, Url};

/// Which proxy is asked for what.
#[derive(Debug)]
pub(crate) struct Proxies {
    http: Named,
    https: Named,
    except: Vec<Exception>,
}

/// What a variable names; in words, why that is no proxy that we can use. Only
/// who would go through it needs to know.
type Named = Result<Option<Proxy>, String>;

/// One proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Where it is.
    pub origin: Origin,
    /// Its address for people.
    pub url: Url,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// What is asked directly.
#[derive(Debug)]
enum Exception {
    Everything,
    /// Addresses whose first bits are these.
    Network(IpAddr, u8, Option<u16>),
    /// A name or, below it, any.
    Domain {
        suffix: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Those that `variable` names; pass `|name| std::env::var(name).ok()`.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            let found = variable(name).filter(|value| !value.is_empty());
            found.or_else(|| variable(&name.to_lowercase())).filter(|value| !value.is_empty())
        };
        // In a CGI program, this one could come from a client's header.
        let cgi = variable("REQUEST_METHOD").is_some();
        let http = get("HTTP_PROXY").filter(|_| !cgi);
        let read = |name: &str, value: Option<String>| {
            let wrong = |value: &str, reason| format!("{name}={}: {reason}", public(value));
            let parse = |value: String| Proxy::parse(&value).map_err(|why| wrong(&value, why));
            value.map(parse).transpose()
        };
        Self {
            http: read("HTTP_PROXY", http),
            https: read("HTTPS_PROXY", get("HTTPS_PROXY")),
            except: get("NO_PROXY").unwrap_or_default().split(',').filter_map(exception).collect(),
        }
    }

    /// The proxy to go through to `origin`.
    ///
    /// # Errors
    /// In words, when what is named for it is no proxy that we can use.
    pub fn of(&self, origin: &Origin) -> Result<Option<&Proxy>, &str> {
        let proxy = if origin.is_secure() { &self.https } else { &self.http };
        let address: Option<IpAddr> = origin.host().parse().ok();
        let local =
            origin.host() == "localhost" || address.is_some_and(|address| address.is_loopback());
        let excepted = |exception: &Exception| exception.holds(origin, address);
        if local || self.except.iter().any(excepted) {
            return Ok(None);
        }
        proxy.as_ref().map(Option::as_ref).map_err(String::as_str)
    }
}

impl Proxy {
    /// Reads `http://user:password@proxy:3128`; the scheme may be missing.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("http", text.trim()));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let url = Url::of_host(scheme, host).map_err(|bad| bad.0)?;
        let authorization = user.map(|user| {
            let user = if user.contains(':') { decode(user) } else { decode(&format!("{user}:")) };
            let value = format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(user));
            HeaderValue::from_str(&value).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let authorization = authorization.transpose().map_err(|_| "invalid user")?;
        Ok(Self { origin: url.origin(), url, authorization })
    }
}

impl Exception {
    fn holds(&self, origin: &Origin, address: Option<IpAddr>) -> bool {
        match self {
            Self::Everything => true,
            Self::Network(network, bits, port) => {
                port.is_none_or(|port| port == origin.port())
                    && address.is_some_and(|address| within(address, *network, *bits))
            }
            Self::Domain { suffix, itself, port } => {
                let host = origin.host();
                let below = host.strip_suffix(suffix.as_str());
                port.is_none_or(|port| port == origin.port())
                    && (*itself && host == suffix
                        || below.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')))
            }
        }
    }
}

/// Reads one entry of `NO_PROXY`.
fn exception(text: &str) -> Option<Exception> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Exception::Everything);
    }
    if let Some((network, bits)) = text.split_once('/') {
        let network: IpAddr = network.parse().ok()?;
        return Some(Exception::Network(network, bits.parse().ok()?, None));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(Exception::Network(address, u8::MAX, None));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (text.as_str(), None),
    };
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(Exception::Network(address, u8::MAX, port));
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    let (suffix, itself) = match name.strip_prefix('.') {
        Some(suffix) => (suffix, false),
        None => (name, true),
    };
    (!suffix.is_empty()).then(|| Exception::Domain { suffix: suffix.to_owned(), itself, port })
}

/// Whether the first `bits` of both are the same; all of them where that is
/// more than there are.
fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, length) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let rest = length - u32::from(bits).min(length);
    address.checked_shr(rest).unwrap_or(0) == network.checked_shr(rest).unwrap_or(0)
}

/// The address of a proxy, fit for errors: without a name and a password.
fn public(value: &str) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('@') => (format!("{scheme}://"), rest),
        _ => (String::new(), value),
    };
    let host = rest.rsplit('@').next().unwrap_or_default();
    tame(&format!("{scheme}{host}"))
}

/// Undoes `%40`.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::new(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn origin(url: &str) -> Origin {
        Url::parse(url).unwrap().origin()
    }

    #[test]
    fn schemes_have_proxies_of_their_own() {
        let found = proxies(&[("HTTP_PROXY", "one:1"), ("https_proxy", "https://a%40b:c@two:2/x")]);
        let one = found.of(&origin("http://r.example")).unwrap().unwrap();
        assert_eq!(
            (one.url.to_string().as_str(), one.origin.is_secure()),
            ("http://one:1/", false)
        );
        assert_eq!(one.authorization, None);
        let two = found.of(&origin("https://r.example")).unwrap().unwrap();
        assert_eq!(
            (two.url.to_string().as_str(), two.origin.is_secure()),
            ("https://two:2/", true)
        );
        assert_eq!(two.authorization.as_ref().unwrap(), "Basic YUBiOmM=");
        assert!(!format!("{found:?}").contains("YUBi"), "{found:?}");
        assert!(proxies(&[]).of(&origin("http://r.example")).unwrap().is_none());
        let cgi = [("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "evil:1")];
        assert!(proxies(&cgi).of(&origin("http://r.example")).unwrap().is_none());
    }

    #[test]
    fn exceptions_are_gos() {
        let no = "a.example, .b.example,*.c.example,d.example:5000,10.0.0.0/8,192.168.1.1:81,::2";
        let found = proxies(&[("HTTP_PROXY", "p:1"), ("NO_PROXY", no)]);
        for (url, proxied) in [
            ("http://a.example", false),
            ("http://x.A.example", false),
            ("http://xa.example", true),
            ("http://b.example", true),
            ("http://x.b.example", false),
            ("http://x.c.example", false),
            ("http://d.example", true),
            ("http://d.example:5000", false),
            ("http://10.1.2.3", false),
            ("http://11.1.2.3", true),
            ("http://192.168.1.1", true),
            ("http://192.168.1.1:81", false),
            ("http://[::2]", false),
            ("http://[::3]", true),
            ("http://localhost:5000", false),
            ("http://127.0.0.9", false),
            ("http://[::1]", false),
        ] {
            assert_eq!(found.of(&origin(url)).unwrap().is_some(), proxied, "{url}");
        }
        let all = proxies(&[("HTTP_PROXY", "p:1"), ("no_proxy", "*")]);
        assert!(all.of(&origin("http://x.example")).unwrap().is_none());
    }

    #[test]
    fn what_is_no_proxy_is_refused_by_name() {
        let why = |value: &str| {
            let found = proxies(&[("HTTPS_PROXY", value), ("NO_PROXY", "a.example")]);
            assert!(found.of(&origin("http://r.example")).unwrap().is_none());
            assert!(found.of(&origin("https://a.example")).unwrap().is_none());
            found.of(&origin("https://r.example")).unwrap_err().to_owned()
        };
        let expected = "HTTPS_PROXY=socks5://host:1: unsupported protocol scheme";
        assert_eq!(why("socks5://u:secret@host:1"), expected);
        for value in ["http://u:secret@", "u:secret@host:x", "u:secret@x://y", "x://u:secret@y@z"] {
            assert!(!why(value).contains("secret"), "{}", why(value));
        }
    }
}
