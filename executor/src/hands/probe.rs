//! The executor's own readiness probe: HTTP or TCP to the container's address, or to a port that it publishes.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use landfall_schema::stack::Readiness;
use tokio::net::TcpStream;

/// One probe may take this long.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are for the next probe only.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
const LOOPBACK: &str = "127.0.0.1";

/// A client that asks exactly the address it is given: no proxy, no redirects.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build()
}

/// The container's addresses, in the order of its networks' names; a container on the host's network has the host's.
pub(crate) fn addresses(inspected: &ContainerInspectResponse) -> Vec<String> {
    let networks = inspected.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut found: Vec<(&String, &String)> = networks
        .into_iter()
        .flatten()
        .filter_map(|(name, endpoint)| Some((name, endpoint.ip_address.as_ref()?)))
        .filter(|(_, address)| !address.is_empty())
        .collect();
    found.sort();
    if found.is_empty() && networks.is_some_and(|networks| networks.contains_key("host")) {
        return vec![LOOPBACK.to_owned()];
    }
    found.into_iter().map(|(_, address)| address.clone()).collect()
}

/// Where a port of the container can be reached from this host, the most direct way first.
fn targets(inspected: &ContainerInspectResponse, port: u16) -> Vec<String> {
    let mut targets: Vec<String> =
        addresses(inspected).into_iter().map(|address| format!("{address}:{port}")).collect();
    let ports = inspected.network_settings.as_ref().and_then(|settings| settings.ports.as_ref());
    let bindings = ports.and_then(|ports| ports.get(&format!("{port}/tcp"))).and_then(Option::as_ref);
    targets.extend(
        bindings
            .into_iter()
            .flatten()
            .filter_map(|binding| Some(format!("{LOOPBACK}:{}", binding.host_port.as_ref()?))),
    );
    targets.dedup();
    targets
}

/// `None` when no probe is configured.
pub(crate) async fn probe(
    http: &reqwest::Client,
    inspected: &ContainerInspectResponse,
    ready: &Readiness,
) -> Option<Result<(), String>> {
    let port = match (&ready.http, &ready.tcp) {
        (Some(http), _) => http.port,
        (None, Some(tcp)) => tcp.port,
        (None, None) => return None,
    };
    let mut last = format!("the container has no address for port {port}");
    for target in targets(inspected, port) {
        let answer = match &ready.http {
            Some(probe) => get(http, &format!("http://{target}{}", probe.path)).await,
            None => connect(&target).await,
        };
        match answer {
            Ok(()) => return Some(Ok(())),
            // An answer is an answer; only where nothing can be reached another way is tried.
            Err(Miss::Answered(why)) => return Some(Err(why)),
            Err(Miss::Unreached(why)) => last = why,
        }
    }
    Some(Err(last))
}

enum Miss {
    Answered(String),
    Unreached(String),
}

async fn get(http: &reqwest::Client, url: &str) -> Result<(), Miss> {
    match http.get(url).timeout(PROBE_TIMEOUT).send().await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(Miss::Answered(format!("GET {url} answered {}", response.status().as_u16()))),
        Err(error) if error.is_connect() => Err(Miss::Unreached(format!("GET {url}: no connection"))),
        Err(error) if error.is_timeout() => {
            Err(Miss::Unreached(format!("GET {url}: no answer within {} ms", PROBE_TIMEOUT.as_millis())))
        }
        Err(_) => Err(Miss::Answered(format!("GET {url}: no valid answer"))),
    }
}

async fn connect(target: &str) -> Result<(), Miss> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Miss::Unreached(format!("connecting to {target}: {error}"))),
        Err(_) => {
            Err(Miss::Unreached(format!("connecting to {target}: no answer within {} ms", CONNECT_TIMEOUT.as_millis())))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_most_direct_way_comes_first() {
        let inspected: ContainerInspectResponse = serde_json::from_value(serde_json::json!({ "NetworkSettings": {
            "Ports": { "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "3000" }, { "HostIp": "::", "HostPort": "3000" }] },
            "Networks": { "b": { "IPAddress": "10.0.0.2" }, "a": { "IPAddress": "10.0.1.2" }, "c": { "IPAddress": "" } },
        } }))
        .unwrap();
        assert_eq!(targets(&inspected, 80), ["10.0.1.2:80", "10.0.0.2:80", "127.0.0.1:3000"]);
        assert_eq!(targets(&inspected, 81), ["10.0.1.2:81", "10.0.0.2:81"]);
    }
}
