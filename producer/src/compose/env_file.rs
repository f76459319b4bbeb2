//! Files of `NAME=value` lines, as Compose reads them for interpolation.

use std::collections::BTreeMap;

use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line} is not NAME=value")]
pub struct EnvFileError {
    pub line: usize,
}

/// The values of the file. Errors name the line only: the file may hold secrets.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, EnvFileError> {
    let mut values = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let malformed = EnvFileError { line: index + 1 };
        let (name, value) = line.split_once('=').ok_or(malformed.clone())?;
        let name = name.trim();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
            return Err(malformed);
        }
        values.insert(name.to_owned(), unquoted(value.trim()));
    }
    Ok(values)
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote) {
            // What follows the closing quote is a comment.
            return inner.split_once(quote).map_or(inner, |(inner, _)| inner).to_owned();
        }
    }
    value.split(" #").next().unwrap_or(value).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_env_file() {
        let text =
            "# ours\nTAG=v1 # the tag\nexport REG = r.example\n\nA=\"x # y\" # z\nB='q'\nURL=http://h/#a\nEMPTY=\n";
        let expect =
            [("A", "x # y"), ("B", "q"), ("EMPTY", ""), ("REG", "r.example"), ("TAG", "v1"), ("URL", "http://h/#a")];
        let expect = expect.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(parse(text), Ok(expect));
        assert_eq!(parse("A=1\nsecret value"), Err(EnvFileError { line: 2 }));
        assert_eq!(parse("a b=1"), Err(EnvFileError { line: 1 }));
    }
}
