//! Judges readiness from samples: container state, the container's own health check, the executor's probe, restarts.

/// What makes a service ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Consecutive passes of the executor's probe.
    pub passes: u32,
    /// With neither a health check nor a probe, the container must have run for this long.
    pub settle_ms: u64,
    /// A one-shot of the compose file that knows nothing of Landfall: ending with code 0 is success, and expected.
    pub completes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    /// Frozen by somebody: it is there, and serves nobody.
    Paused,
    Restarting,
    Exited {
        code: i64,
    },
}

/// The container's own health check; absent where the image and the compose file define none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    Starting,
    Healthy,
    Unhealthy,
}

/// One look at a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// On any clock that only goes forward, in milliseconds.
    pub at_ms: u64,
    pub state: ContainerState,
    pub health: Option<HealthState>,
    /// The executor's own probe; `None` where none is configured.
    pub probe: Option<Result<(), String>>,
    /// How often the engine restarted the container since it was made.
    pub restarts: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Pending,
    Ready,
    /// Cannot become ready any more; one line that says why.
    Failed(String),
}

/// Folds the samples of one container into a verdict.
#[derive(Debug, Clone)]
pub struct Judge {
    rules: Rules,
    started_at_ms: u64,
    restarts_before: Option<u32>,
    passes: u32,
    last_complaint: String,
}

impl Judge {
    pub fn new(rules: Rules, started_at_ms: u64) -> Self {
        Self { rules, started_at_ms, restarts_before: None, passes: 0, last_complaint: "no sample yet".to_owned() }
    }

    /// Why the service is not ready yet, for the message when time runs out.
    pub fn complaint(&self) -> &str {
        &self.last_complaint
    }

    pub fn observe(&mut self, sample: &Sample) -> Verdict {
        let before = *self.restarts_before.get_or_insert(sample.restarts);
        if sample.restarts > before {
            return Verdict::Failed(format!("the container restarted {} time(s)", sample.restarts - before));
        }
        match sample.state {
            ContainerState::Exited { code: 0 } if self.rules.completes => Verdict::Ready,
            ContainerState::Exited { code } => Verdict::Failed(format!("the container exited with code {code}")),
            ContainerState::Restarting => Verdict::Failed("the container is being restarted".to_owned()),
            ContainerState::Paused => self.not_yet("the container is paused".to_owned()),
            ContainerState::Created => self.not_yet("the container has not started".to_owned()),
            ContainerState::Running => self.observe_running(sample),
        }
    }

    fn observe_running(&mut self, sample: &Sample) -> Verdict {
        if self.rules.completes {
            return self.not_yet("the one-shot has not finished".to_owned());
        }
        match (&sample.health, &sample.probe) {
            (Some(HealthState::Unhealthy), _) => {
                Verdict::Failed("the container's own health check says unhealthy".to_owned())
            }
            (Some(HealthState::Starting), _) => {
                self.not_yet("the container's own health check has not passed".to_owned())
            }
            (_, Some(Err(why))) => self.not_yet(why.clone()),
            (_, Some(Ok(()))) => self.pass(self.rules.passes),
            (Some(HealthState::Healthy), None) => self.pass(1),
            (None, None) if sample.at_ms.saturating_sub(self.started_at_ms) >= self.rules.settle_ms => self.pass(1),
            (None, None) => self.not_yet(format!("the container has not run for {} ms", self.rules.settle_ms)),
        }
    }

    fn pass(&mut self, needed: u32) -> Verdict {
        self.passes += 1;
        if self.passes >= needed {
            return Verdict::Ready;
        }
        self.last_complaint = format!("passed {} of {needed} probes", self.passes);
        Verdict::Pending
    }

    fn not_yet(&mut self, why: String) -> Verdict {
        self.passes = 0;
        self.last_complaint = why;
        Verdict::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `script` has a sample a word, 100 ms apart: `c`reated, `r`unning, `e<code>`, `R`estarting; then optionally `+h`ealthy, `+s`tarting,
    /// `+u`nhealthy; `+ok` or `+no` for the probe; `+1` for a restart.
    fn check(rules: Rules, script: &str, expect: &str) {
        let mut judge = Judge::new(rules, 0);
        let verdicts: Vec<String> = script
            .split_whitespace()
            .enumerate()
            .map(|(i, word)| match judge.observe(&sample(i as u64 * 100, word)) {
                Verdict::Pending => ".".to_owned(),
                Verdict::Ready => "ready".to_owned(),
                Verdict::Failed(why) => format!("failed({why})"),
            })
            .collect();
        assert_eq!(verdicts.join(" "), expect, "{script}");
    }

    fn sample(at_ms: u64, word: &str) -> Sample {
        let mut parts = word.split('+');
        let state = match parts.next() {
            Some("c") => ContainerState::Created,
            Some("r") => ContainerState::Running,
            Some("R") => ContainerState::Restarting,
            Some(exit) => ContainerState::Exited { code: exit[1..].parse().expect("an exit code") },
            None => unreachable!("split yields at least one part"),
        };
        let mut sample = Sample { at_ms, state, health: None, probe: None, restarts: 0 };
        for part in parts {
            match part {
                "h" => sample.health = Some(HealthState::Healthy),
                "s" => sample.health = Some(HealthState::Starting),
                "u" => sample.health = Some(HealthState::Unhealthy),
                "ok" => sample.probe = Some(Ok(())),
                "no" => sample.probe = Some(Err("refused".to_owned())),
                n => sample.restarts = n.parse().expect("a number of restarts"),
            }
        }
        sample
    }

    #[test]
    fn verdicts() {
        let rules = Rules { passes: 2, settle_ms: 200, completes: false };
        check(rules, "c r r r", ". . ready ready");
        check(rules, "r r r", ". . ready");
        check(rules, "r+s r+s r+h", ". . ready");
        check(rules, "r+s r+u", ". failed(the container's own health check says unhealthy)");
        check(rules, "r+no r+ok r+ok", ". . ready");
        check(rules, "r+ok r+no r+ok r+ok", ". . . ready");
        check(rules, "r+s+ok r+h+ok r+h+ok", ". . ready");
        check(rules, "r r+1", ". failed(the container restarted 1 time(s))");
        check(rules, "r+3 r+3 r+3", ". . ready");
        check(rules, "r e1", ". failed(the container exited with code 1)");
        check(rules, "e0", "failed(the container exited with code 0)");
        check(rules, "R", "failed(the container is being restarted)");
        let one_shot = Rules { completes: true, ..rules };
        check(one_shot, "c r r r e0", ". . . . ready");
        check(one_shot, "r e7", ". failed(the container exited with code 7)");
    }
}
