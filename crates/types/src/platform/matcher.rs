//! Which platforms are meant, and which of them is liked best.

use super::{Platform, windows};

/// Variants over this are not counted down from: a platform comes from a
/// client, and so would the length of the list.
const MAX_VERSION: u32 = 64;

/// Says of each platform whether it is meant, and of two which is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    All,
    /// The earlier in the list, the better.
    Ordered(Vec<Rule>),
    Any(Vec<Rule>),
}

/// A platform in its normal form, and what it runs of Windows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    platform: Platform,
    windows: Option<windows::Version>,
}

impl Matcher {
    /// Every platform; none is better than another.
    pub fn all() -> Self {
        Self(Kind::All)
    }

    /// What runs on `platform`: its own images first, then those of older
    /// variants (`arm/v7` runs v6 and v5, `arm64` also `arm`, `amd64` also
    /// `386`).
    pub fn only(platform: &Platform) -> Self {
        Self::ordered(&runs(platform.normalized()))
    }

    /// `platform` alone.
    pub fn only_strict(platform: &Platform) -> Self {
        Self::ordered(std::slice::from_ref(platform))
    }

    /// Any of `platforms`, the first the best.
    pub fn ordered(platforms: &[Platform]) -> Self {
        Self(Kind::Ordered(platforms.iter().map(Rule::new).collect()))
    }

    /// Any of `platforms`; none is better than another.
    pub fn any(platforms: &[Platform]) -> Self {
        Self(Kind::Any(platforms.iter().map(Rule::new).collect()))
    }

    /// What runs on this machine.
    pub fn host() -> Self {
        Self::only(&Platform::host())
    }

    /// Whether `platform` is meant.
    pub fn matches(&self, platform: &Platform) -> bool {
        match &self.0 {
            Kind::All => true,
            Kind::Ordered(rules) | Kind::Any(rules) => {
                let platform = platform.normalized();
                rules.iter().any(|rule| rule.holds(&platform))
            }
        }
    }

    /// How good `platform` is; less is better. To sort by, with a sort that is
    /// stable.
    pub fn rank(&self, platform: &Platform) -> usize {
        match &self.0 {
            Kind::All => 0,
            Kind::Any(_) => usize::from(!self.matches(platform)),
            Kind::Ordered(rules) => {
                let platform = platform.normalized();
                let place = rules.iter().position(|rule| rule.holds(&platform));
                place.unwrap_or(rules.len())
            }
        }
    }
}

impl Rule {
    fn new(platform: &Platform) -> Self {
        let windows =
            (platform.os == "windows").then(|| windows::Version::parse(&platform.os_version));
        Self { platform: platform.normalized(), windows }
    }

    /// Whether an image for `other`, which is in its normal form, runs here.
    fn holds(&self, other: &Platform) -> bool {
        let ours = &self.platform;
        ours.os == other.os
            && ours.architecture == other.architecture
            && ours.variant == other.variant
            && self.windows.is_none_or(|version| version.runs(&other.os_version))
            && other.os_features.iter().all(|feature| ours.os_features.contains(feature))
    }
}

/// All that `platform` runs, the best first.
fn runs(platform: Platform) -> Vec<Platform> {
    let of = |architecture: &str, variant: String| Platform {
        architecture: architecture.to_owned(),
        variant,
        ..platform.clone()
    };
    let mut list = vec![platform.clone()];
    match platform.architecture.as_str() {
        "amd64" => {
            list.extend(below(&platform.variant, 1).map(|n| of("amd64", format!("v{n}"))));
            list.push(of("386", String::new()));
        }
        "arm" => list.extend(below(&platform.variant, 5).map(|n| of("arm", format!("v{n}")))),
        "arm64" => {
            let variant = match platform.variant.as_str() {
                "" => "v8",
                variant => variant,
            };
            list.extend(below_arm64(variant).into_iter().map(|variant| of("arm64", variant)));
            let dotted = variant.starts_with("v8.") || variant.starts_with("v9.");
            list.extend(runs(of("arm", if dotted { "v8" } else { variant }.to_owned())));
        }
        _ => {}
    }
    list
}

/// The versions below `variant`, down to `lowest`.
fn below(variant: &str, lowest: u32) -> impl Iterator<Item = u32> {
    let version = number(variant.strip_prefix('v').unwrap_or(variant)).unwrap_or(lowest);
    (lowest..version).rev()
}

/// The variants of `arm64` below `variant`. v9.N has all that v8.(N+5) has.
fn below_arm64(variant: &str) -> Vec<String> {
    let (major, minor) = variant.split_once('.').unwrap_or((variant, ""));
    let major = number(major.strip_prefix('v').unwrap_or(major)).filter(|major| *major >= 8);
    let Some(major) = major else { return Vec::new() };
    let one_digit = variant.len() == 4;
    let minor = if one_digit { number(minor).unwrap_or(0) } else { 0 };
    let name = |major: u32, minor: u32| match minor {
        0 => format!("v{major}"),
        minor => format!("v{major}.{minor}"),
    };
    let mut list: Vec<String> = (0..minor).rev().map(|minor| name(major, minor)).collect();
    if major == 9 {
        list.extend((0..=minor + 5).rev().map(|minor| name(8, minor)));
    }
    list
}

fn number(text: &str) -> Option<u32> {
    let number = text.parse().ok()?;
    (number <= MAX_VERSION).then_some(number)
}
