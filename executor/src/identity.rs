//! The host's own key, made at the first start; and the lock that keeps two daemons from one state directory.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use landfall_schema::signature::{SignatureError, SigningKey};
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// In the state directory: the seed (`SU…`) that signs this host's outcomes.
pub const SEED_FILE: &str = "host.seed";
const LOCK_FILE: &str = "lock";

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error(
        "cannot use the state directory {}\n  hint: it must be a directory that the executor may write to; `landfall-executor --check` tells more",
        path.display()
    )]
    StateDir { path: PathBuf, source: std::io::Error },
    #[error(
        "another executor runs with the state directory {}\n  hint: stop it, or give this one a state_dir of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("cannot read or write the host's key {}", path.display())]
    Seed { path: PathBuf, source: std::io::Error },
    #[error("the host's key {} is readable by others\n  hint: chmod 600 {}", path.display(), path.display())]
    SeedExposed { path: PathBuf },
    #[error("the host's key {} is no key\n  hint: restore it from a copy, or remove it: the host then makes a new one", path.display())]
    SeedUnusable { path: PathBuf, source: SignatureError },
}

/// The state directory, ours alone for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory when it is missing, and locks it.
    ///
    /// # Errors
    /// [`IdentityError::StateDir`], [`IdentityError::InUse`].
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::StateDir { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(IdentityError::InUse { path: path.to_owned() }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The host's key; made when there is none.
    ///
    /// # Errors
    /// Any [`IdentityError`] about the seed.
    pub fn host_key(&self) -> Result<SigningKey, IdentityError> {
        let path = self.path.join(SEED_FILE);
        match read_seed(&path) {
            Err(IdentityError::Seed { source, .. }) if source.kind() == ErrorKind::NotFound => make_seed(&path),
            other => other,
        }
    }
}

fn read_seed(path: &Path) -> Result<SigningKey, IdentityError> {
    let failed = |source| IdentityError::Seed { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(IdentityError::SeedExposed { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    SigningKey::from_seed(&text).map_err(|source| IdentityError::SeedUnusable { path: path.to_owned(), source })
}

/// Written aside and renamed, so that a crash leaves a whole seed or none.
fn make_seed(path: &Path) -> Result<SigningKey, IdentityError> {
    let failed = |source| IdentityError::Seed { path: path.to_owned(), source };
    let key = SigningKey::generate();
    let seed = key.seed().map_err(|source| IdentityError::SeedUnusable { path: path.to_owned(), source })?;
    let aside = path.with_extension("seed.new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside).map_err(failed)?;
    file.write_all(format!("{seed}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&aside, path).map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("state")).unwrap();
        let made = state.host_key().unwrap().public();
        assert_eq!(state.host_key().unwrap().public(), made);
        let seed = state.path().join(SEED_FILE);
        assert_eq!(std::fs::metadata(&seed).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&seed, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(state.host_key(), Err(IdentityError::SeedExposed { .. })));
    }

    #[test]
    fn one_daemon_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();
        assert!(matches!(StateDir::open(folder.path()), Err(IdentityError::InUse { .. })));
        drop(first);
        StateDir::open(folder.path()).unwrap();
    }
}
