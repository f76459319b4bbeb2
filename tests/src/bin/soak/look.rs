//! What the engines really run, by digest: looked at all the time, and at the very moment in which somebody says that a rollout succeeded.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use landfall_schema::Timestamp;
use landfall_schema::ids::{Digest, HostName, ServiceName};
use landfall_schema::outcome::{Outcome, OutcomeKind};
use landfall_tests::fleet::host::FleetHost;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use crate::record::Record;

const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);
/// A container that a fault has ended is back by then, or the word cannot be judged.
const WORD_LIMIT: Duration = Duration::from_secs(15);
const ENGINE_TIMEOUT_S: u64 = 10;

/// One host's engine.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) host: HostName,
    docker: Docker,
    project: String,
    /// The digest by which the engine knows an image, by its id.
    digests: HashMap<String, Digest>,
}

impl Look {
    pub(crate) fn at(host: &FleetHost) -> Result<Self> {
        let docker =
            Docker::connect_with_unix(&host.machine().docker_host, ENGINE_TIMEOUT_S, bollard::API_DEFAULT_VERSION)?;
        Ok(Self { host: host.name.clone(), docker, project: host.project.clone(), digests: HashMap::new() })
    }

    /// The image of each service's running container.
    pub(crate) async fn running(&mut self) -> Result<BTreeMap<ServiceName, Digest>> {
        timeout(LOOK_TIMEOUT, self.ask()).await.context("the engine does not answer")?
    }

    async fn ask(&mut self) -> Result<BTreeMap<ServiceName, Digest>> {
        let filters = HashMap::from([("label", vec![format!("com.docker.compose.project={}", self.project)])]);
        let options = ListContainersOptionsBuilder::new().filters(&filters).build();
        let mut running = BTreeMap::new();
        for container in self.docker.list_containers(Some(options)).await? {
            let labels = container.labels.unwrap_or_default();
            let service = labels.get("com.docker.compose.service").context("a container without its service")?;
            let image = container.image_id.context("a container without its image")?;
            running.insert(ServiceName::new(service.as_str())?, self.digest(&image).await?);
        }
        Ok(running)
    }

    async fn digest(&mut self, image: &str) -> Result<Digest> {
        if let Some(digest) = self.digests.get(image) {
            return Ok(digest.clone());
        }
        let names = self.docker.inspect_image(image).await?.repo_digests.unwrap_or_default();
        let digest =
            names.iter().find_map(|name| name.split_once('@')).with_context(|| format!("{image} has no digest"))?;
        let digest = Digest::new(digest.1)?;
        self.digests.insert(image.to_owned(), digest.clone());
        Ok(digest)
    }
}

/// Looks at one engine again and again. Never returns.
pub(crate) async fn watch(mut look: Look, record: Record) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        // An engine that a fault has taken away tells nothing.
        let began = Timestamp::now();
        if let Ok(running) = look.running().await {
            record.saw(&look.host, &running, began);
        }
    }
}

/// Compares every last word `succeeded` with what the engines run as it is heard. Ends with the sender.
pub(crate) async fn check_words(looks: Vec<Look>, record: Record, mut heard: UnboundedReceiver<Outcome>) {
    while let Some(outcome) = heard.recv().await {
        if matches!(outcome.kind, OutcomeKind::RolloutSucceeded | OutcomeKind::RolloutSucceededPartial) {
            for look in &looks {
                tokio::spawn(check_word(look.clone(), record.clone(), outcome.clone()));
            }
        }
    }
}

async fn check_word(mut look: Look, record: Record, word: Outcome) {
    let counter = word.counter.0;
    let is_named = word.rollout.as_ref().is_some_and(|state| state.not_reached.contains_key(&look.host));
    let Some(promised) = record.lock().ordered.get(&counter).map(|ordered| ordered.images.clone()) else { return };
    if is_named {
        return;
    }
    let deadline = Instant::now() + WORD_LIMIT;
    while Instant::now() < deadline {
        let seen = look.running().await;
        // What a newer promotion does meanwhile is not this word's.
        if record.lock().newest() > counter {
            return;
        }
        match seen.and_then(|running| compare(&promised, &running)) {
            Ok(None) => {
                record.lock().words.checked += 1;
                return;
            }
            Ok(Some(difference)) => {
                let text =
                    format!("{} said that #{counter} is {}, but on {} {difference}", word.host, word.kind, look.host);
                record.lock().words.violations.push(text);
                return;
            }
            // An engine or a container is away for the moment.
            Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// What differs from the promise; an error when a container is missing.
pub(crate) fn compare(
    promised: &BTreeMap<ServiceName, Digest>,
    running: &BTreeMap<ServiceName, Digest>,
) -> Result<Option<String>> {
    for (service, digest) in promised {
        if let Some(found) = running.get(service).filter(|found| *found != digest) {
            return Ok(Some(format!("{service} runs {found}, promised was {digest}")));
        }
    }
    let missing: Vec<&ServiceName> = promised.keys().filter(|service| !running.contains_key(*service)).collect();
    ensure!(missing.is_empty(), "{missing:?} does not run");
    Ok(None)
}
