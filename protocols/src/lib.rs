//! Every wire format of Davit.
//!
//! The definitions are the files below `proto/`: packages, names, numbers and
//! types are containerd's, the rest is ours. The build generates two sides of
//! them, each behind a feature: [`grpc`] for the daemon's API (tonic, prost)
//! and [`ttrpc`] for the shim's (rust-protobuf without reflection, so that a
//! shim stays small). Events, options and metrics exist on both.
//!
//! Wire types end here: [`convert`] turns them into the types of
//! `davit-types`, and [`error`] is the one table between kinds of error and
//! the status codes of the two protocols.

#[cfg(any(feature = "grpc", feature = "ttrpc"))]
pub mod convert;
pub mod error;
#[cfg(feature = "grpc")]
mod event_fields;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod topics;
#[cfg(feature = "ttrpc")]
pub mod ttrpc;
#[cfg(feature = "grpc")]
pub mod unary;

#[cfg(feature = "grpc")]
pub use event_fields::event_field;
