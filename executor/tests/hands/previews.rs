//! Previews: a stack of its own, and its end.

use std::process::Command;

use landfall_deploy::{Effect, Evidence};
use landfall_schema::Timestamp;
use landfall_schema::outcome::ReasonCode;
use landfall_schema::promotion::{Intent, Preview};

use crate::lab::{App, Release, docker, image};

const STACK: &str = "services:
  app:
    image: x
    init: true
    command: [httpd, -f, -p, '8080', -h, /www]
    ports: ['127.0.0.1::8080']
    environment: {NAME: '${LANDFALL_PREVIEW:-none}', SECRET: '${SECRET}'}
    volumes: ['data:/data', './files:/files']
    x-landfall: {ready: {http: {port: 8080}, interval_ms: 50}}
volumes: {data: {}}
";

/// A preview of `shop` on a host of its own, with the template in `template`.
fn preview(name: &str, template: &std::path::Path) -> App {
    App::reconfigured(|config| {
        let app = format!("shop-{}--{name}", std::process::id());
        config.stack.app = app.parse().unwrap();
        config.stack.project = None;
        config.stack.directory = config.state_dir.join("previews").join(&app);
        config.stack.template = Some(template.to_owned());
    })
}

fn of(name: &str, release: Release) -> Release {
    let preview = Preview { of: "shop".parse().unwrap(), name: name.parse().unwrap(), expires_at: Timestamp::MAX };
    Release { preview: Some(preview), ..release }
}

fn listed(args: &[&str], project: &str) -> Vec<String> {
    let filter = format!("label=com.docker.compose.project={project}");
    let args: Vec<&str> = args.iter().copied().chain(["--quiet", "--filter", &filter]).collect();
    docker(&args).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_preview_is_made_and_nothing_is_left_of_it() {
    let template = tempfile::tempdir().unwrap();
    std::fs::write(template.path().join(".env"), "SECRET=of-previews\n").unwrap();
    let image = image("preview", &[("www/index.html", "a preview")]);
    let (mut one, mut two) = (preview("pr-1", template.path()), preview("pr-2", template.path()));
    let made = one.deploy(&of("pr-1", Release::new(STACK, &[("app", &image)]))).await;
    two.deploy(&of("pr-2", Release::new(STACK, &[("app", &image)]))).await;
    let environment = docker(&["exec", &one.id("app"), "env"]);
    assert!(environment.contains("NAME=pr-1") && environment.contains("SECRET=of-previews"), "{environment}");
    // Each is published on a port of its own, and has its own network, volume and directory.
    let port = docker(&["port", &one.id("app"), "8080/tcp"]);
    let answer = Command::new("busybox").args(["wget", "-qO-", &format!("http://{port}/")]).output();
    if let Ok(answer) = answer {
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "a preview");
    }
    docker(&["exec", &one.id("app"), "touch", "/files/from-one"]);
    assert!(one.config.stack.directory.join("files/from-one").exists());
    assert!(!two.config.stack.directory.join("files/from-one").exists());
    assert!(!template.path().join("files").exists());

    let mut removal = one.order(&of("pr-1", Release::new(STACK, &[("app", &image)])));
    removal.promotion.intent = Intent::Remove;
    let kept = two.id("app");
    let removed = one.carry_out(Effect::Remove, &removal).await.unwrap();
    let expect = ["1 container", "1 network", "1 volume", "its files"].map(str::to_owned).to_vec();
    assert!(matches!(&removed, Evidence::Removed { what } if *what == expect), "{removed:?}");
    for list in [["ps", "--all"].as_slice(), &["network", "ls"], &["volume", "ls"]] {
        assert!(listed(list, &one.project).is_empty(), "{list:?}");
    }
    let tags = docker(&["images", "--format", "{{.Repository}}"]);
    assert!(!tags.contains(&format!("landfall.local/{}/", one.project)), "{tags}");
    assert!(!one.config.stack.directory.exists());
    assert!(!one.state_dir().join("stacks").join(&one.project).exists());
    // The other preview, which shares the image, has noticed nothing.
    assert_eq!(two.id("app"), kept);
    assert!(tags.contains(&format!("landfall.local/{}/", two.project)), "{tags}");

    // Again, as after a crash.
    let removed = one.carry_out(Effect::Remove, &removal).await.unwrap();
    assert_eq!(removed, Evidence::Removed { what: Vec::new() });
    drop(made);

    let mut removal = two.order(&of("pr-2", Release::new(STACK, &[("app", &image)])));
    removal.promotion.intent = Intent::Remove;
    let removed = two.carry_out(Effect::Remove, &removal).await.unwrap();
    assert!(matches!(&removed, Evidence::Removed { what } if what.contains(&"1 image".to_owned())), "{removed:?}");
    let here = docker(&["images", "--digests", "--format", "{{.Digest}}"]);
    assert!(!here.contains(image.digest.as_str()));
}

