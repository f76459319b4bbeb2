//! Attacks on a running executor, by whoever may write to the bus and by whoever may promote. Each is answered in words or passed by, none
//! touches what serves, memory stays bounded, and the next good release is deployed.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use landfall_schema::event::{CloudEvent, TYPE_HALTED, TYPE_PRESENCE, TYPE_PROMOTED};
use landfall_schema::ids::{Digest, EventId};
use landfall_schema::outcome::{Outcome, OutcomeKind, ReasonCode};
use landfall_schema::promotion::{BundleRef, Promotion};
use landfall_schema::signature::{SigningKey, encode_header};
use landfall_tests::image::AppImage;
use landfall_tests::promotion::{Draft, Message};
use landfall_tests::stack::Stack;
use landfall_tests::usage::{resident_bytes, resident_peak_bytes};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::expect::Served;

const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The executor never holds more than this, whatever is thrown at it. It is a build without optimisation.
const RESIDENT_MAX_BYTES: u64 = 160 * 1024 * 1024;

fn fresh() -> EventId {
    EventId(Uuid::now_v7())
}

/// What must become of a message.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Letter(ReasonCode),
    Refusal(ReasonCode),
    /// It is passed by without a word.
    Nothing,
}

use Answer::{Letter, Nothing, Refusal};

async fn draft(served: &mut Served) -> Result<Draft> {
    let stack = Stack::app(&served.v1).app_lines("mem_limit: 64m");
    let draft = served.scenario.draft(&stack)?;
    draft.store_bundle(&served.scenario.bus).await?;
    Ok(draft)
}

async fn assert_answer(served: &mut Served, name: &str, message: &Message, answer: Answer) -> Result<()> {
    let sequence = message.publish(&served.scenario.bus).await?;
    match answer {
        Letter(code) => {
            let letter = served.scenario.outcomes.dead_letter(ANSWER_LIMIT).await?.data;
            ensure!((letter.sequence, letter.reason.code) == (sequence, code), "{name}: {letter:#?}");
            ensure!(!letter.reason.message.is_empty(), "{name}: no words");
        }
        Refusal(code) => {
            let event: Value = serde_json::from_slice(&message.body)?;
            let id: EventId = event["id"].as_str().context("no id")?.parse()?;
            let is_it = |outcome: &Outcome| outcome.promotion == id && outcome.kind.is_terminal();
            let outcome = served.scenario.outcomes.wait(name, ANSWER_LIMIT, is_it).await?;
            ensure!(outcome.kind == OutcomeKind::DeployRefused, "{name}: {outcome:#?}");
            ensure!(outcome.reason.as_ref().is_some_and(|reason| reason.code == code), "{name}: {outcome:#?}");
        }
        Nothing => {}
    }
    served.assert_untouched().await
}

