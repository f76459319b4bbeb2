//! `landfall preview`: stacks that live for a while beside all others, each a project of its own with networks and volumes of its own.

use clap::Subcommand;

pub mod list;
pub mod remove;

#[derive(Debug, Subcommand)]
pub enum PreviewCommand {
    /// The previews that there are, and until when
    List(list::ListArgs),
    /// Take a preview away with its networks and volumes
    Rm(remove::RemoveArgs),
}
