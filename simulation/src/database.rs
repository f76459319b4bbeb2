//! The database that all hosts share: its lock, Landfall's row in it, and the migrations that were applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfall_executor::hands::{Begun, Claim, Found, Standing};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::planted::planted;
use tokio::time::{Instant, sleep};

use crate::simulation::Sim;

/// As the executor polls for the real lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// One migration of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Migration {
    pub(crate) version: u64,
    /// Its effect and the record of it are one transaction.
    pub(crate) in_transaction: bool,
    pub(crate) fails: bool,
    pub(crate) slow: bool,
}

impl Migration {
    /// How long its statements take, in milliseconds.
    fn took_ms(self) -> (u64, u64) {
        if self.slow { (5_000, 60_000) } else { (20, 2_000) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Database(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sessions: u64,
    /// Ended by somebody else, or with their process.
    ended: Vec<u64>,
    lock: Option<u64>,
    row: Option<(Found, u64)>,
    /// What the database's own table says.
    applied: BTreeMap<u64, ()>,
    /// How often the effect of each version happened.
    effects: BTreeMap<u64, u32>,
    /// The session that migrates at this moment.
    at_work: Option<u64>,
}

impl Database {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, version: u64) -> bool {
        self.state().effects.contains_key(&version)
    }

    /// A person looks at the schema: what was begun is finished by hand, and said to be.
    pub(crate) fn put_in_order(&self) {
        let mut state = self.state();
        let begun: Vec<u64> = state.effects.keys().copied().collect();
        for version in begun {
            state.applied.insert(version, ());
        }
    }
}

/// One connection; it ends with whoever has it.
pub(crate) struct Session {
    sim: Arc<Sim>,
    id: u64,
    token: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.sim.database.state();
        state.ended.push(self.id);
        state.lock = state.lock.filter(|holder| *holder != self.id);
        state.at_work = state.at_work.filter(|session| *session != self.id);
    }
}

pub(crate) enum Entered {
    Ours(Session),
    DoneBy,
    Newer { holder: String, is_done: bool },
}

impl Session {
    fn open(sim: &Arc<Sim>) -> Self {
        let mut state = sim.database.state();
        state.sessions += 1;
        let id = state.sessions;
        drop(state);
        Self { sim: Arc::clone(sim), id, token: 0 }
    }

    fn db(&self) -> MutexGuard<'_, State> {
        self.sim.database.state()
    }

    /// As [`landfall_executor`]'s own fence: the lock, then the row.
    pub(crate) async fn enter(sim: &Arc<Sim>, claim: &Claim<'_>, begun: Option<Begun>) -> Result<Entered, Reason> {
        let mut session = Self::open(sim);
        let mut ends_others = begun == Some(Begun::TakenOver);
        while !session.try_lock() {
            if std::mem::take(&mut ends_others) {
                session.end_holder();
            }
            if Instant::now() + LOCK_POLL >= claim.deadline {
                return Err(failed("another migration of this database holds the lock"));
            }
            sleep(LOCK_POLL).await;
        }
        sleep(sim.chance.millis(1, 10)).await;
        let found = session.db().row.clone();
        let mut token = 1;
        if let Some((row, before)) = found {
            token = before + 1;
            let mut standing = row.standing(claim, begun);
            if let Standing::Unfinished { doing } = &standing {
                let version = doing.parse::<u64>().ok();
                if !version.is_some_and(|version| session.db().applied.contains_key(&version)) {
                    return Err(Reason::new(
                        ReasonCode::MigrationUnknown,
                        format!("nobody knows what became of {doing}"),
                    ));
                }
                standing = row.place_in_order(claim);
            }
            match standing {
                Standing::DoneBy(_) => return Ok(Entered::DoneBy),
                Standing::Newer { holder, is_done, .. } => return Ok(Entered::Newer { holder, is_done }),
                Standing::Free | Standing::Unfinished { .. } => {}
            }
        }
        session.token = token;
        let row = Found {
            promotion: claim.order.id.to_string(),
            place: Some(claim.place()),
            release: claim.order.promotion.release.to_string(),
            holder: claim.order.host.to_string(),
            state: "running".to_owned(),
            doing: None,
        };
        if !session.is_alive() {
            return Err(failed("the connection is gone"));
        }
        session.db().row = Some((row, token));
        Ok(Entered::Ours(session))
    }

