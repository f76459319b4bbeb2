//! Promotions made by hand: everything can be wrong in them that can be wrong in one from a stranger.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use landfall_bus::Bus;
use landfall_schema::Timestamp;
use landfall_schema::event::{CONTENT_TYPE, CloudEvent, TYPE_PRESENCE, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, EnvName, EventId, HostName, ReleaseName};
use landfall_schema::layout::{HEADER_CONTENT_TYPE, HEADER_SIGNATURE};
use landfall_schema::presence::Presence;
use landfall_schema::promotion::{BundleRef, Intent, Promotion, RolloutPlan, Wave};
use landfall_schema::roster::Roster;
use landfall_schema::signature::{PublicKey, SigningKey};
use landfall_schema::subject;
use uuid::Uuid;

use crate::stack::Stack;

const VALID_FOR: Duration = Duration::from_secs(3600);
const DEADLINE_MS: u64 = 60_000;

/// A promotion on its way to be signed; every part may be changed.
#[derive(Debug, Clone)]
pub struct Draft {
    pub event: CloudEvent<Promotion>,
    pub bundle: Vec<u8>,
}

/// Exactly what goes onto the bus.
#[derive(Debug, Clone)]
pub struct Message {
    pub subject: String,
    pub id: EventId,
    pub body: Vec<u8>,
    pub signature: Option<String>,
}

impl Draft {
    /// A promotion of this stack that every host would take.
    ///
    /// # Errors
    /// When a name of the stack is unusable.
    pub fn of(stack: &Stack, env: &EnvName, app: &AppName, hosts: Vec<HostName>, counter: u64) -> Result<Self> {
        let (bundle, reference) = stack.bundle().encode()?;
        let now = Timestamp::now();
        let promotion = Promotion {
            env: env.clone(),
            app: app.clone(),
            counter: Counter(counter),
            release: ReleaseName::new(format!("r{counter}"))?,
            intent: Intent::Promote,
            images: stack.images()?,
            variables: BTreeMap::new(),
            bundle: reference,
            plan: RolloutPlan { waves: vec![Wave::of(hosts)], deadline_ms: DEADLINE_MS, ..RolloutPlan::default() },
            only: Default::default(),
            preview: None,
            schema: None,
            evidence: None,
            author: "tests".to_owned(),
            link: None,
            expires_at: now + VALID_FOR,
        };
        let event = CloudEvent::new(EventId(Uuid::now_v7()), "/landfall/producer/tests", TYPE_PROMOTED, now, promotion);
        Ok(Self { event, bundle })
    }

    /// Makes the hosts act together: these waves, and the keys that the hosts announce.
    ///
    /// # Errors
    /// When a host is not present, or the bus does not take the roster.
    pub async fn coordinate(mut self, bus: &Bus, waves: &[&[&str]]) -> Result<Self> {
        let mut keys = BTreeMap::new();
        for beat in bus.presence(&self.event.data.env).await? {
            let presence = CloudEvent::<Presence>::decode(&beat.body, TYPE_PRESENCE)?.data;
            keys.insert(presence.host, PublicKey::new(presence.key)?);
        }
        let plan = &mut self.event.data.plan;
        plan.waves.clear();
        let mut roster = BTreeMap::new();
        for names in waves {
            let hosts = names.iter().map(|name| HostName::new(*name)).collect::<Result<Vec<_>, _>>()?;
            for host in &hosts {
                roster.insert(host.clone(), keys.get(host).with_context(|| format!("{host} is not present"))?.clone());
            }
            plan.waves.push(Wave::of(hosts));
        }
        let (bytes, reference) = Roster::new(roster).encode()?;
        bus.put_bundle(&bytes, &reference).await?;
        plan.roster = Some(reference);
        Ok(self)
    }

    pub fn counter(&self) -> u64 {
        self.event.data.counter.0
    }

    /// The message, signed by `key`.
    ///
    /// # Errors
    /// When the event cannot be written.
    pub fn signed(&self, key: &SigningKey) -> Result<Message> {
        let body = serde_json::to_vec(&self.event)?;
        let signature = Some(key.header(&body)?);
        let subject = subject::promoted(&self.event.data.env, &self.event.data.app).to_string();
        Ok(Message { subject, id: self.event.id, body, signature })
    }

    /// Stores the bundle.
    ///
    /// # Errors
    /// When the bus does not take it.
    pub async fn store_bundle(&self, bus: &Bus) -> Result<()> {
        let BundleRef { digest, .. } = &self.event.data.bundle;
        ensure!(*digest == landfall_schema::ids::Digest::of(&self.bundle), "the draft's bundle was changed");
        Ok(bus.put_bundle(&self.bundle, &self.event.data.bundle).await?)
    }
}

impl Message {
    /// Publishes the bytes as they are, past every check of the producer.
    ///
    /// # Errors
    /// When the server does not store them.
    pub async fn publish(&self, bus: &Bus) -> Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_CONTENT_TYPE, CONTENT_TYPE);
        headers.insert(NATS_MESSAGE_ID, self.id.to_string());
        if let Some(signature) = &self.signature {
            headers.insert(HEADER_SIGNATURE, signature.as_str());
        }
        let sent =
            bus.jetstream().publish_with_headers(self.subject.clone(), headers, self.body.clone().into()).await?;
        Ok(sent.await?.sequence)
    }
}
