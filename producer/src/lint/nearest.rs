//! "Did you mean": the known name that is closest to a mistyped one.

/// Most single changes between a mistyped name and what was meant.
const CHANGES_MAX: usize = 4;

pub(super) fn did_you_mean(typed: &str, known: &[&str]) -> Option<String> {
    nearest(typed, known).map(|name| format!("did you mean `{name}`?"))
}

pub(super) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = CHANGES_MAX.min(typed.chars().count() / 2);
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let typed = normal(typed);
    let close = known.iter().map(|name| (distance(&typed, &normal(name)), *name)).filter(|(far, _)| *far <= limit);
    let begun =
        known.iter().find(|name| typed.len() >= 3 && (normal(name).starts_with(&typed) || typed.starts_with(*name)));
    close.min().map(|(_, name)| name).or(begun.copied())
}

/// `a, b and c`, each in backticks.
pub(super) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".to_owned(),
    }
}

/// Levenshtein's distance: insertions, deletions and replacements of characters.
fn distance(a: &str, b: &str) -> usize {
    // Names that matter are short; a huge key must not cost quadratic time.
    if a.len() > 100 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes() {
        let known = ["interval_ms", "deadline_ms", "passes", "http", "tcp"];
        for (typed, expect) in [
            ("intervall_ms", Some("interval_ms")),
            ("interval-ms", Some("interval_ms")),
            ("interval", Some("interval_ms")),
            ("Http", Some("http")),
            ("pases", Some("passes")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), expect, "{typed}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), &known), None);
        assert_eq!(listed(&known[..3]), "`interval_ms`, `deadline_ms` and `passes`");
        assert_eq!(listed(&[]), "none");
    }

    #[test]
    fn what_is_too_far_is_not_suggested() {
        assert_eq!(nearest("XXXXline_ms", &["deadline_ms"]), Some("deadline_ms"));
        assert_eq!(nearest("XXXXXine_ms", &["deadline_ms"]), None);
    }
}
