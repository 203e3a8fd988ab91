//! The service `snapshots`.
