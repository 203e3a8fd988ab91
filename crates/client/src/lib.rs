//! A client of containerd's gRPC API: of `davitd`, and of containerd itself.
//!
//! [`Client`] holds one connection and says which namespace, and which lease,
//! every call is about. The services are tonic's generated clients, handed out
//! ready to use; what takes several calls to get right is here as one
//! function: importing an archive ([`import`]), unpacking an image
//! ([`image`]), the specification of a container ([`spec`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), davit_client::Error> {
//! use davit_client::Client;
//! use davit_protocols::grpc::containerd::services::images::v1::ListImagesRequest;
//!
//! let namespace = "default".parse().expect("a valid name");
//! let client = Client::connect("/run/davit/davit.sock".as_ref(), namespace).await?;
//! let images = client.images().list(ListImagesRequest::default()).await?;
//! for image in images.into_inner().images {
//!     println!("{}", image.name);
//! }
//! # Ok(())
//! # }
//! ```

pub mod archive;
mod compress;
mod connection;
mod content;
mod error;
pub mod export;
pub mod image;
pub mod import;
mod lease;
pub mod naming;
pub mod spec;
pub mod transfer;
mod unique;
pub mod user;

pub use connection::{Client, Metadata};
pub use error::Error;
pub use lease::Lease;
