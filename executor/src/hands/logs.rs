//! Last lines of output, made fit for an outcome: few, short, without control characters and secrets.

use landfall_schema::outcome::{LOG_LINE_MAX_BYTES, LOG_TAIL_MAX_LINES, LogTail};

use super::redact::Redactor;

/// The last lines of `text`; a line that repeats itself stands once, with how often, so that what came before it is seen as well.
pub(crate) fn tail(source: &str, text: &str, redactor: &Redactor) -> LogTail {
    let text = redactor.clean(text);
    let mut runs: Vec<(String, usize)> = Vec::new();
    for line in text.lines().rev().map(|line| plain(line, redactor)).filter(|line| !line.is_empty()) {
        let full = runs.len() == LOG_TAIL_MAX_LINES;
        match runs.last_mut().filter(|(last, _)| *last == line) {
            Some((_, count)) => *count += 1,
            None if full => break,
            None => runs.push((line, 1)),
        }
    }
    let lines = runs.into_iter().rev().map(|(line, count)| repeated(line, count)).collect();
    LogTail { source: source.to_owned(), lines }
}

fn repeated(line: String, count: usize) -> String {
    if count == 1 { line } else { format!("{line} ({count} times)") }
}

/// The last line that says something, for a one-line message.
pub(crate) fn last_line(text: &str, redactor: &Redactor) -> Option<String> {
    let text = redactor.clean(text);
    text.lines().rev().map(|line| plain(line, redactor)).find(|line| !line.is_empty())
}

/// A terminal's colours in the middle of a secret hide it from the mask until they are taken out, so it is looked for once more.
fn plain(line: &str, redactor: &Redactor) -> String {
    let plain = redactor.clean(&without_escapes(line));
    let plain = plain.trim_end();
    if plain.len() <= LOG_LINE_MAX_BYTES {
        return plain.to_owned();
    }
    let mut end = LOG_LINE_MAX_BYTES - '…'.len_utf8();
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &plain[..end])
}

/// Drops terminal escape sequences and other control characters; tabs become spaces.
fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // `ESC [ … letter` is the usual form; of any other only the next character belongs to it.
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| ('@'..='~').contains(c));
                }
            }
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_short_and_plain() {
        let text: String = (0..30).map(|i| format!("\u{1b}[31mline\u{1b}[0m\t{i}\r\n\n")).collect();
        let tail = tail("app", &text, &Redactor::default());
        assert_eq!(tail.lines.len(), LOG_TAIL_MAX_LINES);
        assert_eq!(tail.lines.first().map(String::as_str), Some("line 10"));
        assert_eq!(tail.lines.last().map(String::as_str), Some("line 29"));
        let repeating = super::tail("app", "fatal: no template\nGET: 503\nGET: 503\nGET: 503\n", &Redactor::default());
        assert_eq!(repeating.lines, ["fatal: no template", "GET: 503 (3 times)"]);
        let long = super::tail("app", &"ä".repeat(1_000), &Redactor::default());
        assert!(long.lines[0].len() <= LOG_LINE_MAX_BYTES && long.lines[0].ends_with('…'));
    }

    #[test]
    fn colours_hide_no_secret() {
        let secret = [("DB_PASSWORD", "correct-horse")];
        let redactor = Redactor::new(secret.into_iter(), std::iter::empty(), &Default::default());
        let text = "\u{1b}[2mcorrect\u{1b}[0m-horse\ncorr\u{7}ect-horse\n";
        assert_eq!(tail("app", text, &redactor).lines, ["*** (2 times)"]);
        assert_eq!(last_line(text, &redactor).as_deref(), Some("***"));
    }

    #[test]
    fn a_line_at_its_limit_is_whole() {
        let tail = |bytes: usize| tail("app", &"x".repeat(bytes), &Redactor::default()).lines[0].clone();
        assert_eq!(tail(LOG_LINE_MAX_BYTES), "x".repeat(LOG_LINE_MAX_BYTES));
        assert!(tail(LOG_LINE_MAX_BYTES + 1).ends_with('…'));
        let lines = |count: usize| (0..count).map(|n| format!("{n}\n")).collect::<String>();
        let first = |count: usize| super::tail("app", &lines(count), &Redactor::default()).lines[0].clone();
        assert_eq!([first(LOG_TAIL_MAX_LINES), first(LOG_TAIL_MAX_LINES + 1)], ["0", "1"]);
    }
}
