//! Undoing quotation: Go's string literals, with `/` and `|` as further
//! quotation marks.

/// The string that `text`, quotation marks included, stands for; `None` when
/// the quotation is malformed. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn unquote(text: &str) -> Option<String> {
    let quote = text.chars().next()?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escape(rest, quote, &mut bytes)?,
            '\n' => return None,
            c if c == quote => return None,
            c => push(c, &mut bytes),
        }
    }
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// Decodes what follows a backslash; answers what is behind it.
fn escape<'a>(text: &'a str, quote: char, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let simple = match c {
        'a' => 7,
        'b' => 8,
        't' => b'\t',
        'n' => b'\n',
        'v' => 11,
        'f' => 12,
        'r' => b'\r',
        '\\' => b'\\',
        'x' => {
            let (value, rest) = number(rest, 2, 16)?;
            bytes.push(u8::try_from(value).ok()?);
            return Some(rest);
        }
        'u' | 'U' => {
            let (value, rest) = number(rest, if c == 'u' { 4 } else { 8 }, 16)?;
            if value > u32::from(char::MAX) {
                return None;
            }
            push(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER), bytes);
            return Some(rest);
        }
        '0'..='7' => {
            let (value, rest) = number(text, 3, 8)?;
            bytes.push(u8::try_from(value).ok()?);
            return Some(rest);
        }
        c if c == quote => u8::try_from(c).ok()?,
        _ => return None,
    };
    bytes.push(simple);
    Some(rest)
}

fn number(text: &str, count: usize, base: u32) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(count)?;
    let all_digits = digits.chars().all(|c| c.is_digit(base));
    let value = all_digits.then(|| u32::from_str_radix(digits, base).ok()).flatten()?;
    Some((value, rest))
}

fn push(c: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
