#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use landfall_deploy::input::{Deadlines, Observed};
use landfall_schema::event::CloudEvent;
use landfall_schema::outcome::Outcome;
use landfall_schema::promotion::{Intent, Preview};
use landfall_schema::rollout::RolloutWord;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::samples;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Hands that do nothing, fail where they are told, and wait where they are told.
#[derive(Default)]
struct Puppet {
    done: Mutex<Vec<(u64, Effect)>>,
    fails: Mutex<HashMap<(u64, Effect), ReasonCode>>,
    /// Promotions that went back, and why.
    taken_back: Mutex<Vec<(u64, ReasonCode)>>,
    panics: Mutex<Vec<(u64, Effect)>>,
    /// Promotions whose bundle cannot be had at the end.
    lost_bundles: Mutex<HashMap<u64, ReasonCode>>,
    /// Effects that are not finished before they are let go.
    holds: Mutex<HashMap<(u64, Effect), Arc<Notify>>>,
    /// Promotions below which it was looked for what was missed.
    looked_below: Mutex<Vec<u64>>,
    /// Ticks when something happened to the containers; then this has drifted.
    changes: Option<watch::Receiver<u64>>,
    drifts: Mutex<Vec<Drift>>,
}

impl Puppet {
    fn hold(&self, counter: u64, effect: Effect) -> Arc<Notify> {
        Arc::clone(self.holds.lock().unwrap().entry((counter, effect)).or_default())
    }

    fn fail(&self, counter: u64, effect: Effect) {
        self.fails.lock().unwrap().insert((counter, effect), ReasonCode::Unhealthy);
    }

    fn done(&self) -> String {
        let done = self.done.lock().unwrap();
        done.iter().map(|(counter, effect)| format!("{counter}:{effect:?}")).collect::<Vec<_>>().join(" ")
    }

