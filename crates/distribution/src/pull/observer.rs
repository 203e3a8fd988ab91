//! Whoever is told how a pull or a push goes.

use davit_types::Descriptor;

/// Is told of every blob that a pull or a push is about. Called often, and
/// must not block.
pub trait Observer: Send + Sync {
    /// `blob` is a part of the image. `reference` names it, `parents` name
    /// what it is a part of.
    fn added(&self, reference: &str, blob: &Descriptor, parents: &[String]);
    /// It need not be transferred.
    fn exists(&self, blob: &Descriptor);
    /// So many of its bytes are over.
    fn offset(&self, blob: &Descriptor, offset: u64);
    /// All of it is over.
    fn complete(&self, blob: &Descriptor);
    /// So many of its bytes have been unpacked.
    fn unpacking(&self, blob: &Descriptor, offset: u64);
    /// All of it has been unpacked.
    fn unpacked(&self, blob: &Descriptor);
}

/// Does not listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn added(&self, _: &str, _: &Descriptor, _: &[String]) {}
    fn exists(&self, _: &Descriptor) {}
    fn offset(&self, _: &Descriptor, _: u64) {}
    fn complete(&self, _: &Descriptor) {}
    fn unpacking(&self, _: &Descriptor, _: u64) {}
    fn unpacked(&self, _: &Descriptor) {}
}
