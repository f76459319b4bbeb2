//! What reaches a collector. Each case runs in a process of its own, because a subscriber and the environment are a process's alone:
//! the test starts itself again, told by a variable which part to play.

#![allow(clippy::unwrap_used)]

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use landfall_telemetry::{LogFormat, Options, init, link_current_span, traceparent_of_current_span};

const PART: &str = "LANDFALL_TEST_PART";
const PROMOTION: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const PROMOTION_TRACE: [u8; 16] =
    [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
/// In OTLP's `Span` message, `links` is field 13, and in a link `trace_id` is field 1 with 16 bytes.
const LINKS_TAG: u8 = 13 << 3 | 2;
const TRACE_ID_TAG: [u8; 2] = [1 << 3 | 2, 16];
const COLLECTOR_DEADLINE: Duration = Duration::from_secs(20);
/// The bound of the exporter's end is 3 s; the rest is for starting the process on a busy machine.
const SILENT_COLLECTOR_DEADLINE: Duration = Duration::from_secs(9);

/// The part of the tested process; nothing when it is run as a test of its own.
#[test]
fn the_traced_process() {
    let Ok(part) = env::var(PART) else { return };
    // As every `main` does: the exporter's client is built with TLS and looks for a provider.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let log_format = if part == "json" { LogFormat::Json } else { LogFormat::Human };
    let options = Options { service_name: "landfall-test", log_format, default_filter: "info" };
    let guard = init(&options).unwrap();
    tracing::info_span!("deploy", app = "shop").in_scope(|| {
        link_current_span(PROMOTION);
        tracing::info!(release = "v2", "deploying");
        tracing::debug!("hidden by the default filter");
        eprintln!("traceparent={:?}", traceparent_of_current_span());
    });
    drop(guard);
}

fn play(part: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "the_traced_process", "--nocapture"]).env(PART, part);
    let heeded = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_SERVICE_NAME",
        "LANDFALL_LOG",
        "RUST_LOG",
    ];
    for name in heeded {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Answers every request with 200 and hands out path and body.
fn collector() -> (SocketAddr, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, received) = channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(request) = answer(connection.unwrap()) else { continue };
            if requests.send(request).is_err() {
                break;
            }
        }
    });
    (address, received)
}

fn answer(mut connection: TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut path = String::new();
    reader.read_line(&mut path)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok((path.trim().to_owned(), body))
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

fn links_to(body: &[u8], trace: &[u8; 16]) -> bool {
    body.windows(20).any(|w| w[0] == LINKS_TAG && w[2..4] == TRACE_ID_TAG && w[4..] == *trace)
}

#[test]
fn a_span_reaches_the_collector_with_its_link() {
    for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        let (address, received) = collector();
        // The endpoint of one signal is used as it stands, the general one gets the signal's path.
        let path = if variable.contains("TRACES") { "/v1/traces" } else { "" };
        let output = play("human", &[(variable, &format!("http://{address}{path}"))]);
        let (request, body) = received.recv_timeout(COLLECTOR_DEADLINE).unwrap();
        assert_eq!(request, "POST /v1/traces HTTP/1.1");
        assert!(contains(&body, b"deploy") && contains(&body, b"landfall-test") && contains(&body, b"shop"));
        assert!(links_to(&body, &PROMOTION_TRACE), "no link in {body:02x?}");
        let said = stderr(&output);
        assert!(said.contains("traceparent=Some(\"00-"), "{said}");
        assert!(!said.contains("4bf92f3577b34da6"), "a deploy's trace is its own, not the promotion's:\n{said}");
    }
}

#[test]
fn the_operator_names_the_service() {
    let (address, received) = collector();
    let endpoint = format!("http://{address}");
    play("human", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_SERVICE_NAME", "deploys-of-ours")]);
    let (_, body) = received.recv_timeout(COLLECTOR_DEADLINE).unwrap();
    assert!(contains(&body, b"deploys-of-ours") && !contains(&body, b"landfall-test"));
}

#[test]
fn without_an_endpoint_nothing_is_traced() {
    let said = stderr(&play("human", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
    assert!(said.contains("traceparent=None"), "{said}");
}

#[test]
fn a_silent_collector_does_not_keep_a_process() {
    // It accepts connections into its backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let start = Instant::now();
    let said = stderr(&play("human", &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]));
    let took = start.elapsed();
    assert!(took < SILENT_COLLECTOR_DEADLINE, "{took:?}");
    assert!(said.contains("the last spans were not exported"), "{said}");
}

#[test]
fn logs_are_for_people_or_for_machines() {
    let human = stderr(&play("human", &[]));
    assert!(human.contains("deploying release=\"v2\""), "{human}");
    assert!(!human.contains("hidden"), "{human}");

    let json = stderr(&play("json", &[]));
    let line = json.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{json}"));
    assert!(line.contains(r#""message":"deploying""#) && line.contains(r#""release":"v2""#), "{line}");
}

#[test]
fn the_filter_comes_from_the_environment_and_landfall_log_wins() {
    let said = stderr(&play("human", &[("LANDFALL_LOG", "debug"), ("RUST_LOG", "error")]));
    assert!(said.contains("hidden by the default filter"), "{said}");
    let said = stderr(&play("human", &[("RUST_LOG", "error")]));
    assert!(!said.contains("deploying"), "{said}");
}
