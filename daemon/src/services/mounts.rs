//! The service `mounts`.
