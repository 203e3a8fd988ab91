//! The service `images`.
