//! A wall clock of one process' own, that can be set while it runs. The machine's stays as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::executor::Settings;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clock/shift.c");

#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    shift: PathBuf,
}

impl Clock {
    /// Right at first; what it is made of is written to `folder`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(folder: &Path) -> Result<Self> {
        let (library, shift) = (folder.join("clock.so"), folder.join("clock"));
        let output = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(SOURCE).output();
        let output = output.context("cc, the C compiler that building Rust needs too")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        let clock = Self { library, shift };
        clock.set(0)?;
        Ok(clock)
    }

    /// From its next start on the executor goes by this clock.
    pub fn give_to(&self, settings: &mut Settings) {
        for (name, path) in [("LD_PRELOAD", &self.library), ("LANDFALL_TEST_CLOCK", &self.shift)] {
            settings.environment.insert(name.to_owned(), path.to_string_lossy().into_owned());
        }
    }

    /// So many seconds ahead of the machine's; behind it if negative.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set(&self, ahead_s: i64) -> Result<()> {
        let new = self.shift.with_extension("new");
        std::fs::write(&new, ahead_s.to_string())?;
        Ok(std::fs::rename(new, &self.shift)?)
    }
}
