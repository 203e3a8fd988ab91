//! The little of Go's `text/template` that containerd lets people use: text
//! with calls of named functions between `{{` and `}}`, whose arguments are
//! whole numbers or quoted strings.

/// One argument of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A whole number.
    Number(i64),
    /// A quoted string, unquoted.
    Text(String),
}

/// Why a text could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{{` without its `}}`, or a call that is none.
    #[error("template: malformed action in {0:?}")]
    Malformed(String),
    /// A name that is no function, or arguments that it does not take.
    #[error("template: function {0:?} not defined with these arguments")]
    Unknown(String),
    /// What the function said.
    #[error("template: {0}")]
    Failed(String),
}

/// Replaces every call in `text` by what `call` answers for its name and
/// arguments.
///
/// # Errors
/// The text is malformed, or `call` refused.
pub fn render(
    text: &str,
    call: impl Fn(&str, &[Argument]) -> Result<String, TemplateError>,
) -> Result<String, TemplateError> {
    let mut rendered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        rendered.push_str(before);
        let malformed = || TemplateError::Malformed(text.to_owned());
        let (action, after) = after.split_once("}}").ok_or_else(malformed)?;
        let mut words = words(action).ok_or_else(malformed)?.into_iter();
        let name = words.next().ok_or_else(malformed)?;
        let arguments: Option<Vec<Argument>> = words.map(|word| argument(&word)).collect();
        rendered.push_str(&call(&name, &arguments.ok_or_else(malformed)?)?);
        rest = after;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

/// Splits at spaces that are not in quotes; `None` for an open quote.
fn words(action: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in action.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    (!quoted).then_some(words)
}

fn argument(word: &str) -> Option<Argument> {
    match word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) => Some(Argument::Text(text.to_owned())),
        None => word.parse().ok().map(Argument::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(text: &str) -> Result<String, TemplateError> {
        render(text, |name, arguments| match name {
            "bad" => Err(TemplateError::Unknown(name.to_owned())),
            _ => Ok(format!("<{name}:{arguments:?}>")),
        })
    }

    #[test]
    fn replaces_calls_and_leaves_the_rest() {
        assert_eq!(echo("plain } {").unwrap(), "plain } {");
        assert_eq!(echo("a{{id}}b{{ mount -1 }}").unwrap(), "a<id:[]>b<mount:[Number(-1)]>");
        assert_eq!(echo("{{annotation \"a b\"}}").unwrap(), "<annotation:[Text(\"a b\")]>");
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for text in ["{{", "{{}}", "{{id", "{{id x}}", "{{a \"b}}", "{{if .x}}"] {
            assert_eq!(echo(text), Err(TemplateError::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!(echo("{{bad}}"), Err(TemplateError::Unknown("bad".to_owned())));
    }
}
