//! What `--env` names: an environment, or one preview in it, as `preview/pr-123`.

use std::fmt;
use std::str::FromStr;

use landfall_schema::ids::{AppName, EnvName, IdError, NAME_MAX_BYTES};

use crate::error::CliError;

/// The environment of previews, unless the command line names another.
pub const PREVIEW_ENV: &str = "preview";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvArg {
    pub env: EnvName,
    pub preview: Option<AppName>,
}

impl FromStr for EnvArg {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.split_once('/') {
            Some((env, preview)) => Ok(Self { env: env.parse()?, preview: Some(preview.parse()?) }),
            None => Ok(Self { env: text.parse()?, preview: None }),
        }
    }
}

impl fmt::Display for EnvArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.preview {
            Some(preview) => write!(f, "{}/{preview}", self.env),
            None => write!(f, "{}", self.env),
        }
    }
}

/// A preview's own application: `shop--pr-123`.
///
/// # Errors
/// When that is too long for a name.
pub fn preview_app(of: &AppName, preview: &AppName) -> Result<AppName, CliError> {
    AppName::new(format!("{of}--{preview}")).map_err(|error| {
        let most = NAME_MAX_BYTES.saturating_sub(of.as_str().len() + 2);
        CliError::from_error(&error).hint(format!("a preview of {of} has a name of at most {most} bytes"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_environment_or_a_preview_in_it() {
        for (text, preview) in [("staging", None), ("preview/pr-123", Some("pr-123"))] {
            let arg: EnvArg = text.parse().unwrap();
            assert_eq!((arg.preview.as_ref().map(AppName::as_str), arg.to_string().as_str()), (preview, text));
        }
        for text in ["", "/", "preview/", "/pr-1", "a/b/c", "pre view/pr"] {
            assert!(text.parse::<EnvArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_preview_has_an_application_of_its_own() {
        let name = |text: &str| text.parse::<AppName>().unwrap();
        assert_eq!(preview_app(&name("shop"), &name("pr-123")).unwrap(), name("shop--pr-123"));
        assert!(preview_app(&name(&"a".repeat(40)), &name(&"b".repeat(22))).is_err());
    }
}
