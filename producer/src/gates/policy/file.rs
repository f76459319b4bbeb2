//! The file that a policy is made of.

use std::collections::BTreeMap;
use std::path::Path;

use landfall_bus::Bus;
use landfall_deploy::gates::approvals::is_same_person;
use landfall_deploy::gates::freeze::open_until;
use landfall_schema::Timestamp;
use landfall_schema::gates::{ApprovalRule, Approver, EnvironmentPolicy, FreezeWindow, Requirement};
use landfall_schema::ids::{EnvName, HostName};
use landfall_schema::signature::PublicKey;
use serde::Deserialize;

use crate::error::CliError;
use crate::plan;
use crate::publish::parse_duration;
use crate::session::Session;

/// What people write; TOML, or YAML by the file's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFile {
    /// The environment in which a release must have succeeded.
    pub requires: Option<EnvName>,
    /// Whose promotions there count. Default: the context's `trusted_promoters`, else the key that signs promotions here.
    pub promoters: Vec<PublicKey>,
    /// The hosts there, with their keys. Default: those that gave a sign of life, under the context's `host_keys` or the keys they announce.
    pub hosts: BTreeMap<HostName, PublicKey>,
    pub approvals: Option<ApprovalsFile>,
    pub freeze_windows: Vec<WindowFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalsFile {
    pub need: u32,
    pub of: Vec<ApproverFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverFile {
    pub name: String,
    pub key: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowFile {
    /// When it begins: minute, hour, day of month, month, day of week.
    pub cron: String,
    /// How long it lasts, e.g. `64h`.
    pub lasts: String,
    /// An IANA name. Default: UTC.
    #[serde(default = "utc")]
    pub time_zone: String,
    pub reason: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl PolicyFile {
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            CliError::new(format!("cannot read the policy {shown}")).because(&error).hint("check the name")
        })?;
        let is_yaml = path.extension().is_some_and(|ending| ending == "yml" || ending == "yaml");
        let unreadable = |why: String| {
            CliError::new(format!("the policy {shown} is not readable: {}", why.trim()))
                .hint("docs/GATES.md has one to start from")
        };
        match is_yaml {
            true => serde_saphyr::from_str(&text).map_err(|error| unreadable(error.to_string())),
            false => toml::from_str(&text).map_err(|error| unreadable(error.to_string())),
        }
    }

    /// The policy with every name made into what a host can check without asking anybody.
    pub async fn resolve(
        self,
        env: &EnvName,
        author: String,
        bus: &Bus,
        cli: &Session,
    ) -> Result<EnvironmentPolicy, CliError> {
        let requires = match &self.requires {
            Some(from) if from == env => {
                let message = format!("{env} cannot require that a release succeeded in {env}");
                return Err(CliError::usage(message).hint("name the environment that comes before it in `requires`"));
            }
            Some(from) => Some(self.requirement(from, bus, cli).await?),
            None => None,
        };
        let approvals = self.approvals.map(approval_rule).transpose()?;
        let freeze_windows = self.freeze_windows.into_iter().map(window).collect::<Result<_, _>>()?;
        Ok(EnvironmentPolicy { env: env.clone(), requires, approvals, freeze_windows, author })
    }

    async fn requirement(&self, from: &EnvName, bus: &Bus, cli: &Session) -> Result<Requirement, CliError> {
        let mut host_keys = self.hosts.clone();
        if host_keys.is_empty() {
            let known = plan::known(bus, from, &cli.output).await?;
            let keys = plan::HostKeys::new(&cli.settings.host_keys, &known);
            let of = |host: &HostName| Some((host.clone(), keys.of(host)?.clone()));
            host_keys = known.iter().filter_map(|known| of(&known.presence.host)).collect();
        }
        if host_keys.is_empty() {
            return Err(CliError::new(format!("no host of {from} is known, so nobody could prove a release there"))
                .hint(format!(
                    "see `landfall hosts --env {from}`, or name them in the file: `hosts = {{ host = \"U…\" }}`"
                )));
        }
        let mut promoters = self.promoters.clone();
        if promoters.is_empty() {
            promoters.clone_from(&cli.settings.trusted_promoters);
        }
        if promoters.is_empty() {
            promoters.push(cli.signing_key()?.public());
        }
        Ok(Requirement { env: from.clone(), host_keys, promoters })
    }
}

