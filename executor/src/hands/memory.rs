//! Texts that Compose reads like files: as they were when they were checked, whoever exchanges the file meanwhile, and without a secret on
//! any disk.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// `MFD_NOEXEC_SEAL`: kernels since 6.3 may insist on it (sysctl `vm.memfd_noexec`), older ones do not know it.
const NEVER_A_PROGRAM: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// Not printable: it may hold secrets.
#[derive(Clone)]
pub(crate) struct Text {
    /// What it stands for, in messages.
    name: PathBuf,
    text: Arc<str>,
}

/// There for other programs as long as this lives.
pub(crate) struct Opened<'a> {
    file: File,
    name: &'a Path,
}

impl Text {
    pub(crate) fn new(name: PathBuf, text: impl Into<Arc<str>>) -> Self {
        Self { name, text: text.into() }
    }

    pub(crate) fn open(&self) -> io::Result<Opened<'_>> {
        // Not inherited: Compose finds it below, and nobody whom Compose starts has it open.
        let file = memfd_create(c"landfall", MFdFlags::MFD_CLOEXEC | NEVER_A_PROGRAM);
        let file = file.or_else(|error| match error {
            Errno::EINVAL => memfd_create(c"landfall", MFdFlags::MFD_CLOEXEC),
            other => Err(other),
        });
        let mut file = File::from(file?);
        file.write_all(self.text.as_bytes())?;
        Ok(Opened { file, name: &self.name })
    }
}

impl Opened<'_> {
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// What a program said of the path, told of what it stands for.
    pub(crate) fn named(&self, said: &str) -> String {
        said.replace(&*self.path().to_string_lossy(), &self.name.to_string_lossy())
    }
}

/// Compose writes all paths that it was given on its containers; this one leads nowhere any more.
pub(crate) fn is_past(path: &Path) -> bool {
    path.starts_with("/proc")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    #[test]
    fn another_program_reads_it_as_often_as_it_likes() {
        let text = Text::new("/opt/shop/.env".into(), "A=1\n");
        let opened = text.open().unwrap();
        let path = opened.path();
        let read = Command::new("cat").args([&path, &path]).output().unwrap();
        assert_eq!(String::from_utf8(read.stdout).unwrap(), "A=1\nA=1\n");
        assert_eq!(opened.named(&format!("{}: line 1", path.display())), "/opt/shop/.env: line 1");
        assert!(is_past(&path));
        drop(opened);
        assert!(!path.exists());
    }
}
