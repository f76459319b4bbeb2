//! What CI systems say about themselves in the environment: who promotes, and where to look it up.

use crate::context::Environment;

/// The person or job, for people to read.
pub fn author(environment: Environment<'_>) -> String {
    let named =
        ["LANDFALL_AUTHOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN", "GITEA_ACTOR", "BUILD_USER_ID", "USER", "LOGNAME"];
    let name = named.iter().find_map(|name| environment(name));
    name.unwrap_or_else(|| "unknown".to_owned())
}

/// The pipeline's page.
pub fn link(environment: Environment<'_>) -> Option<String> {
    let parts = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"].map(environment);
    if let [Some(server), Some(repository), Some(run)] = parts {
        return Some(format!("{server}/{repository}/actions/runs/{run}"));
    }
    ["CI_PIPELINE_URL", "CI_JOB_URL", "BUILD_URL"].iter().find_map(|name| environment(name))
}

/// The commit, as a release's name.
pub fn commit(environment: Environment<'_>) -> Option<String> {
    let full = ["GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT"].iter().find_map(|name| environment(name))?;
    Some(format!("sha-{}", full.chars().take(12).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ci_says() {
        let github = |name: &str| {
            let value = match name {
                "GITHUB_ACTOR" => "octo",
                "GITHUB_SERVER_URL" => "https://git.example",
                "GITHUB_REPOSITORY" => "acme/shop",
                "GITHUB_RUN_ID" => "7",
                "GITHUB_SHA" => "0123456789abcdef",
                "USER" => "runner",
                _ => return None,
            };
            Some(value.to_owned())
        };
        assert_eq!(author(&github), "octo");
        assert_eq!(link(&github).as_deref(), Some("https://git.example/acme/shop/actions/runs/7"));
        assert_eq!(commit(&github).as_deref(), Some("sha-0123456789ab"));
        assert_eq!((author(&|_| None).as_str(), link(&|_| None), commit(&|_| None)), ("unknown", None, None));
    }
}
