//! One message type of one generator, reduced to what these tests need:
//! bytes in, bytes out.

/// A message type.
pub struct Codec {
    /// Package and name.
    pub name: String,
    /// Decodes and encodes again. Fails on what is malformed and on fields
    /// that the type does not know, where its generator keeps those.
    pub recode: fn(&[u8]) -> Result<Vec<u8>, String>,
}

/// By prost, which drops unknown fields: the caller sees that they are gone.
pub fn of_prost<M: ::prost::Message + ::prost::Name + Default>() -> Codec {
    named::<M>(&M::full_name())
}

/// By prost, where the type does not know its name.
pub fn named<M: ::prost::Message + Default>(name: &str) -> Codec {
    fn recode<M: ::prost::Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, String> {
        M::decode(bytes).map(|message| message.encode_to_vec()).map_err(|e| e.to_string())
    }
    Codec { name: name.to_owned(), recode: recode::<M> }
}

/// By rust-protobuf, which keeps unknown fields, so they are looked for.
fn recode_protobuf<M: protobuf::Message>(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let message = M::parse_from_bytes(bytes).map_err(|e| e.to_string())?;
    if let Some((number, _)) = message.special_fields().unknown_fields().iter().next() {
        return Err(format!("unknown field {number}"));
    }
    message.write_to_bytes().map_err(|e| e.to_string())
}

/// By rust-protobuf's lite runtime: ours.
pub fn of_lite<M: protobuf::Message + davit_protocols::ttrpc::FullName>() -> Codec {
    Codec { name: M::FULL_NAME.to_owned(), recode: recode_protobuf::<M> }
}

/// By rust-protobuf with reflection: theirs.
pub fn of_full<M: protobuf::MessageFull>() -> Codec {
    Codec { name: M::descriptor().full_name().to_owned(), recode: recode_protobuf::<M> }
}

/// Adds the messages of one module to a list.
macro_rules! prost {
    ($list:ident, $module:path, [$($($message:ident)::+),* $(,)?]) => {{
        use $module as all;
        $list.extend([$(crate::codec::of_prost::<all::$($message)::+>()),*]);
    }};
}
macro_rules! lite {
    ($list:ident, $module:path, [$($message:ident),* $(,)?]) => {{
        use $module as all;
        $list.extend([$(crate::codec::of_lite::<all::$message>()),*]);
    }};
}
macro_rules! full {
    ($list:ident, $module:path, [$($($message:ident)::+),* $(,)?]) => {{
        use $module as all;
        $list.extend([$(crate::codec::of_full::<all::$($message)::+>()),*]);
    }};
}
pub(crate) use {full, lite, prost};
