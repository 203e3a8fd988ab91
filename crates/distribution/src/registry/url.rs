//! Addresses on a registry: only `http` and `https`, never with a user's name
//! in them, and printed without what may be a signature.

use std::fmt;

use http::Uri;

/// Where a request goes, without its path. Two URLs with the same origin are
/// the same server as far as credentials are concerned.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The name or address, in lower case, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Name or address with the port: `registry:443`, `[::1]:80`.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// An absolute URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    secure: bool,
    /// `registry:5000`, as it was written.
    authority: String,
    /// Begins with a slash.
    path: String,
    query: Option<String>,
}

/// A text that is no URL that we would ask; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadUrl(pub &'static str);

/// Longer ones are refused.
const LONGEST: usize = 16 << 10;

/// Queries that hold nothing secret and say what was asked for. All others may
/// be signatures.
const PRINTED: &[&str] =
    &["artifactType", "digest", "from", "last", "mount", "n", "ns", "scope", "service"];

impl Url {
    /// The root of a server.
    pub fn of_host(scheme: &str, authority: &str) -> Result<Self, BadUrl> {
        Self::parse(&format!("{scheme}://{authority}/"))
    }

    /// Reads an absolute URL. A fragment is dropped.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let text = escape(text)?;
        let uri: Uri = text.parse().map_err(|_| BadUrl("invalid URL"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(BadUrl("unsupported protocol scheme")),
            None => return Err(BadUrl("no scheme in the URL")),
        };
        let authority = uri.authority().ok_or(BadUrl("no host in the URL"))?.as_str();
        if authority.contains('@') {
            return Err(BadUrl("a user name in the URL"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(BadUrl("no host in the URL"));
        }
        if authority.rsplit_once(':').is_some_and(|(_, port)| is_wrong_port(port)) {
            return Err(BadUrl("invalid port in the URL"));
        }
        Ok(Self {
            secure,
            authority: authority.to_owned(),
            path: if uri.path().is_empty() { "/".into() } else { uri.path().into() },
            query: uri.query().map(str::to_owned),
        })
    }

    /// What `location` means in an answer from here (RFC 3986, section 5.2).
    /// Docker's registries also send locations without a scheme
    /// (`//registry/v2/…`) or a whole one.
    pub fn join(&self, location: &str) -> Result<Self, BadUrl> {
        let location = location.trim();
        if has_scheme(location) {
            return Self::parse(location);
        }
        let scheme = self.scheme();
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let base = format!("{scheme}://{}", self.authority);
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{}{location}", self.path)
        } else {
            let directory = self.path.rfind('/').map_or("/", |at| &self.path[..=at]);
            format!("{directory}{location}")
        };
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path.to_owned(), format!("?{query}")),
            None => (path, String::new()),
        };
        Self::parse(&format!("{base}{}{query}", without_dots(&path)))
    }

    /// The same server, another path, no query.
    pub fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), query: None, ..self.clone() }
    }

    /// The same in the clear.
    pub fn without_tls(self) -> Self {
        Self { secure: false, ..self }
    }

    /// One more parameter, escaped.
    pub fn with_query(mut self, key: &str, value: &str) -> Self {
        let pair = format!("{}={}", encode(key), encode(value));
        self.query = Some(match self.query.take() {
            Some(query) if !query.is_empty() => format!("{query}&{pair}"),
            _ => pair,
        });
        self
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Name or address with the port, as it was written.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The server.
    pub fn origin(&self) -> Origin {
        let lower = self.authority.to_ascii_lowercase();
        let usual = if self.secure { 443 } else { 80 };
        let (host, port) = match lower.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(usual)),
            _ => (lower.as_str(), usual),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Origin { secure: self.secure, host, port }
    }

    /// For the request.
    pub fn to_uri(&self) -> Result<Uri, BadUrl> {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let text = format!("{}://{}{}{query}", self.scheme(), self.authority, self.path);
        text.parse().map_err(|_| BadUrl("invalid URL"))
    }
}

