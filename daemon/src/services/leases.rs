//! The service `leases`.
