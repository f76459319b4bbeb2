//! Signatures over exact bytes: Ed25519 (NATS nkeys) over DSSE's pre-authentication encoding. Verify the bytes, then parse those bytes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nkeys::KeyPair;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::planted::planted;

/// DSSE's payload type of everything that Landfall signs.
pub const PAYLOAD_TYPE: &str = "application/cloudevents+json";
/// Most signatures in one header.
pub const SIGNATURES_MAX: usize = 16;
/// A public nkey has 56 characters; a stranger's key id may be anything.
const KEYID_SHOWN_MAX_CHARS: usize = 60;

/// One signature, as in DSSE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signature {
    /// The public nkey (`U…`) of the signer.
    pub keyid: String,
    /// Base64 of the 64 bytes.
    pub sig: String,
}

/// A full DSSE envelope, for events that are embedded or stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DsseEnvelope {
    pub payload_type: String,
    /// Base64 of the event's bytes.
    pub payload: String,
    pub signatures: Vec<Signature>,
}

#[derive(Debug, Error)]
pub enum SignatureError {
    #[error("the event carries no signature")]
    Unsigned,
    #[error("the signature header is not readable: {0}")]
    Malformed(String),
    #[error("no signature is by a trusted key; it was signed by {signers}")]
    Untrusted { signers: String },
    #[error("the signature by {keyid} does not match the event's bytes")]
    Mismatch { keyid: String },
    #[error("{0} is not a usable key")]
    BadKey(String),
}

/// DSSE v1 pre-authentication encoding (secure-systems-lab/dsse, protocol.md).
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {} {} ", payload_type.len(), payload_type, payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// A private key. Its `Debug` shows the public half only.
pub struct SigningKey(KeyPair);

impl SigningKey {
    pub fn generate() -> Self {
        Self(KeyPair::new_user())
    }

    /// # Errors
    /// [`SignatureError::BadKey`] when the text is no nkey user seed (`SU…`). The text is not repeated.
    pub fn from_seed(seed: &str) -> Result<Self, SignatureError> {
        KeyPair::from_seed(seed.trim())
            .map(Self)
            .map_err(|_| SignatureError::BadKey("the private key's text".to_owned()))
    }

    /// The secret text that [`Self::from_seed`] reads.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`] when the pair holds no seed.
    pub fn seed(&self) -> Result<String, SignatureError> {
        self.0.seed().map_err(|_| SignatureError::BadKey(self.public().0))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key())
    }

    /// Signs the bytes of an event.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`] when the pair cannot sign.
    pub fn sign(&self, payload: &[u8]) -> Result<Signature, SignatureError> {
        let bytes = self
            .0
            .sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload))
            .map_err(|_| SignatureError::BadKey(self.public().0))?;
        Ok(Signature { keyid: self.public().0, sig: BASE64.encode(bytes) })
    }

    /// The value of the signature header for these bytes, signed by this key alone.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn header(&self, payload: &[u8]) -> Result<String, SignatureError> {
        Ok(encode_header(&[self.sign(payload)?]))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public().0).finish()
    }
}

/// A public key, `U…`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

