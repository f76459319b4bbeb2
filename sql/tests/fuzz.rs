//! Migrations are read before a person has: whatever stands in them, the linter ends.

use landfall_fuzz::run;
use landfall_sql::{Language, check};

#[test]
fn migrations() {
    let files = [
        "CREATE TABLE a (id bigint PRIMARY KEY, b text NOT NULL DEFAULT 'x');\nALTER TABLE b DROP COLUMN c, ADD COLUMN d int;\n",
        "DO $$ BEGIN DELETE FROM a; END $$;\n-- c\nDROP INDEX CONCURRENTLY i;\nTRUNCATE a;\nALTER TYPE t ADD VALUE 'x';\n",
        "UPDATE a SET b = (SELECT ((((1)))) FROM c WHERE d IN (1, 2) AND NOT e);\n",
    ];
    run("sql-migration", &files.map(|text| text.as_bytes().to_vec()), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for language in [Language::Postgres, Language::Sqlite] {
            for finding in check([("1_a.sql", text.as_ref())], language) {
                assert!(finding.line >= 1 && finding.message.len() < 2_000);
            }
        }
    });
}