    async fn has_begun(&self, counter: u64, effect: Effect) {
        let until = Instant::now() + LIMIT;
        while !self.done.lock().unwrap().contains(&(counter, effect)) {
            assert!(Instant::now() < until, "{counter}:{effect:?} was not begun");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl CarryOut for Puppet {
    async fn carry_out(&self, effect: Effect, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let promotion = &order.promotion;
        let key = (promotion.counter.0, effect);
        self.done.lock().unwrap().push(key);
        let hold = self.holds.lock().unwrap().get(&key).cloned();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        assert!(!self.panics.lock().unwrap().contains(&key), "as told");
        if let Some(code) = self.fails.lock().unwrap().get(&key) {
            return Err(Reason::new(*code, "as told"));
        }
        let digests = |promotion: &landfall_schema::promotion::Promotion| -> BTreeMap<_, _> {
            promotion.images.iter().map(|(service, image)| (service.clone(), image.digest.clone())).collect()
        };
        Ok(match effect {
            Effect::Observe => Evidence::Observed(Observed {
                former: context.former.as_ref().map(|former| landfall_deploy::Former {
                    release: Some(former.release.clone()),
                    counter: Some(former.counter),
                    images: digests(&former.promotion),
                }),
                services: promotion.images.keys().cloned().collect(),
                has_backup: false,
                has_migrations: false,
                smoke_tests: 0,
                bake_ms: 0,
                warning: None,
                deadlines: Deadlines::default(),
            }),
            Effect::Pull => Evidence::Pulled { images: 1, already_here: 1, bytes: 0 },
            Effect::Update => Evidence::Updated { changed: vec!["app".to_owned()] },
            Effect::Prove | Effect::ProveFormer => Evidence::Running { services: digests(promotion), restarts: 0 },
            Effect::Commit => Evidence::Committed { images_removed: 0 },
            Effect::Restore => Evidence::Restored,
            Effect::Admit => Evidence::Admitted,
            Effect::Remove => Evidence::Removed { what: Vec::new() },
            Effect::AwaitRollout => Evidence::RolloutEnded { word: RolloutWord::Succeeded },
            other => panic!("{other:?} has nothing to do here"),
        })
    }

    async fn bundle(&self, order: &Order, _: &Context) -> Result<Bundle, Reason> {
        match self.lost_bundles.lock().unwrap().get(&order.promotion.counter.0) {
            Some(code) => Err(Reason::new(*code, "as told")),
            None => Ok(samples::bundle()),
        }
    }

    async fn taken_back(&self, order: &Order, cause: &Reason) {
        self.taken_back.lock().unwrap().push((order.promotion.counter.0, cause.code));
    }

    fn look_for_missed(&self, order: &Order) {
        self.looked_below.lock().unwrap().push(order.promotion.counter.0);
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.changes.clone()
    }

    async fn drifted(&self, _: &Committed) -> Result<Vec<Drift>, Reason> {
        Ok(self.drifts.lock().unwrap().clone())
    }
}

struct Stage {
    _folder: TempDir,
    hands: Arc<Puppet>,
    shared: Shared,
    inbox: mpsc::UnboundedSender<Job>,
    running: tokio::task::JoinHandle<Ended>,
}

impl Stage {
    async fn set(hands: Puppet) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).await.unwrap();
        Self::set_with(folder, journal, Arc::new(hands), |worker| worker)
    }

    fn set_with(
        folder: TempDir,
        journal: Journal,
        hands: Arc<Puppet>,
        change: impl FnOnce(Worker<Puppet>) -> Worker<Puppet>,
    ) -> Self {
        let shared = Shared {
            env: "staging".parse().unwrap(),
            journal,
            announcer: Arc::new(samples::announcer()),
            bell: OutboxBell::default(),
            changed: Arc::new(Notify::new()),
            keep_releases: 3,
            draining: CancellationToken::new(),
            parking: CancellationToken::new(),
        };
        let (inbox, jobs) = mpsc::unbounded_channel();
        let worker = Worker::new("shop".parse().unwrap(), Arc::clone(&hands), jobs, shared.clone());
        Self { _folder: folder, hands, shared, inbox, running: tokio::spawn(change(worker).run()) }
    }

    async fn promote(&self, taken: Taken) {
        self.shared.journal.take(&taken, Timestamp::now()).await.unwrap();
        self.inbox.send(Job::new(taken)).unwrap();
    }

    /// Until so many deploys have ended; then what the bus would be told, without the steps in between.
    async fn ended(&self, count: usize) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let outcomes = self.outcomes().await;
            let ends: Vec<String> = outcomes
                .iter()
                .filter(|outcome| outcome.kind.is_terminal())
                .map(|outcome| format!("{}:{}", outcome.counter.0, outcome.kind.verb()))
                .collect();
            if ends.len() >= count {
                return ends.join(" ");
            }
            assert!(Instant::now() < until, "{ends:?} {}", self.hands.done());
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn outcomes(&self) -> Vec<Outcome> {
        let waiting = self.shared.journal.unpublished(0, 1000).await.unwrap();
        let decode = |body: &[u8]| CloudEvent::<Outcome>::decode_where(body, "an outcome", |_| true).unwrap().data;
        waiting.iter().map(|waiting| decode(&waiting.announcement.body)).collect()
    }

    async fn good(&self) -> Vec<u64> {
        let (env, app) = ("staging".parse().unwrap(), "shop".parse().unwrap());
        self.shared.journal.committed(&env, &app, 10).await.unwrap().iter().map(|good| good.counter.0).collect()
    }

    async fn stop(self) -> (TempDir, Journal, Arc<Puppet>) {
        self.shared.draining.cancel();
        timeout(LIMIT, self.running).await.unwrap().unwrap();
        (self._folder, self.shared.journal, self.hands)
    }
}

const FORWARD: &str = "Observe Pull Admit Update Prove Commit";

fn steps(counter: u64, effects: &str) -> String {
    effects.split(' ').map(|effect| format!("{counter}:{effect}")).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_good_release_is_committed_and_a_bad_one_rolled_back() {
    let hands = Puppet::default();
    hands.fail(2, Effect::Prove);
    let stage = Stage::set(hands).await;
    stage.promote(samples::taken(1)).await;
    assert_eq!(stage.ended(1).await, "1:succeeded");
    assert_eq!(stage.hands.done(), steps(1, FORWARD));
    stage.promote(samples::taken(2)).await;
    assert_eq!(stage.ended(2).await, "1:succeeded 2:rolled_back");
    assert!(stage.hands.done().ends_with(&steps(2, "Observe Pull Admit Update Prove Restore ProveFormer")));
    assert_eq!(stage.good().await, [1]);
    assert_eq!(*stage.hands.taken_back.lock().unwrap(), [(2, ReasonCode::Unhealthy)]);

    let outcomes = stage.outcomes().await;
    let last = outcomes.last().unwrap();
    assert_eq!(last.former.as_ref().unwrap().as_str(), "v1");
    assert_eq!(last.reason.as_ref().unwrap().code, ReasonCode::Unhealthy);
    let settled: Vec<bool> = stage
        .shared
        .journal
        .unpublished(0, 1000)
        .await
        .unwrap()
        .iter()
        .map(|w| w.announcement.settles.is_some())
        .collect();
    let terminal: Vec<bool> = outcomes.iter().map(|outcome| outcome.kind.is_terminal()).collect();
    assert_eq!(settled, terminal, "a message is settled by its terminal outcome and by no other");
}

#[tokio::test]
async fn a_defect_in_a_step_is_its_failure() {
    let stage = Stage::set(Puppet::default()).await;
    stage.hands.panics.lock().unwrap().push((2, Effect::Update));
    stage.promote(samples::taken(1)).await;
    assert_eq!(stage.ended(1).await, "1:succeeded");
    stage.promote(samples::taken(2)).await;
    assert_eq!(stage.ended(2).await, "1:succeeded 2:rolled_back");
    stage.promote(samples::taken(3)).await;
    assert_eq!(stage.ended(3).await, "1:succeeded 2:rolled_back 3:succeeded");
}

#[tokio::test]
async fn without_its_bundle_a_release_does_not_succeed() {
    let stage = Stage::set(Puppet::default()).await;
    for (counter, code) in [(2, ReasonCode::BundleMissing), (3, ReasonCode::Internal)] {
        stage.hands.lost_bundles.lock().unwrap().insert(counter, code);
    }
    stage.hands.fail(4, Effect::Commit);
    let mut expect = "1:succeeded".to_owned();
    for (counter, end) in [(1, ""), (2, " 2:rolled_back"), (3, " 3:rolled_back"), (4, " 4:succeeded")] {
        stage.promote(samples::taken(counter)).await;
        expect.push_str(end);
        let count = usize::try_from(counter).unwrap();
        assert_eq!(stage.ended(count).await, expect);
    }
    assert_eq!(
        stage.good().await,
        [4, 1],
        "who succeeded is what this host goes back to, even when the clean-up failed"
    );
}

#[tokio::test]
async fn success_waits_for_the_journal_and_not_for_the_deadline() {
    let stage = Stage::set(Puppet::default()).await;
    let gate = stage.hands.hold(1, Effect::Prove);
    stage.promote(samples::taken(1)).await;
    stage.hands.has_begun(1, Effect::Prove).await;
    let gone = stage.shared.journal.clone();
    gone.refuse_commits(true).await;
    gate.notify_one();
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        assert!(!stage.hands.done().contains("Commit"), "cleaned up before it was written down");
        sleep(Duration::from_millis(20)).await;
    }
    gone.refuse_commits(false).await;
    assert_eq!(stage.ended(1).await, "1:succeeded");
    assert_eq!(stage.good().await, [1]);
}

#[tokio::test]
async fn the_newest_waits_and_those_between_are_superseded() {
    let stage = Stage::set(Puppet::default()).await;
    let gate = stage.hands.hold(1, Effect::Update);
    stage.promote(samples::taken(1)).await;
    stage.hands.has_begun(1, Effect::Update).await;
    stage.promote(samples::taken(2)).await;
    stage.promote(samples::taken(3)).await;
    gate.notify_one();
    assert_eq!(stage.ended(3).await, "1:succeeded 2:superseded 3:succeeded");
    assert_eq!(stage.good().await, [3, 1]);
}

#[tokio::test]
async fn before_anything_is_touched_a_newer_one_takes_over_at_once() {
    let stage = Stage::set(Puppet::default()).await;
    let _never_let_go = stage.hands.hold(1, Effect::Pull);
    stage.promote(samples::taken(1)).await;
    stage.hands.has_begun(1, Effect::Pull).await;
    stage.promote(samples::taken(2)).await;
    assert_eq!(stage.ended(2).await, "1:superseded 2:succeeded");
}

#[tokio::test]
async fn what_was_missed_never_replaces_what_is_newer() {
    let stage = Stage::set(Puppet::default()).await;
    stage.promote(samples::taken(4)).await;
    assert_eq!(stage.ended(1).await, "4:succeeded");
    let gate = stage.hands.hold(7, Effect::Admit);
    stage.promote(samples::taken(7)).await;
    stage.hands.has_begun(7, Effect::Admit).await;
    stage.promote(samples::taken(5)).await;
    gate.notify_one();
    assert_eq!(stage.ended(3).await, "4:succeeded 7:succeeded 5:superseded");
    let outcomes = stage.outcomes().await;
    let why = &outcomes.last().unwrap().reason.as_ref().unwrap().message;
    assert_eq!(why, "promotion #7 (v7) is committed on this host already");
    assert!(!stage.hands.done().contains("5:"), "{}", stage.hands.done());
    assert_eq!(stage.good().await, [7, 4]);
    assert!(stage.hands.looked_below.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_failed_one_passed_by_is_taken_after_all() {
    let stage = Stage::set(Puppet::default()).await;
    stage.hands.fail(6, Effect::Admit);
    let _never_let_go = stage.hands.hold(5, Effect::Pull);
    stage.promote(samples::taken(5)).await;
    stage.hands.has_begun(5, Effect::Pull).await;
    stage.promote(samples::taken(6)).await;
    assert_eq!(stage.ended(2).await, "5:superseded 6:failed");
    let until = Instant::now() + LIMIT;
    while *stage.hands.looked_below.lock().unwrap() != [6] {
        assert!(Instant::now() < until, "it did not look for what it has missed");
        sleep(Duration::from_millis(5)).await;
    }
    stage.hands.holds.lock().unwrap().clear();
    assert!(stage.shared.journal.may_catch_up(&samples::taken(5).message).await.unwrap());
    stage.promote(samples::taken(5)).await;
    assert_eq!(stage.ended(3).await, "5:superseded 6:failed 5:succeeded");
    assert_eq!(stage.good().await, [5]);
}

#[tokio::test]
async fn drift_is_told_while_the_others_are_waited_for() {
    let (tick, seen) = watch::channel(0);
    let stage = Stage::set(Puppet { changes: Some(seen), ..Puppet::default() }).await;
    let gate = stage.hands.hold(1, Effect::AwaitRollout);
    let mut taken = samples::taken(1);
    taken.order.promotion.plan.roster = Some(taken.order.promotion.bundle.clone());
    stage.promote(taken).await;
    stage.hands.has_begun(1, Effect::AwaitRollout).await;
    stage.hands.drifts.lock().unwrap().push(Drift::removed("app".parse().unwrap()));
    tick.send_modify(|count| *count += 1);
    let until = Instant::now() + LIMIT;
    let told = loop {
        let outcomes = stage.outcomes().await;
        if let Some(told) = outcomes.into_iter().find(|outcome| outcome.kind == OutcomeKind::DriftDetected) {
            break told;
        }
        assert!(Instant::now() < until, "the drift was not told");
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((told.counter, told.promotion), (Counter(1), samples::order(1).id));
    assert_eq!(told.reason.unwrap().code, ReasonCode::Drifted);
    gate.notify_one();
    assert_eq!(stage.ended(1).await, "1:succeeded");
}

#[tokio::test]
async fn a_worker_ends_with_its_preview() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).await.unwrap();
    let stage = Stage::set_with(folder, journal, Arc::new(Puppet::default()), Worker::of_preview);
    let preview = |counter: u64, intent: Intent| {
        let mut taken = samples::taken(counter);
        let promotion = &mut taken.order.promotion;
        promotion.preview = Some(Preview {
            of: "shop".parse().unwrap(),
            name: "pr-1".parse().unwrap(),
            expires_at: "2999-01-01T00:00:00Z".parse().unwrap(),
        });
        promotion.intent = intent;
        taken
    };
    stage.promote(preview(1, Intent::Promote)).await;
    assert_eq!(stage.ended(1).await, "1:succeeded");
    stage.promote(preview(2, Intent::Promote)).await;
    assert_eq!(stage.ended(2).await, "1:succeeded 2:succeeded");
    assert!(!stage.running.is_finished(), "it ended while its preview was there");
    stage.promote(preview(3, Intent::Remove)).await;
    let ended = timeout(LIMIT, stage.running).await.unwrap().unwrap();
    assert!(matches!(ended, Ended::PreviewGone { late } if late.is_empty()));
    stage.inbox.send(Job::new(preview(4, Intent::Promote))).unwrap_err();
}

#[tokio::test]
async fn an_expired_one_is_not_begun() {
    let stage = Stage::set(Puppet::default()).await;
    let mut taken = samples::taken(1);
    taken.order.promotion.expires_at = Timestamp::UNIX_EPOCH;
    stage.promote(taken).await;
    let end = stage.ended(1).await;
    assert_eq!((end.as_str(), stage.hands.done().as_str()), ("1:refused", ""));
}

#[tokio::test]
async fn a_drained_worker_finishes_its_step_and_the_next_start_goes_on() {
    let stage = Stage::set(Puppet::default()).await;
    let gate = stage.hands.hold(1, Effect::Update);
    stage.promote(samples::taken(1)).await;
    stage.hands.has_begun(1, Effect::Update).await;
    stage.shared.draining.cancel();
    gate.notify_one();
    let (folder, journal, hands) = stage.stop().await;
    assert_eq!(hands.done(), steps(1, "Observe Pull Admit Update"));

    go_on(folder, journal, hands, "Observe Pull Admit Update Prove Commit").await;
}

#[tokio::test]
async fn a_parked_step_is_repeated_by_the_next_start() {
    let stage = Stage::set(Puppet::default()).await;
    stage.hands.hold(1, Effect::Update);
    stage.promote(samples::taken(1)).await;
    stage.hands.has_begun(1, Effect::Update).await;
    stage.shared.parking.cancel();
    let (folder, journal, hands) = stage.stop().await;
    hands.holds.lock().unwrap().clear();

    go_on(folder, journal, hands, "Observe Pull Admit Update Update Prove Commit").await;
}

#[tokio::test]
async fn a_wait_for_others_is_dropped_at_once() {
    let stage = Stage::set(Puppet::default()).await;
    stage.hands.hold(1, Effect::Admit);
    stage.promote(samples::taken(1)).await;
    stage.hands.has_begun(1, Effect::Admit).await;
    stage.shared.draining.cancel();
    let (folder, journal, hands) = stage.stop().await;
    hands.holds.lock().unwrap().clear();

    go_on(folder, journal, hands, "Observe Pull Admit Admit Update Prove Commit").await;
}

async fn go_on(folder: TempDir, journal: Journal, hands: Arc<Puppet>, expect: &str) {
    let mut unfinished = journal.unfinished(&"host-a".parse().unwrap()).await.unwrap();
    let rest = unfinished.pop().unwrap();
    let stage = Stage::set_with(folder, journal, hands, |worker| worker);
    let job = Job { taken: rest.taken, entries: rest.entries, deploy_traceparent: rest.deploy_traceparent };
    stage.inbox.send(job).unwrap();
    assert_eq!(stage.ended(1).await, "1:succeeded");
    assert_eq!(stage.hands.done(), steps(1, expect));
    let accepted = stage.outcomes().await.iter().filter(|o| o.kind == OutcomeKind::ReleaseAccepted).count();
    assert_eq!(accepted, 1, "what was told before the restart is not told again");
}
