//! What unit tests are made of.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use landfall_bus::Delivered;
use landfall_deploy::Order;
use landfall_schema::Timestamp;
use landfall_schema::bundle::{BUNDLE_VERSION, Bundle, BundleFile};
use landfall_schema::event::{CloudEvent, TYPE_PROMOTED};
use landfall_schema::ids::{AppName, Counter, Digest, EnvName, EventId, HostName};
use landfall_schema::promotion::{BundleRef, Intent, PinnedImage, Promotion, RolloutPlan, Wave};
use landfall_schema::signature::{PublicKey, SigningKey};
use uuid::Uuid;

use crate::announce::Announcer;
use crate::config::PreviewConfig;
use crate::intake::{Facts, MessageId, PreviewFacts, Standing, Taken};

pub(crate) fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub(crate) fn announcer() -> Announcer {
    Announcer::new("staging".parse().unwrap(), "host-a".parse().unwrap(), SigningKey::generate())
}

pub(crate) fn bundle() -> Bundle {
    let content = "services: {app: {image: example}}".to_owned();
    Bundle { version: BUNDLE_VERSION, compose: vec![BundleFile { name: "compose.yml".to_owned(), content }] }
}

pub(crate) fn promotion(counter: u64) -> Promotion {
    let image = PinnedImage { repository: "127.0.0.1:5000/shop".to_owned(), digest: Digest::of(b"image"), tag: None };
    let (_, reference) = bundle().encode().unwrap();
    Promotion {
        env: "staging".parse().unwrap(),
        app: "shop".parse().unwrap(),
        counter: Counter(counter),
        release: format!("v{counter}").parse().unwrap(),
        intent: Intent::Promote,
        images: BTreeMap::from([("app".parse().unwrap(), image)]),
        variables: BTreeMap::new(),
        bundle: BundleRef { digest: reference.digest, bytes: reference.bytes },
        plan: RolloutPlan {
            waves: vec![Wave::of(vec!["host-a".parse().unwrap()])],
            deadline_ms: 600_000,
            bake_ms: 0,
            ..RolloutPlan::default()
        },
        only: Default::default(),
        preview: None,
        schema: None,
        evidence: None,
        author: "ci".to_owned(),
        link: None,
        expires_at: "2999-01-01T00:00:00Z".parse().unwrap(),
    }
}

pub(crate) fn event(promotion: Promotion) -> CloudEvent<Promotion> {
    let id = EventId(Uuid::from_u128(u128::from(promotion.counter.0)));
    CloudEvent::new(id, "/landfall/producer/ci", TYPE_PROMOTED, now(), promotion)
}

pub(crate) fn order(counter: u64) -> Order {
    let event = event(promotion(counter));
    Order { host: "host-a".parse().unwrap(), id: event.id, promotion: event.data }
}

pub(crate) fn message(body: Vec<u8>, signature: Option<String>) -> Delivered {
    Delivered {
        subject: "landfall.staging.release.shop.promoted".to_owned(),
        sequence: 1,
        body: body.into(),
        signature,
        traceparent: None,
        published_at: now(),
    }
}

pub(crate) fn taken(counter: u64) -> Taken {
    let body = event(promotion(counter)).encode().unwrap();
    let message = message(body, Some("[]".to_owned()));
    Taken {
        order: order(counter),
        message: MessageId::of(&message),
        body: message.body,
        signature: message.signature,
        traceparent: None,
    }
}

/// What host-a of staging judges a promotion by: it took the fourth of shop, and takes previews of it.
pub(crate) struct Judging {
    host: HostName,
    env: EnvName,
    labels: BTreeMap<String, String>,
    trusted: [PublicKey; 1],
    apps: BTreeMap<AppName, ()>,
    takes: BTreeMap<AppName, PreviewConfig>,
    /// Previews that are here, and what each is of.
    pub(crate) here: BTreeMap<AppName, AppName>,
    pub(crate) standing: Option<Standing>,
    pub(crate) is_known: bool,
}

impl Judging {
    pub(crate) fn by(promoter: &SigningKey) -> Self {
        let takes = PreviewConfig {
            directory: "/opt/previews/shop".into(),
            max_lifetime: std::time::Duration::from_secs(3_600),
            max: 2,
        };
        Self {
            host: "host-a".parse().unwrap(),
            env: "staging".parse().unwrap(),
            labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            trusted: [promoter.public()],
            apps: BTreeMap::from([("shop".parse().unwrap(), ())]),
            takes: BTreeMap::from([("shop".parse().unwrap(), takes)]),
            here: BTreeMap::new(),
            standing: Some(Standing { counter: Counter(4), id: order(4).id }),
            is_known: false,
        }
    }

    pub(crate) fn facts(&self) -> Facts<'_, ()> {
        Facts {
            host: &self.host,
            env: &self.env,
            labels: &self.labels,
            trusted: &self.trusted,
            apps: &self.apps,
            previews: PreviewFacts { takes: &self.takes, here: &self.here },
            now: now(),
            standing: self.standing,
            is_known: self.is_known,
        }
    }
}
