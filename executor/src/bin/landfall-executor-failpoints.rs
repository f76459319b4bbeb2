//! `landfall-executor` with failpoints, under a name of its own so that nobody takes it for the other.

#[path = "../main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
