//! The command line as CI and operators use it: what it prints, and the exit codes of `docs/exit-codes.md`.

mod around;
mod choice;
mod ends;
mod fleet;
mod output;

use anyhow::Result;
use landfall_tests::cli::{Cli, Run};
use landfall_tests::image::AppImage;
use landfall_tests::scenario::Scenario;
use landfall_tests::stack::Stack;

const DONE: i32 = 0;
const ERROR: i32 = 1;
const USAGE: i32 = 2;
const ROLLED_BACK: i32 = 3;
const FAILED: i32 = 4;
const STUCK: i32 = 5;
const REFUSED: i32 = 6;
const NOT_REACHED: i32 = 7;
const RACED: i32 = 8;
const SUPERSEDED: i32 = 9;
const HELD: i32 = 12;
const ABORTED: i32 = 13;
const INTERRUPTED: i32 = 130;
const BROKEN_PIPE: i32 = 141;

/// One host, and the CLI as a CI job has it.
struct Job {
    scenario: Scenario,
    cli: Cli,
}

impl Job {
    async fn new() -> Result<Self> {
        let scenario = Scenario::start().await?;
        let cli = scenario.cli()?;
        Ok(Self { scenario, cli })
    }

    async fn push(&self, version: &str) -> Result<Stack> {
        Ok(Stack::app(&self.scenario.push(version, AppImage::version(version)).await?))
    }

    /// `landfall promote shop` with this stack and these arguments.
    async fn promote(&self, name: &str, stack: &Stack, arguments: &[&str]) -> Result<Run> {
        let file = self.scenario.compose_file(name, stack)?;
        let mut all = vec!["promote", "shop", "--file", &file, "--release", name];
        all.extend(arguments);
        self.cli.run(&all).await
    }

    /// Promotes a version that works, and waits.
    async fn deploy(&self, version: &str) -> Result<Stack> {
        let stack = self.push(version).await?;
        let run = self.promote(version, &stack, &["--wait"]).await?;
        assert_eq!(run.code, DONE, "{run:?}");
        self.scenario.assert_serves(version).await?;
        Ok(stack)
    }
}
