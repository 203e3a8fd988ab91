//! The service `health`.
