//! `make bench` and `make bench-scale`. Ratios and growth are what counts, since machines differ. Markdown goes to stdout, narration to stderr.
//!
//! `bench host [RUNS]`, `bench fleet [RUNS [HOSTS...]]`, `bench scale [HOSTS...]`: how often each way is measured, and on how many hosts.

mod fleet;
mod host;
mod median;
mod scale;

use anyhow::{Context as _, Result, bail};

const HOST_RUNS: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let what = words.next();
    let numbers = words.map(|word| word.parse().with_context(|| word.clone())).collect::<Result<Vec<usize>>>()?;
    let page = match what.as_deref() {
        Some("host") => host::run(numbers.first().copied().unwrap_or(HOST_RUNS)).await?,
        Some("fleet") => fleet::run(&numbers).await?,
        Some("scale") => scale::run(&numbers).await?,
        _ => bail!("bench host [RUNS] | bench fleet [RUNS [HOSTS...]] | bench scale [HOSTS...]"),
    };
    print!("{page}");
    Ok(())
}
