//! A disk of a few megabytes, and filling it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::statvfs::statvfs;

const FILLER: &str = "filler";

/// Gone when dropped, with what is on it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// In this folder, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn at(path: &Path, size_mb: u32) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        let options = format!("size={size_mb}m,mode=700");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output()?;
        ensure!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { path: path.to_owned() })
    }

    /// Until not one more byte fits.
    ///
    /// # Errors
    /// When something else than the disk's end stops it.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.path.join(FILLER))?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        let left = statvfs(&self.path)?.blocks_available();
        ensure!(left == 0, "{left} blocks are left");
        Ok(())
    }

    /// # Errors
    /// When it was not filled.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.path.join(FILLER)).context("the disk was not filled")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // At once for who looks it up, and really when the last file is closed.
        if let Err(error) = Command::new("umount").arg("--lazy").arg(&self.path).status() {
            eprintln!("{} is still mounted: {error}", self.path.display());
        }
    }
}
