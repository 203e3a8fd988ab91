//! Names that nobody has: neither another process, nor another call in this
//! one, nor one that was killed and had the same process ID.

use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;

/// The time in nanoseconds, and random bits.
pub(crate) fn unique_part() -> String {
    let now = Timestamp::now().as_nanosecond();
    format!("{now}-{:016x}", RandomState::new().hash_one(now))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let parts: HashSet<String> = (0..1000).map(|_| unique_part()).collect();
        assert_eq!(parts.len(), 1000);
    }
}