    fn try_lock(&self) -> bool {
        let mut state = self.db();
        let is_free = state.lock.is_none();
        if is_free && !state.ended.contains(&self.id) {
            state.lock = Some(self.id);
        }
        is_free || planted("skip_the_fence")
    }

    fn end_holder(&self) {
        let mut state = self.db();
        if let Some(holder) = state.lock.take() {
            state.ended.push(holder);
            state.at_work = state.at_work.filter(|session| *session != holder);
        }
    }

    fn is_alive(&self) -> bool {
        planted("skip_the_fence") || !self.db().ended.contains(&self.id)
    }

    /// Whether this runner's token still stands in the row.
    fn is_fenced_off(&self) -> bool {
        self.db().row.as_ref().is_none_or(|(_, token)| *token != self.token)
    }

    pub(crate) fn missing(&self, migrations: &[Migration]) -> Vec<Migration> {
        let state = self.db();
        migrations.iter().filter(|migration| !state.applied.contains_key(&migration.version)).copied().collect()
    }

    pub(crate) async fn apply(&self, migration: Migration) -> Result<(), Reason> {
        let version = migration.version;
        let (least, most) = migration.took_ms();
        let took = self.sim.chance.millis(least, most);
        if !self.is_alive() {
            return Err(failed("the connection is gone"));
        }
        if migration.in_transaction {
            if self.is_fenced_off() && !planted("skip_the_fence") {
                return Err(failed("this runner was given up, and another one fenced it off"));
            }
            self.begin_work();
            sleep(took).await;
            self.end_work();
            if !self.is_alive() {
                return Err(failed("the connection broke; the transaction was rolled back"));
            }
            if migration.fails {
                return Err(failed("syntax error"));
            }
            self.happens(version);
            self.db().applied.insert(version, ());
            return Ok(());
        }
        self.doing(Some(version.to_string()))?;
        self.begin_work();
        if migration.fails {
            self.end_work();
            self.doing(None)?;
            return Err(failed("syntax error"));
        }
        self.happens(version);
        sleep(took).await;
        self.end_work();
        if !self.is_alive() {
            return Err(Reason::new(ReasonCode::MigrationUnknown, "the connection broke"));
        }
        self.db().applied.insert(version, ());
        self.doing(None)
    }

    fn doing(&self, what: Option<String>) -> Result<(), Reason> {
        if self.is_fenced_off() && !planted("skip_the_fence") {
            return Err(failed("this runner was given up, and another one fenced it off"));
        }
        if let Some((row, _)) = &mut self.db().row {
            row.doing = what;
        }
        Ok(())
    }

    fn begin_work(&self) {
        let other = self.db().at_work.replace(self.id);
        if let Some(other) = other.filter(|other| *other != self.id) {
            self.sim
                .violated("one migrator", format_args!("sessions {other} and {} migrate at the same time", self.id));
        }
    }

    fn end_work(&self) {
        let mut state = self.db();
        state.at_work = state.at_work.filter(|session| *session != self.id);
    }

    fn happens(&self, version: u64) {
        let times = {
            let mut state = self.db();
            let times = state.effects.entry(version).or_default();
            *times += 1;
            *times
        };
        self.sim.trace.say("database", format_args!("migration {version} by session {}", self.id));
        if times > 1 {
            self.sim.violated("migrations once", format_args!("migration {version} was applied {times} times"));
        }
    }

    pub(crate) fn finish(self, succeeded: bool) -> Result<(), Reason> {
        if !self.is_alive() || self.is_fenced_off() {
            return Err(failed("this runner was given up, and another one fenced it off"));
        }
        if let Some((row, _)) = &mut self.db().row {
            row.state = if succeeded { "done" } else { "failed" }.to_owned();
            row.doing = None;
        }
        Ok(())
    }
}

fn failed(why: &str) -> Reason {
    Reason::new(ReasonCode::MigrationFailed, why)
}
