//! Secrets that are files of the stack's own folder: read so that what is told of the stack does not tell them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::hands::own_file;

/// Secrets of a stack that are read so that they can be masked, and how much of each.
const SECRET_FILES_MAX: usize = 64;
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;

/// What the secrets of a rendered stack hold; the policy has its say about files of other folders.
pub(super) async fn files(model: &Value, folder: &Path) -> Vec<String> {
    let entries = model.get("secrets").and_then(Value::as_object).into_iter().flatten();
    let paths = entries.filter_map(|(_, secret)| secret.get("file")?.as_str()).map(PathBuf::from);
    let mut found = Vec::new();
    for path in paths.filter(|path| path.starts_with(folder)).take(SECRET_FILES_MAX) {
        let folder = folder.to_owned();
        let read = move || own_file::beginning(&path, &folder, SECRET_FILE_MAX_BYTES);
        // One that is missing is Compose's to complain of.
        if let Ok(Ok(bytes)) = tokio::task::spawn_blocking(read).await {
            found.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn so_many_secrets_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = |number: usize| folder.path().join(format!("{number:03}"));
        for number in 0..=SECRET_FILES_MAX {
            std::fs::write(file(number), format!("secret {number}")).unwrap();
        }
        for (count, read) in [(SECRET_FILES_MAX, SECRET_FILES_MAX), (SECRET_FILES_MAX + 1, SECRET_FILES_MAX)] {
            let entry = |number| (format!("s{number:03}"), json!({ "file": file(number) }));
            // Those of other folders do not count.
            let foreign = ("a".to_owned(), json!({ "file": "/etc/hostname" }));
            let secrets: serde_json::Map<_, _> = [foreign].into_iter().chain((0..count).map(entry)).collect();
            let found = files(&json!({ "secrets": secrets }), folder.path()).await;
            let expected: Vec<String> = (0..read).map(|number| format!("secret {number}")).collect();
            assert_eq!(found, expected, "of {count}");
        }
    }
}
