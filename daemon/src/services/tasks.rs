//! The service `tasks`.
