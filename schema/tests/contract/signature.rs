use landfall_schema::signature::{
    DsseEnvelope, PublicKey, SIGNATURES_MAX, Signature, SignatureError, SigningKey, decode_header, encode_header,
    pre_authentication_encoding, verify,
};

const BODY: &[u8] = br#"{"specversion":"1.0","data":{"app":"shop"}}"#;

#[test]
fn the_signer_is_returned() {
    let key = SigningKey::generate();
    let other = SigningKey::generate();
    let header = key.header(BODY).unwrap();
    assert_eq!(verify(BODY, Some(&header), &[other.public(), key.public()]).unwrap(), key.public());
}

#[test]
fn pre_authentication_encoding_is_dsse() {
    // The example of the specification (secure-systems-lab/dsse, protocol.md).
    let bytes = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
    assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
}

#[test]
fn every_changed_byte_is_noticed() {
    let key = SigningKey::generate();
    let header = key.header(BODY).unwrap();
    for position in 0..BODY.len() {
        let mut body = BODY.to_vec();
        body[position] ^= 1;
        let error = verify(&body, Some(&header), &[key.public()]).unwrap_err();
        assert!(matches!(error, SignatureError::Mismatch { .. }), "byte {position}: {error}");
    }
    for body in [&BODY[..BODY.len() - 1], &[BODY, b" "].concat()] {
        assert!(matches!(verify(body, Some(&header), &[key.public()]), Err(SignatureError::Mismatch { .. })));
    }
}

#[test]
fn a_wrong_key_is_named() {
    let key = SigningKey::generate();
    let header = key.header(BODY).unwrap();
    for trusted in [vec![], vec![SigningKey::generate().public()]] {
        let error = verify(BODY, Some(&header), &trusted).unwrap_err();
        assert!(matches!(error, SignatureError::Untrusted { .. }), "{error}");
        assert!(error.to_string().contains(key.public().as_str()), "{error}");
    }
}

#[test]
fn a_signature_under_a_borrowed_name_is_tampering() {
    let trusted = SigningKey::generate();
    let mut signature = SigningKey::generate().sign(BODY).unwrap();
    signature.keyid = trusted.public().to_string();
    let error = verify(BODY, Some(&encode_header(&[signature])), &[trusted.public()]).unwrap_err();
    assert!(matches!(error, SignatureError::Mismatch { .. }), "{error}");
}

#[test]
fn unsigned_and_unreadable() {
    let trusted = [SigningKey::generate().public()];
    for header in [None, Some("[]")] {
        assert!(matches!(verify(BODY, header, &trusted), Err(SignatureError::Unsigned)), "{header:?}");
    }
    for header in ["", "{}", "null", "[1]", r#"[{"keyid":"U"}]"#, "not json", "[[[[[["] {
        assert!(matches!(verify(BODY, Some(header), &trusted), Err(SignatureError::Malformed(_))), "{header:?}");
    }
    let bad = Signature { keyid: trusted[0].to_string(), sig: "%%%".to_owned() };
    assert!(matches!(verify(BODY, Some(&encode_header(&[bad])), &trusted), Err(SignatureError::Mismatch { .. })));
    let short = Signature { keyid: trusted[0].to_string(), sig: "AAAA".to_owned() };
    assert!(matches!(verify(BODY, Some(&encode_header(&[short])), &trusted), Err(SignatureError::Mismatch { .. })));
}

#[test]
fn several_signatures() {
    let (one, two, stranger) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    let header = encode_header(&[stranger.sign(BODY).unwrap(), two.sign(BODY).unwrap(), one.sign(BODY).unwrap()]);
    let signer = verify(BODY, Some(&header), &[one.public(), two.public()]).unwrap();
    assert_eq!(signer, two.public(), "the first trusted one in the header");

    // The same signature twice is no error, and no second signer.
    let twice = encode_header(&[one.sign(BODY).unwrap(), one.sign(BODY).unwrap()]);
    assert_eq!(verify(BODY, Some(&twice), &[one.public()]).unwrap(), one.public());

    // A bad one beside a good one under trusted names means that somebody tampered.
    let mut forged = stranger.sign(BODY).unwrap();
    forged.keyid = two.public().to_string();
    for pair in [[one.sign(BODY).unwrap(), forged.clone()], [forged, one.sign(BODY).unwrap()]] {
        let error = verify(BODY, Some(&encode_header(&pair)), &[one.public(), two.public()]).unwrap_err();
        assert!(matches!(error, SignatureError::Mismatch { .. }), "{error}");
    }
}

#[test]
fn the_number_of_signatures_is_bounded() {
    let signature = SigningKey::generate().sign(BODY).unwrap();
    assert_eq!(decode_header(Some(&encode_header(&vec![signature.clone(); SIGNATURES_MAX]))).unwrap().len(), 16);
    let error = decode_header(Some(&encode_header(&vec![signature; SIGNATURES_MAX + 1]))).unwrap_err();
    assert!(error.to_string().contains("17 signatures, at most 16"), "{error}");
}

#[test]
fn keys_are_checked_and_private_ones_not_shown() {
    let key = SigningKey::generate();
    let seed = key.seed().unwrap();
    assert_eq!(SigningKey::from_seed(&format!(" {seed}\n")).unwrap().public(), key.public());
    assert!(!format!("{key:?}").contains(&seed));
    assert!(format!("{key:?}").contains(key.public().as_str()));

    let error = SigningKey::from_seed(&seed[1..]).unwrap_err();
    assert!(!error.to_string().contains(&seed[1..]), "a damaged seed is still a secret");
    // A seed where a public key is expected is refused, and not repeated whole.
    for text in ["", "U", "ACCOUNT", seed.as_str(), &"U".repeat(10_000)] {
        let error = PublicKey::new(text).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }
    assert!(!PublicKey::new(seed.clone()).unwrap_err().to_string().contains(&seed), "a misplaced seed is a secret");
}

#[test]
fn the_stored_envelope_is_dsse() {
    let key = SigningKey::generate();
    let envelope = DsseEnvelope::new(BODY, vec![key.sign(BODY).unwrap()]);
    let json = serde_json::to_value(&envelope).unwrap();
    assert_eq!(json["payloadType"], "application/cloudevents+json");
    assert_eq!(json["signatures"][0]["keyid"], key.public().as_str());
    assert_eq!(serde_json::from_value::<DsseEnvelope>(json).unwrap(), envelope);
}
