//! The command line. Each command's own arguments stand in the command's file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::EXIT_CODES_HELP;
use crate::target::EnvArg;

/// Deploys releases to Docker hosts, and proves that they run.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, after_help = EXIT_CODES_HELP, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The environment, e.g. staging, or a preview, e.g. preview/pr-123; without it LANDFALL_ENV, the context
    #[arg(long, global = true, value_name = "ENV")]
    pub env: Option<EnvArg>,
    /// A context of Landfall or of the NATS CLI; without it LANDFALL_CONTEXT, then `default`, then NATS_CONTEXT
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The NATS server; without it LANDFALL_SERVER, NATS_URL, the context
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// A NATS credentials file; without it LANDFALL_CREDS, NATS_CREDS, the context
    #[arg(long, global = true, value_name = "FILE")]
    pub creds: Option<PathBuf>,
    /// How to print what was found: human (the default) or json; without it LANDFALL_OUTPUT
    #[arg(long, global = true, value_enum, hide_possible_values = true)]
    pub output: Option<OutputFormat>,
    /// Print results only, no narration
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Colours on the terminal; NO_COLOR and CLICOLOR_FORCE are heeded as well
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorWhen,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    #[default]
    Human,
    /// JSON on standard output: one document, or one event a line where things are followed
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a signing key and a context
    Init(crate::init::InitArgs),
    /// The streams and buckets on the NATS server
    #[command(subcommand)]
    Bus(BusCommand),
    /// Deploy a release to an environment
    Promote(Box<crate::promote::PromoteArgs>),
    /// Go back to the last release that worked
    Rollback(crate::rollback::RollbackArgs),
    /// Let no further host of a rollout begin; those under way finish
    Halt(crate::halt::HaltArgs),
    /// Let a halted rollout go on
    Resume(crate::halt::HaltArgs),
    /// End a rollout: every host that had moved goes back
    Abort(crate::halt::HaltArgs),
    /// Stacks that live for a while beside all others; made with `promote --env preview/NAME`
    #[command(subcommand)]
    Preview(crate::preview::PreviewCommand),
    /// Let a promotion pass that waits for approvals
    Approve(crate::gates::approve::ApproveArgs),
    /// Forbid a promotion that waits for approvals
    Reject(crate::gates::approve::RejectArgs),
    /// Let nothing be promoted for a while; rollbacks pass. Without --reason and --until: what is frozen
    Freeze(crate::gates::freeze::FreezeArgs),
    /// End a freeze
    Unfreeze(crate::gates::freeze::UnfreezeArgs),
    /// Allow what hosts have condemned. Without RELEASE: what is condemned
    Absolve(crate::gates::absolve::AbsolveArgs),
    /// The rules of an environment
    #[command(subcommand)]
    Policy(crate::gates::policy::PolicyCommand),
    /// Who migrates a database, and what to do after one that nobody knows the end of
    #[command(subcommand)]
    Migration(crate::migration::MigrationCommand),
    /// What serves where
    Status(crate::status::StatusArgs),
    /// The promotions of the past and how they ended
    History(crate::history::HistoryArgs),
    /// Follow deploys as they happen
    Watch(crate::watch::WatchArgs),
    /// The hosts: who is here, who is away, and what each runs
    Hosts(crate::hosts::HostsArgs),
    /// Check compose files and their x-landfall settings
    Lint(crate::lint::LintArgs),
    /// Check everything that a deploy needs
    Doctor(crate::doctor::DoctorArgs),
    /// Print a completion script for a shell
    Completions(crate::complete::CompletionsArgs),
}

#[derive(Debug, Subcommand)]
pub enum BusCommand {
    /// Create what is missing and change what differs; nothing is ever deleted
    Apply(crate::bus_apply::ApplyArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
