//! The service `version`.
