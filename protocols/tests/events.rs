//! The tables about events, held against the definitions.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use davit_protocols::{event_field, topics};
use davit_types::Any;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

fn pool() -> DescriptorPool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = ["containerd/events.proto", "containerd/image_events.proto"];
    DescriptorPool::from_file_descriptor_set(protox::compile(files, [root]).unwrap()).unwrap()
}

/// The messages that are events by themselves.
fn events(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let is_event = |m: &MessageDescriptor| {
        ["containerd.events", "containerd.services.images.v1"].contains(&m.package_name())
            && m.parent_message().is_none()
            && m.name() != "TaskIO"
    };
    pool.all_messages().filter(is_event).collect()
}

#[test]
fn every_event_has_a_topic() {
    let pool = pool();
    let defined: BTreeSet<String> =
        events(&pool).iter().map(|m| m.full_name().to_owned()).collect();
    let listed: BTreeSet<String> =
        topics::TABLE.iter().map(|(_, name)| (*name).to_owned()).collect();
    assert_eq!(listed, defined);
}

fn payload(message: &DynamicMessage) -> Any {
    let name = message.descriptor().full_name().to_owned();
    Any { type_url: name, value: message.encode_to_vec() }
}

/// Filters find every string, label and message inside, and nothing else.
#[test]
fn filters_find_every_field_that_containerd_finds() {
    let pool = pool();
    for event in events(&pool).into_iter().filter(|m| !m.name().starts_with("Sandbox")) {
        for field in event.fields() {
            let mut message = DynamicMessage::new(event.clone());
            let at = format!("{}.{}", event.name(), field.name());
            match field.kind() {
                Kind::String => {
                    message.set_field(&field, Value::String("v".into()));
                    assert_eq!(
                        event_field(&payload(&message), &[field.name()]).as_deref(),
                        Some("v"),
                        "{at}"
                    );
                }
                Kind::Message(_) if field.is_map() => {
                    let entry = (MapKey::String("a.b".into()), Value::String("v".into()));
                    message.set_field(&field, Value::Map([entry].into()));
                    let path = [field.name(), "a", "b"];
                    assert_eq!(
                        event_field(&payload(&message), &path).as_deref(),
                        Some("v"),
                        "{at}"
                    );
                }
                Kind::Message(inner)
                    if !field.is_list() && inner.package_name() == event.package_name() =>
                {
                    for part in inner.fields().filter(|f| f.kind() == Kind::String) {
                        let mut sub = DynamicMessage::new(inner.clone());
                        sub.set_field(&part, Value::String("v".into()));
                        message.set_field(&field, Value::Message(sub));
                        let path = [field.name(), part.name()];
                        assert_eq!(
                            event_field(&payload(&message), &path).as_deref(),
                            Some("v"),
                            "{at}"
                        );
                    }
                }
                _ => assert_eq!(event_field(&payload(&message), &[field.name()]), None, "{at}"),
            }
        }
    }
}
