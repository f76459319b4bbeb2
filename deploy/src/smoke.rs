//! Judges the answer to a smoke test's HTTP request.

use landfall_schema::stack::Expectation;

/// Most characters of a body that an error repeats.
const SHOWN_MAX_CHARS: usize = 200;

/// # Errors
/// One line that says what was expected and what came.
pub fn judge_http(expect: &Expectation, status: u16, body: &str) -> Result<(), String> {
    match expect.status {
        Some(wanted) if wanted != status => return Err(format!("answered {status}, expected {wanted}{}", shown(body))),
        None if !(200..300).contains(&status) => {
            return Err(format!("answered {status}, expected 200 to 299{}", shown(body)));
        }
        _ => {}
    }
    match &expect.body {
        Some(wanted) if !body.contains(wanted.as_str()) => {
            Err(format!("the body does not contain {wanted:?}{}", shown(body)))
        }
        _ => Ok(()),
    }
}

fn shown(body: &str) -> String {
    let line: String = body.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX_CHARS).collect();
    if line.trim().is_empty() { String::new() } else { format!("; it said: {}", line.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let any = Expectation::default();
        assert_eq!(judge_http(&any, 204, ""), Ok(()));
        assert_eq!(judge_http(&any, 500, "boom\n"), Err("answered 500, expected 200 to 299; it said: boom".to_owned()));
        let exact = Expectation { status: Some(404), body: Some("gone".to_owned()) };
        assert_eq!(judge_http(&exact, 404, "it is gone"), Ok(()));
        assert_eq!(judge_http(&exact, 200, ""), Err("answered 200, expected 404".to_owned()));
        assert_eq!(
            judge_http(&exact, 404, "here"),
            Err("the body does not contain \"gone\"; it said: here".to_owned())
        );
    }

    #[test]
    fn what_is_shown_of_an_answer_is_cut() {
        for past in [0, 1] {
            assert_eq!(
                shown(&"é".repeat(SHOWN_MAX_CHARS + past)),
                format!("; it said: {}", "é".repeat(SHOWN_MAX_CHARS))
            );
        }
    }
}
