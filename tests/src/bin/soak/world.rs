//! Everything that is real: the hosts with their executors, the bus, the database, the registry, and the ledger that follows all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::event::{CloudEvent, TYPE_PRESENCE};
use landfall_schema::ids::HostName;
use landfall_schema::presence::Presence;
use landfall_schema::signature::{PublicKey, SigningKey};
use landfall_tests::database::Database;
use landfall_tests::fleet::Fleet;
use landfall_tests::fleet::lease::Use;
use landfall_tests::fleet::scenario::FleetScenario;
use landfall_tests::lab::program;
use landfall_tests::process::Process;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqlitePool};

use crate::faults::parts::{Postgres, RegistryPart};
use crate::look::Look;
use crate::release::Means;
use crate::samples::Samples;

pub(crate) struct World {
    // Dropped in this order: executors and the ledger end before what they are connected with.
    pub(crate) audit: Process,
    pub(crate) fleet: FleetScenario,
    pub(crate) database: Database,
    pub(crate) postgres: Postgres,
    pub(crate) registry: RegistryPart,
    pub(crate) nats_address: SocketAddr,
    pub(crate) keys: BTreeMap<HostName, PublicKey>,
    pub(crate) ledger: PathBuf,
}

impl World {
    pub(crate) async fn start(samples: &Samples) -> Result<Self> {
        let hosts = Fleet::from_env()?.machines.len();
        let fleet =
            FleetScenario::start_with(hosts, Use::Alone, |_, settings| settings.drift = "repair".to_owned()).await?;
        let database = Database::create(&fleet.lab).await?;
        make_durable(&database).await?;
        for host in &fleet.hosts {
            host.set("DATABASE_URL", &database.gateway_url)?;
            host.set("HOST_NAME", host.name.as_str())?;
            samples.follow(host.name.as_str(), host.executor.pid());
        }
        let keys = keys(&fleet).await?;
        let ledger = fleet.folder().join("ledger.sqlite");
        let audit = start_audit(&fleet, &ledger, &keys)?;
        samples.follow("landfall-audit", Some(audit.pid()));
        let folder = PathBuf::from(std::env::var("LANDFALL_LAB_DIR").context("LANDFALL_LAB_DIR is not set")?);
        let gateway = fleet.lab.gateway.clone();
        let address = |port: &str| -> Result<SocketAddr> { Ok(format!("{gateway}:{port}").parse()?) };
        let nats_address = address(&fleet.nats.port().to_string())?;
        let registry = RegistryPart::new(&folder, fleet.registry.address.parse()?);
        let postgres = Postgres { lab: folder, address: address(&port_of(&fleet.lab.postgres_gateway_url)?)? };
        Ok(Self { audit, fleet, database, postgres, registry, nats_address, keys, ledger })
    }

    pub(crate) fn looks(&self) -> Result<Vec<Look>> {
        self.fleet.hosts.iter().map(Look::at).collect()
    }

    /// What a promoter needs; it is its own, so that releases go on while faults have the rest in hand.
    pub(crate) fn means(&self) -> Result<Means> {
        let FleetScenario { bus, env, app, promoter, registry, repository, .. } = &self.fleet;
        Ok(Means {
            bus: bus.clone(),
            env: env.clone(),
            app: app.clone(),
            key: SigningKey::from_seed(&promoter.seed()?)?,
            registry: registry.clone(),
            repository: repository.clone(),
            hosts: self.keys.clone(),
        })
    }

    /// Ids of the events in the ledger, with what their signatures were worth.
    pub(crate) async fn in_ledger(&self, table: &str) -> Result<BTreeMap<String, String>> {
        let pool = SqlitePool::connect(&format!("sqlite://{}?mode=ro", self.ledger.display())).await?;
        let query = format!("SELECT event_id, verdict FROM {table}");
        let rows: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(&pool).await?;
        pool.close().await;
        Ok(rows.into_iter().collect())
    }

    /// How many messages the stream of outcomes has.
    pub(crate) async fn published(&self) -> Result<u64> {
        let stream = self.fleet.bus.jetstream().get_stream(landfall_schema::layout::OUTCOMES).await?;
        Ok(stream.cached_info().state.messages)
    }

    pub(crate) async fn versions(&self, query: &'static str) -> Result<Vec<i64>> {
        self.database.texts(query).await?.iter().map(|text| text.parse().with_context(|| text.clone())).collect()
    }

    /// Lines of the logs that no run may have.
    pub(crate) fn panics(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for host in &self.fleet.hosts {
            let log = host.executor.whole_log()?;
            found.extend(log.lines().filter(|line| is_panic(line)).map(|line| format!("{}: {line}", host.name)));
        }
        let log = std::fs::read_to_string(self.fleet.folder().join("audit.log"))?;
        found.extend(log.lines().filter(|line| is_panic(line)).map(|line| format!("landfall-audit: {line}")));
        Ok(found)
    }

    /// Copies logs, journals and the ledger to a folder that stays.
    pub(crate) fn keep(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        copy(self.fleet.folder(), &to.join("run"))?;
        for variable in ["LANDFALL_LAB_DIR", "LANDFALL_FLEET_DIR"] {
            let folder = PathBuf::from(std::env::var(variable)?);
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
                }
            }
        }
        Ok(())
    }
}

fn is_panic(line: &str) -> bool {
    line.contains("panicked at") || line.contains("a defect:")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp ended with {status}");
    Ok(())
}

/// The laboratory's PostgreSQL confirms what it may still lose, and it is going to crash: here it must not.
async fn make_durable(database: &Database) -> Result<()> {
    let mut connection = PgConnection::connect(&database.url).await?;
    let name: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut connection).await?;
    let change = format!("ALTER DATABASE {name} SET synchronous_commit = on");
    sqlx::query(AssertSqlSafe(change)).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

/// The hosts' keys, as they announce them.
async fn keys(fleet: &FleetScenario) -> Result<BTreeMap<HostName, PublicKey>> {
    let mut keys = BTreeMap::new();
    for beat in fleet.bus.presence(&fleet.env).await? {
        let presence = CloudEvent::<Presence>::decode(&beat.body, TYPE_PRESENCE)?.data;
        keys.insert(presence.host, PublicKey::new(presence.key)?);
    }
    let expected: BTreeSet<&HostName> = fleet.hosts.iter().map(|host| &host.name).collect();
    ensure!(keys.keys().collect::<BTreeSet<_>>() == expected, "present are {:?}", keys.keys());
    Ok(keys)
}

fn start_audit(fleet: &FleetScenario, ledger: &Path, keys: &BTreeMap<HostName, PublicKey>) -> Result<Process> {
    let mut command = Command::new(program("landfall-audit")?);
    command.arg("--database").arg(format!("sqlite://{}", ledger.display())).arg("run");
    command.args(["--trust", &format!("promote={}", fleet.promoter.public())]);
    for (host, key) in keys {
        command.args(["--trust", &format!("host:{host}={key}")]);
    }
    command.env_remove("LANDFALL_ENV").env("NATS_URL", fleet.nats.url());
    Process::start("landfall-audit", &mut command, &fleet.folder().join("audit.log"))
}

fn port_of(url: &str) -> Result<String> {
    let after = url.rsplit_once('@').map_or(url, |(_, after)| after);
    let port = after.split_once(':').context("a URL without a port")?.1;
    Ok(port.chars().take_while(char::is_ascii_digit).collect())
}