/// The executor lives, was always small, and never panicked.
async fn assert_well(served: &mut Served, attacks: usize, before: u64) -> Result<()> {
    let pid = served.scenario.host().executor.pid().context("the executor has ended")?;
    let peak = resident_peak_bytes(pid)?;
    eprintln!("{attacks} attacks: {before} bytes resident before, {peak} at most");
    ensure!(peak < RESIDENT_MAX_BYTES, "{peak} bytes resident");
    served.assert_goes_on().await?;
    let log = served.scenario.host().executor.whole_log()?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

fn resident(served: &mut Served) -> Result<u64> {
    resident_bytes(served.scenario.host().executor.pid().context("the executor has ended")?)
}

/// Mix and match of bodies, signatures, keys and subjects.
fn unbelieved(good: &Message, twin: &Message, promoter: &SigningKey) -> Result<Vec<(&'static str, Message, Answer)>> {
    use ReasonCode::{BadSignature, Unsigned, UntrustedKey};
    let (mallory, name) = (SigningKey::generate(), promoter.public().to_string());
    let copy = |signature: Option<String>| Message { signature, id: fresh(), ..good.clone() };
    let header = |keyid: &str, sig: &str| Some(json!([{ "keyid": keyid, "sig": sig }]).to_string());
    let own = promoter.sign(&good.body)?;
    let two = encode_header(&[own.clone(), promoter.sign(b"other")?]);
    Ok(vec![
        ("the signature of another promotion", copy(twin.signature.clone()), Letter(BadSignature)),
        (
            "a promoter's name over a stranger's signature",
            copy(header(&name, &mallory.sign(&good.body)?.sig)),
            Letter(BadSignature),
        ),
        (
            "a stranger's name over a promoter's",
            copy(header(mallory.public().as_str(), &own.sig)),
            Letter(UntrustedKey),
        ),
        ("a good signature beside a forged one", copy(Some(two)), Letter(BadSignature)),
        ("a key's name in lower case", copy(header(&name.to_lowercase(), &own.sig)), Letter(UntrustedKey)),
        ("an empty list of signatures", copy(Some("[]".to_owned())), Letter(Unsigned)),
        ("seventeen signatures", copy(Some(encode_header(&vec![own; 17]))), Letter(BadSignature)),
        ("a header that is no JSON", copy(Some("x".repeat(4_000))), Letter(BadSignature)),
        ("a header of brackets", copy(Some("[".repeat(8_000))), Letter(BadSignature)),
        (
            "one byte more than was signed",
            Message { body: [good.body.as_slice(), b" "].concat(), ..copy(good.signature.clone()) },
            Letter(BadSignature),
        ),
        (
            "a good promotion on the subject of an unknown application",
            Message { subject: good.subject.replace(".shop.", ".nobody."), ..copy(good.signature.clone()) },
            Nothing,
        ),
        (
            "a good promotion on the subject of halts",
            Message { subject: good.subject.replace(".promoted", ".halted"), ..copy(good.signature.clone()) },
            Nothing,
        ),
    ])
}

/// Signed by the one who may, and not what it should be.
fn malformed(text: &str) -> Vec<(&'static str, Vec<u8>, Answer)> {
    use ReasonCode::{Malformed, Oversized, UnknownVersion};
    let open = &text[..text.len() - 1];
    let replaced = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replacen(from, to, 1).into_bytes()
    };
    let deep = format!("\"author\":{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let counter = "\"counter\":2";
    let event: Value = serde_json::from_str(text).unwrap_or_default();
    let empty_presence = json!({ "specversion": "1.0", "id": event["id"], "source": "x", "type": TYPE_PRESENCE, "time": event["time"],
        "datacontenttype": "application/json", "data": {} });
    vec![
        ("a presence", empty_presence.to_string().into_bytes(), Letter(UnknownVersion)),
        ("a promotion under a halt's type", replaced(TYPE_PROMOTED, TYPE_HALTED), Letter(UnknownVersion)),
        ("the type twice", format!("{open},\"type\":\"{TYPE_HALTED}\"}}").into_bytes(), Letter(Malformed)),
        ("the data twice", format!("{open},\"data\":{}}}", event["data"]).into_bytes(), Letter(Malformed)),
        ("the counter twice", replaced("\"counter\":", "\"counter\":9,\"counter\":"), Letter(Malformed)),
        (
            "brackets that are not closed",
            format!("{open},\"later\":{}", "[".repeat(20_000)).into_bytes(),
            Letter(Malformed),
        ),
        ("twenty thousand brackets", replaced("\"author\":\"tests\"", &deep), Letter(Malformed)),
        (
            "a complaint of sixty thousand characters",
            replaced("\"deadline_ms\":60000", &format!("\"deadline_ms\":\"{}\"", "x".repeat(60_000))),
            Letter(Malformed),
        ),
        ("control characters, longer when written", vec![1; 60_000], Letter(Malformed)),
        ("bytes that are no text", vec![0xff; 1_000], Letter(Malformed)),
        ("an empty body", Vec::new(), Letter(Malformed)),
        ("a body of one byte too much", vec![b' '; 64 * 1024 + 1], Letter(Oversized)),
        ("a counter beyond all numbers", replaced(counter, "\"counter\":99999999999999999999"), Letter(Malformed)),
        ("a counter that no journal holds", replaced(counter, "\"counter\":18446744073709551615"), Refusal(Malformed)),
        ("the number of what serves", replaced(counter, "\"counter\":1"), Refusal(ReasonCode::StaleCounter)),
        ("number nought", replaced(counter, "\"counter\":0"), Refusal(Malformed)),
        ("a name with a path", replaced("\"app\":\"shop\"", "\"app\":\"../shop\""), Letter(Malformed)),
        ("a name with a NUL", replaced("\"app\":\"shop\"", "\"app\":\"sh\\u0000op\""), Letter(Malformed)),
        ("another application's", replaced("\"app\":\"shop\"", "\"app\":\"other\""), Refusal(Malformed)),
        (
            "an option for a service",
            replaced("\"images\":{\"app\"", "\"images\":{\"--privileged=\""),
            Letter(Malformed),
        ),
        ("a digest that is none", replaced("\"digest\":\"sha256:", "\"digest\":\"sha256:../"), Letter(Malformed)),
        ("an expiry before all time", replaced("\"expires_at\":\"2", "\"expires_at\":\"-9"), Letter(Malformed)),
    ]
}

#[tokio::test]
async fn messages_of_whoever_may_write_to_the_bus() -> Result<()> {
    let mut served = Served::v1().await?;
    let good = draft(&mut served).await?.signed(&served.scenario.promoter)?;
    let twin = draft(&mut served).await?.signed(&served.scenario.promoter)?;
    let before = resident(&mut served)?;
    let mut attacks = unbelieved(&good, &twin, &served.scenario.promoter)?;
    for (name, body, answer) in malformed(std::str::from_utf8(&good.body)?) {
        // Each under an id of its own, so that the answer to it is known from others.
        let id = fresh();
        let body = match String::from_utf8(body) {
            Ok(text) => text.replace(&good.id.to_string(), &id.to_string()).into_bytes(),
            Err(no_text) => no_text.into_bytes(),
        };
        let signature = Some(served.scenario.promoter.header(&body)?);
        attacks.push((name, Message { id, body, signature, ..good.clone() }, answer));
    }
    let count = attacks.len();
    for (name, message, answer) in attacks {
        assert_answer(&mut served, name, &message, answer).await.with_context(|| name.to_owned())?;
    }
    // Replay of what was carried out, word by word, under its own message id and another: nothing is done twice.
    let v1 =
        served.scenario.outcomes.seen().iter().find(|one| one.data.counter.0 == 1).context("no v1")?.data.promotion;
    let said = served.scenario.bus.promotions(&served.scenario.env, Some(&served.scenario.app)).await?;
    let is_v1 = |body: &[u8]| {
        CloudEvent::<Promotion>::decode(body, TYPE_PROMOTED)
            .is_ok_and(|event| event.id == v1 && event.data.counter.0 == 1)
    };
    let first = said.into_iter().find(|message| is_v1(&message.body)).context("v1 is not in the stream")?;
    for id in [v1, fresh()] {
        let replay = Message {
            subject: first.subject.clone(),
            id,
            body: first.body.to_vec(),
            signature: first.signature.clone(),
        };
        assert_answer(&mut served, "replay", &replay, Nothing).await?;
    }
    assert_well(&mut served, count + 2, before).await
}

/// Bytes under the digest that the promotion names: the store holds whatever somebody put there.
async fn with_bundle(served: &mut Served, bundle: Vec<u8>) -> Result<Draft> {
    let mut draft = draft(served).await?;
    let reference = BundleRef { digest: Digest::of(&bundle), bytes: bundle.len() as u64 };
    let store = served.scenario.bus.jetstream().get_object_store(landfall_schema::layout::BUNDLES).await?;
    store.put(reference.digest.as_str().replace(':', "-").as_str(), &mut bundle.as_slice()).await?;
    draft.event.data.bundle = reference;
    Ok(draft)
}

fn file(name: &str, content: &str) -> Vec<u8> {
    json!({ "version": 1, "compose": [{ "name": name, "content": content }] }).to_string().into_bytes()
}

/// Each alias is ten of the one before.
fn laughs() -> String {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for pair in b"abcdefghij".windows(2) {
        let (of, name) = (char::from(pair[0]), char::from(pair[1]));
        text.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 10].join(", ")));
    }
    text + "services: {app: {image: x, labels: *j}}\n"
}

