//! The SQL files inside an image, read out of a container that is never started, and made migrations by sqlx's rules.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Component;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use landfall_schema::outcome::Reason;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr};

use super::Plan;
use crate::hands::Hands;
use crate::hands::pull::repository_part;
use crate::hands::render::Stack;

/// All SQL files of one image together.
const FILES_MAX_BYTES: usize = 16 * 1024 * 1024;

impl Hands {
    /// The directory's `*.sql` files by name, through a container that is never started.
    pub(super) async fn sql_files(&self, plan: &Plan<'_>) -> Result<BTreeMap<String, String>, Reason> {
        let docker = self.engine.docker()?;
        let Stack { counter, invocation, .. } = plan.stack;
        let name = format!(
            "landfall-{}-{}-{}-sql",
            invocation.project,
            counter.0,
            repository_part(plan.gate.claim.service.as_str())
        );
        self.engine.remove_container(&docker, &name).await?;
        // An image may have no command of its own; this one is never run.
        let body = ContainerCreateBody {
            image: Some(plan.image.clone()),
            cmd: Some(vec!["-".to_owned()]),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.engine
            .call("making a container to read SQL files from", docker.create_container(Some(options), body))
            .await?;
        let path = format!("{}/.", plan.settings.path.trim_end_matches('/'));
        let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
        let mut stream = docker.download_from_container(&name, Some(options));
        let read = whole(&mut stream).await;
        drop(stream);
        self.engine.remove_container(&docker, &name).await?;
        let Plan { gate, settings, .. } = plan;
        match read {
            Ok(Some(archive)) => unpack(&archive).map_err(|error| plan.failed(error)),
            Ok(None) => {
                Err(plan.failed(format_args!("{} in the image holds more than {FILES_MAX_BYTES} bytes", settings.path)))
            }
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Err(plan.failed(format_args!("the image of service {} has no {}", gate.claim.service, settings.path)))
            }
            Err(error) => Err(self.engine.failed("reading the SQL files out of the image", &error)),
        }
    }
}

/// `None` when it is too long.
async fn whole<E>(chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin)) -> Result<Option<Vec<u8>>, E> {
    let mut archive = Vec::new();
    while let Some(bytes) = chunks.next().await.transpose()? {
        if archive.len() + bytes.len() > FILES_MAX_BYTES {
            return Ok(None);
        }
        archive.extend_from_slice(&bytes);
    }
    Ok(Some(archive))
}

/// Regular `*.sql` files directly in the directory; everything else is passed over.
fn unpack(archive: &[u8]) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts: Vec<_> = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
        let [Component::Normal(name)] = parts[..] else { continue };
        let Some(name) = name.to_str().filter(|name| name.ends_with(".sql")) else { continue };
        if entry.header().entry_type().is_file() {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            files.insert(name.to_owned(), text);
        }
    }
    Ok(files)
}

/// sqlx's rules for file names: `<version>_<description>.sql`, `.up.sql` and `.down.sql`; others are ignored.
pub(super) fn migrator(files: BTreeMap<String, String>) -> Result<Migrator, String> {
    let mut migrations = Vec::new();
    for (name, sql) in files {
        let Some((version, rest)) = name.split_once('_') else { continue };
        let version: i64 = version
            .parse()
            .map_err(|_| format!("{name}: a file's name begins with a number, e.g. 0001_create_orders.sql"))?;
        let kind = MigrationType::from_filename(rest);
        let description = rest.trim_end_matches(kind.suffix()).replace('_', " ");
        let no_tx = sql.starts_with("-- no-transaction");
        migrations.push(Migration::new(version, description.into(), kind, AssertSqlSafe(sql).into_sql_str(), no_tx));
    }
    migrations.sort();
    if let Some(pair) = migrations
        .windows(2)
        .find(|pair| pair[0].version == pair[1].version && pair[0].migration_type == pair[1].migration_type)
    {
        return Err(format!("there are two migrations with version {}", pair[0].version));
    }
    Ok(Migrator::with_migrations(migrations))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn so_many_bytes_of_sql_files_are_read() {
        let read = async |lengths: &[usize]| {
            let chunks = lengths.iter().map(|length| Ok::<_, ()>(Bytes::from(vec![0; *length])));
            let read = whole(&mut futures_util::stream::iter(chunks)).await.unwrap();
            read.map(|archive| archive.len())
        };
        assert_eq!(read(&[FILES_MAX_BYTES - 1, 1]).await, Some(FILES_MAX_BYTES));
        assert_eq!(read(&[FILES_MAX_BYTES - 1, 1, 1]).await, None);
        assert_eq!(read(&[FILES_MAX_BYTES + 1]).await, None);
    }

    #[test]
    fn only_plain_sql_files_are_unpacked() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, text: &str| {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_entry_type(kind);
            let name = header.as_ustar_mut().unwrap();
            name.name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        };
        add("./", tar::EntryType::Directory, "");
        add("./1_a.sql", tar::EntryType::Regular, "select 1");
        add("./sub/2_b.sql", tar::EntryType::Regular, "select 2");
        add("../3_c.sql", tar::EntryType::Regular, "select 3");
        add("/4_d.sql", tar::EntryType::Regular, "select 4");
        add("./5_e.sql", tar::EntryType::Symlink, "");
        add("./readme.md", tar::EntryType::Regular, "x");
        let files = unpack(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["1_a.sql"]);
    }

    /// The one way in which a few bytes of an archive could stand for many.
    #[test]
    fn a_file_of_holes_is_passed_over() {
        let mut header = tar::Header::new_gnu();
        header.set_path("1_a.sql").unwrap();
        header.set_entry_type(tar::EntryType::GNUSparse);
        // 4 GiB of nothing, and the end.
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 32);
        gnu.sparse[0].offset = *b"40000000000\0";
        gnu.sparse[0].numbytes = *b"00000000000\0";
        header.set_size(0);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, std::io::empty()).unwrap();
        assert_eq!(unpack(&builder.into_inner().unwrap()).unwrap(), BTreeMap::new());
    }

    #[test]
    fn names_become_migrations() {
        let files = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "select 1".to_owned())).collect();
        let known = migrator(files(&["0002_b.sql", "1_create_orders.up.sql", "1_create_orders.down.sql", "notes.sql"]))
            .unwrap();
        let told: Vec<String> =
            known.iter().map(|m| format!("{} {} {}", m.version, m.description, m.migration_type.label())).collect();
        assert_eq!(told, ["1 create orders migrate", "1 create orders revert", "2 b migrate"]);
        assert!(migrator(files(&["x_b.sql"])).unwrap_err().contains("begins with a number"));
        assert!(migrator(files(&["1_a.sql", "01_b.sql"])).unwrap_err().contains("two migrations"));
    }
}
