//! Smoke tests of the whole stack, in order, within one deadline.

use std::time::Duration;

use landfall_deploy::{Evidence, Order, smoke};
use landfall_schema::outcome::{Reason, ReasonCode};
use landfall_schema::stack::{HttpCheck, HttpMethod, RunCheck, SMOKE_DEADLINE_MS};
use reqwest::{Method, Response};
use tokio::time::Instant;

use super::oneshot::OneShot;
use super::render::Stack;
use super::{Context, Hands, effect_deadline};

/// Most bytes of an answer's body that are looked at.
const BODY_MAX_BYTES: usize = 256 * 1024;

impl Hands {
    pub(crate) async fn smoke(&self, order: &Order, context: &Context) -> Result<Evidence, Reason> {
        let stack = self.stack(order, context).await?;
        let own = Duration::from_millis(stack.settings.smoke_deadline_ms.unwrap_or(SMOKE_DEADLINE_MS));
        let deadline = effect_deadline(context).min(Instant::now() + own);
        for (index, test) in stack.settings.smoke.iter().enumerate() {
            let number = index + 1;
            match (&test.http, &test.run) {
                (Some(check), _) => self.smoke_http(&stack, number, check, deadline).await?,
                (None, Some(check)) => self.smoke_run(&stack, number, check, deadline).await?,
                // The settings were refused before if one of them had neither.
                (None, None) => {}
            }
        }
        Ok(Evidence::Smoked { passed: u32::try_from(stack.settings.smoke.len()).unwrap_or(u32::MAX) })
    }

    async fn smoke_http(
        &self,
        stack: &Stack,
        number: usize,
        check: &HttpCheck,
        deadline: Instant,
    ) -> Result<(), Reason> {
        let method = method(check.method);
        let asked = format!("smoke test {number}: {method} {}", without_login(&check.url));
        let failed =
            |why: String| Reason::new(ReasonCode::SmokeFailed, stack.redactor.clean(&format!("{asked}: {why}")));
        let mut request = self.http.request(method, &check.url);
        for (name, value) in &check.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &check.body {
            request = request.body(body.clone());
        }
        let answer = async {
            let mut response = request.send().await.map_err(|error| failed(send_error(&error)))?;
            let status = response.status().as_u16();
            let broken = |_| failed(format!("answered {status}, and the body broke off"));
            let body = beginning(&mut response).await.map_err(broken)?;
            smoke::judge_http(&check.expect, status, &String::from_utf8_lossy(&body)).map_err(failed)
        };
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(result) => result,
            Err(_) => Err(failed("no answer before the smoke tests' deadline".to_owned())),
        }
    }

    async fn smoke_run(&self, stack: &Stack, number: usize, check: &RunCheck, deadline: Instant) -> Result<(), Reason> {
        let step = format!("smoke test {number}");
        let shot = OneShot {
            stack,
            service: &check.service,
            command: &check.command,
            step: &step,
            mark: None,
            limit: deadline.saturating_duration_since(Instant::now()),
            deadline,
            code: ReasonCode::SmokeFailed,
        };
        self.run_one_shot(shot).await.map(drop)
    }
}

/// As much of the body as is looked at.
async fn beginning(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() >= BODY_MAX_BYTES {
            body.truncate(BODY_MAX_BYTES);
            break;
        }
    }
    Ok(body)
}

fn method(method: HttpMethod) -> Method {
    match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Delete => Method::DELETE,
    }
}

/// The library's own words repeat the URL, which may hold a login.
fn send_error(error: &reqwest::Error) -> String {
    if error.is_connect() {
        "no connection".to_owned()
    } else if error.is_builder() {
        "the URL or a header is not valid".to_owned()
    } else {
        "no valid answer".to_owned()
    }
}

fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.find('@')) {
        (Some((scheme, rest)), Some(_)) => match rest.split_once('/') {
            Some((authority, path)) => format!("{scheme}://{}/{path}", host_of(authority)),
            None => format!("{scheme}://{}", host_of(rest)),
        },
        _ => url.to_owned(),
    }
}

fn host_of(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::hands::probe;

    #[tokio::test]
    async fn so_much_of_an_answer_is_looked_at() {
        // Another test of this process may have chosen it before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = probe::client().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        for (length, end) in [(BODY_MAX_BYTES, "the end"), (BODY_MAX_BYTES + 1, "xthe en")] {
            let answer = async {
                let (mut client, _) = server.accept().await.unwrap();
                // The question is one small write.
                let _ = client.read(&mut [0; 4096]).await.unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let body = format!("{}the end", "x".repeat(length - "the end".len()));
                // Who has seen enough goes away.
                let _ = client.write_all((head + &body).as_bytes()).await;
            };
            let ask = async { beginning(&mut client.get(&url).send().await.unwrap()).await.unwrap() };
            let (body, ()) = tokio::join!(ask, answer);
            assert_eq!(body.len(), BODY_MAX_BYTES, "of {length}");
            assert!(body.ends_with(end.as_bytes()), "of {length}");
        }
    }

    #[test]
    fn logins_are_not_told() {
        assert_eq!(without_login("http://u:p@h:80/a@b?c"), "http://h:80/a@b?c");
        assert_eq!(without_login("http://h/a"), "http://h/a");
        assert_eq!(without_login("http://u:p@h"), "http://h");
    }
}
