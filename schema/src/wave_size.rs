//! How large a wave is, as people write it: `1` host, or `25%` of all.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use thiserror::Error;

/// Up to which host of the plan a wave goes, those of all earlier waves included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaveSize {
    Hosts(u32),
    /// From 1 to 100; of a fraction of a host a whole one is taken.
    Percent(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{shown:?} is no size of a wave; write a number of hosts such as 1, or a share of all such as 25%")]
pub struct WaveSizeError {
    shown: String,
}

/// At most this many characters of a bad value are repeated in its error.
const SHOWN_MAX_CHARS: usize = 40;

impl WaveSize {
    pub const ALL: Self = Self::Percent(100);

    /// How many of so many hosts.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Hosts(hosts) => total.min(usize::try_from(hosts).unwrap_or(usize::MAX)),
            Self::Percent(percent) => (total * usize::from(percent)).div_ceil(100),
        }
    }
}

impl FromStr for WaveSize {
    type Err = WaveSizeError;

    fn from_str(text: &str) -> Result<Self, WaveSizeError> {
        let bad = || WaveSizeError { shown: text.chars().take(SHOWN_MAX_CHARS).collect() };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.strip_suffix('%') {
            Some(share) if digits(share) => match share.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(bad()),
            },
            None if digits(text) => match text.parse() {
                Ok(hosts @ 1..) => Ok(Self::Hosts(hosts)),
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for WaveSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for WaveSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hosts(hosts) => serializer.serialize_u32(*hosts),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for WaveSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText)
    }
}

/// YAML has `1` as a number and `25%` as text.
struct NumberOrText;

impl Visitor<'_> for NumberOrText {
    type Value = WaveSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of hosts such as 1, or a share of all such as 25%")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<WaveSize, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<WaveSize, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<WaveSize, E> {
        text.parse().map_err(E::custom)
    }
}

impl JsonSchema for WaveSize {
    fn schema_name() -> Cow<'static, str> {
        "WaveSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Up to which host of the plan a wave goes, those of all earlier waves included: a number of hosts such as 1, \
                            or a share of all such as 25%.",
            "oneOf": [
                { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                { "type": "string", "pattern": "^([1-9][0-9]*|([1-9][0-9]?|100)%)$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_as_text_and_as_json() {
        for (text, json, of_eight) in [
            ("1", "1", 1),
            ("3", "3", 3),
            ("20", "20", 8),
            ("25%", "\"25%\"", 2),
            ("1%", "\"1%\"", 1),
            ("100%", "\"100%\"", 8),
        ] {
            let size: WaveSize = text.parse().unwrap();
            assert_eq!((size.to_string().as_str(), size.of(8)), (text, of_eight), "{text}");
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
            assert_eq!(serde_json::from_str::<WaveSize>(json).unwrap(), size);
        }
        assert_eq!(serde_json::from_str::<WaveSize>("\"2\"").unwrap(), WaveSize::Hosts(2));
        assert_eq!(WaveSize::Percent(34).of(3), 2);
    }

    #[test]
    fn what_is_no_size() {
        for text in ["", "0", "0%", "101%", "-1", "1.5", "%", "half", "+1", "25 %", "4294967296"] {
            assert!(text.parse::<WaveSize>().is_err(), "{text}");
        }
        for json in ["0", "-1", "1.5", "true", "\"101%\"", "null"] {
            assert!(serde_json::from_str::<WaveSize>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_shown_of_a_bad_size_is_cut() {
        for chars in [SHOWN_MAX_CHARS, SHOWN_MAX_CHARS + 1] {
            let error = "é".repeat(chars).parse::<WaveSize>().unwrap_err();
            assert_eq!(error.shown, "é".repeat(SHOWN_MAX_CHARS));
        }
    }
}
