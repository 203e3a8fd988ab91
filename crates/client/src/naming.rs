//! Which names the images of an archive get (containerd,
//! `core/transfer/image/imagestore.go` and `core/images/archive`).

use davit_protocols::grpc::containerd::types::Descriptor;
use davit_types::Reference;

use crate::Error;

/// How the images of an archive are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// By the full names in the archive; this one for an image without.
    Own(Option<String>),
    /// As the transfer service is told to.
    Rules(Rules),
}

/// containerd's rules for names. An image that no rule fits gets none, and
/// is then not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Names for the archive's index as a whole.
    pub whole: Vec<Whole>,
    /// What makes names for each of the archive's images.
    pub prefixes: Vec<Prefix>,
}

/// A name for an archive's index as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The name.
    pub name: String,
    /// Whether `@` and the digest are put behind it.
    pub add_digest: bool,
}

/// The part of a name that stands before its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// `registry.example/team/app`.
    pub name: String,
    /// Full names in the archive are taken although they have another prefix.
    pub allow_overwrite: bool,
    /// An image is also named by its digest.
    pub add_digest: bool,
    /// But only when it gets no other name.
    pub skip_named_digest: bool,
}

/// An image in an archive, with what the archive calls it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Where its manifest or index is.
    pub target: Descriptor,
    /// Its full name (`io.containerd.image.name`).
    pub full: Option<String>,
    /// Its tag, or what somebody put there (`org.opencontainers.image.ref.name`).
    pub reference: Option<String>,
    /// Docker's name, which leaves out what Docker takes for granted.
    pub familiar: Option<String>,
}

impl Naming {
    /// The names of the archive's index.
    pub(crate) fn of_whole(&self, digest: &str) -> Vec<String> {
        let Self::Rules(rules) = self else { return Vec::new() };
        let name = |whole: &Whole| match whole.add_digest {
            true => format!("{}@{digest}", whole.name),
            false => whole.name.clone(),
        };
        rules.whole.iter().map(name).collect()
    }

    /// The names of one image.
    ///
    /// # Errors
    /// [`Error::Invalid`] when Docker's name of it is no name.
    pub(crate) fn of_image(&self, found: &Found) -> Result<Vec<String>, Error> {
        match self {
            Self::Own(other) => {
                let reference = found.reference.clone().filter(|name| name.contains(['/', ':']));
                let familiar = found.familiar.as_deref().map(normalise).transpose()?;
                let own = found.full.clone().or(familiar).or(reference);
                Ok(own.or_else(|| other.clone()).into_iter().collect())
            }
            Self::Rules(rules) => {
                let names = rules.prefixes.iter().map(|prefix| prefix.names(found));
                Ok(names.collect::<Result<Vec<_>, _>>()?.concat())
            }
        }
    }
}

impl Prefix {
    fn names(&self, found: &Found) -> Result<Vec<String>, Error> {
        let by_digest = || format!("{}@{}", self.name, found.target.digest);
        let full = match (&found.full, &found.familiar) {
            (Some(full), _) => Some(full.clone()),
            (None, familiar) => familiar.as_deref().map(normalise).transpose()?,
        };
        let name = match full {
            // A full name is taken as it is or not at all.
            Some(full) => self.applied(&full).filter(|name| *name == full),
            None => found.reference.as_deref().and_then(|reference| self.applied(reference)),
        };
        Ok(match name {
            None if self.add_digest => vec![by_digest()],
            None => Vec::new(),
            Some(name) if self.add_digest && !self.skip_named_digest => vec![name, by_digest()],
            Some(name) => vec![name],
        })
    }

    /// What a reference in the archive comes to; `None` when it is not meant.
    fn applied(&self, reference: &str) -> Option<String> {
        if self.name.is_empty() || reference.is_empty() {
            return None;
        }
        if !reference.contains(['/', ':', '@']) {
            return Some(format!("{}:{reference}", self.name));
        }
        let meant =
            self.allow_overwrite || starts_with(reference, &self.name, &['/', ':', '@']) || {
                // `busybox` also means `docker.io/library/busybox`.
                let last = reference.rsplit('/').next().unwrap_or_default();
                starts_with(last, &self.name, &[':', '@'])
            };
        meant.then(|| reference.to_owned())
    }
}

