//! Cutting a filter into tokens.
//!
//! What a character means depends on what came before: behind an operator
//! everything up to the next space or comma is a value, elsewhere only the
//! characters of names are taken together.

use std::sync::LazyLock;

/// One step through the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rune {
    Char(char),
    /// A character that no filter may have; [`Scanner::complaint`] says why.
    Illegal,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    End,
    Quoted(&'a str),
    Value(&'a str),
    Field(&'a str),
    /// A comma or a dot.
    Separator,
    Operator(&'a str),
    Illegal,
    /// A character that begins nothing.
    Other,
}

#[derive(Debug)]
pub(super) struct Scanner<'a> {
    input: &'a str,
    /// Where the last character read begins.
    start: usize,
    /// Where it ends, in bytes.
    end: usize,
    /// Whether a value comes next.
    value: bool,
    complaint: Option<&'static str>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self { input, start: 0, end: 0, value: false, complaint: None }
    }

    /// Behind the last character read, in bytes.
    pub(super) fn position(&self) -> usize {
        self.end
    }

    /// What is wrong with the first illegal character or quotation.
    pub(super) fn complaint(&self) -> &'static str {
        self.complaint.unwrap_or_default()
    }

    /// The next character, which stays the next.
    pub(super) fn peek(&mut self) -> Rune {
        let (start, end) = (self.start, self.end);
        let rune = self.next();
        (self.start, self.end) = (start, end);
        rune
    }

    /// The next token and where it begins, in bytes.
    pub(super) fn scan(&mut self) -> (usize, Token<'a>) {
        let mut rune = self.next();
        while matches!(rune, Rune::Char(c) if c.is_whitespace()) {
            rune = self.next();
        }
        let start = self.start;
        let c = match rune {
            Rune::Char(c) => c,
            Rune::Illegal => return (start, Token::Illegal),
            Rune::End => return (start, Token::End),
        };
        let token = match c {
            '/' | '|' | '"' => {
                if !self.quoted(c) {
                    return (start, Token::Illegal);
                }
                Token::Quoted
            }
            ',' | '.' => {
                self.value = false;
                return (start, Token::Separator);
            }
            '=' | '!' | '~' => {
                self.take_while(|c| matches!(c, '=' | '!' | '~'));
                self.value = true;
                Token::Operator
            }
            _ if self.value => {
                self.take_while(is_value);
                self.value = false;
                Token::Value
            }
            _ if is_field(c) => {
                self.take_while(is_field);
                Token::Field
            }
            _ => return (start, Token::Other),
        };
        (start, token(&self.input[start..self.end]))
    }

    fn next(&mut self) -> Rune {
        self.start = self.end;
        let Some(c) = self.input[self.end..].chars().next() else { return Rune::End };
        self.end += c.len_utf8();
        match c {
            char::REPLACEMENT_CHARACTER => self.illegal("rune error"),
            '\0' => self.illegal("unexpected null"),
            c => Rune::Char(c),
        }
    }

    fn illegal(&mut self, complaint: &'static str) -> Rune {
        self.complain(complaint);
        Rune::Illegal
    }

    fn complain(&mut self, complaint: &'static str) {
        self.complaint.get_or_insert(complaint);
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) {
        while matches!(self.peek(), Rune::Char(c) if wanted(c)) {
            self.next();
        }
    }

    /// Reads up to the closing `quote`; false when it does not come or an
    /// escape on the way is none.
    fn quoted(&mut self, quote: char) -> bool {
        let mut legal = true;
        let mut rune = self.next();
        loop {
            match rune {
                Rune::Char(c) if c == quote => return legal,
                Rune::Char('\n') | Rune::Illegal | Rune::End => {
                    self.complain("quoted literal not terminated");
                    return false;
                }
                Rune::Char('\\') => {
                    let (behind, known) = self.escape(quote);
                    legal &= known;
                    rune = behind;
                }
                Rune::Char(_) => rune = self.next(),
            }
        }
    }

    /// Reads what follows a backslash; answers the character behind it.
    fn escape(&mut self, quote: char) -> (Rune, bool) {
        match self.next() {
            Rune::Char('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => (self.next(), true),
            Rune::Char(c) if c == quote => (self.next(), true),
            first @ Rune::Char('0'..='7') => self.digits(first, 8, 3),
            Rune::Char('x') => self.escaped_hex(2),
            Rune::Char('u') => self.escaped_hex(4),
            Rune::Char('U') => self.escaped_hex(8),
            other => {
                self.complain("illegal escape sequence");
                (other, false)
            }
        }
    }

    fn escaped_hex(&mut self, count: usize) -> (Rune, bool) {
        let first = self.next();
        self.digits(first, 16, count)
    }

    fn digits(&mut self, first: Rune, base: u32, count: usize) -> (Rune, bool) {
        let mut rune = first;
        for _ in 0..count {
            if !matches!(rune, Rune::Char(c) if c.is_digit(base)) {
                self.complain("illegal numeric escape sequence");
                return (rune, false);
            }
            rune = self.next();
        }
        (rune, true)
    }
}

fn is_field(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// What Go calls graphic, without commas and spaces.
fn is_value(c: char) -> bool {
    static NOT_GRAPHIC: LazyLock<Option<regex::Regex>> =
        LazyLock::new(|| regex::Regex::new(r"\p{C}").ok());
    match c {
        ',' => false,
        c if c.is_whitespace() => false,
        c if c.is_ascii() => !c.is_ascii_control(),
        c => {
            let mut buffer = [0; 4];
            let text: &str = c.encode_utf8(&mut buffer);
            NOT_GRAPHIC.as_ref().is_none_or(|expression| !expression.is_match(text))
        }
    }
}
