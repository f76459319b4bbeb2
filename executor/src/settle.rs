//! Messages that were delivered and not yet acknowledged. An acknowledgement means that what became of the message is recorded on the bus.

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_bus::{Receipt, Settlement};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::failpoint::failpoint;
use crate::intake::MessageId;
use crate::world::within;

/// Time for the server to confirm an acknowledgement. An unconfirmed one is harmless: the message comes again, and is known then.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// After trouble of our own the message comes again after this time.
pub const NAK_DELAY: Duration = Duration::from_secs(15);

/// How a message is settled in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Ack,
    /// Poison: it is never delivered again.
    Term,
}

impl How {
    fn settlement(self) -> Settlement {
        match self {
            Self::Ack => Settlement::Ack,
            Self::Term => Settlement::Term,
        }
    }
}

/// The messages that wait for their outcome to be published.
#[derive(Debug, Default)]
pub struct Held {
    messages: BTreeMap<MessageId, (Receipt, How)>,
    /// Acknowledgements under way.
    settling: TaskTracker,
}

impl Held {
    pub fn hold(&mut self, id: MessageId, receipt: Receipt, how: How) {
        // A later delivery of the same message takes the place of the former one.
        self.messages.insert(id, (receipt, how));
    }

    /// What became of the message is on the bus. One that only the sweep brought is not here.
    pub fn settle(&mut self, id: &MessageId) {
        if let Some((receipt, how)) = self.messages.remove(id) {
            self.settle_now(receipt, how);
        }
    }

    /// Acknowledges, and awaits the server's confirmation beside everything else.
    pub fn settle_now(&self, receipt: Receipt, how: How) {
        self.settling.spawn(within(settle(receipt, how)));
    }

    /// Until every acknowledgement is confirmed, or has run out of time.
    pub async fn settled(&self) {
        self.settling.close();
        self.settling.wait().await;
    }

    /// Says that this host still works on each of them.
    pub fn still_working(&self) {
        for (receipt, _) in self.messages.values() {
            tell(receipt.clone(), Settlement::Progress);
        }
    }
}

async fn settle(receipt: Receipt, how: How) {
    failpoint!("ack.before");
    let settled = timeout(ACK_TIMEOUT, receipt.settle(how.settlement())).await;
    failpoint!("ack.after");
    match settled {
        Ok(Ok(())) => debug!(?how, "settled"),
        Ok(Err(error)) => warn!(error, "an acknowledgement was not confirmed; the message comes again"),
        Err(_) => warn!("an acknowledgement was not confirmed in time; the message comes again"),
    }
}

/// Trouble of our own: the server shall deliver it again later.
pub fn later(receipt: Receipt) {
    tell(receipt, Settlement::Later(NAK_DELAY));
}

fn tell(receipt: Receipt, settlement: Settlement) {
    tokio::spawn(within(async move {
        // Not confirmed by the server; when it is lost, the message comes again after its ack_wait.
        if let Ok(Err(error)) = timeout(ACK_TIMEOUT, receipt.settle(settlement)).await {
            debug!(error, "a sign of life was not sent");
        }
    }));
}
