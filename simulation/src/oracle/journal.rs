//! What must be true of the journal that a host leaves.

use std::collections::BTreeMap;

use landfall_deploy::{Input, Machine as Deploy, Order};
use landfall_executor::journal::FILE_NAME;
use landfall_schema::Timestamp;
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::EventId;
use landfall_schema::outcome::OutcomeKind;
use landfall_schema::promotion::Promotion;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::Ledger;
use crate::machine::Machine;
use crate::simulation::Sim;

/// What was read of a journal.
struct Left {
    /// Event and subject, in the order of the outbox.
    outbox: Vec<(String, String)>,
    unfinished: i64,
    deploys: Vec<Steps>,
}

/// Of one promotion its message, and when its machine was given what.
struct Steps {
    message: Vec<u8>,
    inputs: Vec<(i64, String)>,
}

pub(crate) async fn judge(sim: &Sim, machine: &Machine, ledger: &Ledger) {
    let file = machine.state_dir().join("left").join(FILE_NAME);
    let read = std::thread::scope(|scope| scope.spawn(|| sim.disk.block_on(read(&file))).join());
    let left = match read {
        Ok(Ok(left)) => left,
        Ok(Err(error)) => {
            return sim.violated("journal", format_args!("that of {} cannot be read: {error}", machine.name));
        }
        Err(_) => return sim.violated("journal", format_args!("reading that of {} panicked", machine.name)),
    };
    if left.unfinished > 0 {
        let text = format!("{} holds {} promotions that never ended", machine.name, left.unfinished);
        sim.violated("no release lost", text);
    }
    outbox(sim, machine, ledger, &left);
    for deploy in &left.deploys {
        steps(sim, machine, ledger, deploy);
    }
}

async fn read(file: &std::path::Path) -> Result<Left, sqlx::Error> {
    let mut connection: SqliteConnection = SqliteConnectOptions::new().filename(file).connect().await?;
    let outbox =
        sqlx::query_as("SELECT event_id, subject FROM outbox ORDER BY position").fetch_all(&mut connection).await?;
    let unfinished =
        sqlx::query_scalar("SELECT count(*) FROM releases WHERE state <> 'done'").fetch_one(&mut connection).await?;
    let rows = sqlx::query(
        "SELECT body, at, input FROM releases JOIN entries USING (env, app, counter) ORDER BY counter, position",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    let mut deploys: Vec<Steps> = Vec::new();
    for row in rows {
        let message: Vec<u8> = row.get("body");
        let input = (row.get("at"), row.get("input"));
        match deploys.last_mut().filter(|deploy| deploy.message == message) {
            Some(deploy) => deploy.inputs.push(input),
            None => deploys.push(Steps { message, inputs: vec![input] }),
        }
    }
    Ok(Left { outbox, unfinished, deploys })
}

/// Everything that was written down to be told is in the ledger, in order.
fn outbox(sim: &Sim, machine: &Machine, ledger: &Ledger, left: &Left) {
    let mut before = 0;
    for (id, subject) in &left.outbox {
        let is_outcome = subject.split('.').nth(2) == Some("outcome");
        let told = id.parse().ok().and_then(|id| ledger.told.get(&id));
        match told {
            None if is_outcome => {
                sim.violated("outcomes reach the ledger", format_args!("{}: {subject} was never told", machine.name));
            }
            // What a power cut took has no place any more.
            // What is told of a rollout has one id, whichever of its hosts was first.
            Some(told) if sim.server.lost().is_empty() && !told.outcome.kind.is_rollout() => {
                if told.sequence < before {
                    sim.violated("outcomes in order", format_args!("{}: {subject} was told too early", machine.name));
                }
                before = told.sequence;
            }
            _ => {}
        }
    }
}

/// What follows from the steps of a deploy was told.
fn steps(sim: &Sim, machine: &Machine, ledger: &Ledger, deploy: &Steps) {
    let Some((id, follows)) = replayed(machine, deploy) else {
        return sim.violated("journal", format_args!("the steps of {} make no deploy", machine.name));
    };
    for (kind, times) in follows {
        let of = |told: &&super::Told| told.outcome.promotion == id && told.outcome.kind == kind;
        let told = ledger.of(&machine.name).filter(of).count();
        if told < times {
            let text =
                format!("{}: {kind} follows {times} times from its steps, and was told {told} times", machine.name);
            sim.violated("every step is told", text);
        }
    }
}

fn replayed(machine: &Machine, steps: &Steps) -> Option<(EventId, BTreeMap<OutcomeKind, usize>)> {
    let event = CloudEvent::<Promotion>::decode(&steps.message, TYPE_PROMOTED).ok()?;
    let mut deploy = Deploy::new(Order { host: machine.name.clone(), id: event.id, promotion: event.data });
    let mut follows = BTreeMap::new();
    for (at, input) in &steps.inputs {
        let input: Input = serde_json::from_str(input).ok()?;
        deploy.handle(input, Timestamp::from_millisecond(*at).ok()?).ok()?;
        while let Some(outcome) = deploy.next_outcome() {
            *follows.entry(outcome.kind).or_default() += 1;
        }
    }
    Some((event.id, follows))
}
