#![allow(clippy::unwrap_used)]
use super::*;

/// A configuration directory of its own, removed at the end.
struct Home(PathBuf);

impl Home {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("landfall-context-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn find(&self, global: &GlobalArgs, environment: &[(&str, &str)]) -> Result<Settings, ContextError> {
        let lookup =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::find(global, &self.0, &lookup)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn named(context: &str) -> GlobalArgs {
    GlobalArgs { context: Some(context.to_owned()), ..GlobalArgs::default() }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_context_over_the_default() {
    let home = Home::new("precedence");
    let server = |settings: Settings| settings.connect.url;
    assert_eq!(server(home.find(&GlobalArgs::default(), &[]).unwrap()), DEFAULT_URL);

    home.write("landfall/contexts/default.toml", "url = \"nats://context\"\nenv = \"staging\"");
    let found = home.find(&GlobalArgs::default(), &[]).unwrap();
    assert_eq!((found.connect.url.as_str(), found.env.unwrap().as_str()), ("nats://context", "staging"));

    let environment = [("NATS_URL", "nats://environment")];
    assert_eq!(server(home.find(&GlobalArgs::default(), &environment).unwrap()), "nats://environment");
    let environment = [("NATS_URL", "nats://environment"), ("LANDFALL_SERVER", "nats://own")];
    assert_eq!(server(home.find(&GlobalArgs::default(), &environment).unwrap()), "nats://own");

    let flag = GlobalArgs { server: Some("nats://flag".to_owned()), ..GlobalArgs::default() };
    assert_eq!(server(home.find(&flag, &environment).unwrap()), "nats://flag");
}

#[test]
fn credentials_come_from_one_level_as_a_whole() {
    let home = Home::new("credentials");
    home.write("landfall/contexts/default.toml", "user = \"ci\"\npassword_file = \"../secret\"");
    home.write("landfall/secret", "hunter2\n");
    let found = home.find(&GlobalArgs::default(), &[]).unwrap().connect;
    assert_eq!(found.user_password, Some(("ci".to_owned(), "hunter2".to_owned())));

    let found = home.find(&GlobalArgs::default(), &[("NATS_CREDS", "/run/creds")]).unwrap().connect;
    assert_eq!((found.creds, found.user_password), (Some(PathBuf::from("/run/creds")), None));
    assert!(!format!("{:?}", home.find(&GlobalArgs::default(), &[]).unwrap()).contains("hunter2"));
}

#[test]
fn a_context_of_the_nats_cli_works_by_name() {
    let home = Home::new("nats");
    home.write("nats/context/prod.json", r#"{"url":"nats://prod","token":"t","description":"ours"}"#);
    let found = home.find(&named("prod"), &[]).unwrap().connect;
    assert_eq!((found.url.as_str(), found.token.as_deref()), ("nats://prod", Some("t")));
    let found = home.find(&GlobalArgs::default(), &[("NATS_CONTEXT", "prod")]).unwrap().connect;
    assert_eq!(found.url, "nats://prod");
}

#[test]
fn a_wrong_context_says_what_is_wrong() {
    let home = Home::new("wrong");
    home.write("landfall/contexts/typo.toml", "url = \"nats://a\"\nsever = 1");
    home.write("nats/context/prod.json", "{");
    let text = |context: &str| CliError::from(home.find(&named(context), &[]).unwrap_err()).to_string();
    assert!(text("missing").ends_with("hint: known contexts are prod, typo"), "{}", text("missing"));
    assert!(text("typo").contains("line 2"), "{}", text("typo"));
    assert!(text("prod").contains("prod.json is not readable"), "{}", text("prod"));
    assert!(text("../etc/passwd").contains("cannot be the name of a context"), "{}", text("../etc/passwd"));
}

#[test]
fn the_signing_key_is_found() {
    let home = Home::new("key");
    let path = |settings: Settings| match settings.signing_key {
        SigningKeySource::File(path) => path,
        SigningKeySource::Seed(seed) => panic!("a seed: {seed}"),
    };
    assert!(path(home.find(&GlobalArgs::default(), &[]).unwrap()).ends_with("landfall/keys/default.seed"));
    home.write("landfall/contexts/ci.toml", "");
    assert!(path(home.find(&named("ci"), &[]).unwrap()).ends_with("landfall/keys/ci.seed"));
    let found = home.find(&named("ci"), &[("LANDFALL_SIGNING_KEY_FILE", "/run/key")]).unwrap();
    assert_eq!(path(found), PathBuf::from("/run/key"));
}
