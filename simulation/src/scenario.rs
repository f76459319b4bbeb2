//! What is done in one run, and what goes wrong in it: a list that the seed makes, and that can be made shorter.

use std::fmt;

use landfall_executor::world::Step;
use landfall_schema::halt::HaltCommand;

use crate::catalogue::Quality;
use crate::chance::Chance;
use crate::machine::Ambush;
use crate::server::{Cut, Weather};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) hosts: usize,
    pub(crate) weather: Weather,
    /// Every promotion needs an approval, and gets it after a while.
    pub(crate) approvals: bool,
    /// How often the engine says that it did what it did not, in a thousand.
    pub(crate) engine_lies: u64,
    pub(crate) actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) at_ms: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Promote(Promote),
    /// A signed promotion of what had succeeded before.
    RollBack,
    Say(HaltCommand),
    Kill {
        host: usize,
        down_ms: u64,
    },
    Terminate {
        host: usize,
        down_ms: u64,
    },
    Ambush {
        host: usize,
        ambush: Ambush,
    },
    Cut {
        host: usize,
        how: Cut,
        for_ms: u64,
    },
    Deafen {
        host: usize,
        for_ms: u64,
    },
    Replay {
        host: usize,
    },
    ServerStops {
        for_ms: u64,
        power_cut: bool,
    },
    SetClock {
        host: usize,
        skew_ms: i64,
    },
    FillDisk {
        host: usize,
        for_ms: u64,
    },
    Forge(Forgery),
    /// The rules of the environment are said once more.
    Rule,
    /// From here on it is counted how often every step is reached.
    Count,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promote {
    pub(crate) quality: Quality,
    pub(crate) migration: Option<MigrationKind>,
    /// It takes its time, and others come meanwhile.
    pub(crate) slow: bool,
    /// How many hosts each wave has; the last one takes the rest.
    pub(crate) waves: Vec<usize>,
    /// The hosts act together.
    pub(crate) coordinated: bool,
    pub(crate) hold: bool,
    pub(crate) max_parallel: Option<u32>,
    /// This release goes to the first so many hosts only.
    pub(crate) only: Option<usize>,
}

/// What a run is mostly about: of all that can go wrong at once, what belongs together rarely meets by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    Anything,
    Migrations,
    Rollbacks,
    Rollouts,
    Strangers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MigrationKind {
    InTransaction,
    WithoutTransaction,
    Failing,
}

/// What somebody without a promoter's key puts on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgery {
    /// A promotion that a stranger has signed.
    Promotion,
    /// An old promotion once more.
    Replayed,
    /// The newest promotion with another image, under the old signature.
    Changed,
    /// Nothing that can be read.
    Junk,
    /// An outcome that a host never told.
    Outcome,
    /// A rollout's state that none of its hosts has signed.
    State,
}

/// Every write of the journal that a deploy depends on, and every effect. Nobody collects traces here, so that what keeps them is never written.
pub(crate) const WRITES: [&str; 8] =
    ["take", "record", "end", "commit", "mark_published", "tell_again", "refuse", "keep_rule"];
pub(crate) const EFFECTS: [&str; 11] = [
    "release",
    "image",
    "migration",
    "a migration",
    "stack",
    "readiness",
    "smoke",
    "bake",
    "commit",
    "restore",
    "prove former",
];

