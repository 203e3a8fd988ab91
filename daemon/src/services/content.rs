//! The service `content`.
