use std::collections::BTreeMap;

use super::*;

/// A thing with a name, another field, and labels.
#[derive(Default)]
struct Thing {
    name: &'static str,
    other: &'static str,
    labels: BTreeMap<String, String>,
}

impl Adaptor for Thing {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => unless_empty(self.name),
            ["other"] => unless_empty(self.other),
            ["labels", rest @ ..] => map_field(&self.labels, rest),
            _ => None,
        }
    }
}

fn thing(name: &'static str, other: &'static str, labels: &[(&str, &str)]) -> Thing {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Thing { name, other, labels }
}

fn corpus() -> Vec<Thing> {
    vec![
        thing("alpha", "", &[("tier", "true")]),
        thing("beta", "", &[]),
        thing("alpha", "", &[("tier", "set"), ("a label of words", "set")]),
        thing("beta", "", &[("beta", "true")]),
        thing("alphas", "", &[("words with \\ and \"", "set")]),
        thing("alphas", "", &[("words with \\ and \".tail", "set")]),
        thing("gamma", "one, two", &[]),
        thing("gammas", "abc", &[]),
        thing("joined", "", &[("tier", "a_b.c-d")]),
        thing("ünïcode", "ẞ", &[("containerd.io/gc.root", "now")]),
    ]
}

fn matching(filters: &[&str]) -> Vec<usize> {
    let set = Filter::parse_all(filters).unwrap_or_else(|error| panic!("{filters:?}: {error}"));
    let corpus = corpus();
    (0..corpus.len()).filter(|&i| set.matches(&corpus[i])).collect()
}

