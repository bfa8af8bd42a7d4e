//! The `spotkeep` program: calls the command line in the library.

fn main() -> std::process::ExitCode {
    spotkeep::cli::main()
}
