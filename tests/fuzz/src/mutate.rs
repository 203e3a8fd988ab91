//! Changes bytes a little, in the same way on every run.

/// A source of numbers that looks random (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    /// Different seeds give different numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.draw() % limit as u64) as usize }
    }
}

/// Inputs grow to so many bytes.
const LONGEST: usize = 8 << 10;

/// Bytes that mean something to many parsers.
const TELLING: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\x80",
    b"\n",
    b"\"",
    b"\\",
    b"'",
    b"/",
    b"..",
    b"{",
    b"}",
    b"[",
    b"=",
    b",",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xe2\x80\xa8",
    b"\xf0\x9f\x9a\xa2",
    b"\xc0\x80",
    b"99999999999999999999",
];

/// Between one and four changes to one of `inputs`, which must not be empty.
pub fn mutate(inputs: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut data = inputs[numbers.below(inputs.len())].clone();
    for _ in 0..=numbers.below(4) {
        change(&mut data, inputs, numbers);
    }
    data.truncate(LONGEST);
    data
}

fn change(data: &mut Vec<u8>, inputs: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(data.len() + 1);
    let until = at + numbers.below(data.len() - at + 1);
    match numbers.below(8) {
        0 if at < data.len() => data[at] ^= 1 << numbers.below(8),
        1 if at < data.len() => data[at] = numbers.draw() as u8,
        2 if at < data.len() => data[at] = data[at].wrapping_add(1),
        3 => insert(data, at, TELLING[numbers.below(TELLING.len())]),
        4 => drop(data.drain(at..until)),
        5 => {
            let part = data[at..until].to_vec();
            insert(data, at, &part);
        }
        6 => {
            let other = &inputs[numbers.below(inputs.len())];
            let from = numbers.below(other.len() + 1);
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        _ => data.truncate(at),
    }
}

fn insert(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    data.splice(at..at, bytes.iter().copied());
}
