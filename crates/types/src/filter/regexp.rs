//! Regular expressions in Go's syntax.
//!
//! The engine's own syntax differs where it counts: its `\d`, `\w`, `\s` and
//! `\b` know all of Unicode, it has operators inside brackets, and it refuses
//! a lone `{`. So an expression is rewritten before it is compiled.

/// Compiles `expression`; `None` when it is malformed or far too large.
pub(super) fn compile(expression: &str) -> Option<regex::Regex> {
    regex::RegexBuilder::new(&translate(expression)).size_limit(1 << 20).build().ok()
}

fn translate(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len() + 16);
    let mut rest = expression;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let behind = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => escape(behind, in_class, &mut out),
            '[' if in_class => class_bracket(rest, &mut out),
            '[' => {
                in_class = true;
                class_start(behind, &mut out)
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
                behind
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
                behind
            }
            '{' if !in_class && !is_repetition(rest) => {
                out.push_str("\\{");
                behind
            }
            c => {
                out.push(c);
                behind
            }
        };
    }
    out
}

/// Rewrites what follows a backslash; answers what is behind it.
fn escape<'a>(text: &'a str, in_class: bool, out: &mut String) -> &'a str {
    let Some(c) = text.chars().next() else {
        out.push('\\');
        return text;
    };
    let behind = &text[c.len_utf8()..];
    let ascii_class = match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        'b' if !in_class => r"(?-u:\b)",
        'B' if !in_class => r"(?-u:\B)",
        'Q' if !in_class => {
            let (literal, behind) = behind.split_once("\\E").unwrap_or((behind, ""));
            out.push_str(&regex::escape(literal));
            return behind;
        }
        _ => {
            out.push('\\');
            out.push(c);
            return behind;
        }
    };
    out.push_str(ascii_class);
    behind
}

/// Copies the opening of a class: a `]` right behind it is an ordinary
/// character, and nothing but `^` comes before.
fn class_start<'a>(behind: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let mut rest = behind;
    if let Some(negated) = rest.strip_prefix('^') {
        out.push('^');
        rest = negated;
    }
    if let Some(bracket) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = bracket;
    }
    rest
}

/// Copies `[:alpha:]`; any other bracket within a class is an ordinary
/// character.
fn class_bracket<'a>(text: &'a str, out: &mut String) -> &'a str {
    if text.starts_with("[:")
        && let Some(end) = text.find(":]")
    {
        out.push_str(&text[..end + 2]);
        return &text[end + 2..];
    }
    out.push_str("\\[");
    &text[1..]
}

/// Whether `text` begins with `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(text: &str) -> bool {
    let Some((counts, _)) = text[1..].split_once('}') else { return false };
    let (least, most) = counts.split_once(',').unwrap_or((counts, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}
