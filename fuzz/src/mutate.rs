//! Spoils inputs: bytes, tokens that parsers trip over, and the structure of what is JSON.

use serde_json::Value;

/// Changes to one input, at most.
const CHANGES_MAX: usize = 4;
/// An input never grows beyond this; larger ones would only test the limits, which have tests of their own.
const INPUT_MAX_BYTES: usize = 96 * 1024;
/// Deepest nesting that is tried.
const DEPTH_MAX: usize = 4_000;
/// Longest text that takes another's place: more than an event may have.
const TEXT_MAX_BYTES: usize = 70_000;
/// Longest array that is tried.
const ITEMS_MAX: usize = 4_000;

/// What has broken parsers before: of JSON, YAML, shells, paths, subjects, templates and numbers.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    ":",
    ",",
    "\\",
    "\n",
    "\r\n",
    "\t",
    "\0",
    " ",
    "#",
    "- ",
    ": ",
    "? ",
    "| ",
    ">-\n",
    "---\n",
    "...\n",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!!set ",
    "!reset ",
    "!override ",
    "%YAML 1.2\n",
    "null",
    "~",
    "true",
    "NaN",
    ".inf",
    "-1",
    "0",
    "1e999",
    "-0.0",
    "1.5",
    "0x7f",
    "0o777",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967296",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{202e}",
    "é",
    "🦀",
    "ﬀ",
    "--privileged",
    "-v",
    "/:/host",
    "../../etc/passwd",
    "..",
    "./",
    "/",
    "//",
    "~/",
    "$",
    "$$",
    "${",
    "${A}",
    "${A:-${A}}",
    "${A:?x}",
    "`id`",
    "$(id)",
    "; rm",
    "*",
    ">",
    "landfall.",
    ".",
    "sha256:",
    "@",
    "://",
    "%00",
    "%s",
    "\u{1b}[31m",
    "9999-12-31T23:59:59.999999999Z",
    "-009999-01-01T00:00:00Z",
    "* * * * *",
    "0 0 31 2 *",
    "100%",
    "U",
    "SU",
    "==",
];

/// Reads choices from the engine's bytes, and goes on from what they were when there are no more of them.
struct Choices<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Choices<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        // FNV-1a; splitmix below does the rest.
        let state = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { bytes, state }
    }

    fn byte(&mut self) -> u8 {
        if let Some((first, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return *first;
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 32) as u8
    }

    /// Below `end`; 0 when that is 0.
    fn below(&mut self, end: usize) -> usize {
        let number = u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()]);
        if end == 0 { 0 } else { number as usize % end }
    }

    /// Up to `most`; large numbers are rare, since what they make is slow to read.
    fn size(&mut self, most: usize) -> usize {
        let most = if self.byte() < 16 { most } else { most.min(24) };
        1 + self.below(most)
    }

    fn of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}

/// An input for these bytes of randomness; the same for the same.
pub fn input(seeds: &[Vec<u8>], entropy: &[u8]) -> Vec<u8> {
    let mut choices = Choices::new(entropy);
    if choices.byte() < 8 {
        return entropy.to_vec();
    }
    let mut input = choices.of(seeds).clone();
    // Half of what is JSON stays so: then it is the types behind it that are tried.
    let keeps_form = choices.byte() & 1 == 0;
    for _ in 0..=choices.below(CHANGES_MAX) {
        let kept = if keeps_form { restructured(&input, &mut choices) } else { None };
        input = kept.unwrap_or_else(|| change(input, seeds, &mut choices));
        input.truncate(INPUT_MAX_BYTES);
    }
    input
}

fn change(mut input: Vec<u8>, seeds: &[Vec<u8>], choices: &mut Choices<'_>) -> Vec<u8> {
    let at = choices.below(input.len() + 1);
    let end = (at + 1 + choices.below(16)).min(input.len());
    match choices.below(12) {
        0 if !input.is_empty() => {
            let at = at.min(input.len() - 1);
            input[at] ^= 1 << choices.below(8);
            input
        }
        1 => {
            input.insert(at, choices.byte());
            input
        }
        2 => {
            input.drain(at..end);
            input
        }
        3 => {
            input.truncate(at);
            input
        }
        4 => {
            let piece = input[at..end].to_vec();
            let times = 1 + choices.below(64);
            input.splice(at..at, piece.repeat(times));
            input
        }
        5 => {
            let other = choices.of(seeds);
            let from = choices.below(other.len() + 1);
            let to = (from + choices.below(200)).min(other.len());
            input.splice(at..at, other[from..to].iter().copied());
            input
        }
        6 | 7 => {
            let token = choices.of(TOKENS);
            input.splice(at..end.max(at), token.bytes());
            input
        }
        8 => {
            let token = choices.of(TOKENS);
            input.splice(at..at, token.bytes());
            input
        }
        _ => restructured(&input, choices).unwrap_or(input),
    }
}

