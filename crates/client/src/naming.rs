//! Which names the images of an archive get (containerd,
//! `core/transfer/image/imagestore.go` and `core/images/archive`).

use davit_protocols::grpc::containerd::types::Descriptor;

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
    pub(crate) fn of_image(&self, found: &Found) -> Vec<String> {
        match self {
            Self::Own(other) => {
                let reference = found.reference.clone().filter(|name| name.contains(['/', ':']));
                let own = found.full.clone().or_else(|| found.familiar.clone()).or(reference);
                own.or_else(|| other.clone()).into_iter().collect()
            }
            Self::Rules(rules) => {
                rules.prefixes.iter().flat_map(|prefix| prefix.names(found)).collect()
            }
        }
    }
}

impl Prefix {
    fn names(&self, found: &Found) -> Vec<String> {
        let by_digest = || format!("{}@{}", self.name, found.target.digest);
        let full = found.full.clone().or_else(|| found.familiar.as_deref().map(normalise));
        let name = match full {
            // A full name is taken as it is or not at all.
            Some(full) => self.applied(&full).filter(|name| *name == full),
            None => found.reference.as_deref().and_then(|reference| self.applied(reference)),
        };
        match name {
            None if self.add_digest => vec![by_digest()],
            None => Vec::new(),
            Some(name) if self.add_digest && !self.skip_named_digest => vec![name, by_digest()],
            Some(name) => vec![name],
        }
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
pub(crate) fn normalise(familiar: &str) -> String {
    let (host, path) = match familiar.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", familiar),
    };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let official = host == "docker.io" && !path.contains('/');
    let library = if official { "library/" } else { "" };
    let (name, digest) = match path.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (path, None),
    };
    let tagged = name.rsplit('/').next().and_then(|last| last.split_once(':'));
    match (digest, tagged) {
        // A digest says more than a tag, which is left out.
        (Some(digest), Some((_, tag))) => {
            let bare = &name[..name.len() - tag.len() - 1];
            format!("{host}/{library}{bare}@{digest}")
        }
        (None, None) => format!("{host}/{library}{path}:latest"),
        _ => format!("{host}/{library}{path}"),
    }
}

/// The short name of `normalise`'s name.
pub(crate) fn familiar(name: &str) -> String {
    let full = normalise(name);
    let Some(short) = full.strip_prefix("docker.io/") else { return full };
    short.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(short).to_owned()
}

/// What stands behind a name's repository: its tag, or its digest with the
/// `@` before it. A name without a host is taken as a whole.
pub(crate) fn object(name: &str) -> String {
    let Some((host, path)) = name.split_once('/') else { return name.to_owned() };
    if host.is_empty() {
        return name.to_owned();
    }
    match path.find([':', '@']) {
        Some(at) => path[at..].trim_start_matches(':').to_owned(),
        None => String::new(),
    }
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
    fn short_names_are_filled_in_as_docker_does() {
        for (familiar, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("team/app:2", "docker.io/team/app:2"),
            ("localhost/app", "localhost/app:latest"),
            ("registry.test:5000/app:1", "registry.test:5000/app:1"),
            ("index.docker.io/busybox:1", "docker.io/library/busybox:1"),
            ("busybox:1@sha256:aa", "docker.io/library/busybox@sha256:aa"),
        ] {
            assert_eq!(normalise(familiar), full);
        }
    }

    #[test]
    fn names_come_apart_again() {
        assert_eq!(familiar("docker.io/library/busybox:1"), "busybox:1");
        assert_eq!(familiar("docker.io/team/app"), "team/app:latest");
        assert_eq!(familiar("registry.test/library/app:1"), "registry.test/library/app:1");
        assert_eq!(object("registry.test:5000/app:1"), "1");
        assert_eq!(object("registry.test/app@sha256:aa"), "@sha256:aa");
        assert_eq!(object("app:1"), "app:1");
    }

    #[test]
    fn tags_get_the_prefix_and_full_names_must_have_it() {
        let own = found(Some("registry.test/app:1"), Some("1"));
        let tag = found(None, Some("1"));
        assert_eq!(prefix("import", true).names(&own), ["registry.test/app:1"]);
        assert_eq!(prefix("import", false).names(&own), Vec::<String>::new());
        assert_eq!(prefix("registry.test/app", false).names(&own), ["registry.test/app:1"]);
        assert_eq!(prefix("registry.test/ap", false).names(&own), Vec::<String>::new());
        assert_eq!(prefix("app", false).names(&own), ["registry.test/app:1"]);
        assert_eq!(prefix("import", true).names(&tag), ["import:1"]);
        assert_eq!(prefix("import", true).names(&found(None, None)), Vec::<String>::new());
    }

    #[test]
    fn digests_are_added_where_asked_for() {
        let with = |skip_named_digest| Prefix {
            add_digest: true,
            skip_named_digest,
            ..prefix("import", true)
        };
        let tag = found(None, Some("1"));
        assert_eq!(with(false).names(&tag), ["import:1", "import@sha256:00"]);
        assert_eq!(with(true).names(&tag), ["import:1"]);
        assert_eq!(with(true).names(&found(None, None)), ["import@sha256:00"]);
    }
}
