//! One line of the table of faults: how often a fault was made to happen, and how often what it must not break was whole afterwards.

use std::fmt::Display;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};

/// Where `make faults` collects the lines.
const TABLE: &str = "LANDFALL_FAULTS_TABLE";

/// A fault of one test. What was never seen to fire is no test of anything, so [`Fault::end`] fails then.
#[derive(Debug)]
pub struct Fault {
    name: String,
    injected: u32,
    survived: u32,
}

impl Fault {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), injected: 0, survived: 0 }
    }

    /// It was seen to have happened; `evidence` says by what.
    pub fn fired(&mut self, evidence: impl Display) {
        self.injected += 1;
        eprintln!("fault: {}: fired: {evidence}", self.name);
    }

    /// All that must hold after it was seen to hold.
    ///
    /// # Errors
    /// When it has not fired since the last time.
    pub fn survived(&mut self) -> Result<()> {
        ensure!(self.injected > self.survived, "{}: it never fired", self.name);
        self.survived += 1;
        Ok(())
    }

    /// # Errors
    /// When it never fired, or was not survived each time.
    pub fn end(self) -> Result<()> {
        ensure!(self.injected > 0, "{}: it never fired", self.name);
        ensure!(self.survived == self.injected, "{}: survived {} of {}", self.name, self.survived, self.injected);
        Ok(())
    }

    fn write(&self) -> Result<()> {
        let Some(path) = std::env::var_os(TABLE) else { return Ok(()) };
        let mut file = std::fs::File::options().create(true).append(true).open(&path).context("the table of faults")?;
        // One write, since tests run beside each other.
        let line = format!("{}\t{}\t{}\n", self.name, self.injected, self.survived);
        Ok(file.write_all(line.as_bytes())?)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // A test that failed in between has its line too.
        if let Err(error) = self.write() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}
