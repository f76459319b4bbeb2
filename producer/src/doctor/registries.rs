//! Registries that must answer, and their clocks.

use std::time::Duration;

use landfall_schema::Timestamp;
use reqwest::header::DATE;

use crate::doctor::bus::skew;
use crate::doctor::finding::{Finding, State, in_one_line};

/// Time for one registry to answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn check(registries: &[String], insecure: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for registry in registries {
        findings.extend(ask(registry, insecure).await);
    }
    findings
}

async fn ask(registry: &str, insecure: &[String]) -> Vec<Finding> {
    let scheme = if is_plain(registry, insecure) { "http" } else { "https" };
    let client = reqwest::Client::builder().timeout(REGISTRY_TIMEOUT).build();
    let before = Timestamp::now();
    let asked = match client {
        Ok(client) => client.get(format!("{scheme}://{registry}/v2/")).send().await,
        Err(error) => Err(error),
    };
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) => {
            let message = format!("{registry} does not answer: {}", in_one_line(&error));
            let hint = "check its name and this machine's network and proxy settings";
            return vec![Finding::fail("registry", message).hint(hint)];
        }
    };
    let after = Timestamp::now();
    let status = answer.status();
    // Without a login a registry may refuse, which is an answer too.
    let mut findings = vec![match status.as_u16() {
        200 | 401 | 403 => Finding::ok("registry", format!("{registry} answers over {scheme}")),
        _ => Finding::fail("registry", format!("{registry} answers {status}, which no registry does"))
            .hint("name the registry only, without a repository: registry.example.org or 127.0.0.1:5000"),
    }];
    let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
    if let Some(theirs) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) {
        let finding = skew(&format!("this machine's clock and {registry}'s"), theirs.timestamp(), before, after);
        findings.extend(Some(finding).filter(|finding| finding.state != State::Ok));
    }
    findings
}

/// Registries on this machine are asked over plain HTTP, as Docker does.
fn is_plain(registry: &str, insecure: &[String]) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    local || insecure.iter().any(|name| name == registry)
}