#[tokio::test]
async fn promotions_of_whoever_may_promote() -> Result<()> {
    let mut served = Served::v1().await?;
    let before = resident(&mut served)?;
    let host_file = served.scenario.folder().join("not-of-the-stack.env");
    std::fs::write(&host_file, "STOLEN=yes\n")?;
    let foreign = host_file.display().to_string();
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &vec![0; 1_000][..]].concat();
    let compose = |text: &str| file("compose.yml", text);
    let app = |lines: &str| compose(&format!("services: {{app: {{image: x, {lines}}}}}\n"));
    let bundles: Vec<(&str, Vec<u8>)> = vec![
        ("a bundle that climbs out of its folder", file("../../../etc/cron.d/x", "x")),
        ("a bundle with an absolute path", file("/etc/cron.d/x", "x")),
        ("a bundle that is an option", file("--file=/etc/passwd", "x")),
        ("a bundle that is the host's .env", file(".env", "HTTP_PORT=1")),
        ("a bundle with Landfall's own file", file("landfall.override.yml", "services: {}")),
        ("a bundle with a NUL in its name", file("a\0.yml", "x")),
        ("a compressed bundle", gzip),
        ("a bundle of brackets", "[".repeat(500_000).into_bytes()),
        ("aliases of aliases", compose(&laughs())),
        ("a deep compose file", compose(&format!("services: {}{}\n", "{a: ".repeat(2_000), "}".repeat(2_000)))),
        (
            "five thousand services",
            compose(&format!(
                "services:\n{}",
                (0..5_000).map(|n| format!("  s{n}: {{image: x}}\n")).collect::<String>()
            )),
        ),
        ("a service that is an option", compose("services: {app: {image: x}, --privileged: {image: x}}\n")),
        ("a service with a newline", compose("services: {app: {image: x}, \"a\\nb\": {image: x}}\n")),
        ("a NUL in the environment", app("environment: {A: \"a\\0b\"}")),
        ("an env_file of the host", app(&format!("env_file: {foreign:?}"))),
        ("an env_file that climbs out", app("env_file: ../not-of-the-stack.env")),
        ("an env_file that is an option", app("env_file: --env-file=/etc/passwd")),
        ("an include of the host", compose("include: [/etc/passwd]\nservices: {app: {image: x}}\n")),
        (
            "a secret that is the host's",
            compose("services: {app: {image: x, secrets: [s]}}\nsecrets: {s: {file: /etc/shadow}}\n"),
        ),
        (
            "a privileged container by an alias",
            compose("x-a: &a {privileged: true}\nservices: {app: {<<: *a, image: x}}\n"),
        ),
        (
            "a smoke test that is an option",
            compose("x-landfall: {smoke: [{run: {service: '--volume=/:/h'}}]}\nservices: {app: {image: x}}\n"),
        ),
        ("a wait of an age", app("x-landfall: {deadline_ms: 18446744073709551615}")),
    ];
    let mut attacks = Vec::new();
    for (name, bundle) in bundles {
        attacks.push((name, with_bundle(&mut served, bundle).await?));
    }
    for (name, repository) in [
        ("an image that is an option", "--privileged"),
        ("an image with a path", "../../etc/passwd"),
        ("an image with a newline", "127.0.0.1:1/x\ny"),
        ("an image with a NUL", "x\0y"),
        ("an image of no name", ""),
    ] {
        let mut draft = draft(&mut served).await?;
        for image in draft.event.data.images.values_mut() {
            image.repository = repository.to_owned();
        }
        attacks.push((name, draft));
    }
    for (name, variable) in [
        ("a variable that steers Compose", "COMPOSE_FILE"),
        ("a variable that is no name", "A=B\nC"),
        ("a library", "LD_PRELOAD"),
    ] {
        let mut draft = draft(&mut served).await?;
        draft.event.data.variables.insert(variable.to_owned(), "/x".to_owned());
        attacks.push((name, draft));
    }
    let mut patient = draft(&mut served).await?;
    patient.event.data.plan.bake_ms = u64::MAX;
    patient.event.data.plan.deadline_ms = u64::MAX;
    attacks.push(("a bake time without end", patient));
    let mut nul = draft(&mut served).await?;
    nul.event.data.variables.insert("A".to_owned(), "a\0b".to_owned());
    attacks.push(("a NUL in a variable's value", nul));
    let count = attacks.len();
    for (name, draft) in attacks {
        draft.signed(&served.scenario.promoter)?.publish(&served.scenario.bus).await?;
        let outcome = served.scenario.terminal(0, draft.counter()).await.with_context(|| name.to_owned())?;
        let is_kept_out = matches!(outcome.kind, OutcomeKind::DeployFailed | OutcomeKind::DeployRefused);
        ensure!(
            is_kept_out && outcome.reason.as_ref().is_some_and(|reason| !reason.message.is_empty()),
            "{name}: {outcome:#?}"
        );
        eprintln!("{name}: {} {}", outcome.kind, outcome.message.chars().take(200).collect::<String>());
        ensure!(!format!("{outcome:?}").contains("root:"), "{name} shows a file of the host: {outcome:#?}");
        served.assert_untouched().await.with_context(|| name.to_owned())?;
    }
    assert_well(&mut served, count, before).await
}

