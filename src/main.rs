//! The `gramophone` program: reads the command line and turns errors into exit codes.

use std::process::ExitCode;

fn main() -> ExitCode {
    gramophone::app::cli::main()
}
