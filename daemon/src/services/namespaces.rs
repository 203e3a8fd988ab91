//! The service `namespaces`.
