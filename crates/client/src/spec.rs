//! The specification of a container.