/// Whether `name` is `prefix`, alone or followed by one of `separators`.
fn starts_with(name: &str, prefix: &str, separators: &[char]) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(separators))
}

/// Docker's short name in full: `busybox` is `docker.io/library/busybox:latest`.
fn normalise(familiar: &str) -> Result<String, Error> {
    let reference = Reference::parse_familiar(familiar);
    let reference = reference.map_err(|error| Error::invalid(familiar, error))?;
    Ok(reference.without_needless_tag().to_string())
}

/// The short name that docker has for an image.
pub(crate) fn familiar(name: &str) -> Result<String, Error> {
    let reference = Reference::parse_familiar(name).map_err(|error| Error::invalid(name, error))?;
    Ok(reference.familiar())
}

/// What stands behind a name's repository: its tag, or its digest with the
/// `@` before it. A name without a host is taken as a whole.
pub(crate) fn object(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.object())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(name: &str, allow_overwrite: bool) -> Prefix {
        Prefix { name: name.into(), allow_overwrite, add_digest: false, skip_named_digest: false }
    }

    fn found(full: Option<&str>, reference: Option<&str>) -> Found {
        let target = Descriptor { digest: "sha256:00".into(), ..Default::default() };
        let owned = |name: Option<&str>| name.map(str::to_owned);
        Found { target, full: owned(full), reference: owned(reference), familiar: None }
    }

    #[test]
    fn names_come_apart_and_together() {
        let sha = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            normalise(&format!("app:1@{sha}")).unwrap(),
            format!("docker.io/library/app@{sha}")
        );
        assert_eq!(familiar("docker.io/library/busybox:1").unwrap(), "busybox:1");
        assert_eq!(familiar("docker.io/team/app").unwrap(), "team/app:latest");
        assert_eq!(
            familiar("App").unwrap_err().to_string(),
            "App: invalid reference format: repository name (library/App) must be lowercase"
        );
        assert_eq!(object("registry.test:5000/app:1"), "1");
        assert_eq!(object(&format!("registry.test/app@{sha}")), format!("@{sha}"));
        assert_eq!(object("app:1"), "app:1");
    }

    #[test]
    fn docker_s_names_are_filled_in_or_refused() {
        let docker = |name: &str| Found { familiar: Some(name.into()), ..found(None, None) };
        let own = Naming::Own(None).of_image(&docker("app:1")).unwrap();
        assert_eq!(own, ["docker.io/library/app:1"]);
        let full = prefix("docker.io/library/app", false).names(&docker("app")).unwrap();
        assert_eq!(full, ["docker.io/library/app:latest"]);
        let rules = Rules { prefixes: vec![prefix("import", true)], ..Rules::default() };
        let error = Naming::Rules(rules).of_image(&docker("a b")).unwrap_err();
        assert_eq!(error.to_string(), "a b: invalid reference format");
    }

    #[test]
    fn tags_get_the_prefix_and_full_names_must_have_it() {
        let own = found(Some("registry.test/app:1"), Some("1"));
        let tag = found(None, Some("1"));
        assert_eq!(prefix("import", true).names(&own).unwrap(), ["registry.test/app:1"]);
        assert_eq!(prefix("import", false).names(&own).unwrap(), Vec::<String>::new());
        assert_eq!(
            prefix("registry.test/app", false).names(&own).unwrap(),
            ["registry.test/app:1"]
        );
        assert_eq!(prefix("registry.test/ap", false).names(&own).unwrap(), Vec::<String>::new());
        assert_eq!(prefix("app", false).names(&own).unwrap(), ["registry.test/app:1"]);
        assert_eq!(prefix("import", true).names(&tag).unwrap(), ["import:1"]);
        assert_eq!(prefix("import", true).names(&found(None, None)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn digests_are_added_where_asked_for() {
        let with = |skip_named_digest| Prefix {
            add_digest: true,
            skip_named_digest,
            ..prefix("import", true)
        };
        let tag = found(None, Some("1"));
        assert_eq!(with(false).names(&tag).unwrap(), ["import:1", "import@sha256:00"]);
        assert_eq!(with(true).names(&tag).unwrap(), ["import:1"]);
        assert_eq!(with(true).names(&found(None, None)).unwrap(), ["import@sha256:00"]);
    }
}
