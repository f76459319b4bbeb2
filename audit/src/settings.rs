//! What was asked for: flags, then environment variables, then defaults. Every mistake is told at once, before anything is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use landfall_bus::ConnectOptions;
use landfall_bus::connection::shown_url;
use landfall_schema::ids::{AppName, EnvName};
use thiserror::Error;

use crate::cli::{GlobalArgs, HistoryArgs, OutputFormat, RunArgs};
use crate::ledger::{DEFAULT_FILE, Database};
use crate::trust::{Trust, TrustedKey};

const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";
/// Of the consumers.
pub const DEFAULT_NAME: &str = "audit";
/// The server allows more; it also becomes part of subjects.
const CONSUMER_NAME_MAX_BYTES: usize = 63;

/// Reads one environment variable; a function so that tests need no process environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment. A variable that is set but empty counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[derive(Debug, Clone)]
pub struct RunSettings {
    pub connect: ConnectOptions,
    pub database: Database,
    pub trust: Trust,
    /// Of the durables on the bus.
    pub consumer: String,
}

#[derive(Debug, Clone)]
pub struct HistorySettings {
    pub database: Database,
    pub env: Option<EnvName>,
    pub app: Option<AppName>,
    pub limit: u32,
    pub output: OutputFormat,
}

/// Everything that is wrong with what was asked for.
#[derive(Debug, Error)]
pub struct SettingsError(pub Vec<Problem>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The flag or variable.
    pub at: String,
    pub what: String,
    pub hint: &'static str,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "1 setting is wrong:")?,
            count => write!(f, "{count} settings are wrong:")?,
        }
        for problem in &self.0 {
            write!(f, "\n  {}: {}\n    hint: {}", problem.at, problem.what, problem.hint)?;
        }
        Ok(())
    }
}

struct Reader<'a> {
    environment: Environment<'a>,
    problems: Vec<Problem>,
}

impl RunSettings {
    /// # Errors
    /// [`SettingsError`] with every mistake.
    pub fn find(global: &GlobalArgs, args: &RunArgs, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let database = reader.database(global);
        let connect = reader.connect(args);
        let trust = Trust(
            args.trust
                .iter()
                .filter(|text| !text.trim().is_empty())
                .filter_map(|text| reader.trusted_key(text))
                .collect(),
        );
        let consumer =
            reader.consumer(Some(args.name.as_str()).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME));
        match (database, consumer) {
            (Some(database), Some(consumer)) if reader.problems.is_empty() => {
                Ok(Self { connect, database, trust, consumer })
            }
            _ => Err(SettingsError(reader.problems)),
        }
    }
}

impl HistorySettings {
    /// # Errors
    /// [`SettingsError`] with every mistake.
    pub fn find(global: &GlobalArgs, args: &HistoryArgs, environment: Environment<'_>) -> Result<Self, SettingsError> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let database = reader.database(global);
        let env = reader.name("--env", args.env.as_deref());
        let app = reader.name("--app", args.app.as_deref());
        match database {
            Some(database) if reader.problems.is_empty() => {
                Ok(Self { database, env, app, limit: args.limit, output: args.output })
            }
            _ => Err(SettingsError(reader.problems)),
        }
    }
}

