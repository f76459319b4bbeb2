//! Bundles in the object store, each under its digest. The bytes are believed only after `Bundle::decode` has compared them.

use std::time::Duration;

use async_nats::jetstream::object_store::{GetErrorKind, ObjectStore};
use landfall_schema::ids::Digest;
use landfall_schema::layout::{BUNDLE_MAX_BYTES, BUNDLES};
use landfall_schema::promotion::BundleRef;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::connection::Bus;
use crate::error::BusError;

/// Time to store or fetch one bundle, the server's answers included.
pub const BUNDLE_TIMEOUT: Duration = Duration::from_secs(20);

impl Bus {
    /// Stores the bundle under its digest, unless these very bytes are there already.
    ///
    /// # Errors
    /// [`BusError::BundleOversized`], [`BusError::StoreBundle`].
    pub async fn put_bundle(&self, bytes: &[u8], reference: &BundleRef) -> Result<(), BusError> {
        if bytes.len() > BUNDLE_MAX_BYTES {
            let digest = reference.digest.clone();
            return Err(BusError::BundleOversized { digest, bytes: bytes.len() as u64 });
        }
        let failed = |error| BusError::StoreBundle { digest: reference.digest.clone(), source: self.cause(error) };
        // Overwriting the same bytes would break a host that is just reading them.
        match self.get_bundle(reference).await {
            Ok(held) if held == bytes => return Ok(()),
            Ok(_) | Err(BusError::BundleMissing { .. } | BusError::BundleOversized { .. }) => {}
            Err(error) => return Err(error),
        }
        let store = self.bundle_store().await.map_err(failed)?;
        let mut reader = bytes;
        let name = object_name(&reference.digest);
        match timeout(BUNDLE_TIMEOUT, store.put(name.as_str(), &mut reader)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(error.into())),
            Err(late) => Err(failed(late.into())),
        }
    }

    /// Reads at most `BUNDLE_MAX_BYTES`.
    ///
    /// # Errors
    /// [`BusError::BundleMissing`], [`BusError::BundleOversized`], [`BusError::FetchBundle`].
    pub async fn get_bundle(&self, reference: &BundleRef) -> Result<Vec<u8>, BusError> {
        match timeout(BUNDLE_TIMEOUT, self.read_bundle(&reference.digest)).await {
            Ok(read) => read,
            Err(late) => Err(BusError::FetchBundle { digest: reference.digest.clone(), source: self.cause(late) }),
        }
    }

    async fn read_bundle(&self, digest: &Digest) -> Result<Vec<u8>, BusError> {
        let failed = |error| BusError::FetchBundle { digest: digest.clone(), source: self.cause(error) };
        #[cfg(feature = "simulation")]
        if let Some(server) = self.simulated() {
            let found = server.bundle(digest).await.map_err(|error| failed(error.into()))?;
            return found.ok_or_else(|| BusError::BundleMissing { digest: digest.clone() });
        }
        let store = self.bundle_store().await.map_err(failed)?;
        let object = match store.get(object_name(digest)).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => {
                return Err(BusError::BundleMissing { digest: digest.clone() });
            }
            Err(error) => return Err(failed(error.into())),
        };
        let mut bytes = Vec::new();
        let limit = BUNDLE_MAX_BYTES as u64 + 1;
        object.take(limit).read_to_end(&mut bytes).await.map_err(|error| failed(error.into()))?;
        if bytes.len() > BUNDLE_MAX_BYTES {
            return Err(BusError::BundleOversized { digest: digest.clone(), bytes: bytes.len() as u64 });
        }
        Ok(bytes)
    }

    async fn bundle_store(&self) -> Result<ObjectStore, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.jetstream().get_object_store(BUNDLES).await?)
    }
}

/// A colon is not allowed in an object's name.
fn object_name(digest: &Digest) -> String {
    digest.as_str().replace(':', "-")
}
