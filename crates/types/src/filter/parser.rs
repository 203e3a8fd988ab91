//! From tokens to selectors.

use super::scanner::{Rune, Scanner, Token};
use super::{InvalidFilter, Selector, Test, quote, regexp};

pub(super) fn parse(input: &str) -> Result<Vec<Selector>, InvalidFilter> {
    Parser { input, scanner: Scanner::new(input) }.selectors()
}

struct Parser<'a> {
    input: &'a str,
    scanner: Scanner<'a>,
}

impl<'a> Parser<'a> {
    fn selectors(&mut self) -> Result<Vec<Selector>, InvalidFilter> {
        let mut selectors = vec![self.selector()?];
        loop {
            match self.scanner.peek() {
                Rune::End => return Ok(selectors),
                Rune::Char(',') => {
                    self.scanner.scan();
                    selectors.push(self.selector()?);
                }
                other => {
                    let c = match other {
                        Rune::Char(c) => c,
                        _ => char::REPLACEMENT_CHARACTER,
                    };
                    let position = self.scanner.position();
                    return Err(self.error(position, &format!("unexpected input: {c}")));
                }
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, InvalidFilter> {
        let path = self.path()?;
        let test = match self.scanner.peek() {
            Rune::Char(',') | Rune::End => Test::Present,
            _ => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, InvalidFilter> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Rune::Char('.') {
            self.scanner.scan();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, InvalidFilter> {
        match self.scanner.scan() {
            (_, Token::Field(name)) => Ok(name.to_owned()),
            (at, Token::Quoted(text)) => self.unquote(at, text, false),
            (at, Token::Illegal) => Err(self.error(at, self.scanner.complaint())),
            (at, _) => Err(self.error(at, "expected field or quoted")),
        }
    }

    fn test(&mut self) -> Result<Test, InvalidFilter> {
        let operator = match self.scanner.scan() {
            (_, Token::Operator(operator @ ("==" | "!=" | "~="))) => operator,
            (at, Token::Operator(other)) => {
                return Err(self.error(at, &format!("unsupported operator {other:?}")));
            }
            (at, Token::Illegal) => return Err(self.error(at, self.scanner.complaint())),
            (at, _) => {
                return Err(self.error(at, r#"expected an operator ("=="|"!="|"~=")"#));
            }
        };
        Ok(match operator {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            _ => Test::Matches(regexp::compile(&self.value(true)?)),
        })
    }

    fn value(&mut self, any_quotes: bool) -> Result<String, InvalidFilter> {
        match self.scanner.scan() {
            (_, Token::Value(text) | Token::Field(text)) => Ok(text.to_owned()),
            (at, Token::Quoted(text)) => self.unquote(at, text, any_quotes),
            (at, Token::Illegal) => Err(self.error(at, self.scanner.complaint())),
            (at, _) => Err(self.error(at, "expected value or quoted")),
        }
    }

    fn unquote(&self, at: usize, text: &str, any_quotes: bool) -> Result<String, InvalidFilter> {
        if !any_quotes && !text.starts_with('"') {
            return Err(self.error(at, "invalid quote encountered"));
        }
        quote::unquote(text).ok_or_else(|| self.error(at, "unquoting failed: quote syntax error"))
    }

    /// Shows the input with the place at fault marked, where there is one.
    fn error(&self, at: usize, what: &str) -> InvalidFilter {
        let input = self.input;
        InvalidFilter(match input.get(at..).and_then(|rest| rest.chars().next()) {
            Some(c) => {
                format!("[{} >|{c}|< {}]: {what}", &input[..at], &input[at + c.len_utf8()..])
            }
            None => format!("[{input}]: {what}"),
        })
    }
}
