use landfall_schema::bundle::{BUNDLE_VERSION, Bundle, BundleError, BundleFile};
use landfall_schema::ids::Digest;
use landfall_schema::layout::BUNDLE_MAX_BYTES;
use landfall_schema::promotion::BundleRef;

fn bundle(name: &str, content: &str) -> Bundle {
    Bundle { version: BUNDLE_VERSION, compose: vec![BundleFile { name: name.to_owned(), content: content.to_owned() }] }
}

fn reference(bytes: &[u8]) -> BundleRef {
    BundleRef { digest: Digest::of(bytes), bytes: bytes.len() as u64 }
}

#[test]
fn there_and_back() {
    let bundle = bundle("compose.yml", "services: {app: {image: shop}}\n");
    let (bytes, named) = bundle.encode().unwrap();
    assert_eq!(named, reference(&bytes));
    assert_eq!(Bundle::decode(&bytes, &named).unwrap(), bundle);
    assert_eq!(bundle.encode().unwrap().0, bytes, "the same bundle has the same digest");
}

#[test]
fn other_bytes_are_not_believed() {
    let (bytes, named) = bundle("compose.yml", "a").encode().unwrap();
    let mut other = bytes.clone();
    *other.last_mut().unwrap() = b' ';
    for changed in [other.as_slice(), &bytes[1..], b""] {
        assert!(matches!(Bundle::decode(changed, &named), Err(BundleError::DigestMismatch { .. })));
    }
}

#[test]
fn names_cannot_leave_their_directory() {
    for name in [
        "",
        ".",
        "..",
        "../compose.yml",
        "/etc/passwd",
        "a/b",
        "a\\b",
        ".env",
        "-f",
        "a b",
        "a\nb",
        "ä",
        &"x".repeat(129),
    ] {
        assert!(matches!(bundle(name, "").encode(), Err(BundleError::BadName(_))), "{name:?} when written");
        // As from a producer that does not check.
        let bytes = serde_json::to_vec(&bundle(name, "")).unwrap();
        assert!(
            matches!(Bundle::decode(&bytes, &reference(&bytes)), Err(BundleError::BadName(_))),
            "{name:?} when read"
        );
    }
    for name in ["compose.yml", "docker-compose.prod_2.yaml", &"x".repeat(128)] {
        assert!(bundle(name, "").encode().is_ok(), "{name:?}");
    }
}

#[test]
fn size_version_and_emptiness() {
    assert!(matches!(
        bundle("compose.yml", &"x".repeat(BUNDLE_MAX_BYTES)).encode(),
        Err(BundleError::Oversized { .. })
    ));
    let large = vec![b' '; BUNDLE_MAX_BYTES + 1];
    assert!(matches!(Bundle::decode(&large, &reference(&large)), Err(BundleError::Oversized { .. })));

    for (text, expected) in [
        (r#"{"version":1,"compose":[]}"#, "the bundle holds no compose file"),
        (
            r#"{"version":2,"compose":[{"name":"a","content":""}]}"#,
            "the bundle is of version 2, this version of Landfall knows 1",
        ),
        ("{", "the bundle is not readable"),
        ("[]", "the bundle is not readable"),
    ] {
        let error = Bundle::decode(text.as_bytes(), &reference(text.as_bytes())).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
}