impl Scenario {
    pub(crate) fn of(seed: u64) -> Self {
        let chance = Chance::new(seed ^ 0x1a4d_fa11);
        let theme = match chance.below(8) {
            0..4 => Theme::Anything,
            4 => Theme::Migrations,
            5 => Theme::Rollbacks,
            6 => Theme::Rollouts,
            _ => Theme::Strangers,
        };
        let hosts = match chance.below(100) {
            0..55 => chance.between(1, 3),
            55..90 => chance.between(4, 6),
            90..98 => chance.between(7, 10),
            _ => chance.between(11, 20),
        };
        let hosts = usize::try_from(hosts).unwrap_or(1);
        let stormy = chance.happens(600);
        let per_mille = |most| if stormy { chance.below(most) } else { 0 };
        let weather = Weather {
            request_lost: per_mille(60),
            answer_lost: per_mille(60),
            delayed: per_mille(200),
            delivered_twice: per_mille(300),
            delivery_lost: per_mille(200),
            tick_lost: per_mille(400),
            stale_read: per_mille(300),
        };
        let approvals = chance.happens(150);
        let engine_lies = match theme {
            Theme::Rollbacks => 250,
            _ if chance.happens(150) => 150,
            _ => 0,
        };
        let mut actions = Vec::new();
        let mut at_ms = 500;
        let promotions = chance.between(2, 6);
        for number in 0..promotions {
            let what = match chance.below(100) {
                0..14 if number > 0 => What::RollBack,
                _ => What::Promote(promote(&chance, hosts, theme)),
            };
            actions.push(Action { at_ms, what });
            if chance.happens(120) {
                let command = match chance.below(3) {
                    0 => HaltCommand::Halt,
                    1 => HaltCommand::Resume,
                    _ => HaltCommand::Abort,
                };
                actions.push(Action { at_ms: at_ms + chance.below(8_000), what: What::Say(command) });
            }
            at_ms += match chance.below(10) {
                0..3 => chance.between(50, 3_000),
                _ => chance.between(5_000, 60_000),
            };
        }
        let faults = if theme == Theme::Strangers { chance.between(8, 24) } else { chance.below(9) };
        for _ in 0..faults {
            let what = if chance.happens(600) { fault_of(&chance, hosts, theme) } else { fault(&chance, hosts) };
            actions.push(Action { at_ms: chance.below(at_ms), what });
        }
        // While what was said of the rules is still at the end of its stream.
        if approvals && chance.happens(400) {
            let what = What::ServerStops { for_ms: chance.between(500, 20_000), power_cut: true };
            actions.push(Action { at_ms: chance.between(50, 3_000), what });
        }
        actions.sort_by_key(|action| action.at_ms);
        Self { seed, hosts, weather, approvals, engine_lies, actions }
    }

    pub(crate) fn end_ms(&self) -> u64 {
        self.actions.iter().map(Action::until_ms).max().unwrap_or(0)
    }
}

fn promote(chance: &Chance, hosts: usize, theme: Theme) -> Promote {
    let is_bad = match theme {
        Theme::Rollbacks | Theme::Rollouts => 600,
        Theme::Migrations => 150,
        _ => 380,
    };
    let quality = match chance.below(100) {
        _ if !chance.happens(is_bad) => Quality::Good,
        0..15 => Quality::CannotBePulled,
        15..45 => Quality::NeverBecomesReady,
        45..60 => Quality::FailsItsSmokeTest,
        60..80 => Quality::DiesWhileBaking,
        _ => Quality::FailsOnTheLastHost,
    };
    let migrates = if theme == Theme::Migrations { 850 } else { 340 };
    let migration = chance.happens(migrates).then(|| match chance.below(100) {
        0..50 => MigrationKind::InTransaction,
        50..90 => MigrationKind::WithoutTransaction,
        _ => MigrationKind::Failing,
    });
    let waves = match chance.below(3) {
        0 => Vec::new(),
        1 => vec![1],
        _ => vec![1, usize::try_from(chance.between(1, hosts as u64)).unwrap_or(1)],
    };
    Promote {
        quality,
        migration,
        slow: chance.happens(if theme == Theme::Migrations { 600 } else { 100 }),
        waves,
        coordinated: hosts > 1 && chance.happens(if theme == Theme::Rollouts { 1_000 } else { 800 }),
        hold: chance.happens(200),
        max_parallel: chance.happens(150).then(|| 1 + u32::try_from(chance.below(2)).unwrap_or(0)),
        only: chance.happens(80).then(|| usize::try_from(chance.between(1, hosts as u64)).unwrap_or(1)),
    }
}

