//! Takes secrets out of text that leaves this host: values of the host's `.env`, and secret-looking ones of the rendered stack.

use std::collections::BTreeSet;

const MASK: &str = "***";
/// Shorter values are common words and numbers; masking them would only spoil the text.
const VALUE_MIN_CHARS: usize = 6;
const SECRET_MIN_CHARS: usize = 3;
/// A variable whose name has one of these holds a secret.
const SECRET_NAMES: [&str; 14] = [
    "PASS",
    "SECRET",
    "TOKEN",
    "KEY",
    "CREDENTIAL",
    "AUTH",
    "PRIVATE",
    "SALT",
    "DSN",
    "_URL",
    "URI",
    "CONNECTION",
    "WEBHOOK",
    "COOKIE",
];
const PLAIN_WORDS: [&str; 6] = ["production", "staging", "development", "localhost", "127.0.0.1", "0.0.0.0"];

/// Of a secret that is repeated in part, so many characters that follow one another are recognised.
const FRAGMENT_MAX_CHARS: usize = 8;
const FRAGMENT_MIN_CHARS: usize = 5;

#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// Longest first, so that no part of a longer one stays.
    secrets: Vec<String>,
    /// Those of which a part is a secret too: not the beginning of an address, which is like any other's.
    whole: Vec<String>,
}

impl Redactor {
    /// `host` are the `.env` file's variables, `rendered` those of the services; `public` values travelled in the open already.
    pub(crate) fn new<'a>(
        host: impl Iterator<Item = (&'a str, &'a str)>,
        rendered: impl Iterator<Item = (&'a str, &'a str)>,
        public: &BTreeSet<&str>,
    ) -> Self {
        let (mut secrets, mut whole) = (BTreeSet::new(), BTreeSet::new());
        let host = host.map(|(name, value)| (name, value, VALUE_MIN_CHARS));
        let rendered = rendered.map(|(name, value)| (name, value, usize::MAX));
        let lines = host
            .chain(rendered)
            .flat_map(|(name, value, min_chars)| value.lines().map(move |line| (name, line.trim(), min_chars)));
        for (name, value, min_chars) in lines {
            let secret = is_secret_name(name) && value.len() >= SECRET_MIN_CHARS;
            let plain = PLAIN_WORDS.contains(&value)
                // Ports and counts; a long number in a secret's place is one.
                || value.bytes().all(|b| b.is_ascii_digit()) && !(secret && value.len() >= VALUE_MIN_CHARS)
                || value.parse::<bool>().is_ok();
            if !public.contains(value) && (secret || value.len() >= min_chars) && !plain {
                secrets.extend(as_quoted(value));
                secrets.insert(value.to_owned());
                let own = behind_authority(value);
                whole.extend(as_quoted(own));
                whole.insert(own.to_owned());
            }
            if let Some(password) = url_password(value) {
                let forms: Vec<String> = [password.to_owned()].into_iter().chain(percent_decoded(password)).collect();
                whole.extend(forms.clone());
                secrets.extend(forms);
            }
        }
        let mut secrets: Vec<String> = secrets.into_iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets, whole: whole.into_iter().collect() }
    }

    pub(crate) fn clean(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
    }

    /// As [`Self::clean`], for what a program says of a value that it does not understand: it may repeat a part of it, such as all but the
    /// unit behind a number.
    pub(crate) fn clean_complaint(&self, text: &str) -> String {
        self.whole.iter().fold(self.clean(text), |text, secret| without_fragments(&text, secret))
    }
}

/// As Compose and the engine repeat a value in their messages: quoted once or twice, with dollars doubled, and with white space as one blank.
fn as_quoted(value: &str) -> Vec<String> {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let once = escape(value);
    let forms = [
        escape(&once),
        once,
        value.replace('\'', "''"),
        value.replace('$', "$$"),
        value.split_whitespace().collect::<Vec<_>>().join(" "),
    ];
    forms.into_iter().filter(|form| form != value && form.len() >= SECRET_MIN_CHARS).collect()
}

/// Of an address what stands behind the host: its scheme and host are no secret, and neither is what has no scheme shortened.
fn behind_authority(value: &str) -> &str {
    match value.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]),
        None => value,
    }
}

