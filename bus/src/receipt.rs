//! What a consumer has delivered waits for its receipt: until it is given, the message comes again.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::AckKind;

/// What the server is told about a message that it has delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done with it.
    Ack,
    /// Poison: it is never delivered again.
    Term,
    /// Still at work on it.
    Progress,
    /// Deliver it again after this time.
    Later(Duration),
}

/// Settles one delivered message.
#[derive(Debug, Clone)]
pub struct Receipt(Way);

#[derive(Debug, Clone)]
enum Way {
    Nats(Box<jetstream::Message>),
    #[cfg(feature = "simulation")]
    Simulated(std::sync::Arc<dyn crate::simulated::Settle>),
}

impl Receipt {
    pub(crate) fn nats(message: jetstream::Message) -> Self {
        Self(Way::Nats(Box::new(message)))
    }

    #[cfg(feature = "simulation")]
    pub fn simulated(settle: std::sync::Arc<dyn crate::simulated::Settle>) -> Self {
        Self(Way::Simulated(settle))
    }

    /// An end (`Ack`, `Term`) is confirmed by the server; everything else is only sent.
    ///
    /// # Errors
    /// Why it was not sent, or not confirmed.
    pub async fn settle(&self, settlement: Settlement) -> Result<(), async_nats::Error> {
        match &self.0 {
            Way::Nats(message) => match settlement {
                Settlement::Ack => message.double_ack_with(AckKind::Ack).await,
                Settlement::Term => message.double_ack_with(AckKind::Term).await,
                Settlement::Progress => message.ack_with(AckKind::Progress).await,
                Settlement::Later(after) => message.ack_with(AckKind::Nak(Some(after))).await,
            },
            #[cfg(feature = "simulation")]
            Way::Simulated(message) => message.settle(settlement).await.map_err(Into::into),
        }
    }
}
