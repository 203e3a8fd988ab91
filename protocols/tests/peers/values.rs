//! Messages with every field set, made from our definitions.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// What numbers look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Small, each different from all others in the message, so that two
    /// fields that were swapped are noticed.
    Distinct,
    /// The ends of their types, where a wrong type is noticed.
    Smallest,
    /// The other ends.
    Largest,
}

/// All of them.
pub const VARIANTS: [Variant; 3] = [Variant::Distinct, Variant::Smallest, Variant::Largest];

/// How deep messages in messages go; ours end before that.
const DEPTH: usize = 6;

/// Makes one message.
pub struct Maker<'a> {
    variant: Variant,
    /// Which member of each oneof is set, modulo their number.
    arm: usize,
    /// Leaves a field out.
    skip: &'a dyn Fn(&FieldDescriptor) -> bool,
    count: u32,
}

impl<'a> Maker<'a> {
    /// See the fields.
    pub fn new(variant: Variant, arm: usize, skip: &'a dyn Fn(&FieldDescriptor) -> bool) -> Self {
        Self { variant, arm, skip, count: 0 }
    }

    /// A message of the type with everything set that is not to be left out.
    pub fn message(&mut self, descriptor: &MessageDescriptor) -> DynamicMessage {
        self.message_at(descriptor, 0)
    }

    fn message_at(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        assert!(depth < DEPTH, "{} goes too deep", descriptor.full_name());
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            if (self.skip)(&field) || !self.is_chosen(&field) {
                continue;
            }
            let value = self.value(&field, depth);
            message.set_field(&field, value);
            assert!(message.has_field(&field), "{} is at its default", field.full_name());
        }
        message
    }

    /// Whether a member of a oneof has its turn; true for all other fields.
    fn is_chosen(&self, field: &FieldDescriptor) -> bool {
        let Some(group) = field.containing_oneof() else { return true };
        group.fields().nth(self.arm % group.fields().len()).is_some_and(|f| f == *field)
    }

    fn value(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map has entries") };
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let mut entries = std::collections::HashMap::new();
            for _ in 0..2 {
                let Value::String(key) = self.single(&key, depth) else {
                    unreachable!("all keys are strings")
                };
                entries.insert(MapKey::String(key), self.single(&value, depth));
            }
            return Value::Map(entries);
        }
        if field.is_list() {
            return Value::List((0..2).map(|_| self.single(field, depth)).collect());
        }
        self.single(field, depth)
    }

    fn single(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        self.count += 1;
        let n = self.count;
        macro_rules! number {
            ($type:ty) => {
                match self.variant {
                    Variant::Distinct => n as $type,
                    // What is smallest but not the default, which is left out.
                    Variant::Smallest if <$type>::MIN == (0 as $type) => 1 as $type,
                    Variant::Smallest => <$type>::MIN,
                    Variant::Largest => <$type>::MAX,
                }
            };
        }
        match field.kind() {
            Kind::Double => Value::F64(number!(f64)),
            Kind::Float => Value::F32(number!(f32)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number!(i32)),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number!(i64)),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number!(u32)),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number!(u64)),
            Kind::Bool => Value::Bool(true),
            Kind::String => Value::String(format!("{}-{n}-é\u{1f6a2}", field.name())),
            Kind::Bytes => Value::Bytes(vec![0, 0xff, n as u8].into()),
            Kind::Enum(kind) => Value::EnumNumber(self.enum_number(&kind)),
            Kind::Message(inner) => Value::Message(self.message_at(&inner, depth + 1)),
        }
    }

    /// One of the values; one that nobody has defined for the largest, since
    /// enums are open.
    fn enum_number(&self, kind: &prost_reflect::EnumDescriptor) -> i32 {
        let mut numbers: Vec<i32> = kind.values().map(|v| v.number()).filter(|n| *n != 0).collect();
        numbers.sort_unstable();
        match self.variant {
            Variant::Distinct => numbers.last().copied().unwrap_or(77),
            Variant::Smallest => numbers.first().copied().unwrap_or(77),
            Variant::Largest => 9999,
        }
    }
}
