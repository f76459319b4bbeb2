//! What the fuzz targets of all crates have in common; a dependency of tests alone. A target is a test that calls [`run`] with good inputs
//! and a function that must survive anything. [`mutate`] spoils the inputs; arbtest chooses how, and prints the seed of a failure, which
//! `ARBTEST_SEED` runs once more. Attacks and what was found before stand in `fuzz/corpus`, a folder per target, and are run first.
//!
//! `FUZZ_SECONDS` is the time of each target; `FUZZ_REPORT` names a file that gets a line per target.

pub mod mutate;

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The time of one target where nobody asks for more.
const DEFAULT_TIME_MS: u64 = 200;
/// Most bytes of randomness for one input.
const ENTROPY_MAX_BYTES: u32 = 4 * 1024;
/// One input may take this long; a parser that needs more can be made to stall what reads with it. Generous, since machines are busy.
const EXECUTION_MAX: Duration = Duration::from_secs(20);
/// One that takes longer is shown.
const SLOW: Duration = Duration::from_secs(1);
/// So much of a failing input is shown.
const SHOWN_MAX_BYTES: usize = 4 * 1024;

struct Target<F> {
    name: &'static str,
    run: F,
    executions: Cell<u64>,
    slowest: Cell<Duration>,
}

/// `seeds` are inputs that are taken, which the mutations start from.
///
/// # Panics
/// When `run` does, when it takes longer than a parser may, and when the report cannot be written.
pub fn run(name: &'static str, seeds: &[Vec<u8>], run: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "{name} has nothing to start from");
    let began = Instant::now();
    let target = Target { name, run, executions: Cell::new(0), slowest: Cell::new(Duration::ZERO) };
    for attack in corpus(name) {
        target.execute(&attack);
    }
    for seed in seeds {
        target.execute(seed);
    }
    arbtest::arbtest(|entropy| {
        let entropy = entropy.bytes(entropy.len())?;
        target.execute(&mutate::input(seeds, entropy));
        Ok(())
    })
    .size_max(ENTROPY_MAX_BYTES)
    .budget(time())
    .run();
    let (executions, slowest) = (target.executions.get(), target.slowest.get());
    report(&format!(
        "{name}\t{executions}\t{:.1}\t{:.1}\n",
        began.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3
    ));
}

impl<F: Fn(&[u8])> Target<F> {
    fn execute(&self, input: &[u8]) {
        let shown = ShownOnPanic { name: self.name, input };
        let began = Instant::now();
        (self.run)(input);
        let took = began.elapsed();
        assert!(took <= EXECUTION_MAX, "an input of {} bytes took {took:?}", input.len());
        if took > SLOW {
            eprintln!("{}: {took:?} for {} bytes: {:.300}", self.name, input.len(), input.escape_ascii().to_string());
        }
        self.executions.set(self.executions.get() + 1);
        self.slowest.set(self.slowest.get().max(took));
        drop(shown);
    }
}

/// Dropped while a panic unwinds, it shows what caused it.
struct ShownOnPanic<'a> {
    name: &'static str,
    input: &'a [u8],
}

impl Drop for ShownOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown = &self.input[..self.input.len().min(SHOWN_MAX_BYTES)];
            eprintln!("{}: {} bytes: {}", self.name, self.input.len(), shown.escape_ascii());
        }
    }
}

/// The attacks of a target, in the order of their names. None where there is no folder.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).collect()
}

fn time() -> Duration {
    let seconds = std::env::var("FUZZ_SECONDS").ok().map(|text| {
        text.parse::<f64>().unwrap_or_else(|error| panic!("FUZZ_SECONDS is {text:?}, which is no number: {error}"))
    });
    seconds.map_or(Duration::from_millis(DEFAULT_TIME_MS), Duration::from_secs_f64)
}

/// Target, executions, seconds, and the slowest execution in milliseconds.
fn report(line: &str) {
    eprint!("{line}");
    if let Some(path) = std::env::var_os("FUZZ_REPORT") {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }
}