#[tokio::test]
async fn what_would_leave_the_project_is_refused() {
    let template = tempfile::tempdir().unwrap();
    std::fs::write(template.path().join(".env"), "SECRET=of-previews\n").unwrap();
    let image = image("preview", &[("www/index.html", "a preview")]);
    let mut app = preview("pr-3", template.path());
    for (from, to, expect) in [
        ("init: true", "container_name: shop", "container_name"),
        ("volumes: {data: {}}", "volumes: {data: {name: shared}}", "volumes.data"),
        ("volumes: {data: {}}", "volumes: {data: {external: true}}", "volumes.data"),
        (
            "volumes: {data: {}}",
            "volumes: {data: {}}\nnetworks: {default: {name: bridge, external: true}}",
            "networks.default",
        ),
        ("./files:/files", "/srv/shared:/files", "/srv/shared"),
    ] {
        let compose = STACK.replace(from, to);
        assert_ne!(compose, STACK);
        let order = app.order(&of("pr-3", Release::new(&compose, &[("app", &image)])));
        let reason = app.observe(&order).await.unwrap_err();
        assert_eq!(reason.code, ReasonCode::PolicyViolation, "{to}");
        assert!(reason.message.contains(expect), "{}", reason.message);
    }
    // The application itself is never removed.
    let mut shop = App::new();
    let mut order = shop.order(&of("pr-3", Release::new(STACK, &[("app", &image)])));
    order.promotion.intent = Intent::Remove;
    assert_eq!(shop.carry_out(Effect::Remove, &order).await.unwrap_err().code, ReasonCode::PolicyViolation);
}

#[tokio::test]
async fn a_fixed_port_that_is_taken_says_so() {
    let template = tempfile::tempdir().unwrap();
    std::fs::write(template.path().join(".env"), "SECRET=of-previews\n").unwrap();
    let image = image("preview", &[("www/index.html", "a preview")]);
    let mut app = preview("pr-4", template.path());
    let port = crate::lab::free_port();
    let taken = docker(&[
        "run",
        "--detach",
        "--init",
        "--publish",
        &format!("127.0.0.1:{port}:80"),
        &{
            docker(&["pull", "--quiet", &image.reference()]);
            image.reference()
        },
        "sleep",
        "1000",
    ]);
    let compose = STACK.replace("127.0.0.1::8080", &format!("127.0.0.1:{port}:8080"));
    let order = app.order(&of("pr-4", Release::new(&compose, &[("app", &image)])));
    app.observe(&order).await.unwrap();
    app.carry_out(Effect::Pull, &order).await.unwrap();
    let reason = app.carry_out(Effect::Update, &order).await.unwrap_err();
    docker(&["rm", "--force", &taken]);
    assert_eq!(reason.code, ReasonCode::PortTaken);
    assert!(reason.hint.unwrap().contains("for previews publish the container's port alone"));
}
