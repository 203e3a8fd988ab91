//! PAX records: `length key=value\n`.

use std::collections::HashMap;

use super::Time;

/// What the records of one PAX header say, later ones over earlier ones.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub size: Option<i64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where an attribute is among them: there may be tens of thousands.
    positions: HashMap<Vec<u8>, usize>,
    pub sparse: SparseRecords,
}

/// `GNU.sparse.*`, as text.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub major: Vec<u8>,
    pub minor: Vec<u8>,
    pub name: Vec<u8>,
    /// How many pieces there are, in versions 0.0 and 0.1.
    pub count: Vec<u8>,
    pub size: Vec<u8>,
    pub real_size: Vec<u8>,
    /// Offsets and lengths, separated by commas (version 0.1), or collected
    /// from single records (0.0).
    pub map: Vec<u8>,
    /// How many numbers there are in it.
    numbers: usize,
}

/// Decimal, with a sign at most.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Seconds with any number of decimals.
fn time(text: &[u8]) -> Option<Time> {
    let point = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = point.map_or((text, &[][..]), |at| (&text[..at], &text[at + 1..]));
    let seconds = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, index| {
        nanos * 10 + u32::from(fraction.get(index).map_or(0, |digit| digit - b'0'))
    });
    if whole.starts_with(b"-") && nanos > 0 {
        // The fraction counts away from zero.
        return Some(Time { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { seconds, nanos })
}

/// One record and what follows it.
fn split(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    let record = &data[space + 1..length - 1];
    let equals = record.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.is_empty() || key.contains(&0) || text && value.contains(&0) {
        return None;
    }
    Some((key, value, &data[length..]))
}

/// Reads a PAX header's data; `None` when it is malformed.
pub(super) fn parse(mut data: &[u8]) -> Option<Records> {
    let mut records = Records::default();
    while !data.is_empty() {
        let (key, value, rest) = split(data)?;
        data = rest;
        if key.starts_with(b"GNU.sparse.") {
            records.sparse.add(&key[11..], value)?;
        } else if !value.is_empty() || key.starts_with(b"SCHILY.xattr.") {
            // An empty value takes an earlier one back, and there is none.
            records.add(key, value)?;
        }
    }
    Some(records)
}

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link_path = Some(value.to_vec()),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"atime" => self.atime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let next = self.xattrs.len();
                    match *self.positions.entry(name.to_vec()).or_insert(next) {
                        known if known < next => self.xattrs[known].1 = value.to_vec(),
                        _ => self.xattrs.push((name.to_vec(), value.to_vec())),
                    }
                }
            }
        }
        Some(())
    }
}

impl SparseRecords {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = value.to_vec(),
            b"minor" => self.minor = value.to_vec(),
            b"name" => self.name = value.to_vec(),
            b"numblocks" => self.count = value.to_vec(),
            b"size" => self.size = value.to_vec(),
            b"realsize" => self.real_size = value.to_vec(),
            b"map" => {
                self.map = value.to_vec();
                self.numbers = value.split(|&b| b == b',').filter(|part| !part.is_empty()).count();
            }
            b"offset" | b"numbytes" => {
                let offsets_first = key == b"offset";
                if value.contains(&b',') || self.numbers.is_multiple_of(2) != offsets_first {
                    return None;
                }
                if !self.map.is_empty() {
                    self.map.push(b',');
                }
                self.map.extend_from_slice(value);
                self.numbers += usize::from(!value.is_empty());
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        format!("{length}{rest}").into_bytes()
    }

    #[test]
    fn reads_records() {
        let data = [
            record("path", "a=b/ü"),
            record("mtime", "1500000000.25"),
            record("atime", "-1.5"),
            record("uid", "3000000000"),
            record("SCHILY.xattr.user.x", "one\ntwo="),
            record("SCHILY.xattr.user.x", ""),
            record("comment", "x"),
            record("size", ""),
        ]
        .concat();
        let records = parse(&data).unwrap();
        assert_eq!(records.path.unwrap(), "a=b/ü".as_bytes());
        assert_eq!(records.mtime, Some(Time { seconds: 1_500_000_000, nanos: 250_000_000 }));
        assert_eq!(records.atime, Some(Time { seconds: -2, nanos: 500_000_000 }));
        assert_eq!((records.uid, records.size), (Some(3_000_000_000), None));
        assert_eq!(records.xattrs, [(b"user.x".to_vec(), Vec::new())]);
    }

    #[test]
    fn counts_the_numbers_of_a_map() {
        let data = [
            record("GNU.sparse.map", "1,2,,3,"),
            record("GNU.sparse.numbytes", "4"),
            record("GNU.sparse.offset", ""),
            record("GNU.sparse.offset", "5"),
            record("GNU.sparse.numbytes", "6"),
        ];
        let sparse = parse(&data.concat()).unwrap().sparse;
        assert_eq!((&sparse.map[..], sparse.numbers), (&b"1,2,,3,,4,,5,6"[..], 6));
        assert!(parse(&data[..2].concat()).is_some());
        assert!(parse(&[&data[0][..], &data[3]].concat()).is_none());
    }

    #[test]
    fn refuses_malformed_records() {
        for data in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b\nx",
            b"99 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"4 =\n",
            b"6 =ab\n",
            b"6 abc\n",
            b"9 uid=1x\n",
            b"10 path=\0\n",
            b"99999999999999999999 a=b\n",
            b"26 GNU.sparse.numbytes=10\n",
        ] {
            assert!(parse(data).is_none(), "{:?}", String::from_utf8_lossy(data));
        }
    }
}
