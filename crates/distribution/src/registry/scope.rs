//! What a token is to allow: `repository:library/busybox:pull`.

use std::collections::{BTreeMap, BTreeSet};

/// More of them in a challenge are dropped.
const MOST: usize = 64;

/// A set of permissions. Those for one repository are joined, so that two
/// ways to write the same need one token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// To read a repository.
    pub fn pull(repository: &str) -> Self {
        Self::parse(&format!("repository:{repository}:pull"))
    }

    /// To read and to write it.
    pub fn push(repository: &str) -> Self {
        Self::parse(&format!("repository:{repository}:pull,push"))
    }

    /// Reads scopes with spaces between them. What has no colon stands alone.
    pub fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for word in text.split_ascii_whitespace().take(MOST) {
            let (resource, actions) = word.rsplit_once(':').unwrap_or((word, ""));
            let known = scopes.0.entry(resource.to_owned()).or_default();
            known.extend(actions.split(',').filter(|a| !a.is_empty()).map(str::to_owned));
        }
        scopes
    }

    /// Both together.
    pub fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (resource, actions) in &other.0 {
            both.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
        both
    }

    /// As a token server takes them, one by one.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            if actions.is_empty() {
                return resource.clone();
            }
            format!("{resource}:{}", actions.join(","))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(scopes: &Scopes) -> String {
        scopes.iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_repository_has_one_scope() {
        let asked = Scopes::parse("repository:a/b:push,pull registry:catalog:*");
        let joined = asked.with(&Scopes::pull("a/b")).with(&Scopes::pull("c"));
        assert_eq!(text(&joined), "registry:catalog:* repository:a/b:pull,push repository:c:pull");
        assert_eq!(Scopes::push("a/b").with(&asked), asked.with(&Scopes::push("a/b")));
        assert_eq!(text(&Scopes::parse("plain  other")), "other plain");
        assert_eq!(Scopes::parse(&"a:b ".repeat(1000)).iter().count(), 1);
    }
}
