//! Messages in both generators' hands: each must read from what the other
//! writes what the other meant.
//!
//! The first byte of the input chooses the type.

use davit_protocols::convert::{grpc::unpack, ttrpc::pack};
use davit_protocols::ttrpc::FullName;
use davit_protocols::{grpc, ttrpc};

/// Reads `data` as `P` and as `L`, the same type by prost and rust-protobuf.
/// On malformed fields the two differ (prost refuses or guesses, rust-protobuf
/// keeps them aside), so what is compared is what prost understood.
fn agree<P, L>(data: &[u8])
where
    P: prost::Message + prost::Name + Default + std::fmt::Debug,
    L: protobuf::Message + FullName,
{
    if let Ok(lite) = L::parse_from_bytes(data) {
        lite.write_to_bytes().expect("what was read is written");
    }
    let Ok(prost) = P::decode(data) else { return };
    // Bytes instead of messages, so that NaN equals itself; maps are sorted.
    let bytes = prost.encode_to_vec();
    let lite = L::parse_from_bytes(&bytes).expect("what prost writes rust-protobuf reads");
    let through = unpack::<P>(&pack(&lite)).expect("and the reverse");
    assert!(through.encode_to_vec() == bytes, "{through:?} is not {prost:?}");
}

/// Reads `data` as a type that only the shim's side has.
fn read<L: protobuf::Message>(data: &[u8]) {
    if let Ok(message) = L::parse_from_bytes(data) {
        let bytes = message.write_to_bytes().expect("what was read is written");
        assert!(L::parse_from_bytes(&bytes).expect("what was written is read") == message);
    }
}

/// rust-protobuf 3.7.2 writes lists of negative enum numbers with a length that
/// is too short. This is the only list of an enum that we have, it has no such
/// value, and we never set it.
fn bootstrap_result(data: &[u8]) {
    type Prost = grpc::containerd::runtime::bootstrap::v1::BootstrapResult;
    let negative = |result: Prost| result.capabilities.iter().any(|number| *number < 0);
    if !<Prost as prost::Message>::decode(data).is_ok_and(negative) {
        agree::<Prost, ttrpc::bootstrap::BootstrapResult>(data);
    }
}

type Reader = fn(&[u8]);

/// The types, chosen by the first byte modulo their number.
const READERS: &[Reader] = &[
    agree::<grpc::containerd::events::TaskExit, ttrpc::events::TaskExit>,
    agree::<grpc::containerd::events::TaskCreate, ttrpc::events::TaskCreate>,
    agree::<grpc::containerd::events::ContainerUpdate, ttrpc::events::ContainerUpdate>,
    agree::<grpc::containerd::runc::v1::Options, ttrpc::options::Options>,
    agree::<grpc::containerd::runc::v1::CheckpointOptions, ttrpc::options::CheckpointOptions>,
    agree::<grpc::runtimeoptions::v1::Options, ttrpc::runtimeoptions::Options>,
    agree::<
        grpc::containerd::runtime::bootstrap::v1::BootstrapParams,
        ttrpc::bootstrap::BootstrapParams,
    >,
    bootstrap_result,
    agree::<grpc::io::containerd::cgroups::v1::Metrics, ttrpc::metrics::v1::Metrics>,
    agree::<grpc::io::containerd::cgroups::v2::Metrics, ttrpc::metrics::v2::Metrics>,
    agree::<grpc::containerd::types::Envelope, ttrpc::types::Envelope>,
    agree::<grpc::containerd::types::RuntimeInfo, ttrpc::types::RuntimeInfo>,
    read::<ttrpc::task::CreateTaskRequest>,
    read::<ttrpc::task::StateResponse>,
    read::<ttrpc::task::UpdateTaskRequest>,
    read::<ttrpc::events_service::ForwardRequest>,
];

/// See the head of the module.
pub fn run(data: &[u8]) {
    if let Some((first, data)) = data.split_first() {
        READERS[usize::from(*first) % READERS.len()](data);
    }
}

/// For each type, bytes with many of the shapes that fields have.
pub fn seeds() -> Vec<Vec<u8>> {
    let shapes: [&[u8]; 4] = [
        b"\x0a\x01a\x12\x01b\x18\x03\x20\x89\x01\x2a\x06\x08\x80\x94\xeb\xdc\x03",
        b"\x0a\x04name\x12\x02ns\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01\x42\x08\x0a\x06\x0a\x01t\x12\x01v",
        b"\x0a\x01a\x1a\x06\x0a\x01k\x12\x01v\x22\x04\x0a\x02/o",
        b"\x12\x1b\x08\x01\x3a\x17\x0a\x15\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x20\x05",
    ];
    let count = READERS.len() as u8;
    (0..count).flat_map(|kind| shapes.map(|shape| [&[kind], shape].concat())).collect()
}
