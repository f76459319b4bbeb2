#![allow(clippy::unwrap_used)]
use landfall_schema::signature::SigningKey;
use landfall_schema::subject;

use super::*;
use crate::fixtures::{present, said};
use crate::plan::KnownHost;

struct Keys {
    roster: SigningKey,
    announced: SigningKey,
    other: SigningKey,
}

/// `host-a` commits, signed by this key or not at all.
fn message(key: Option<&SigningKey>) -> Delivered {
    let event = said(1, "host-a 2 release.committed").event;
    let outcome = &event.data;
    let body = event.encode().unwrap();
    Delivered {
        subject: subject::outcome(&outcome.env, &outcome.app, &outcome.host, outcome.kind).to_string(),
        sequence: 1,
        signature: key.map(|key| key.header(&body).unwrap()),
        body: body.into(),
        traceparent: None,
        published_at: event.time,
    }
}

#[test]
fn an_outcome_is_proven_claimed_or_forged() {
    let keys =
        Keys { roster: SigningKey::generate(), announced: SigningKey::generate(), other: SigningKey::generate() };
    let mut beat = present(1, "host-a", None);
    beat.event.data.key = keys.announced.public().to_string();
    let presence = beat.event.data.clone();
    let nobody = HostKeys::default();
    let announced = HostKeys::new(&BTreeMap::new(), &[KnownHost::new(beat, crate::fixtures::at(2))]);
    let roster = HostKeys::of_roster(Roster::new([("host-a".parse().unwrap(), keys.roster.public())].into()));
    let both = announced.with_roster(&roster);
    let (gaps, filled) = (announced.with_gaps_filled(&roster), nobody.with_gaps_filled(&roster));
    let (proven, claimed, forged) = ("proven", "claimed", "forged");
    for (known, what, expect) in [
        // By the roster's key, the announced one, any other, and without a signature.
        (&nobody, "nobody's key is known", [claimed, claimed, claimed, forged]),
        (&announced, "one is announced", [claimed, proven, claimed, forged]),
        (&roster, "one is in the roster", [proven, forged, forged, forged]),
        (&both, "it announces another", [proven, claimed, forged, forged]),
        (&gaps, "a roster that anybody may have made says otherwise", [claimed, proven, claimed, forged]),
        (&filled, "nobody but that roster says anything", [proven, claimed, claimed, forged]),
    ] {
        let signers = [Some(&keys.roster), Some(&keys.announced), Some(&keys.other), None];
        let found = signers.map(|key| match known.judge(&message(key), &presence.host) {
            Ok(Belief::Proven) => proven,
            Ok(Belief::Claimed) => claimed,
            Err(_) => forged,
        });
        assert_eq!(found, expect, "{what}");
        let believed = signers.map(|key| known.believe(&message(key)).is_ok());
        assert_eq!(believed, expect.map(|expect| expect == proven), "{what}");
    }
    assert!(announced.agree_with(&presence) && nobody.agree_with(&presence) && !both.agree_with(&presence));
    // What the context names comes first.
    let named = HostKeys::new(&[("host-a".parse().unwrap(), keys.other.public())].into(), &[]).with_roster(&roster);
    assert_eq!(named.of(&presence.host), Some(&keys.other.public()));
    // And what the host signed before it was set up anew is not forged by that.
    let signers = [&keys.other, &keys.roster].map(|key| named.judge(&message(Some(key)), &presence.host));
    assert_eq!(signers, [Ok(Belief::Proven), Ok(Belief::Proven)]);
    assert!(named.judge(&message(Some(&keys.announced)), &presence.host).is_err());
}

#[test]
fn what_is_forged_is_left_out() {
    let key = SigningKey::generate();
    let roster = HostKeys::of_roster(Roster::new([("host-a".parse().unwrap(), key.public())].into()));
    let messages = [message(Some(&key)), message(None), message(Some(&SigningKey::generate()))];
    let (believed, forged) = Believed::sorted(&messages, |_| Some(&roster));
    assert_eq!((believed.proven.len(), believed.claimed.len(), forged.len()), (1, 0, 2));
    assert_eq!(believed.disowned.len(), 1, "one of the two is whole");
    let (believed, forged) = Believed::sorted(&messages, |_| None);
    assert_eq!((believed.proven.len(), believed.claimed.len(), forged.len()), (0, 0, 0));
}
