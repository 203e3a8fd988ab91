//! The gRPC side: one module per package, `containerd::services::tasks::v1`
//! and so on, messages by prost, clients and servers by tonic.
//!
//! Maps are `BTreeMap`s; `bytes` fields of the content service are
//! [`bytes::Bytes`], all others `Vec<u8>`.

#![allow(missing_docs, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/grpc.rs"));
