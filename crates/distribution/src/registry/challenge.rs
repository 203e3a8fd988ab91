//! What a registry wants to know before it answers: the values of its
//! `WWW-Authenticate` headers (RFC 9110, section 11.6.1).
//!
//! Registries write them in many ways: several challenges in one header,
//! commas within quotes, parameters without quotes or without a value. What
//! cannot be read is skipped; nothing here fails.

/// How a registry wants to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// A token from elsewhere.
    Bearer,
    /// A name and a password.
    Basic,
}

/// One demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// How.
    pub scheme: Scheme,
    /// Names in lower case, with their values.
    parameters: Vec<(String, String)>,
}

/// Longer headers are not read.
const LONGEST: usize = 8 << 10;

/// More parameters of one challenge are skipped.
const MOST_PARAMETERS: usize = 32;

impl Challenge {
    /// A parameter's value; of several with one name, the first.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges in `headers` that we can meet, the best first.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = headers
        .into_iter()
        .filter(|header| header.len() <= LONGEST)
        .flat_map(|header| Scanner(header).challenges())
        .collect();
    found.sort_by_key(|challenge| challenge.scheme);
    found
}

struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    fn challenges(mut self) -> Vec<Challenge> {
        let mut found: Vec<Challenge> = Vec::new();
        // Of a scheme that we do not know, parameters are dropped.
        let mut known = false;
        while let Some(word) = self.word() {
            if self.take('=') {
                let value = self.value();
                if let Some(challenge) = found.last_mut().filter(|_| known)
                    && challenge.parameters.len() < MOST_PARAMETERS
                {
                    challenge.parameters.push((word.to_ascii_lowercase(), value));
                }
                continue;
            }
            let scheme = match word.to_ascii_lowercase().as_str() {
                "bearer" => Some(Scheme::Bearer),
                "basic" => Some(Scheme::Basic),
                _ => None,
            };
            known = scheme.is_some();
            found.extend(scheme.map(|scheme| Challenge { scheme, parameters: Vec::new() }));
        }
        found
    }

    /// The next token, whatever stands before it; `None` at the end.
    fn word(&mut self) -> Option<&'a str> {
        loop {
            self.0 = self.0.trim_start_matches(|c: char| !is_token(c) && c != '"');
            if self.0.is_empty() {
                return None;
            }
            if self.0.starts_with('"') {
                // A quoted string where none belongs.
                self.quoted();
                continue;
            }
            let end = self.0.find(|c| !is_token(c)).unwrap_or(self.0.len());
            let (word, rest) = self.0.split_at(end);
            self.0 = rest;
            return Some(word);
        }
    }

    /// Whether `sign` comes next, white space aside; it is taken then.
    fn take(&mut self, sign: char) -> bool {
        let rest = self.0.trim_start_matches([' ', '\t']);
        match rest.strip_prefix(sign) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> String {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        if self.0.starts_with('"') {
            return self.quoted();
        }
        // Some registries forget the quotes around URLs and scopes.
        let end = self.0.find([',', ' ', '\t']).unwrap_or(self.0.len());
        let (value, rest) = self.0.split_at(end);
        self.0 = rest;
        value.to_owned()
    }

    /// A quoted string, of which the end may be missing.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        let mut escaped = false;
        for (at, c) in self.0.char_indices().skip(1) {
            match c {
                _ if escaped => {
                    value.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return value;
                }
                _ => value.push(c),
            }
        }
        self.0 = "";
        value
    }
}

/// What may stand in a token (RFC 9110, section 5.6.2).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(header: &str) -> Challenge {
        let found = parse([header]);
        assert_eq!(found.len(), 1, "{header}: {found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn the_usual_ones_are_read() {
        let header = "Bearer realm=\"https://auth.docker.io/token\",\
                      service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"";
        let challenge = one(header);
        assert_eq!(challenge.scheme, Scheme::Bearer);
        assert_eq!(challenge.parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenge.parameter("service"), Some("registry.docker.io"));
        assert_eq!(challenge.parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenge.parameter("error"), None);
        assert_eq!(one("Basic realm=\"x\"").scheme, Scheme::Basic);
    }

    #[test]
    fn the_unusual_ones_too() {
        let challenge = one(r#"bEaReR  REALM = "a\"b\\c" , service=plain ,, error="x=y, z""#);
        assert_eq!(challenge.parameter("realm"), Some("a\"b\\c"));
        assert_eq!(challenge.parameter("service"), Some("plain"));
        assert_eq!(challenge.parameter("error"), Some("x=y, z"));
        assert_eq!(one("Bearer realm=https://a/t,service=s").parameter("service"), Some("s"));
        assert_eq!(one("Bearer realm=\"https://a").parameter("realm"), Some("https://a"));
        assert_eq!(one("Bearer realm=a,realm=b").parameter("realm"), Some("a"));
    }

    #[test]
    fn bearer_comes_first_wherever_it_stands() {
        let header = "Basic realm=\"r\", Negotiate abc, Bearer realm=\"t\",service=\"s\"";
        let found = parse([header]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].parameter("realm"), Some("t"));
        assert_eq!(found[1].parameter("realm"), Some("r"));
        assert_eq!(parse(["Basic realm=x", "Bearer realm=y"])[0].scheme, Scheme::Bearer);
    }

    #[test]
    fn a_scheme_that_we_do_not_know_keeps_its_parameters_to_itself() {
        let found = parse(["Bearer realm=\"t\", Digest realm=\"d\", nonce=\"n\""]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].parameter("nonce"), None);
    }

    #[test]
    fn rubbish_is_skipped() {
        for header in ["", ",,,", "=\"", "\"", "Bearer=", "\u{feff}é", "Negotiate"] {
            assert_eq!(parse([header]), [], "{header}");
        }
        let many = "a=b,".repeat(LONGEST);
        assert_eq!(parse([format!("Bearer {many}").as_str()]), []);
        let many = format!("Bearer {}", "a=b,".repeat(100));
        assert_eq!(one(&many).parameters.len(), MOST_PARAMETERS);
    }
}
