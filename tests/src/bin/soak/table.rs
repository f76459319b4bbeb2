//! What a run has seen, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use landfall_schema::outcome::OutcomeKind;

use crate::faults::Kind;
use crate::oracle::Findings;
use crate::record::Record;
use crate::release::Offer;
use crate::run::{CONVERGE_LIMIT, ends};
use crate::samples::{
    ANONYMOUS_GROWTH_MAX_BYTES, FILES_GROWTH_MAX, Growth, Life, SAMPLE_INTERVAL, SAMPLES_MIN, THREADS_GROWTH_MAX,
};

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) struct Page<'a> {
    pub(crate) seed: u64,
    pub(crate) took: Duration,
    pub(crate) hosts: usize,
    pub(crate) record: &'a Record,
    pub(crate) lives: &'a [Life],
    pub(crate) findings: &'a Findings,
}

impl Page<'_> {
    pub(crate) fn text(&self) -> Result<String> {
        let mut page = String::new();
        let seconds = self.took.as_secs();
        writeln!(page, "Seed {}, {} hosts, {} min {} s.\n", self.seed, self.hosts, seconds / 60, seconds % 60)?;
        self.releases(&mut page)?;
        self.reasons(&mut page)?;
        self.faults(&mut page)?;
        self.usage(&mut page)?;
        self.oracles(&mut page)?;
        Ok(page)
    }

    fn releases(&self, page: &mut String) -> Result<()> {
        let inner = self.record.lock();
        let mut offers: BTreeMap<Offer, (u64, BTreeMap<OutcomeKind, u64>)> = BTreeMap::new();
        for (&counter, ordered) in &inner.ordered {
            let row = offers.entry(ordered.offer).or_default();
            row.0 += 1;
            for kind in ordered.hosts.iter().flat_map(|host| inner.terminals(host, counter)) {
                *row.1.entry(kind).or_default() += 1;
            }
        }
        writeln!(page, "| release | promoted | how it ended on the hosts |\n|---|---:|---|")?;
        for (offer, (promoted, ends)) in &offers {
            writeln!(page, "| {offer} | {promoted} | {} |", listed(ends))?;
        }
        let promoted = inner.ordered.len();
        let converged = inner.converged.iter().max().copied().unwrap_or_default();
        let (quiet, looks) = (inner.converged.len(), inner.looks);
        drop(inner);
        let ends = ends(self.record);
        let deploys: u64 = ends.values().sum();
        writeln!(page, "| **all** | **{promoted}** | {deploys} deploys: {} |\n", listed(&ends))?;
        writeln!(
            page,
            "{quiet} quiet points; after the faults everything had come to its end within {:.1} s at most (bound: {} s). The engines were \
             looked at {looks} times.\n",
            converged.as_secs_f64(),
            CONVERGE_LIMIT.as_secs()
        )?;
        Ok(())
    }

    /// Why deploys did not succeed, by the code of the reason.
    fn reasons(&self, page: &mut String) -> Result<()> {
        let inner = self.record.lock();
        let mut reasons: BTreeMap<(OutcomeKind, String), u64> = BTreeMap::new();
        for outcome in inner.heard.iter().map(|one| &one.data).filter(|outcome| outcome.kind.is_terminal()) {
            if let Some(reason) = &outcome.reason {
                *reasons.entry((outcome.kind, reason.code.as_str())).or_default() += 1;
            }
        }
        let one = |((kind, code), count): (&(OutcomeKind, String), &u64)| format!("{count} {} {code}", kind.verb());
        let listed: Vec<String> = reasons.iter().map(one).collect();
        writeln!(page, "Why deploys did not succeed: {}.\n", listed.join(", "))?;
        Ok(())
    }

    fn faults(&self, page: &mut String) -> Result<()> {
        let inner = self.record.lock();
        writeln!(page, "| fault | tried | injected | survived |\n|---|---:|---:|---:|")?;
        let mut sums = [0, 0, 0];
        for kind in Kind::ALL {
            let of_kind = || inner.faults.iter().filter(|fault| fault.kind == kind);
            let row = [
                of_kind().count(),
                of_kind().filter(|fault| fault.fired).count(),
                of_kind().filter(|fault| fault.survived).count(),
            ];
            writeln!(page, "| {kind} | {} | {} | {} |", row[0], row[1], row[2])?;
            (0..3).for_each(|column| sums[column] += row[column]);
        }
        writeln!(page, "| **all** | {} | **{}** | **{}** |\n", sums[0], sums[1], sums[2])?;
        Ok(())
    }

    fn usage(&self, page: &mut String) -> Result<()> {
        writeln!(
            page,
            "| process | lives | longest | anonymous memory | resident memory | open files | threads |\n|---|---:|---:|---:|---:|---:|---:|"
        )?;
        let mut processes: BTreeMap<&str, Vec<&Life>> = BTreeMap::new();
        for life in self.lives {
            processes.entry(&life.process).or_default().push(life);
        }
        for (process, lives) in processes {
            let Some(longest) = lives.iter().max_by_key(|life| life.samples.len()) else { continue };
            let Some(Growth { first, last }) = longest.growth() else {
                writeln!(page, "| {process} | {} | too short to say anything | | | | |", lives.len())?;
                continue;
            };
            let minutes = longest.samples.len() as f64 * SAMPLE_INTERVAL.as_secs_f64() / 60.0;
            let mib = |first: u64, last: u64| format!("{:.1} → {:.1} MiB", first as f64 / MIB, last as f64 / MIB);
            writeln!(
                page,
                "| {process} | {} | {minutes:.1} min{} | {} | {} | {} → {} | {} → {} |",
                lives.len(),
                if longest.is_judged() { "" } else { " (not judged)" },
                mib(first.anonymous, last.anonymous),
                mib(first.resident, last.resident),
                first.files,
                last.files,
                first.threads,
                last.threads,
            )?;
        }
        writeln!(
            page,
            "\nThe longest life of each, medians of its first and last quarter; a sample each {} s. More than {:.0} MiB, {FILES_GROWTH_MAX} files or \
             {THREADS_GROWTH_MAX} threads of growth in any life of {SAMPLES_MIN} samples or more is a failure.\n",
            SAMPLE_INTERVAL.as_secs(),
            ANONYMOUS_GROWTH_MAX_BYTES as f64 / MIB,
        )?;
        Ok(())
    }

    fn oracles(&self, page: &mut String) -> Result<()> {
        writeln!(page, "| oracle | checks | violations |\n|---|---:|---:|")?;
        for (name, found) in &self.findings.rows {
            writeln!(page, "| {name} | {} | {} |", found.checked, found.violations.len())?;
        }
        Ok(())
    }
}

fn listed(ends: &BTreeMap<OutcomeKind, u64>) -> String {
    let one = |(kind, count): (&OutcomeKind, &u64)| format!("{count} {}", kind.verb().replace('_', " "));
    ends.iter().map(one).collect::<Vec<_>>().join(", ")
}