/// What hurts most where the theme is.
fn fault_of(chance: &Chance, hosts: usize, theme: Theme) -> What {
    let host = usize::try_from(chance.below(hosts as u64)).unwrap_or(0);
    let at = |steps: &[Step]| {
        let step = steps[usize::try_from(chance.below(steps.len() as u64)).unwrap_or(0)];
        What::Ambush { host, ambush: Ambush { step, nth: chance.between(1, 2), is_torn: false } }
    };
    match theme {
        Theme::Anything => fault(chance, hosts),
        Theme::Migrations => match chance.below(4) {
            0 => What::Cut { host, how: Cut::Both, for_ms: chance.between(20_000, 150_000) },
            1 => What::Kill { host, down_ms: chance.between(100, 90_000) },
            _ => at(&[
                Step::BeforeEffect("migration"),
                Step::BeforeEffect("a migration"),
                Step::AfterEffect("a migration"),
                Step::AfterEffect("migration"),
            ]),
        },
        Theme::Rollbacks => match chance.below(4) {
            0 => What::Kill { host, down_ms: chance.between(100, 20_000) },
            _ => at(&[
                Step::AfterEffect("stack"),
                Step::BeforeEffect("restore"),
                Step::AfterEffect("restore"),
                Step::BeforeEffect("prove former"),
                Step::AfterEffect("prove former"),
                Step::AfterWrite("record"),
            ]),
        },
        Theme::Rollouts => match chance.below(4) {
            0 => What::Cut { host, how: Cut::Answers, for_ms: chance.between(1_000, 60_000) },
            1 => What::Kill { host, down_ms: chance.between(100, 60_000) },
            2 => What::ServerStops { for_ms: chance.between(500, 20_000), power_cut: false },
            _ => at(&[
                Step::BeforeEffect("commit"),
                Step::AfterEffect("commit"),
                Step::BeforeWrite("commit"),
                Step::AfterWrite("commit"),
                Step::AfterWrite("record"),
            ]),
        },
        Theme::Strangers => What::Forge(forgery(chance)),
    }
}

fn forgery(chance: &Chance) -> Forgery {
    match chance.below(6) {
        0 => Forgery::Promotion,
        1 => Forgery::Replayed,
        2 => Forgery::Changed,
        3 => Forgery::Junk,
        4 => Forgery::Outcome,
        _ => Forgery::State,
    }
}

fn fault(chance: &Chance, hosts: usize) -> What {
    let host = usize::try_from(chance.below(hosts as u64)).unwrap_or(0);
    match chance.below(100) {
        0..12 => What::Kill { host, down_ms: chance.between(100, 40_000) },
        12..18 => What::Terminate { host, down_ms: chance.between(100, 20_000) },
        18..44 => What::Ambush { host, ambush: ambush(chance) },
        44..56 => {
            let how = if chance.happens(600) { Cut::Both } else { Cut::Answers };
            What::Cut { host, how, for_ms: chance.between(500, 120_000) }
        }
        56..62 => What::Deafen { host, for_ms: chance.between(1_000, 200_000) },
        62..67 => What::Replay { host },
        67..77 => What::ServerStops { for_ms: chance.between(500, 60_000), power_cut: chance.happens(500) },
        77..83 => {
            let sign = if chance.happens(500) { 1 } else { -1 };
            What::SetClock { host, skew_ms: sign * i64::try_from(chance.between(1_000, 7_200_000)).unwrap_or(0) }
        }
        83..88 => What::FillDisk { host, for_ms: chance.between(500, 60_000) },
        _ => What::Forge(forgery(chance)),
    }
}

fn ambush(chance: &Chance) -> Ambush {
    let is_write = chance.happens(500);
    let of = if is_write { &WRITES[..] } else { &EFFECTS[..] };
    let name = of[usize::try_from(chance.below(of.len() as u64)).unwrap_or(0)];
    let before = chance.happens(500);
    let step = match (is_write, before) {
        (true, true) => Step::BeforeWrite(name),
        (true, false) => Step::AfterWrite(name),
        (false, true) => Step::BeforeEffect(name),
        (false, false) => Step::AfterEffect(name),
    };
    Ambush { step, nth: chance.between(1, 8), is_torn: is_write && !before && chance.happens(500) }
}

impl Action {
    /// When what it has done is over.
    fn until_ms(&self) -> u64 {
        self.at_ms
            + match self.what {
                What::Cut { for_ms, .. }
                | What::Deafen { for_ms, .. }
                | What::ServerStops { for_ms, .. }
                | What::FillDisk { for_ms, .. } => for_ms,
                What::Kill { down_ms, .. } | What::Terminate { down_ms, .. } => down_ms,
                _ => 0,
            }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} s  {:?}", self.at_ms as f64 / 1e3, self.what)
    }
}