fn approval_rule(file: ApprovalsFile) -> Result<ApprovalRule, CliError> {
    let mut of: Vec<Approver> = Vec::new();
    for ApproverFile { name, key } in file.of {
        let approver = Approver { name, key };
        if let Some(known) = of.iter().find(|known| is_same_person(known, &approver)) {
            let (name, first) = (&approver.name, &known.name);
            let message = match known.key == approver.key {
                true => format!("{name} and {first} have the same key in `approvals.of`"),
                false => format!("{name} stands twice in `approvals.of`, and would count once"),
            };
            return Err(CliError::usage(message)
                .hint("everybody approves with one key of their own; `landfall init NAME` makes one"));
        }
        of.push(approver);
    }
    if file.need == 0 {
        return Err(CliError::usage("`approvals.need` is 0, so nobody would be asked")
            .hint("ask for one approval at least, or leave `approvals` out"));
    }
    if usize::try_from(file.need).is_ok_and(|need| need > of.len()) {
        let message = format!("`approvals.need` is {}, and `approvals.of` names {}", file.need, of.len());
        return Err(CliError::usage(message).hint("name more people, or ask for fewer"));
    }
    Ok(ApprovalRule { need: file.need, of })
}

fn window(file: WindowFile) -> Result<FreezeWindow, CliError> {
    let WindowFile { cron, lasts, time_zone, reason } = file;
    let bad = |why: String| {
        CliError::usage(format!("the freeze window {cron:?} cannot be: {why}"))
            .hint("docs/GATES.md has one to start from")
    };
    let window =
        FreezeWindow { duration_ms: parse_duration(&lasts).map_err(&bad)?, cron: cron.clone(), time_zone, reason };
    open_until(&window, Timestamp::now()).map_err(|error| bad(error.to_string()))?;
    Ok(window)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use landfall_schema::signature::SigningKey;

    use super::*;

    const KEY: &str = "UAKA37ED7PD7L6PT4A7HTM3HIHN4EAEALAGMNJLIUDUMLOET2IXDKERU";

    #[test]
    fn toml_and_yaml_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let toml = format!(
            "requires = \"staging\"\napprovals = {{ need = 1, of = [{{ name = \"ann\", key = \"{KEY}\" }}] }}\n\
             [[freeze_windows]]\ncron = \"0 16 * * FRI\"\nlasts = \"64h\"\nreason = \"weekend\"\n"
        );
        let yaml = format!(
            "requires: staging\napprovals: {{need: 1, of: [{{name: ann, key: {KEY}}}]}}\n\
             freeze_windows: [{{cron: \"0 16 * * FRI\", lasts: 64h, reason: weekend}}]\n"
        );
        let [toml, yaml] = [("a.toml", toml), ("a.yml", yaml)].map(|(name, text)| {
            std::fs::write(folder.path().join(name), text).unwrap();
            PolicyFile::read(&folder.path().join(name)).unwrap()
        });
        assert_eq!(toml, yaml);
        assert_eq!(toml.freeze_windows[0].time_zone, "UTC");
        let made = window(toml.freeze_windows[0].clone()).unwrap();
        assert_eq!(made.duration_ms, 64 * 3_600_000);
        std::fs::write(folder.path().join("b.toml"), "aprovals = {}").unwrap();
        assert!(PolicyFile::read(&folder.path().join("b.toml")).unwrap_err().message.contains("aprovals"));
    }

    #[test]
    fn rules_that_cannot_be_are_told() {
        let ann = || ApproverFile { name: "ann".to_owned(), key: PublicKey::new(KEY).unwrap() };
        assert!(approval_rule(ApprovalsFile { need: 2, of: vec![ann()] }).unwrap_err().message.contains("need"));
        let other = || ApproverFile { name: " Ann".to_owned(), key: SigningKey::generate().public() };
        let bob = || ApproverFile { name: "bob".to_owned(), ..ann() };
        for (need, of, told) in
            [(1, vec![ann(), bob()], "same key"), (2, vec![ann(), other()], "stands twice"), (0, vec![ann()], "is 0")]
        {
            let error = approval_rule(ApprovalsFile { need, of }).unwrap_err();
            assert!(error.message.contains(told) && error.hint.is_some(), "{error}");
        }
        let bad =
            WindowFile { cron: "never".to_owned(), lasts: "1h".to_owned(), time_zone: utc(), reason: String::new() };
        assert!(window(bad).unwrap_err().message.contains("never"));
    }
}