impl fmt::Display for Url {
    /// Fit for logs and errors: of the query only what is known to be harmless.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path)?;
        let mut sign = '?';
        for pair in self.query.iter().flat_map(|query| query.split('&')) {
            let key = pair.split('=').next().unwrap_or_default();
            if PRINTED.contains(&key) {
                write!(f, "{sign}{pair}")?;
                sign = '&';
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Escapes everything but what RFC 3986 calls unreserved, and slashes and
/// colons, which stand in scopes and digests.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => encoded.push(byte.into()),
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Escapes what must not stand in a URL and yet does in some servers' answers.
fn escape(text: &str) -> Result<String, BadUrl> {
    if text.len() > LONGEST {
        return Err(BadUrl("a URL of excessive length"));
    }
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(BadUrl("a control character in the URL"));
    }
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            _ => escaped.push(byte.into()),
        }
    }
    Ok(escaped)
}

fn is_wrong_port(port: &str) -> bool {
    !port.contains(']') && port.parse::<u16>().is_err()
}

/// Whether `location` begins with `scheme:`.
fn has_scheme(location: &str) -> bool {
    let Some((scheme, _)) = location.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Resolves `.` and `..`; nothing climbs above the root.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let last = path.rsplit('/').next().unwrap_or_default();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    let slash = if matches!(last, "." | "..") && !parts.is_empty() { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn locations_are_resolved() {
        let base = url("https://r.example:5000/v2/a/b/blobs/uploads/?x=1");
        for (location, expected) in [
            ("/v2/u?_state=s", "https://r.example:5000/v2/u"),
            ("https://cdn.example/x", "https://cdn.example/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("id", "https://r.example:5000/v2/a/b/blobs/uploads/id"),
            ("../../id", "https://r.example:5000/v2/a/b/id"),
            ("../../../../../../../id", "https://r.example:5000/id"),
            ("?n=5", "https://r.example:5000/v2/a/b/blobs/uploads/?n=5"),
            ("HTTP://r.example:5000/", "http://r.example:5000/"),
            ("/with space/é", "https://r.example:5000/with%20space/%C3%A9"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), expected, "{location}");
        }
        assert_eq!(base.join("/a?k=v&l=w").unwrap().query.unwrap(), "k=v&l=w");
    }

    #[test]
    fn what_is_no_address_of_a_registry_is_refused() {
        for text in [
            "file:///etc/passwd",
            "ftp://host/",
            "gopher://host",
            "data:text/plain,x",
            "https:///path",
            "https://user:pass@host/",
            "https://host:99999/",
            "https://host:/",
            "host/path",
            "",
            "https://ho\nst/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
        assert!(Url::parse(&format!("https://host/{}", "a".repeat(LONGEST))).is_err());
        assert!(url("https://host/").join("file:///etc/passwd").is_err());
        assert!(url("https://host/").join("javascript:x").is_err());
    }

    #[test]
    fn origins_are_compared_as_servers() {
        for (one, other, same) in [
            ("https://host/a", "https://HOST:443/b", true),
            ("http://host/a", "http://host:80/", true),
            ("https://host", "http://host", false),
            ("https://host", "https://host:444", false),
            ("https://host", "https://host.evil", false),
            ("https://[::1]/", "https://[::1]:443/", true),
            ("https://[::1]/", "https://[::2]/", false),
        ] {
            assert_eq!(url(one).origin() == url(other).origin(), same, "{one} {other}");
        }
    }

    #[test]
    fn signatures_are_not_printed() {
        let text = "https://h/v2/?ns=docker.io&X-Amz-Signature=secret&digest=sha256:aa&sig=hidden";
        assert_eq!(url(text).to_string(), "https://h/v2/?ns=docker.io&digest=sha256:aa");
    }

    #[test]
    fn parameters_are_escaped() {
        let url = url("https://h/p").with_query("a", "x&y=z").with_query("scope", "r:a/b:pull");
        assert_eq!(url.query.unwrap(), "a=x%26y%3Dz&scope=r:a/b:pull");
    }
}
