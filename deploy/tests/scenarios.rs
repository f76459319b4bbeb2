//! Every `scenarios/*.txt` is a deploy in words, and below its `---` what the machine asked for and said.
//!
//! The first line is `deploy v2 [over v1] [backup] [migration] [smoke=N] [bake=MS] [fleet] [remove]`; then one input a line: `ok`, `fail CODE MESSAGE`,
//! `runs SERVICE=DIGIT` (the digest's repeated digit), `superseded N`, `resumed`, `waiting TEXT`, `wait MS`, `out-of-place EFFECT`. Without `fleet` the admission is answered at once.
//! After every input the machine is also rebuilt from its journal and must be the same. `UPDATE_GOLDEN=1` writes what came out.
#![allow(clippy::disallowed_methods, reason = "the engine does no IO; its tests read scenarios")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use landfall_deploy::input::Deadlines;
use landfall_deploy::{Effect, Evidence, Former, Input, Machine, Observed, Order};
use landfall_schema::Timestamp;
use landfall_schema::ids::{Counter, Digest, EventId, ServiceName};
use landfall_schema::outcome::{AppliedMigration, Reason, ReasonCode};
use landfall_schema::promotion::{BundleRef, Intent, PinnedImage, Promotion, RolloutPlan, Wave};
use landfall_schema::rollout::RolloutWord;

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
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

struct Run {
    machine: Machine,
    journal: Vec<(Timestamp, Input)>,
    now: Timestamp,
    setting: Setting,
    doing: Option<Effect>,
    out: String,
}

#[derive(Default)]
struct Setting {
    release: String,
    former: Option<String>,
    backup: bool,
    migration: bool,
    smoke: u32,
    bake_ms: u64,
    fleet: bool,
    remove: bool,
}

impl Run {
    fn play(script: &str) -> String {
        let mut lines = script.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let setting = Setting::parse(lines.next().expect("a first line"));
        let order = order(&setting);
        let mut run = Self {
            machine: Machine::new(order),
            journal: Vec::new(),
            now: Timestamp::UNIX_EPOCH,
            setting,
            doing: None,
            out: String::new(),
        };
        run.give(Input::Begin);
        for line in lines {
            run.line(line);
        }
        let terminal = run.machine.terminal().map_or("not ended".to_owned(), |kind| kind.to_string());
        let _ = writeln!(run.out, "= {terminal}");
        run.out
    }

    fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let doing = self.doing;
        let effect = || doing.expect("an effect is under way");
        match word {
            "wait" => self.now += Duration::from_millis(rest.parse().expect("milliseconds")),
            "ok" => self.give(Input::Finished { effect: effect(), evidence: self.evidence(effect()) }),
            "runs" => {
                let services = rest.split_whitespace().map(|pair| {
                    let (service, digit) = pair.split_once('=').expect("service=digit");
                    (ServiceName::new(service).expect("service"), digest(digit))
                });
                let evidence = Evidence::Running { services: services.collect(), restarts: 0 };
                self.give(Input::Finished { effect: effect(), evidence });
            }
            "fail" => {
                let (code, message) = rest.split_once(' ').expect("code and message");
                let code: ReasonCode = serde_json::from_value(code.into()).expect("a reason code");
                self.give(Input::Failed { effect: effect(), reason: Reason::new(code, message) });
            }
            "superseded" => self.give(Input::Superseded { by: Counter(rest.parse().expect("a counter")) }),
            "resumed" => self.give(Input::Resumed),
            "waiting" => {
                self.machine.handle(Input::Waiting { on: rest.to_owned() }, self.now).expect("it waits");
                self.hear();
            }
            "out-of-place" => {
                let effect: Effect = serde_json::from_value(rest.into()).expect("an effect");
                let input = Input::Finished { effect, evidence: self.evidence(effect) };
                let error = self.machine.handle(input, self.now).expect_err("illegal");
                let _ = writeln!(
                    self.out,
                    "! {}",
                    error.to_string().split(" does not fit").last().unwrap_or_default().trim()
                );
            }
            other => panic!("unknown line {other:?}"),
        }
    }

    fn give(&mut self, input: Input) {
        self.now += Duration::from_millis(100);
        self.journal.push((self.now, input.clone()));
        self.machine.handle(input, self.now).expect("a legal input");
        self.hear();
        if let Some(effect) = self.machine.next_effect() {
            if effect == Effect::Admit && !self.setting.fleet {
                return self.give(Input::Finished { effect, evidence: Evidence::Admitted });
            }
            let limit = self.machine.deadline().map_or(0, |at| at.as_millisecond() - self.now.as_millisecond());
            let _ = writeln!(self.out, "> {effect:?} within {limit} ms");
            self.doing = Some(effect);
        }
        self.check_replay();
    }

    fn hear(&mut self) {
        while let Some(outcome) = self.machine.next_outcome() {
            let took = outcome.duration_ms.map_or(String::new(), |ms| format!(" [{ms} ms]"));
            let former = outcome.former.as_ref().map_or(String::new(), |former| format!(" ({former} serves)"));
            let _ = writeln!(self.out, "  {}{took} {}{former}", outcome.kind, outcome.message);
            assert_eq!(outcome.reason.is_some(), outcome.kind.is_failure(), "{outcome:?}");
        }
    }

    /// The journal alone makes the same machine, and it asks for the same effect again.
    fn check_replay(&self) {
        let order = self.machine.order().clone();
        let mut again = Machine::replay(order, self.journal.iter().cloned()).expect("a journal that replays");
        assert_eq!(again.terminal(), self.machine.terminal());
        assert_eq!(again.deadline(), self.machine.deadline());
        if again.terminal().is_none() {
            again.handle(Input::Resumed, self.now).expect("resumes");
            assert_eq!(again.next_effect(), self.doing);
        }
    }

    fn evidence(&self, effect: Effect) -> Evidence {
        match effect {
            Effect::Observe => Evidence::Observed(self.setting.observed()),
            Effect::Pull => Evidence::Pulled { images: 1, already_here: 0, bytes: 1_500_000 },
            Effect::Backup => Evidence::BackedUp { by: vec!["db".to_owned()] },
            Effect::Migrate => Evidence::Migrated {
                applied: vec![AppliedMigration {
                    database: "shop".into(),
                    description: "2 add orders note".into(),
                    duration_ms: 12,
                }],
                notes: Vec::new(),
            },
            Effect::Update => Evidence::Updated { changed: vec!["app".to_owned()] },
            Effect::Prove => running(&self.setting.release),
            Effect::ProveFormer => match self.setting.former.as_deref() {
                Some(former) => running(former),
                None => Evidence::Running { services: BTreeMap::new(), restarts: 0 },
            },
            Effect::Smoke => Evidence::Smoked { passed: self.setting.smoke },
            Effect::Bake => Evidence::Baked,
            Effect::Commit => Evidence::Committed { images_removed: 1 },
            Effect::Restore => Evidence::Restored,
            Effect::Admit => Evidence::Admitted,
            Effect::AwaitRollout => Evidence::RolloutEnded { word: RolloutWord::Succeeded },
            Effect::Remove => Evidence::Removed { what: vec!["2 containers".to_owned(), "1 volume".to_owned()] },
        }
    }
}