impl Reader<'_> {
    fn reject(&mut self, at: &str, what: impl fmt::Display, hint: &'static str) {
        self.problems.push(Problem { at: at.to_owned(), what: what.to_string(), hint });
    }

    fn database(&mut self, global: &GlobalArgs) -> Option<Database> {
        let text = match global.database.clone().filter(|text| !text.is_empty()) {
            Some(text) => text,
            None => self.secret_file("LANDFALL_AUDIT_DATABASE_FILE").unwrap_or_else(|| DEFAULT_FILE.to_owned()),
        };
        match text.parse() {
            Ok(database) => Some(database),
            Err(error) => {
                self.reject("--database", error, "give a file, or postgres://user:password@host/database");
                None
            }
        }
    }

    fn connect(&mut self, args: &RunArgs) -> ConnectOptions {
        let server =
            args.server.clone().filter(|url| !url.is_empty()).or_else(|| self.first(&["LANDFALL_SERVER", "NATS_URL"]));
        let url = server.unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        for one in url.split(',') {
            if one.trim().parse::<async_nats::ServerAddr>().is_err() {
                let what = format!("{:?} is not the address of a NATS server", shown_url(one));
                self.reject("--server", what, "an address looks like nats://nats.example.net:4222");
            }
        }
        let creds = args.creds.clone().filter(|path| !path.is_empty());
        let creds = creds.or_else(|| self.first(&["LANDFALL_CREDS", "NATS_CREDS"])).map(PathBuf::from);
        // A variable that is set but empty, as Compose passes it on, is not set.
        let user = args.user.clone().filter(|user| !user.is_empty());
        let password_file = args.password_file.as_deref().filter(|path| !path.is_empty());
        let ca = args.ca.as_deref().filter(|path| !path.is_empty()).map(PathBuf::from);
        let password = self.first(&["NATS_PASSWORD"]);
        let password = password.or_else(|| self.secret("--password-file", Path::new(password_file?)));
        for (at, path) in [("--creds", &creds), ("--ca", &ca)] {
            if let Some(path) = path {
                self.readable(at, path);
            }
        }
        let is_password_named = password.is_some() || password_file.is_some();
        if user.is_some() != is_password_named && creds.is_none() {
            let (has, lacks) = if user.is_some() { ("--user", "a password") } else { ("--password-file", "--user") };
            self.reject(has, format!("stands without {lacks}"), "--user and --password-file belong together");
        }
        ConnectOptions {
            url,
            name: "landfall-audit".to_owned(),
            creds,
            user_password: user.zip(password),
            token: self.first(&["NATS_TOKEN"]).or_else(|| self.secret_file("NATS_TOKEN_FILE")),
            nkey_seed: self.secret_file("NATS_NKEY"),
            ca,
        }
    }

    fn trusted_key(&mut self, text: &str) -> Option<TrustedKey> {
        match text.trim().parse() {
            Ok(key) => Some(key),
            Err(error) => {
                self.reject(
                    "--trust",
                    error,
                    "give a public key (U…), promote=KEY, admin=KEY, host=KEY or host:NAME=KEY",
                );
                None
            }
        }
    }

    fn consumer(&mut self, name: &str) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.len() <= CONSUMER_NAME_MAX_BYTES && name.chars().all(plain) {
            return Some(name.to_owned());
        }
        let shown: String = name.chars().take(CONSUMER_NAME_MAX_BYTES).collect();
        self.reject("--name", format!("{shown:?} cannot name a consumer"), "use up to 63 of A-Z a-z 0-9 _ -");
        None
    }

    fn name<T>(&mut self, at: &str, text: Option<&str>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        match text.filter(|text| !text.is_empty())?.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.reject(at, T::Err::to_string(&error), "`landfall-audit history` without it shows the names");
                None
            }
        }
    }

    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| (self.environment)(name))
    }

    /// The content of the file that a variable names.
    fn secret_file(&mut self, variable: &str) -> Option<String> {
        let path = (self.environment)(variable)?;
        self.secret(variable, Path::new(&path))
    }

    fn secret(&mut self, at: &str, path: &Path) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) => {
                let what = format!("cannot read {}: {error}", path.display());
                self.reject(at, what, "name a file that this user may read");
                None
            }
        }
    }

    fn readable(&mut self, at: &str, path: &Path) {
        if let Err(error) = std::fs::File::open(path) {
            let what = format!("cannot read {}: {error}", path.display());
            self.reject(at, what, "name a file that this user may read");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Result<RunSettings, SettingsError> {
        let cli = Cli::try_parse_from([&["landfall-audit", "run"], arguments].concat()).unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        RunSettings::find(&cli.global, &args, &environment)
    }

    #[test]
    fn defaults_need_nothing() {
        let settings = run(&[], &[]).unwrap();
        assert_eq!(settings.connect.url, "nats://127.0.0.1:4222");
        assert_eq!(settings.database.to_string(), DEFAULT_FILE);
        assert_eq!(settings.consumer, "audit");
    }

    #[test]
    fn what_is_set_but_empty_is_not_set() {
        let settings = run(
            &[
                "--trust",
                "",
                "--user",
                "",
                "--password-file",
                "",
                "--ca",
                "",
                "--database",
                "",
                "--name",
                "",
                "--log-format",
                "",
            ],
            &[],
        )
        .unwrap();
        assert!(
            settings.trust.0.is_empty() && settings.connect.user_password.is_none() && settings.connect.ca.is_none()
        );
        assert_eq!(settings.database.to_string(), DEFAULT_FILE);
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let variables = [("NATS_URL", "nats://b"), ("NATS_PASSWORD", "secret")];
        let settings = run(&["--server", "nats://a", "--user", "audit"], &variables).unwrap();
        assert_eq!(settings.connect.url, "nats://a");
        assert_eq!(settings.connect.user_password, Some(("audit".to_owned(), "secret".to_owned())));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let arguments = [
            "--database",
            "mysql://root:s3cr3t@db/x",
            "--server",
            "nats://ci:s3cr3t@[bad",
            "--creds",
            "/nowhere/audit.creds",
            "--trust",
            "nobody",
            "--name",
            "a.b",
        ];
        let error = run(&arguments, &[("NATS_TOKEN_FILE", "/nowhere/token")]).unwrap_err();
        let at: Vec<&str> = error.0.iter().map(|problem| problem.at.as_str()).collect();
        assert_eq!(at, ["--database", "--server", "--creds", "NATS_TOKEN_FILE", "--trust", "--name"]);
        let text = error.to_string();
        assert!(text.starts_with("6 settings are wrong:") && !text.contains("s3cr3t"), "{text}");
        assert_eq!(text.matches("hint: ").count(), 6);
    }

    #[test]
    fn a_consumer_has_a_short_name() {
        let of = |bytes: usize| run(&["--name", &"x".repeat(bytes)], &[]).map(|settings| settings.consumer.len());
        assert_eq!(of(CONSUMER_NAME_MAX_BYTES).unwrap(), CONSUMER_NAME_MAX_BYTES);
        let error = of(CONSUMER_NAME_MAX_BYTES + 1).unwrap_err().to_string();
        assert!(error.contains("cannot name a consumer") && error.contains("hint:"), "{error}");
    }
}
