//! Says at which failpoint an executor ends itself with SIGKILL, and reads which ones it has passed (`executor/src/failpoint.rs`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::executor::Settings;

/// The build of the executor that has them.
pub const PROGRAM: &str = "landfall-executor-failpoints";

/// One executor's file of orders, and its trace.
#[derive(Debug, Clone)]
pub struct Failpoints {
    file: PathBuf,
}

impl Failpoints {
    pub fn in_folder(folder: &Path) -> Self {
        Self { file: folder.join("failpoint") }
    }

    /// Makes it the executor with failpoints, which follows these orders.
    pub fn equip(&self, settings: &mut Settings) {
        settings.program = PROGRAM;
        settings.environment.insert("LANDFALL_FAILPOINT_FILE".to_owned(), self.file.to_string_lossy().into_owned());
    }

    /// From now on every passing is written down, and nobody is killed.
    ///
    /// # Errors
    /// When the file cannot be written; so everywhere below.
    pub fn trace(&self) -> Result<()> {
        self.order("trace")
    }

    /// The executor ends itself at the nth passing from now.
    pub fn arm(&self, name: &str, nth: usize) -> Result<()> {
        self.order(&format!("{name}:{nth}"))
    }

    /// Nothing happens any more; what was passed so far can still be read.
    pub fn disarm(&self) -> Result<()> {
        absent_is_fine(std::fs::remove_file(&self.file))
    }

    /// The failpoints that were passed since the last order, in this order. The one that killed comes last, once more, after `killed `.
    pub fn passed(&self) -> Result<Vec<String>> {
        match std::fs::read_to_string(self.trace_file()) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).context("the trace of failpoints"),
        }
    }

    /// Whether the failpoint was reached, and ended the process.
    pub fn has_killed(&self, name: &str) -> Result<bool> {
        Ok(self.passed()?.contains(&format!("killed {name}")))
    }

    /// The executor may read at any moment, so the order is there whole or not at all.
    fn order(&self, order: &str) -> Result<()> {
        self.disarm()?;
        absent_is_fine(std::fs::remove_file(self.trace_file()))?;
        let aside = self.file.with_extension("new");
        std::fs::write(&aside, order)?;
        Ok(std::fs::rename(aside, &self.file)?)
    }

    fn trace_file(&self) -> PathBuf {
        let mut path = self.file.clone().into_os_string();
        path.push(".trace");
        path.into()
    }
}

fn absent_is_fine(removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
