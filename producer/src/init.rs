//! `landfall init`: a signing key and a context. Nothing that exists is overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use clap::Args;
use landfall_schema::signature::SigningKey;
use serde::Serialize;

use crate::context::{DEFAULT_CONTEXT, check_context_name, context_path, key_path};
use crate::error::{CliError, ExitCode};
use crate::session::Session;

/// The context that `init` writes: documentation, template and test in one.
const TEMPLATE: &str = include_str!("init/context.toml");

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The context's name. Default: `default`, or the one of --context
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Only print the public key that exists
    #[arg(long)]
    pub show_key: bool,
}

#[derive(Debug, Serialize)]
struct Made<'a> {
    context: &'a Path,
    signing_key: &'a Path,
    public_key: &'a str,
    /// What was there before and was left alone.
    kept: Vec<&'a Path>,
}

pub async fn run(args: InitArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let name = args.name.as_deref().or(cli.settings.context.as_deref()).unwrap_or(DEFAULT_CONTEXT);
    check_context_name(name)?;
    if args.show_key {
        let public = match &args.name {
            Some(name) => cli.read_signing_key(&key_path(&cli.settings.config_dir, name))?,
            None => cli.signing_key()?,
        }
        .public();
        if cli.output.is_json() {
            cli.output.json(&serde_json::json!({ "public_key": public }))?;
        } else {
            cli.output.line(public.as_str())?;
        }
        return Ok(ExitCode::Done);
    }
    let dir = &cli.settings.config_dir;
    let (context, key) = (context_path(dir, name), key_path(dir, name));
    let mut kept = Vec::new();

    let seed = SigningKey::generate().seed().map_err(|error| CliError::from_error(&error))?;
    if !create(&key, &format!("{seed}\n"))? {
        kept.push(key.as_path());
    }
    let text = fs::read_to_string(&key).map_err(|error| failed(&key, &error))?;
    let public = SigningKey::from_seed(&text)
        .map_err(|error| {
            CliError::new(format!("the key {} is not usable", key.display()))
                .because(&error)
                .hint("move it away and run `landfall init` again")
        })?
        .public();
    if !create(&context, &filled(&cli.settings.connect.url, cli.settings.env.as_ref().map(|env| env.as_str())))? {
        kept.push(context.as_path());
    }

    let made = Made { context: &context, signing_key: &key, public_key: public.as_str(), kept };
    if cli.output.is_json() {
        cli.output.json(&made)?;
        return Ok(ExitCode::Done);
    }
    for path in [&key, &context] {
        let what = if made.kept.contains(&path.as_path()) { "was there already, kept:" } else { "wrote" };
        cli.output.note(format!("{what} {}", path.display()));
    }
    cli.output.note("Hosts that shall obey this key need this line in executor.toml, section [trust]:");
    cli.output.line(format!("promote = [\"{public}\"]"))?;
    cli.output.note("next: `landfall bus apply`, then `landfall promote APP --env ENV --wait`");
    Ok(ExitCode::Done)
}

/// The template with what is known already filled in.
fn filled(url: &str, env: Option<&str>) -> String {
    let text = TEMPLATE.replace("nats://127.0.0.1:4222", &landfall_bus::connection::shown_url(url));
    match env {
        Some(env) => text.replace("# env = \"staging\"", &format!("env = \"{env}\"")),
        None => text,
    }
}

/// Writes a file for its owner alone; `false` when it exists.
fn create(path: &Path, text: &str) -> Result<bool, CliError> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(|error| failed(parent, &error))?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| failed(path, &error))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("cannot write {}", path.display()))
        .because(error)
        .hint("choose another place with XDG_CONFIG_HOME")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::context::Context;

    #[test]
    fn the_template_is_a_context_also_with_every_line_in_use() {
        let plain: Context = toml::from_str(TEMPLATE).unwrap();
        assert_eq!(plain.url.as_deref(), Some("nats://127.0.0.1:4222"));
        let uncommented: Vec<&str> = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(line))
            .collect();
        let all: Context = toml::from_str(&uncommented.join("\n")).unwrap();
        assert!(all.env.is_some() && all.creds.is_some() && all.host_keys.len() == 1, "{all:?}");
    }

    #[test]
    fn what_is_known_is_filled_in_without_passwords() {
        let context: Context = toml::from_str(&filled("nats://u:p@bus:4222", Some("prod"))).unwrap();
        assert_eq!((context.url.as_deref(), context.env.unwrap().as_str()), (Some("nats://bus:4222"), "prod"));
    }
}