/// Stands where text is put in afterwards that no `Value` could hold.
const PLACE: &str = "\"\u{1}place\u{1}\"";

/// Changes one node of what is JSON.
fn restructured(input: &[u8], choices: &mut Choices<'_>) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(input).ok()?;
    let nodes = count(&document);
    let chosen = choices.below(nodes);
    let mut put = None;
    let mut left = chosen;
    visit(&mut document, &mut left, &mut |node| put = spoil(node, choices));
    let text = serde_json::to_string(&document).ok()?;
    let place = serde_json::to_string("\u{1}place\u{1}").ok()?;
    Some(put.map_or_else(|| text.clone(), |put: String| text.replace(&place, &put)).into_bytes())
}

fn count(node: &Value) -> usize {
    1 + match node {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// Calls `change` with the node that has this number.
fn visit(node: &mut Value, left: &mut usize, change: &mut impl FnMut(&mut Value)) -> bool {
    if *left == 0 {
        change(node);
        return true;
    }
    *left -= 1;
    match node {
        Value::Array(items) => items.iter_mut().any(|item| visit(item, left, change)),
        Value::Object(entries) => entries.values_mut().any(|value| visit(value, left, change)),
        _ => false,
    }
}

/// Changes the node, or marks it and returns what shall stand there.
fn spoil(node: &mut Value, choices: &mut Choices<'_>) -> Option<String> {
    let mark = || Value::String(PLACE.trim_matches('"').to_owned());
    let old = node.to_string();
    let (new, text) = match choices.below(11) {
        0 => (Value::Null, None),
        1 => (Value::from(*choices.of(&[0, -1, i64::MIN, i64::MAX, 1 << 32, 256])), None),
        2 => (Value::from(*choices.of(&[u64::MAX, u64::MAX - 1, 1 << 63, 1 << 53])), None),
        3 => (Value::from((*choices.of(TOKENS)).to_owned()), None),
        4 => (Value::from("x".repeat(choices.size(TEXT_MAX_BYTES))), None),
        5 => (Value::Array(vec![node.clone(), node.clone()]), None),
        6 => (Value::Bool(choices.byte() & 1 == 0), None),
        7 => {
            let depth = choices.size(DEPTH_MAX);
            let (open, close) = *choices.of(&[("[", "]"), ("{\"a\":", "}")]);
            (mark(), Some(format!("{}{old}{}", open.repeat(depth), close.repeat(depth))))
        }
        8 => {
            let items = vec![*choices.of(&["1", "{}", "\"a\"", "[]"]); choices.size(ITEMS_MAX)];
            (mark(), Some(format!("[{}]", items.join(","))))
        }
        9 => match node {
            // The same key twice, with another value.
            Value::Object(entries) if !entries.is_empty() => {
                let keys: Vec<&String> = entries.keys().collect();
                let key = serde_json::to_string(choices.of(&keys)).unwrap_or_default();
                let value = *choices.of(&["null", "0", "\"x\"", "{}", "[]"]);
                let twice = format!("{},{key}:{value}}}", old.trim_end_matches('}'));
                (mark(), Some(twice))
            }
            _ => (Value::from((*choices.of(TOKENS)).to_owned()), None),
        },
        _ => {
            let token = (*choices.of(TOKENS)).to_owned();
            if let Value::Object(entries) = node {
                let key = entries.keys().nth(choices.below(entries.len())).cloned();
                let value = key.and_then(|key| entries.remove(&key));
                entries.insert(token, value.unwrap_or(Value::Null));
                return None;
            }
            (Value::from(token), None)
        }
    };
    *node = new;
    text
}
