//! Mappings of user and group ids, as the remapping labels write them
//! (containerd, `internal/userns/idmap.go`).

use davit_types::Labels;

use crate::{Error, LABEL_GID_MAPPING, LABEL_UID_MAPPING};

/// Whom root in the container is outside: `(uid, gid)`. `None` without
/// mapping labels.
pub(crate) fn root_of(labels: &Labels) -> Result<Option<(u32, u32)>, Error> {
    let (uids, gids) = (labels.get(LABEL_UID_MAPPING), labels.get(LABEL_GID_MAPPING));
    if uids.is_none() && gids.is_none() {
        return Ok(None);
    }
    let root = |label: Option<&String>| outside(label.map_or("", String::as_str));
    Ok(Some((root(uids)?, root(gids)?)))
}

/// What `mapping` (`inside:outside:length,…`) makes of id 0.
fn outside(mapping: &str) -> Result<u32, Error> {
    let invalid = |why: &str| Error::InvalidMapping(format!("{why} in {mapping:?}"));
    let mut root = None;
    for range in mapping.split(',') {
        let mut numbers = range.split(':').map(str::parse::<u32>);
        let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(length)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(invalid("a range that is not inside:outside:length"));
        };
        // The last id is reserved: it says "leave the owner alone".
        let ends_in_range = |start: u32| start.checked_add(length).is_some();
        if length == 0 || !ends_in_range(inside) || !ends_in_range(outside) {
            return Err(invalid("a range of impossible length"));
        }
        if inside == 0 {
            root = Some(outside);
        }
    }
    root.ok_or_else(|| invalid("no id for root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uids: &str, gids: &str) -> Labels {
        Labels::from([
            (LABEL_UID_MAPPING.to_owned(), uids.to_owned()),
            (LABEL_GID_MAPPING.to_owned(), gids.to_owned()),
        ])
    }

    #[test]
    fn finds_root() {
        assert_eq!(root_of(&Labels::new()).unwrap(), None);
        assert_eq!(root_of(&labels("0:1000:10", "0:2000:10")).unwrap(), Some((1000, 2000)));
        let split = "5:7:1,0:100000:4";
        assert_eq!(root_of(&labels(split, split)).unwrap(), Some((100_000, 100_000)));
    }

    #[test]
    fn refuses_what_maps_nobody() {
        for mapping in [
            "",
            "0",
            "0:1",
            "0:1:2:3",
            "a:b:c",
            "-1:0:1",
            "1:1000:10",
            "0:0:0",
            "0:4294967295:1",
            "0:1:4294967295",
            "0:1:99999999999",
            "0:1:2,",
            "0:1:2,x",
        ] {
            let error = root_of(&labels(mapping, "0:0:1")).unwrap_err();
            assert!(matches!(&error, Error::InvalidMapping(_)), "{mapping:?}: {error}");
            assert!(root_of(&labels("0:0:1", mapping)).is_err(), "{mapping:?}");
        }
        let one = Labels::from([(LABEL_UID_MAPPING.to_owned(), "0:1:2".to_owned())]);
        assert!(root_of(&one).is_err(), "one mapping without the other");
    }
}