/// Masks every run of characters that stands in the secret as well and is long enough to be no chance.
fn without_fragments(text: &str, secret: &str) -> String {
    let secret: Vec<char> = secret.chars().collect();
    let least = secret.len().saturating_sub(2).min(FRAGMENT_MAX_CHARS);
    if least < FRAGMENT_MIN_CHARS {
        return text.to_owned();
    }
    let windows: BTreeSet<&[char]> = secret.windows(least).collect();
    let chars: Vec<char> = text.chars().collect();
    let (mut shown, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(first) = chars.get(at) {
        let mut end = at;
        while chars.get(end..end + least).is_some_and(|window| windows.contains(window)) {
            end += 1;
        }
        if end == at {
            shown.push(*first);
            at += 1;
        } else {
            shown.push_str(MASK);
            at = end + least - 1;
        }
    }
    shown
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// The password of `scheme://user:password@host`.
pub(crate) fn url_password(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (login, _) = authority.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

/// As a driver repeats a password that stands in a URL with its special characters written as `%40` and the like.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let pair = behind.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|decoded| decoded != text && decoded.len() >= SECRET_MIN_CHARS)
}

/// The variables of a `.env` file, well enough to know what must not be told. Each line of a quoted value counts for itself, as text
/// that leaves this host is looked at line by line too.
pub(crate) fn env_file_variables(text: &str) -> Vec<(&str, &str)> {
    let mut variables = Vec::new();
    let mut open: Option<(&str, char)> = None;
    for line in text.lines() {
        if let Some((name, quote)) = open {
            let end = line.find(quote);
            variables.push((name, line[..end.unwrap_or(line.len())].trim()));
            open = open.filter(|_| end.is_none());
            continue;
        }
        let line = line.trim();
        let Some((name, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=') else { continue };
        if line.starts_with('#') {
            continue;
        }
        let (name, value) = (name.trim(), value.trim());
        open = ['"', '\'']
            .into_iter()
            .find(|quote| value.starts_with(*quote) && value.matches(*quote).count() == 1)
            .map(|quote| (name, quote));
        variables.push((name, unquote(value)));
    }
    variables
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote) {
            return inner.split(quote).next().unwrap_or(inner);
        }
    }
    value.split(" #").next().unwrap_or(value).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_secrets_and_leaves_the_rest() {
        let env = "# comment\nexport DB_PASSWORD='s3cr et' # not this\nPORT=300000\nMODE=production\nDSN=postgres://u:p4ss@db/x\nNAME=quite-long\nPUB=v1.2.3-main\n";
        let host = env_file_variables(env);
        let rendered = [("API_TOKEN", "tok"), ("PGDATA", "/var/lib/postgresql")];
        let redactor = Redactor::new(host.into_iter(), rendered.into_iter(), &BTreeSet::from(["v1.2.3-main"]));
        let text = "s3cr et on 300000 in production with p4ss, quite-long tok v1.2.3-main /var/lib/postgresql postgres://u:p4ss@db/x";
        assert_eq!(
            redactor.clean(text),
            "*** on 300000 in production with ***, *** *** v1.2.3-main /var/lib/postgresql ***"
        );
    }

    #[test]
    fn a_password_of_digits_is_masked_and_a_port_is_not() {
        let host = [("DB_PASSWORD", "84729104"), ("KEYCLOAK_PORT", "8080"), ("MEMORY_BYTES", "67108864")];
        let redactor = Redactor::new(host.into_iter(), std::iter::empty(), &BTreeSet::new());
        assert_eq!(redactor.clean("84729104 8080 67108864"), "*** 8080 67108864");
    }

    #[test]
    fn a_value_is_masked_however_it_is_quoted() {
        let host = [("DB_PASSWORD", "p\"a\\s$s  w'd")];
        let redactor = Redactor::new(host.into_iter(), std::iter::empty(), &BTreeSet::new());
        let said = [
            r#"p"a\s$s  w'd"#,
            r#"p\"a\\s$s  w'd"#,
            r#"p\\\"a\\\\s$s  w'd"#,
            r#"p"a\s$$s  w'd"#,
            r#"p"a\s$s  w''d"#,
            r#"p"a\s$s w'd"#,
        ];
        for text in said {
            assert_eq!(redactor.clean(&format!("value {text} is bad")), "value *** is bad", "{text}");
        }
    }

    #[test]
    fn the_password_of_a_url_is_masked_as_a_driver_says_it() {
        let host = [("DATABASE", "postgres://u:p%40ss%2Fw@db/x")];
        let redactor = Redactor::new(host.into_iter(), std::iter::empty(), &BTreeSet::new());
        assert_eq!(redactor.clean("p@ss/w or p%40ss%2Fw"), "*** or ***");
        assert_eq!(percent_decoded("100%"), None);
    }

    #[test]
    fn a_part_of_a_value_that_was_not_understood_is_masked() {
        let host = [("DB_PASSWORD", "q\"7\\$ correct-horse  x"), ("HOOK_URL", "https://hooks.example/T0/horsebattery")];
        let redactor = Redactor::new(host.into_iter(), std::iter::empty(), &BTreeSet::new());
        // As Go says it of a size: the unit is cut off.
        let said = r#"parsing "q\"7\\$ correct-horse ": invalid syntax"#;
        assert!(redactor.clean(said).contains("horse"), "nothing to be seen by the other mask");
        assert_eq!(redactor.clean_complaint(said), r#"parsing "q\"7\***": invalid syntax"#);
        assert_eq!(
            redactor.clean_complaint("no https://hooks.example/ but orsebatter"),
            "no https://hooks.example/ but ***"
        );
        assert_eq!(redactor.clean_complaint("a (correct) guess"), "a (correct) guess");
    }

    #[test]
    fn every_line_of_a_key_is_masked() {
        let env = "A_KEY=\"-----BEGIN-----\nMIIEvQ\nIBADAN\n-----END-----\"\nPLAIN=yes\n";
        let host = env_file_variables(env);
        assert_eq!(host.last(), Some(&("PLAIN", "yes")));
        let redactor = Redactor::new(host.into_iter(), [("B_SECRET", "one1\ntwo2\n")].into_iter(), &BTreeSet::new());
        assert_eq!(redactor.clean("MIIEvQ IBADAN one1 two2 yes"), "*** *** *** *** yes");
    }

    #[test]
    fn finds_the_password_of_a_url() {
        assert_eq!(url_password("postgres://u:p@ss@db:5432/x"), Some("p@ss"));
        assert_eq!(url_password("postgres://db/x?a=b:c@d"), None);
        assert_eq!(url_password("sqlite:///x"), None);
    }
}
