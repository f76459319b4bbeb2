//! A PostgreSQL database of a test's own.

use anyhow::{Context as _, Result};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::lab::Lab;
use crate::names;

#[derive(Debug)]
pub struct Database {
    admin_url: String,
    name: String,
    /// For the executor and for tests.
    pub url: String,
    /// For containers.
    pub gateway_url: String,
}

impl Database {
    /// # Errors
    /// When the lab's PostgreSQL does not answer.
    pub async fn create(lab: &Lab) -> Result<Self> {
        let name = names::unique("landfall").replace('-', "_");
        let mut connection = PgConnection::connect(&lab.postgres_url).await.context("the lab's PostgreSQL")?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
        connection.close().await?;
        let url = with_database(&lab.postgres_url, &name);
        let gateway_url = with_database(&lab.postgres_gateway_url, &name);
        Ok(Self { admin_url: lab.postgres_url.clone(), name, url, gateway_url })
    }

    /// One text per row: the first column.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn texts(&self, query: &'static str) -> Result<Vec<String>> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let rows = sqlx::query(query).fetch_all(&mut connection).await?;
        connection.close().await?;
        rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?)).collect()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (url, name) = (self.admin_url.clone(), self.name.clone());
        // The test's runtime may be ending, so the clean-up has one of its own.
        let cleaner = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await?;
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await?;
                Ok(())
            })
        });
        if let Ok(Err(error)) = cleaner.join() {
            eprintln!("the database {} was not dropped: {error:#}", self.name);
        }
    }
}

/// The URL with another database in its path; parameters stay.
fn with_database(url: &str, name: &str) -> String {
    let (base, parameters) = url.split_once('?').map_or((url, None), |(base, rest)| (base, Some(rest)));
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..].find('/').map_or(base.len(), |at| authority + at);
    let parameters = parameters.map(|rest| format!("?{rest}")).unwrap_or_default();
    format!("{}/{name}{parameters}", &base[..end])
}
