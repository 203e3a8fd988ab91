//! Which builds of Windows run which images.

/// Windows Server 2022: from here on, a host runs the images of all builds
/// down to this one; older hosts run those of their own build alone.
const STABLE_SINCE: u16 = 20348;

/// The part of a version that counts: `10.0.17763`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    major: u8,
    minor: u8,
    build: u16,
}

impl Version {
    /// Reads `10.0.17763` with or without something behind it. What is no
    /// version is nothing, as in containerd.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('.');
        let mut next = || parts.next().unwrap_or_default();
        let parsed = (next().parse(), next().parse(), next().parse());
        let (Ok(major), Ok(minor), Ok(build)) = parsed else { return Self::default() };
        Self { major, minor, build }
    }

    /// Whether a host of this version runs an image of version `image`; either
    /// may leave it open.
    pub fn runs(self, image: &str) -> bool {
        if self == Self::default() || image.is_empty() {
            return true;
        }
        let image = Self::parse(image);
        if (self.major, self.minor) != (image.major, image.minor) {
            return false;
        }
        if self.build < STABLE_SINCE {
            return self.build == image.build;
        }
        (STABLE_SINCE..=self.build).contains(&image.build)
    }
}
