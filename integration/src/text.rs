//! Taking out of an output what differs from run to run, so that the rest can
//! be compared to the letter.

/// Replaces times, durations, process ids, socket paths and runs of blanks by
/// fixed words.
pub fn normalise(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words: Vec<String> = line.split_whitespace().map(word).collect();
        age(words.join(" "))
    });
    let mut out: Vec<String> = lines.collect();
    while out.last().is_some_and(|line| line.is_empty()) {
        out.pop();
    }
    out.join("\n")
}

/// Go's words for how old something is, on a machine as busy as it likes.
fn age(line: String) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    let is_unit = |word: &&str| {
        ["second", "minute", "hour"].contains(&word.strip_suffix('s').unwrap_or(word))
    };
    if let Some(unit) = words.iter().position(is_unit) {
        let vague = [&["Less", "than", "a"][..], &["About", "a"], &["About", "an"]];
        let count = vague.iter().find(|vague| words[..unit].ends_with(vague));
        let start = unit.saturating_sub(count.map_or(1, |vague| vague.len()));
        words.splice(start..=unit, ["AGE"]);
    }
    words.join(" ")
}

/// Drops the lines in which any of `needles` occurs.
pub fn without(text: &str, needles: &[&str]) -> String {
    let kept = text.lines().filter(|line| !needles.iter().any(|needle| line.contains(needle)));
    kept.collect::<Vec<_>>().join("\n")
}

fn word(word: &str) -> String {
    if let Some((name, value)) = word.split_once("=\"") {
        return format!("{name}=\"{}", self::word(value));
    }
    if word.contains('=') && word.contains(',') {
        // Labels come in the order of a Go map.
        let mut labels: Vec<&str> = word.split(',').collect();
        labels.sort_unstable();
        return labels.join(",");
    }
    let bare = word.trim_matches(|c| matches!(c, '"' | ',' | ';' | '(' | ')'));
    if is_time(bare) || is_clock(bare) || is_duration(bare) {
        return word.replace(bare, "TIME");
    }
    if bare.len() > 1
        && bare.bytes().all(|b| b.is_ascii_digit())
        && bare.parse::<u64>().is_ok_and(|n| n >= 300)
    {
        return word.replace(bare, "NUMBER");
    }
    word.to_owned()
}

/// RFC 3339, as Go prints it: `2026-01-02T03:04:05.678Z`.
fn is_time(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() >= 19
        && bytes[4] == b'-'
        && bytes[10] == b'T'
        && bytes[..4].iter().all(u8::is_ascii_digit)
}

fn is_clock(word: &str) -> bool {
    let parts: Vec<&str> = word.split(':').collect();
    (parts.len() == 3
        && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit() || b == b'.')))
        || (word.len() == 10 && word.as_bytes()[4] == b'-' && word.as_bytes()[7] == b'-')
}

/// Go's durations: `1.5s`, `23.4µs`.
fn is_duration(word: &str) -> bool {
    let number = word.trim_end_matches(|c: char| c.is_alphabetic() || c == 'µ');
    number != word
        && matches!(&word[number.len()..], "s" | "ms" | "µs" | "ns")
        && number.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_becomes_the_same() {
        assert_eq!(
            normalise("a   \"2026-01-02T03:04:05.6Z\", 12.5ms 4711 7 sha256:00\n\n"),
            "a \"TIME\", TIME NUMBER 7 sha256:00"
        );
        for age in [
            "Less than a second",
            "1 second",
            "12 seconds",
            "About a minute",
            "2 minutes",
            "About an hour",
            "3 hours",
        ] {
            assert_eq!(normalise(&format!("x {age} y")), "x AGE y");
        }
    }
}