/// What a container that has the stack's folder mounted could put there before the next release.
#[tokio::test]
async fn what_was_planted_in_the_folder_of_a_stack_leads_nowhere() -> Result<()> {
    let mut served = Served::v1().await?;
    let before = resident(&mut served)?;
    let folder = served.scenario.host().directory.clone();
    let (env_file, foreign) = (folder.join(".env"), served.scenario.folder().join("of-another-stack.env"));
    std::fs::write(&foreign, "HTTP_PORT=1\nSTOLEN=yes\n")?;
    let own = std::fs::read(&env_file)?;
    let pipe = |at: &Path| -> Result<()> {
        ensure!(Command::new("mkfifo").arg(at).status()?.success(), "no pipe");
        Ok(())
    };
    // `/dev/null`: whoever takes it for a file finds it empty, where `/dev/zero` would never end.
    let device = |at: &Path| -> Result<()> {
        ensure!(Command::new("mknod").arg(at).args(["c", "1", "3"]).status()?.success(), "no device");
        Ok(())
    };
    symlink(&foreign, folder.join("link.env"))?;
    symlink("/etc/shadow", folder.join("link.secret"))?;
    symlink("/", folder.join("link"))?;
    device(&folder.join("device.env"))?;
    pipe(&folder.join("pipe.env"))?;
    // Each: what stands in the place of `.env`, and more lines of the service.
    type Plant<'a> = &'a dyn Fn(&Path) -> Result<()>;
    let nothing: Plant = &|at| Ok(std::fs::write(at, &own)?);
    let attacks: [(&str, Plant, &str, ReasonCode); 10] = [
        (".env is a link to another stack's", &|at| Ok(symlink(&foreign, at)?), "", ReasonCode::PolicyViolation),
        (".env is a link to the host's", &|at| Ok(symlink("/etc/shadow", at)?), "", ReasonCode::PolicyViolation),
        (".env is a pipe", &pipe, "", ReasonCode::EnvFileMissing),
        (".env is a device", &device, "", ReasonCode::EnvFileMissing),
        (".env is a folder", &|at| Ok(std::fs::create_dir(at)?), "", ReasonCode::EnvFileMissing),
        ("an env_file is a link", nothing, "env_file: link.env", ReasonCode::PolicyViolation),
        ("an env_file is a device", nothing, "env_file: device.env", ReasonCode::PolicyViolation),
        ("an env_file is a pipe", nothing, "env_file: pipe.env", ReasonCode::PolicyViolation),
        ("what is mounted is a link", nothing, "volumes: [./link:/host]", ReasonCode::PolicyViolation),
        ("a mounted file is a link", nothing, "volumes: [./link.secret:/host]", ReasonCode::PolicyViolation),
    ];
    for (name, plant, lines, code) in &attacks {
        std::fs::remove_file(&env_file)?;
        plant(&env_file)?;
        let draft = served.scenario.draft(&Stack::app(&served.v1).app_lines(lines))?;
        draft.store_bundle(&served.scenario.bus).await?;
        draft.signed(&served.scenario.promoter)?.publish(&served.scenario.bus).await?;
        let outcome = served.scenario.terminal(0, draft.counter()).await.with_context(|| (*name).to_owned())?;
        let is_kept_out = matches!(outcome.kind, OutcomeKind::DeployFailed | OutcomeKind::DeployRefused);
        ensure!(is_kept_out, "{name}: {outcome:#?}");
        ensure!(outcome.reason.as_ref().is_some_and(|reason| reason.code == *code), "{name}: {outcome:#?}");
        eprintln!("{name}: {} {}", outcome.kind, outcome.message);
        ensure!(!format!("{outcome:?}").contains("STOLEN"), "{name} shows what it should not have read: {outcome:#?}");
        served.assert_untouched().await.with_context(|| (*name).to_owned())?;
        match env_file.is_dir() {
            true => std::fs::remove_dir(&env_file)?,
            false => std::fs::remove_file(&env_file)?,
        }
        std::fs::write(&env_file, &own)?;
    }
    ensure!(std::fs::read(&foreign)? == b"HTTP_PORT=1\nSTOLEN=yes\n", "it was written to");
    assert_well(&mut served, attacks.len(), before).await
}

