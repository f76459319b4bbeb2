//! Named moments at which a test ends this process as a power cut would. They exist in builds with the feature `failpoints` alone: without
//! it a failpoint is nothing at all, not even its name, and no such build is shipped.
//!
//! The variable `LANDFALL_FAILPOINT_FILE` names a file that is read whenever a failpoint is passed:
//!
//! - no file, or an empty one: nothing happens;
//! - `trace`: every passing is written to `<file>.trace`, one name per line;
//! - `<name>:<nth>`: the same, and the process kills itself with SIGKILL at the nth passing since the file began to say so. Before that it
//!   writes `killed <name>` to the trace and to the disk, so that a test knows that the failpoint was reached.

/// Passes a failpoint; the name is written as `format!` takes it.
#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($($name:tt)+) => {
        $crate::failpoint::pass(&format!($($name)+))
    };
}

#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($($name:tt)+) => {};
}

pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
pub(crate) use armed::pass;

#[cfg(feature = "failpoints")]
mod armed {
    use std::ffi::{OsStr, OsString};
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::{Mutex, PoisonError};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    const FILE: &str = "LANDFALL_FAILPOINT_FILE";

    /// What the file said last, and how often its failpoint was passed since.
    static STANDING: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    /// A test's mistake in the file must not look like a failpoint that was never reached, so it ends the process.
    pub(crate) fn pass(name: &str) {
        let Some(file) = std::env::var_os(FILE) else { return };
        let order = match std::fs::read_to_string(&file) {
            Ok(order) if !order.trim().is_empty() => order.trim().to_owned(),
            Ok(_) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => panic!("{} cannot be read: {error}", file.display()),
        };
        let mut standing = STANDING.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.0 != order {
            *standing = (order.clone(), 0);
        }
        trace(&file, &format!("{name}\n")).expect("the trace of failpoints is written");
        let Some((wanted, nth)) = order.rsplit_once(':') else { return };
        if wanted != name {
            return;
        }
        standing.1 += 1;
        if standing.1 == nth.parse::<u64>().expect("a failpoint's passing is a number") {
            trace(&file, &format!("killed {name}\n")).expect("the trace of failpoints is written");
            // Nobody outlives this; the lock is held so that no other failpoint is passed meanwhile.
            kill(Pid::this(), Signal::SIGKILL).expect("this process may kill itself");
            loop {
                std::thread::park();
            }
        }
    }

    fn trace(file: &OsStr, line: &str) -> std::io::Result<()> {
        let mut path = OsString::from(file);
        path.push(".trace");
        let mut trace = File::options().create(true).append(true).open(path)?;
        trace.write_all(line.as_bytes())?;
        if line.starts_with("killed ") { trace.sync_all() } else { Ok(()) }
    }
}
