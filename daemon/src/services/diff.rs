//! The service `diff`.