impl PublicKey {
    /// # Errors
    /// [`SignatureError::BadKey`] when the text is no public nkey.
    pub fn new(text: impl Into<String>) -> Result<Self, SignatureError> {
        let text = text.into();
        match KeyPair::from_public_key(&text) {
            Ok(_) if text.starts_with('U') => Ok(Self(text)),
            _ => Err(SignatureError::BadKey(shown_of_bad_key(&text))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A misplaced seed is a secret, and a damaged one nearly so: nothing of them is repeated.
fn shown_of_bad_key(text: &str) -> String {
    const SHOWN_MAX_CHARS: usize = 60;
    if text.starts_with('S') {
        return "a text that looks like a private key (S…; public keys begin with U)".to_owned();
    }
    format!("{:?}", text.chars().take(SHOWN_MAX_CHARS).collect::<String>())
}

impl TryFrom<String> for PublicKey {
    type Error = SignatureError;
    fn try_from(text: String) -> Result<Self, SignatureError> {
        Self::new(text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The header's text: compact JSON, an array of signatures.
pub fn encode_header(signatures: &[Signature]) -> String {
    // An array of structs of strings always serialises.
    serde_json::to_string(signatures).unwrap_or_else(|_| "[]".to_owned())
}

/// Reads the header's text.
///
/// # Errors
/// [`SignatureError::Unsigned`] for a missing or empty one, [`SignatureError::Malformed`] otherwise.
pub fn decode_header(header: Option<&str>) -> Result<Vec<Signature>, SignatureError> {
    let header = header.ok_or(SignatureError::Unsigned)?;
    let signatures: Vec<Signature> =
        serde_json::from_str(header).map_err(|error| SignatureError::Malformed(error.to_string()))?;
    match signatures.len() {
        0 => Err(SignatureError::Unsigned),
        1..=SIGNATURES_MAX => Ok(signatures),
        n => Err(SignatureError::Malformed(format!("{n} signatures, at most {SIGNATURES_MAX} are allowed"))),
    }
}

/// Returns the trusted key that signed exactly these bytes.
///
/// A bad signature under a trusted key's name is an error even beside a good one: somebody tampered.
///
/// # Errors
/// Any [`SignatureError`].
pub fn verify(payload: &[u8], header: Option<&str>, trusted: &[PublicKey]) -> Result<PublicKey, SignatureError> {
    let signatures = decode_header(header)?;
    let encoded = pre_authentication_encoding(PAYLOAD_TYPE, payload);
    let mut signer = None;
    for signature in &signatures {
        let Some(key) = trusted.iter().find(|key| key.as_str() == signature.keyid) else { continue };
        let mismatch = || SignatureError::Mismatch { keyid: signature.keyid.clone() };
        let bytes = BASE64.decode(&signature.sig).map_err(|_| mismatch())?;
        let pair = KeyPair::from_public_key(key.as_str()).map_err(|_| SignatureError::BadKey(key.to_string()))?;
        pair.verify(&encoded, &bytes).map_err(|_| mismatch())?;
        signer.get_or_insert_with(|| key.clone());
    }
    signer.ok_or_else(|| SignatureError::Untrusted {
        signers: signatures
            .iter()
            .map(|s| s.keyid.escape_debug().take(KEYID_SHOWN_MAX_CHARS).collect::<String>())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Every one of these keys that signed exactly these bytes, each once; none of them is no error.
///
/// # Errors
/// As [`verify`], but for [`SignatureError::Untrusted`].
pub fn signers(payload: &[u8], header: Option<&str>, known: &[PublicKey]) -> Result<Vec<PublicKey>, SignatureError> {
    if planted("count_a_key_twice") {
        return Ok(named_keys(header).into_iter().filter(|key| known.contains(key)).collect());
    }
    let mut found = Vec::new();
    for key in known {
        match verify(payload, header, std::slice::from_ref(key)) {
            Ok(signer) if !found.contains(&signer) => found.push(signer),
            Ok(_) | Err(SignatureError::Untrusted { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The keys that the header names and that are keys at all. Nothing is verified by this.
pub fn named_keys(header: Option<&str>) -> Vec<PublicKey> {
    let signatures = decode_header(header).unwrap_or_default();
    signatures.into_iter().filter_map(|signature| PublicKey::new(signature.keyid).ok()).collect()
}

impl DsseEnvelope {
    pub fn new(payload: &[u8], signatures: Vec<Signature>) -> Self {
        Self { payload_type: PAYLOAD_TYPE.to_owned(), payload: BASE64.encode(payload), signatures }
    }

    /// An event as it was published: its body and signature header.
    ///
    /// # Errors
    /// As [`decode_header`].
    pub fn published(body: &[u8], header: Option<&str>) -> Result<Self, SignatureError> {
        Ok(Self::new(body, decode_header(header)?))
    }

    /// The signatures as a header holds them.
    pub fn header(&self) -> String {
        encode_header(&self.signatures)
    }

    /// The payload's bytes, when they are base64, before anybody believed them: good for asking what they claim to be, and for nothing else.
    pub fn unverified_payload(&self) -> Option<Vec<u8>> {
        BASE64.decode(&self.payload).ok()
    }

    /// The payload's bytes and the trusted key that signed exactly them.
    ///
    /// # Errors
    /// Any [`SignatureError`].
    pub fn open(&self, trusted: &[PublicKey]) -> Result<(Vec<u8>, PublicKey), SignatureError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(SignatureError::Malformed(format!("the payload is of type {:?}", self.payload_type)));
        }
        let bytes = BASE64
            .decode(&self.payload)
            .map_err(|error| SignatureError::Malformed(format!("the payload is not base64: {error}")))?;
        let signer = verify(&bytes, Some(&encode_header(&self.signatures)), trusted)?;
        Ok((bytes, signer))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_shown_of_keys_is_cut() {
        for past in [0, 1] {
            assert_eq!(shown_of_bad_key(&"X".repeat(60 + past)), format!("{:?}", "X".repeat(60)));
            let stranger = Signature { keyid: "U".repeat(KEYID_SHOWN_MAX_CHARS + past), sig: String::new() };
            let trusted = [SigningKey::generate().public()];
            let error = verify(b"body", Some(&encode_header(&[stranger])), &trusted).unwrap_err();
            let SignatureError::Untrusted { signers } = error else { panic!("{error}") };
            assert_eq!(signers, "U".repeat(KEYID_SHOWN_MAX_CHARS));
        }
    }
}