impl Setting {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("deploy"));
        let mut setting = Self { release: words.next().expect("a release").to_owned(), ..Self::default() };
        while let Some(word) = words.next() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("fleet", _) => setting.fleet = true,
                ("remove", _) => setting.remove = true,
                ("over", _) => setting.former = words.next().map(str::to_owned),
                ("backup", _) => setting.backup = true,
                ("migration", _) => setting.migration = true,
                ("smoke", n) => setting.smoke = n.parse().expect("a number"),
                ("bake", ms) => setting.bake_ms = ms.parse().expect("milliseconds"),
                other => panic!("unknown word {other:?}"),
            }
        }
        setting
    }

    fn observed(&self) -> Observed {
        Observed {
            former: self.former.as_ref().map(|release| Former {
                release: Some(release.parse().expect("release")),
                counter: Some(Counter(1)),
                images: BTreeMap::from([(app(), digest(&release[1..]))]),
            }),
            services: vec![app()],
            has_backup: self.backup,
            has_migrations: self.migration,
            smoke_tests: self.smoke,
            bake_ms: self.bake_ms,
            warning: None,
            deadlines: Deadlines::default(),
        }
    }
}

fn app() -> ServiceName {
    ServiceName::new("app").expect("service")
}

fn digest(digit: &str) -> Digest {
    Digest::new(format!("sha256:{}", digit.repeat(64))).expect("digest")
}

fn running(release: &str) -> Evidence {
    Evidence::Running { services: BTreeMap::from([(app(), digest(&release[1..]))]), restarts: 0 }
}

fn order(setting: &Setting) -> Order {
    let release = setting.release.as_str();
    let host: landfall_schema::ids::HostName = "host-a".parse().expect("host");
    Order {
        host: host.clone(),
        id: EventId(uuid::Uuid::nil()),
        promotion: Promotion {
            env: "production".parse().expect("env"),
            app: "shop".parse().expect("app"),
            counter: Counter(2),
            release: release.parse().expect("release"),
            intent: if setting.remove { Intent::Remove } else { Intent::Promote },
            images: BTreeMap::from([(
                app(),
                PinnedImage {
                    repository: "registry/shop".into(),
                    digest: digest(&release[1..]),
                    tag: Some(release.to_owned()),
                },
            )]),
            variables: BTreeMap::new(),
            bundle: BundleRef { digest: digest("0"), bytes: 1 },
            plan: RolloutPlan {
                waves: vec![Wave::of(vec![host])],
                deadline_ms: 900_000,
                bake_ms: setting.bake_ms,
                roster: setting.fleet.then(|| BundleRef { digest: digest("0"), bytes: 1 }),
                ..RolloutPlan::default()
            },
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
