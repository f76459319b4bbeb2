//! Messages that were delivered and not yet acknowledged. An acknowledgement means that what became of the message is recorded on the bus.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::AckKind;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::intake::MessageId;

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
    fn kind(self) -> AckKind {
        match self {
            Self::Ack => AckKind::Ack,
            Self::Term => AckKind::Term,
        }
    }
}

/// The messages that wait for their outcome to be published.
#[derive(Debug, Default)]
pub struct Held {
    messages: HashMap<MessageId, (jetstream::Message, How)>,
    /// Acknowledgements under way.
    settling: TaskTracker,
}

impl Held {
    pub fn hold(&mut self, id: MessageId, message: jetstream::Message, how: How) {
        // A later delivery of the same message takes the place of the former one.
        self.messages.insert(id, (message, how));
    }

    /// What became of the message is on the bus. One that only the sweep brought is not here.
    pub fn settle(&mut self, id: &MessageId) {
        if let Some((message, how)) = self.messages.remove(id) {
            self.settle_now(message, how);
        }
    }

    /// Acknowledges, and awaits the server's confirmation beside everything else.
    pub fn settle_now(&self, message: jetstream::Message, how: How) {
        self.settling.spawn(settle(message, how));
    }

    /// Until every acknowledgement is confirmed, or has run out of time.
    pub async fn settled(&self) {
        self.settling.close();
        self.settling.wait().await;
    }

    /// Says that this host still works on each of them.
    pub fn still_working(&self) {
        for (message, _) in self.messages.values() {
            tell(message.clone(), AckKind::Progress);
        }
    }
}

async fn settle(message: jetstream::Message, how: How) {
    match timeout(ACK_TIMEOUT, message.double_ack_with(how.kind())).await {
        Ok(Ok(())) => debug!(subject = %message.subject, ?how, "settled"),
        Ok(Err(error)) => {
            warn!(subject = %message.subject, error, "the acknowledgement was not confirmed; the message comes again");
        }
        Err(_) => {
            warn!(subject = %message.subject, "the acknowledgement was not confirmed in time; the message comes again");
        }
    }
}

/// Trouble of our own: the server shall deliver it again later.
pub fn later(message: jetstream::Message) {
    tell(message, AckKind::Nak(Some(NAK_DELAY)));
}

fn tell(message: jetstream::Message, kind: AckKind) {
    tokio::spawn(async move {
        // Not confirmed by the server; when it is lost, the message comes again after its ack_wait.
        if let Ok(Err(error)) = timeout(ACK_TIMEOUT, message.ack_with(kind)).await {
            debug!(subject = %message.subject, error, "a sign of life was not sent");
        }
    });
}