/// The files were looked at when the release was checked; Compose starts containers of it several times after that.
#[tokio::test]
async fn what_is_exchanged_in_the_middle_of_a_deploy_is_not_read() -> Result<()> {
    let mut served = Served::v1().await?;
    let folder = served.scenario.host().directory.clone();
    let env_file = folder.join(".env");
    let own = std::fs::read_to_string(&env_file)?;
    std::fs::write(&env_file, format!("{own}WORD='of the $host'\n"))?;
    std::fs::write(folder.join("app.env"), "OTHER=checked\n")?;
    let exchange = "cd /stack && for f in .env app.env; do rm $f && ln -s /etc/shadow $f; done";
    let migrator = served.scenario.push("migrator", AppImage::version("m").script(exchange)).await?;
    let v2 = served.scenario.push("v2", AppImage::version("v2")).await?;
    let stack = Stack::app(&v2).app_lines("env_file: [app.env]\nenvironment: {WORD: '${WORD}', PRICE: '5$$'}").service(
        "migrator",
        &migrator,
        "init: true\nvolumes: [.:/stack]",
        "role: migrate",
    );
    served.scenario.succeed(&stack).await?;
    ensure!(std::fs::read_link(&env_file)? == Path::new("/etc/shadow"), "nothing was exchanged");
    served.scenario.assert_runs(&v2, "v2").await?;
    let project = served.scenario.host().project.clone();
    let containers = served.scenario.engine.containers(&project)?;
    let of_app =
        containers.iter().find(|container| container["Config"]["Labels"]["com.docker.compose.service"] == "app");
    let environment = &of_app.context("no app")?["Config"]["Env"];
    for variable in ["WORD=of the $host", "OTHER=checked", "PRICE=5$"] {
        let has = environment.as_array().is_some_and(|all| all.iter().any(|one| one == variable));
        ensure!(has, "{variable} is not in {environment}");
    }
    Ok(())
}
