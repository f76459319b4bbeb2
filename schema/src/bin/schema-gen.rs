//! `schema-gen [DIRECTORY]` writes the JSON Schema files, by default to `schema/json`, as seen from the root of the repository.

use std::path::PathBuf;
use std::process::ExitCode;

use landfall_schema::json_schema;

fn main() -> ExitCode {
    let directory = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("schema/json"), PathBuf::from);
    for file in json_schema::files() {
        let path = directory.join(file.name);
        if let Err(error) = std::fs::write(&path, file.text()) {
            eprintln!("error: {} was not written: {error}", path.display());
            eprintln!("hint: run it from the root of the repository, or name a directory that exists");
            return ExitCode::FAILURE;
        }
        eprintln!("wrote {}", path.display());
    }
    ExitCode::SUCCESS
}
