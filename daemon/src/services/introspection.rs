//! The service `introspection`.
