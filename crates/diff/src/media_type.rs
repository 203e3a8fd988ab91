//! Which media types are layers, and how they are compressed (containerd,
//! `core/images/mediatypes.go`).

use crate::Error;

/// The media type of an uncompressed layer: what applying answers with.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer compressed with gzip: what comparing makes unless told otherwise.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer compressed with zstd.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

const LAYER_NON_DISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// Docker's names, which take no `+` behind them.
const DOCKER: [&str; 5] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// How the bytes of a layer are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    None,
    /// RFC 1952.
    #[default]
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What comparing makes for a media type; empty means gzip.
    ///
    /// # Errors
    /// [`Error::UnsupportedMediaType`], with containerd's words.
    pub fn of_diff(media_type: &str) -> Result<Self, Error> {
        match media_type {
            LAYER => Ok(Self::None),
            "" | LAYER_GZIP => Ok(Self::Gzip),
            LAYER_ZSTD => Ok(Self::Zstd),
            other => Err(Error::UnsupportedMediaType(other.to_owned())),
        }
    }
}

/// Whether a layer of this media type may be compressed, and then its first
/// bytes say how.
///
/// # Errors
/// [`Error::NoProcessor`] for what is no layer, with containerd's words.
pub fn may_be_compressed(media_type: &str) -> Result<bool, Error> {
    let mut parts = media_type.split('+');
    let base = parts.next().unwrap_or_default();
    let suffix = parts.max();
    match base {
        LAYER | LAYER_NON_DISTRIBUTABLE => Ok(matches!(suffix, Some("gzip" | "zstd"))),
        // Wrapped in something else (encryption): nobody has unwrapped it.
        _ if DOCKER.contains(&base) => Ok(suffix.is_none()),
        _ => Err(Error::NoProcessor(media_type.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_containerds_layers() {
        for (media_type, compressed) in [
            (LAYER, false),
            (LAYER_GZIP, true),
            (LAYER_ZSTD, true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", true),
            ("application/vnd.docker.image.rootfs.diff.tar", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", false),
        ] {
            assert_eq!(may_be_compressed(media_type).unwrap(), compressed, "{media_type}");
        }
        let error = may_be_compressed("application/json").unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to get stream processor for application/json: no processor for media-type"
        );
        let error = Compression::of_diff("text/plain").unwrap_err();
        assert_eq!(error.to_string(), "unsupported diff media type: text/plain: not implemented");
    }
}
