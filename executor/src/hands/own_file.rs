//! Files of the stack's own folder that the executor itself reads, as root. A container that has the folder mounted can put anything in their
//! place: a link to somebody else's secrets, or a pipe at which a reader waits for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum OwnFileError {
    #[error("{} leads to {}, which is outside of the stack's folder", path.display(), real.display())]
    Outside { path: PathBuf, real: PathBuf },
    #[error("{} is no file", path.display())]
    NoFile { path: PathBuf },
    #[error("{} has more than {most} bytes", path.display())]
    TooLong { path: PathBuf, most: u64 },
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// What lies there is looked at before it is opened for reading: to open a device, or a pipe, is to do something with it. It is asked of what
/// was found, so that nobody exchanges it in between. `anywhere` takes links to other folders too.
fn open(path: &Path, folder: &Path, anywhere: bool) -> Result<File, OwnFileError> {
    let failed = |source| OwnFileError::Read { path: path.to_owned(), source };
    let found = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path).map_err(failed)?;
    if !found.metadata().map_err(failed)?.is_file() {
        return Err(OwnFileError::NoFile { path: path.to_owned() });
    }
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    let real = std::fs::read_link(&itself).map_err(failed)?;
    if !anywhere && !real.starts_with(folder.canonicalize().map_err(failed)?) {
        return Err(OwnFileError::Outside { path: path.to_owned(), real });
    }
    File::open(itself).map_err(failed)
}

/// The whole text, or none when there is no such file.
pub(crate) fn text(path: &Path, folder: &Path, most: u64, anywhere: bool) -> Result<Option<String>, OwnFileError> {
    let failed = |source| OwnFileError::Read { path: path.to_owned(), source };
    let file = match open(path, folder, anywhere) {
        Err(OwnFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 <= most {
        true => Ok(Some(text)),
        false => Err(OwnFileError::TooLong { path: path.to_owned(), most }),
    }
}

/// As much as is looked at of a file of the folder.
pub(crate) fn beginning(path: &Path, folder: &Path, most: u64) -> Result<Vec<u8>, OwnFileError> {
    let mut bytes = Vec::new();
    let failed = |source| OwnFileError::Read { path: path.to_owned(), source };
    open(path, folder, false)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_file_of_the_folder_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        let read = || text(&path, folder.path(), 8, false);
        assert_eq!(read().unwrap(), None);
        for (length, is_read) in [(8, true), (9, false)] {
            std::fs::write(&path, "x".repeat(length)).unwrap();
            assert_eq!(read().is_ok(), is_read, "{length}");
            assert_eq!(beginning(&path, folder.path(), 8).unwrap().len(), 8);
        }
        assert!(read().unwrap_err().to_string().ends_with(".env has more than 8 bytes"));
    }

    #[test]
    fn what_was_planted_in_place_of_a_file_is_not_read() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("stack");
        std::fs::create_dir(&folder).unwrap();
        let foreign = outer.path().join("foreign");
        for file in [&foreign, &folder.join("own")] {
            std::fs::write(file, "A=1").unwrap();
        }
        let path = folder.join(".env");
        let told = |anywhere| text(&path, &folder, 8, anywhere).map_err(|error| error.to_string());
        symlink(folder.join("own"), &path).unwrap();
        assert_eq!(told(false), Ok(Some("A=1".to_owned())));
        // The folder itself may be a link.
        let another_way = outer.path().join("link");
        symlink(&folder, &another_way).unwrap();
        assert!(text(&another_way.join(".env"), &another_way, 8, false).is_ok());

        std::fs::remove_file(&path).unwrap();
        symlink(&foreign, &path).unwrap();
        assert!(told(false).unwrap_err().ends_with("which is outside of the stack's folder"));
        assert!(beginning(&path, &folder, 8).is_err());
        assert_eq!(told(true), Ok(Some("A=1".to_owned())));

        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(told(false).unwrap_err().ends_with("is no file") && told(true).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(told(false).unwrap_err().ends_with("is no file"));
    }
}
