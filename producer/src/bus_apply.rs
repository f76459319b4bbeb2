//! `landfall bus apply`: the streams and buckets as they should be. Nothing is ever deleted.

use clap::Args;
use landfall_bus::LayoutChange;
use landfall_bus::connection::shown_url;
use serde_json::json;

use crate::error::{CliError, ExitCode};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Show what would change, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn run(args: ApplyArgs, cli: &Session) -> Result<ExitCode, CliError> {
    let bus = cli.bus().await?;
    let changes = if args.dry_run { bus.diff().await? } else { bus.apply().await? };
    if cli.output.is_json() {
        let changes: Vec<_> = changes.iter().map(as_json).collect();
        cli.output.json(&json!({ "dry_run": args.dry_run, "changes": changes }))?;
        return Ok(ExitCode::Done);
    }
    if !changes.is_empty() {
        let (create, change) = if args.dry_run { ("create", "change") } else { ("created", "changed") };
        let rows = changes.iter().map(|found| {
            let action = if found.creates() { create } else { change };
            vec![action.to_owned(), found.what.clone(), detail(found)]
        });
        cli.output.table(&["action", "what", "detail"], rows)?;
    }
    let server = shown_url(&cli.settings.connect.url);
    cli.output.note(match (changes.len(), args.dry_run) {
        (0, _) => format!("{server} holds everything as it should be"),
        (n, true) => format!("{n} to do on {server}; nothing was changed"),
        (n, false) => format!("{n} done on {server}"),
    });
    Ok(ExitCode::Done)
}

fn detail(change: &LayoutChange) -> String {
    if change.creates() {
        return change.description.clone();
    }
    let settings =
        change.settings.iter().map(|setting| format!("{}: {} -> {}", setting.name, setting.have, setting.want));
    settings.collect::<Vec<_>>().join(", ")
}

fn as_json(change: &LayoutChange) -> serde_json::Value {
    let settings: Vec<_> = change
        .settings
        .iter()
        .map(|setting| json!({ "name": setting.name, "have": setting.have, "want": setting.want }))
        .collect();
    let action = if change.creates() { "create" } else { "change" };
    json!({ "action": action, "what": change.what, "description": change.description, "settings": settings })
}
