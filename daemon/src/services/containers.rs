//! The service `containers`.
