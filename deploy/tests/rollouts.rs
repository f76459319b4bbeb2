//! Every `rollouts/*.txt` is a rollout in words, and below its `---` what was decided and what that means for each host.
//!
//! The first line is `plan h1 | h2 h3 [hold] [block] [max=N] [deadline=MS] [away=H]`; then one line each: `say HOST accepted|updating|committed|
//! drift.VERB|VERB [over RELEASE] [as CODE]` (a terminal verb; what serves there instead, and why), `present H…` (all, before it is said),
//! `wait MS`, `abort TEXT`, `newer N`. `UPDATE_GOLDEN=1` writes what came out.
#![allow(clippy::disallowed_methods, reason = "the engine does no IO; its tests read scenarios")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use landfall_deploy::Order;
use landfall_deploy::rollout::{
    Admission, Facts, Verdict, View, admission, after_commit, decide, first_state, proofs_needed,
};
use landfall_schema::Timestamp;
use landfall_schema::ids::{Counter, Digest, EventId, HostName};
use landfall_schema::outcome::{Outcome, OutcomeKind, Reason, ReasonCode};
use landfall_schema::promotion::{BundleRef, Intent, Offline, OnFailure, Promotion, RolloutPlan, Wave};
use landfall_schema::rollout::RolloutState;

#[test]
fn rollouts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rollouts");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("scenarios").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("scenario");
        let (script, expect) = text.split_once("---\n").unwrap_or((&text, ""));
        let found = Run::play(script);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, format!("{script}---\n{found}")).expect("golden");
        } else {
            assert_eq!(found, expect, "{}", file.display());
        }
    }
}

/// Of a wave of 100 hosts each of the next wave asks for a bounded part, and together they ask for all.
#[test]
fn a_large_wave_is_proven_in_parts() {
    let names = |from: usize, to: usize| (from..to).map(|number| host(&format!("h{number}"))).collect::<Vec<_>>();
    let waves = vec![Wave::of(names(0, 100)), Wave::of(names(100, 104))];
    let first = order(RolloutPlan { waves, ..RolloutPlan::default() });
    let state = first_state(&first);
    let mut asked = BTreeSet::new();
    for host in names(100, 104) {
        let order = Order { host, ..first.clone() };
        let needed = proofs_needed(&order, &state);
        assert_eq!(needed.iter().collect::<BTreeSet<_>>().len(), 32);
        asked.extend(needed.into_iter().cloned());
    }
    assert_eq!(asked, names(0, 100).into_iter().collect());
}

#[test]
fn so_many_proofs_are_asked_for() {
    let names = |from: usize, to: usize| (from..to).map(|number| host(&format!("h{number}"))).collect::<Vec<_>>();
    for (hosts, asked) in [(31, 31), (32, 32), (33, 32)] {
        let waves = vec![Wave::of(names(0, hosts)), Wave::of(names(hosts, hosts + 1))];
        let order =
            Order { host: names(hosts, hosts + 1).remove(0), ..order(RolloutPlan { waves, ..RolloutPlan::default() }) };
        assert_eq!(proofs_needed(&order, &first_state(&order)).len(), asked);
    }
}

#[test]
fn the_promotion_says_how_long_a_host_bakes() {
    let of_stack_ms = 5_000;
    let bakes = |of_plan: u64, of_wave: Option<u64>| {
        let wave = Wave { bake_ms: of_wave, ..Wave::of(vec![host("h1")]) };
        order(RolloutPlan { waves: vec![wave], bake_ms: of_plan, ..RolloutPlan::default() }).bake_ms(of_stack_ms)
    };
    assert_eq!(bakes(0, None), 5_000);
    assert_eq!(bakes(1_000, None), 1_000);
    assert_eq!(bakes(1_000, Some(2_000)), 2_000);
    assert_eq!(bakes(3_000, Some(2_000)), 3_000);
    assert_eq!(bakes(0, Some(0)), 0);
}

struct Run {
    order: Order,
    state: RolloutState,
    view: View,
    present: BTreeSet<HostName>,
    aborted: Option<String>,
    newer: Option<Counter>,
    elapsed_ms: u64,
    out: String,
}

impl Run {
    fn play(script: &str) -> String {
        let mut lines = script.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let plan = plan(lines.next().expect("a plan"));
        let order = order(plan);
        let mut run = Self {
            state: first_state(&order),
            view: View::new(order.id),
            present: order.promotion.plan.hosts().cloned().collect(),
            aborted: None,
            newer: None,
            elapsed_ms: 0,
            out: String::new(),
            order,
        };
        run.show();
        for line in lines {
            run.line(line);
            run.settle();
        }
        run.out
    }

    fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "say" => self.say(rest),
            "present" => self.present = rest.split_whitespace().map(host).collect(),
            "wait" => self.elapsed_ms += rest.parse::<u64>().expect("milliseconds"),
            "abort" => self.aborted = Some(rest.to_owned()),
            "newer" => self.newer = Some(Counter(rest.parse().expect("a counter"))),
            other => panic!("unknown line {other:?}"),
        }
    }

    fn say(&mut self, rest: &str) {
        let (name, what) = rest.split_once(' ').expect("a host and what it says");
        let (what, code) = what.split_once(" as ").unwrap_or((what, "unhealthy"));
        let (what, former) = what.split_once(" over ").map_or((what, None), |(what, former)| (what, Some(former)));
        let kind = match what {
            "accepted" => OutcomeKind::ReleaseAccepted,
            "updating" => OutcomeKind::StackUpdating,
            "committed" => OutcomeKind::ReleaseCommitted,
            "drift.detected" => OutcomeKind::DriftDetected,
            "drift.repaired" => OutcomeKind::DriftRepaired,
            "drift.failed" => OutcomeKind::DriftFailed,
            verb => *OutcomeKind::ALL.iter().find(|kind| kind.is_terminal() && kind.verb() == verb).expect("a verb"),
        };
        let code: ReasonCode = serde_json::from_value(code.into()).expect("a reason code");
        let reason = kind.is_failure().then(|| Reason::new(code, "app is unhealthy"));
        let former = former.map(|former| former.parse().expect("a release"));
        let new = Outcome::new(kind, &host(name), &self.order.promotion, self.order.id);
        let outcome = Outcome { reason, former, ..new };
        self.view.fold(&outcome);
    }

    /// Decides until there is nothing to decide, as the executor does.
    fn settle(&mut self) {
        for _ in 0..20 {
            let facts = Facts {
                order: &self.order,
                state: &self.state,
                view: &self.view,
                present: &self.present,
                aborted: self.aborted.as_deref(),
                superseded_by: self.newer,
                elapsed_ms: self.elapsed_ms,
            };
            let Some(next) = decide(&facts) else { return };
            if (next.phase, next.wave) != (self.state.phase, self.state.wave) {
                self.elapsed_ms = 0;
            }
            self.state = next;
            self.show();
        }
        panic!("it goes on deciding");
    }

    fn show(&mut self) {
        let RolloutState { phase, wave, admitted, cause, not_reached, differing, .. } = &self.state;
        let cause = cause.as_ref().map_or(String::new(), |cause| format!(": {}", cause.message));
        let _ = writeln!(self.out, "{phase:?}, wave {wave}, admitted {admitted}{cause}");
        for (host, why) in not_reached {
            let _ = writeln!(self.out, "  not reached {host}: {why}");
        }
        for (host, what) in differing {
            let _ = writeln!(self.out, "  differs {host}: {what}");
        }
        let plan = &self.order.promotion.plan;
        for host in plan.hosts().chain(&plan.away) {
            let order = Order { host: host.clone(), ..self.order.clone() };
            let begin = match admission(&order, &self.state) {
                Admission::Now => {
                    let proofs: Vec<&str> =
                        proofs_needed(&order, &self.state).iter().map(|host| host.as_str()).collect();
                    if proofs.is_empty() {
                        "begins".to_owned()
                    } else {
                        format!("begins with the word of {}", proofs.join(" "))
                    }
                }
                Admission::Wait(on) => format!("waits ({on})"),
                Admission::Never(_) => "never begins".to_owned(),
            };
            let committed = match after_commit(&order, &self.state) {
                Verdict::Wait => "waits",
                Verdict::Keep(_) => "keeps it",
                Verdict::GoBack(_) => "goes back",
            };
            let _ = writeln!(self.out, "  {host} {begin}; committed, it {committed}");
        }
    }
}

fn host(name: &str) -> HostName {
    name.parse().expect("a host")
}

fn plan(line: &str) -> RolloutPlan {
    let mut plan = RolloutPlan { waves: vec![Wave::default()], deadline_ms: 900_000, ..RolloutPlan::default() };
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("plan"));
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("|", _) => plan.waves.push(Wave::default()),
            ("hold", _) => plan.on_failure = OnFailure::Hold,
            ("block", _) => plan.offline = Offline::Block,
            ("max", most) => {
                plan.waves.iter_mut().for_each(|wave| wave.max_parallel = Some(most.parse().expect("a number")));
            }
            ("deadline", ms) => plan.deadline_ms = ms.parse().expect("milliseconds"),
            ("away", name) => plan.away.push(host(name)),
            (name, _) => plan.waves.last_mut().expect("a wave").hosts.push(host(name)),
        }
    }
    plan.roster = Some(BundleRef { digest: Digest::of(b"roster"), bytes: 1 });
    plan
}

fn order(plan: RolloutPlan) -> Order {
    Order {
        host: host("h1"),
        id: EventId(uuid::Uuid::nil()),
        promotion: Promotion {
            env: "production".parse().expect("env"),
            app: "shop".parse().expect("app"),
            counter: Counter(2),
            release: "v2".parse().expect("release"),
            intent: Intent::Promote,
            images: Default::default(),
            variables: Default::default(),
            bundle: BundleRef { digest: Digest::of(b""), bytes: 0 },
            plan,
            only: Default::default(),
            preview: None,
            schema: None,
            evidence: None,
            author: "ci".to_owned(),
            link: None,
            expires_at: Timestamp::MAX,
        },
    }
}
