//! Leases: what is being made is not collected while one holds it.

use std::time::Duration;

use davit_protocols::grpc::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use jiff::Timestamp;

use crate::{Client, Error};

/// containerd's label for when a lease ends by itself.
const EXPIRE: &str = "containerd.io/gc.expire";

/// A lease that a client holds for a while. Ends with [`Lease::end`], or by
/// itself when the client has died.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    /// `None` when the client had a lease before; it ends that itself.
    id: Option<String>,
}

impl Lease {
    /// Takes a lease that ends by itself after `duration`. A client whose
    /// calls are held by a lease already goes on with that one.
    ///
    /// # Errors
    /// What the daemon answers.
    pub async fn take(client: &Client, duration: Duration) -> Result<Self, Error> {
        if client.is_leased() {
            return Ok(Self { client: client.clone(), id: None });
        }
        let expire = (Timestamp::now() + duration).to_string();
        let request = CreateRequest {
            labels: [(EXPIRE.to_owned(), expire)].into(),
            ..CreateRequest::default()
        };
        let response = client.leases().create(request).await?.into_inner();
        let id = response.lease.unwrap_or_default().id;
        Ok(Self { client: client.with_lease(&id)?, id: Some(id) })
    }

    /// The client whose calls this lease holds.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Gives it up. What nothing else refers to may then go.
    ///
    /// # Errors
    /// What the daemon answers; the lease then ends by itself.
    pub async fn end(self) -> Result<(), Error> {
        let Some(id) = self.id else { return Ok(()) };
        let request = DeleteRequest { id, sync: false };
        self.client.leases().delete(request).await?;
        Ok(())
    }
}