#[test]
fn what_matches_what() {
    let all: Vec<usize> = (0..10).collect();
    let table: &[(&[&str], &[usize])] = &[
        (&[], &all),
        (&[""], &all),
        (&["name"], &all),
        // Presence.
        (&["labels.tier"], &[0, 2, 8]),
        (&["labels.tier,name"], &[0, 2, 8]),
        (&["labels.missing"], &[]),
        (&["nothing"], &[]),
        (&["nothing.deeper"], &[]),
        // Equality.
        (&["labels.tier==true"], &[0]),
        (&["labels.tier==a_b.c-d"], &[8]),
        (&["name==beta"], &[1, 3]),
        (&["name==beta,labels.beta"], &[3]),
        (&["name==beta,labels.beta==true"], &[3]),
        (&["name==beta,labels.beta==wrong"], &[]),
        (&["other==\"one, two\""], &[6]),
        (&["name==ünïcode"], &[9]),
        (&["nothing==\"\""], &[]),
        // Inequality: an absent field differs from every value but "".
        (&["name!=beta"], &[0, 2, 4, 5, 6, 7, 8, 9]),
        (&["labels.tier!=true"], &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (&["labels.tier!=\"\""], &[0, 2, 8]),
        // Regular expressions: anywhere, and on "" where absent.
        (&["other~=[abc]+,name!=alpha"], &[7]),
        (&["other~=/[abc]+/,name!=alpha"], &[7]),
        (&["other~=/[a-c]{1,2}/"], &[7]),
        (&["other~=|^one|"], &[6]),
        (&["other~=\"^one\""], &[6]),
        (&["other~=/^$/"], &[0, 1, 2, 3, 4, 5, 8]),
        (&["other~=/[abc]{0,1}\"\\//"], &[]),
        (&["name~=^alpha$"], &[0, 2]),
        (&["name~=(unclosed"], &[]),
        (&["name~=/\\\\w+s$/"], &[4, 5, 7]),
        // Quoted fields, and keys put together from several.
        (&["name==alpha,labels.\"a label of words\""], &[2]),
        (&[r#"labels."words with \\ and \""==set"#], &[4]),
        (&[r#"labels."words with \\ and \"".tail==set"#], &[5]),
        (&["labels.\"containerd.io/gc.root\""], &[9]),
        (&["labels.\"containerd.io/gc\".root==now"], &[9]),
        (&["\"name\"==\"\\x67amma\""], &[6]),
        (&["name==\"\\147amma\""], &[6]),
        (&["name==\"\\u00fcn\\U000000efcode\""], &[9]),
        // Spaces around an operator.
        (&["name == beta"], &[1, 3]),
        (&["  name==beta"], &[1, 3]),
        (&["name==beta,  labels.beta"], &[3]),
        // A value may look like anything without a comma or a space.
        (&["name==b=c"], &[]),
        (&["name=='beta'"], &[]),
        // Several filters: one must match.
        (&["name==beta", "labels.tier"], &[0, 1, 2, 3, 8]),
        (&["name==nobody", ""], &all),
    ];
    for (filters, expected) in table {
        assert_eq!(&matching(filters), expected, "{filters:?}");
    }
}

#[test]
fn what_is_refused_and_how() {
    for (filter, expected) in [
        ("labels.|tier|==x", "[labels. >|||< tier|==x]: invalid quote encountered"),
        ("labels.?\"x\".y==z", "[labels. >|?|< \"x\".y==z]: expected field or quoted"),
        ("name==alpha,", "[name==alpha,]: expected field or quoted"),
        ("labels.", "[labels.]: expected field or quoted"),
        (",", "[ >|,|< ]: expected field or quoted"),
        ("==x", "[ >|=|< =x]: expected field or quoted"),
        ("image~=,id?=?x", "[image~= >|,|< id?=?x]: expected value or quoted"),
        ("name==", "[name==]: expected value or quoted"),
        ("name==.x", "[name== >|.|< x]: expected value or quoted"),
        ("name=x", "[name >|=|< x]: unsupported operator \"=\""),
        ("name===x", "[name >|=|< ==x]: unsupported operator \"===\""),
        ("name?x", "[name >|?|< x]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
        ("name x", "[name  >|x|< ]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
        ("name==/x/", "[name== >|/|< x/]: invalid quote encountered"),
        ("name==\"x", "[name== >|\"|< x]: quoted literal not terminated"),
        ("name==\"x\ny\"", "[name== >|\"|< x\ny\"]: quoted literal not terminated"),
        ("name~=/\\d/", "[name~= >|/|< \\d/]: illegal escape sequence"),
        ("name==\"\\xg0\"", "[name== >|\"|< \\xg0\"]: illegal numeric escape sequence"),
        ("name==\"\\400\"", "[name== >|\"|< \\400\"]: unquoting failed: quote syntax error"),
        ("name==x y", "[name==x >| |< y]: unexpected input:  "),
        ("name\0==x", "[name >|\0|< ==x]: unexpected null"),
        ("n\u{fffd}", "[n >|\u{fffd}|< ]: rune error"),
        ("'name'==x", "[ >|'|< name'==x]: expected field or quoted"),
    ] {
        let message = Filter::parse(filter).map(|_| ()).unwrap_err().to_string();
        let expected = format!("filters: parse error: {expected}: invalid argument");
        assert_eq!(message, expected, "{filter:?}");
    }
}

#[test]
fn one_bad_filter_spoils_all() {
    assert!(Filter::parse_all(&["name==x", "name="]).is_err());
}

#[test]
fn regular_expressions_are_those_of_go() {
    for (expression, matched, missed) in [
        (r"^\d$", "7", "٧"),
        (r"^\w$", "a", "ä"),
        (r"^\W$", "ä", "a"),
        (r"^[\w]$", "a", "ä"),
        (r"^[^\s]$", "\u{a0}", " "),
        (r"^.$", "ä", "ab"),
        (r"^[[a]$", "[", "b"),
        (r"^[a&&b]$", "&", "c"),
        (r"^[]a]$", "]", "b"),
        (r"^[^]a]$", "b", "]"),
        (r"^[[:alpha:]]$", "x", "1"),
        (r"^{x}$", "{x}", "x"),
        (r"^x{,2}$", "x{,2}", "xx"),
        (r"^x{2,3}$", "xx", "x"),
        (r"^\Qa.b\E$", "a.b", "axb"),
        (r"\bx\b", "a x b", "axb"),
        ("(?i)^STRASSE$", "strasse", "gasse"),
    ] {
        let compiled = regexp::compile(expression).unwrap_or_else(|| panic!("{expression}"));
        assert!(compiled.is_match(matched), "{expression} on {matched:?}");
        assert!(!compiled.is_match(missed), "{expression} on {missed:?}");
    }
    assert!(regexp::compile("((((a{100}){100}){100}){100})").is_none(), "a bomb was compiled");
}

#[test]
fn no_input_is_too_odd_to_be_answered() {
    const PIECES: &[&str] = &[
        "name",
        "labels",
        ".",
        ",",
        "==",
        "!=",
        "~=",
        "=",
        "!",
        "~",
        "\"",
        "/",
        "|",
        "'",
        "\\",
        "x",
        "\\x4",
        "\\u00e4",
        "\\U0010ffff",
        "\\777",
        "ä",
        "\u{fffd}",
        "\0",
        " ",
        "\n",
        "[",
        "]",
        "^",
        "[:alpha:]",
        "{",
        "}",
        "{1,2}",
        "(",
        ")",
        "\\Q",
        "\\E",
        "\\d",
        "&&",
        "--",
        "\u{2028}",
        "\u{e000}",
    ];
    let thing = thing("name", "", &[("x", "ä")]);
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut read = 0;
    for _ in 0..20_000 {
        let length = random(9);
        let text: String = (0..length).map(|_| PIECES[random(PIECES.len())]).collect();
        match Filter::parse(&text) {
            Ok(filter) => read += usize::from(filter.matches(&thing)),
            Err(error) => assert!(error.to_string().starts_with("filters: parse error: [")),
        }
        regexp::compile(&text);
    }
    assert!(read > 100, "only {read} of the texts were filters that match");
}

#[test]
fn tells_which_values_alone_can_match() {
    for (filters, expected) in [
        (&["name==a"][..], Some(&["a"][..])),
        (&["name==b,labels.x", "labels.y==z,name==a"], Some(&["a", "b"])),
        (&["name==a", "labels.x"], None),
        (&["name!=a"], None),
        (&["name~=a"], None),
        (&["name.x==a"], None),
        (&[""], None),
        (&[], None),
    ] {
        let set = Filter::parse_all(filters).unwrap();
        let values = set.values_of(&["name"]).map(Vec::from_iter);
        assert_eq!(values.as_deref(), expected, "{filters:?}");
    }
}
