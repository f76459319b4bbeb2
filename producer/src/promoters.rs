//! Whose promotions are believed here. A promotion names the roster by whose keys its hosts are believed, so this is where trust begins.

use std::collections::BTreeMap;

use landfall_bus::Delivered;
use landfall_schema::signature::{PublicKey, named_keys, verify};

use crate::session::Session;

/// The keys that the context names, and our own.
#[derive(Debug, Clone, Default)]
pub struct Promoters {
    keys: Vec<PublicKey>,
    /// The context names some, so nobody else is believed.
    strict: bool,
}

/// How far a promotion is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Signed by a known promoter.
    Known,
    /// Whole, and signed by whom it says; the context names nobody, so that is all that can be asked for.
    Named,
    /// Not signed as it says, or by somebody whom the context does not name.
    Stranger,
}

impl Promoters {
    pub fn of(cli: &Session) -> Self {
        let trusted = &cli.settings.trusted_promoters;
        let keys = trusted.iter().cloned().chain(cli.own_public_key()).collect();
        Self { keys, strict: !trusted.is_empty() }
    }

    pub fn trust(&self, message: &Delivered) -> Trust {
        let signed_by = |keys: &[PublicKey]| verify(&message.body, message.signature.as_deref(), keys).is_ok();
        if signed_by(&self.keys) {
            Trust::Known
        } else if !self.strict && signed_by(&named_keys(message.signature.as_deref())) {
            Trust::Named
        } else {
            Trust::Stranger
        }
    }

    /// Those that are believed, and how many are not.
    pub fn believed(&self, messages: Vec<Delivered>) -> (Vec<Delivered>, usize) {
        let all = messages.len();
        let believed: Vec<Delivered> =
            messages.into_iter().filter(|message| self.trust(message) != Trust::Stranger).collect();
        let left_out = all - believed.len();
        (believed, left_out)
    }

    /// By the messages' sequence.
    pub fn trust_each(&self, messages: &[Delivered]) -> BTreeMap<u64, Trust> {
        messages.iter().map(|message| (message.sequence, self.trust(message))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::Timestamp;
    use landfall_schema::signature::SigningKey;

    use super::*;

    #[test]
    fn a_promotion_is_believed_by_its_signer() {
        let (known, other) = (SigningKey::generate(), SigningKey::generate());
        let message = |signature: Option<String>| Delivered {
            subject: String::new(),
            sequence: 1,
            body: b"body".to_vec().into(),
            signature,
            traceparent: None,
            published_at: Timestamp::UNIX_EPOCH,
        };
        let forged = other.header(b"another body").unwrap();
        let messages = [known.header(b"body").ok(), other.header(b"body").ok(), Some(forged), None].map(message);
        for (strict, expect) in [
            (true, [Trust::Known, Trust::Stranger, Trust::Stranger, Trust::Stranger]),
            (false, [Trust::Known, Trust::Named, Trust::Stranger, Trust::Stranger]),
        ] {
            let promoters = Promoters { keys: vec![known.public()], strict };
            assert_eq!(messages.each_ref().map(|message| promoters.trust(message)), expect);
            let (believed, left_out) = promoters.believed(messages.to_vec());
            let strangers = expect.iter().filter(|trust| **trust == Trust::Stranger).count();
            assert_eq!((believed.len(), left_out), (4 - strangers, strangers));
        }
    }
}
