//! Reads compose files as they were promoted, before Compose does: bounded, since a few lines of aliases can stand for more than memory holds.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Entries that the aliases of one file may stand for, all together. Compose itself has no limit.
const ALIASED_ENTRIES_MAX: usize = 50_000;

#[derive(Debug)]
pub(crate) enum Unread {
    /// The aliases stand for more than [`ALIASED_ENTRIES_MAX`], or there is more of something than any stack needs.
    Bomb,
    /// With tags that only Compose knows, or with a mistake that Compose will tell.
    Other,
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bomb => write!(
                f,
                "it is too large to be read: its aliases stand for more than {ALIASED_ENTRIES_MAX} entries, or it is nested too deeply"
            ),
            Self::Other => f.write_str("it cannot be read without Compose"),
        }
    }
}

/// How deeply a file may be nested. The reader has a limit as well, and comes to the end of its stack before it in a text of brackets.
const NESTED_MAX: usize = 64;

/// What is open at most at one time: brackets, and lists that begin on one line.
fn nesting(text: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    for c in text.chars() {
        match c {
            '[' | '{' => open += 1,
            ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    let lists =
        text.lines().map(|line| line.split_whitespace().take_while(|word| matches!(*word, "-" | "?" | ":")).count());
    deepest.max(lists.max().unwrap_or(0))
}

pub(crate) fn read(text: &str) -> Result<Value, Unread> {
    read_as(text)
}

/// Where a text is wanted, it is what was written, also if it looks like a number or a truth value.
pub(crate) fn read_as<T: DeserializeOwned>(text: &str) -> Result<T, Unread> {
    if nesting(text) > NESTED_MAX {
        return Err(Unread::Bomb);
    }
    let mut options = serde_saphyr::Options::default();
    options.alias_limits.max_total_replayed_events = ALIASED_ENTRIES_MAX;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        // The variants are wrapped in others that show a piece of the text. `Budget` is the reader's own: depth, nodes, aliases for each anchor.
        let shown = format!("{error:?}").to_lowercase();
        if ["alias", "budget"].iter().any(|name| shown.contains(name)) { Unread::Bomb } else { Unread::Other }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_have_an_end() {
        // A list with its begin and end is a thousand entries.
        let list = vec!["x"; 998].join(", ");
        let of = |entries: usize| {
            let aliases = vec!["*a"; entries / 1_000].join(", ");
            format!("a: &a [{list}]\nb: [{aliases}]\n")
        };
        assert!(read(&of(ALIASED_ENTRIES_MAX)).is_ok());
        // One more alias of the list.
        assert!(matches!(read(&of(ALIASED_ENTRIES_MAX + 1_000)), Err(Unread::Bomb)));
        let laughs = include_str!("../../../fuzz/corpus/compose-lint/billion-laughs.yml");
        assert!(matches!(read(laughs), Err(Unread::Bomb)));
        assert!(matches!(read("a: [\n"), Err(Unread::Other)));
        let deep = |depth: usize| format!("services: {}{}\n", "{a: ".repeat(depth), "}".repeat(depth));
        assert!(read(&deep(NESTED_MAX - 8)).is_ok());
        for bomb in [deep(NESTED_MAX + 1), deep(2_000), format!("a:\n{}x\n", "- ".repeat(2_000)), "[".repeat(100_000)] {
            assert!(matches!(read(&bomb), Err(Unread::Bomb)));
        }
    }
}
