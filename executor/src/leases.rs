//! Leases of databases on the bus: signed by this host, read from the leader, changed by compare-and-set.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use landfall_bus::BusError;
use landfall_schema::layout::LOCKS;
use landfall_schema::lease::MigrationLease;
use landfall_schema::signature::PublicKey;
use landfall_schema::subject;

use crate::announce::Announcer;
use crate::causes;
use crate::hands::{Kept, LeaseTrouble, Leases};
use crate::link::BusHandle;
use crate::world;

pub struct BusLeases {
    pub bus: BusHandle,
    pub announcer: Arc<Announcer>,
    /// Keys that may promote.
    pub promoters: Vec<PublicKey>,
}

impl Leases for BusLeases {
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Kept>, LeaseTrouble>> {
        Box::pin(async move {
            let bus = self.bus.connected().ok_or_else(away)?;
            let entry = bus.entry(LOCKS, key).await.map_err(trouble)?;
            Ok(entry.map(|entry| {
                let (lease, signer) = MigrationLease::open(&entry.body).ok().unzip();
                Kept { revision: entry.revision, lease, signer }
            }))
        })
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        lease: &'a MigrationLease,
        expected: u64,
    ) -> BoxFuture<'a, Result<u64, LeaseTrouble>> {
        Box::pin(async move {
            let bus = self.bus.connected().ok_or_else(away)?;
            let body = self.announcer.lease(lease, world::now());
            let body = body.map_err(|error| LeaseTrouble::Away(causes(&error)))?;
            bus.write_entry(LOCKS, key, Bytes::from(body), expected).await.map_err(trouble)
        })
    }

    fn hear<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Option<BoxStream<'static, ()>>> {
        Box::pin(async move {
            let heard = self.bus.connected()?.hear(subject::migration_subject(key)).await.ok()?;
            Some(heard.boxed())
        })
    }

    fn is_own_key(&self, key: &PublicKey) -> bool {
        self.announcer.public_key() == *key
    }

    fn may_promote(&self, key: &PublicKey) -> bool {
        self.promoters.contains(key)
    }
}

fn away() -> LeaseTrouble {
    LeaseTrouble::Away("the bus is away".to_owned())
}

fn trouble(error: BusError) -> LeaseTrouble {
    match error {
        BusError::Raced { .. } => LeaseTrouble::Raced,
        error => LeaseTrouble::Away(causes(&error)),
    }
}
