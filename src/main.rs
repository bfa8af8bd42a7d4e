//! The program; everything is in the library.

fn main() -> std::process::ExitCode {
    spotkeep::cli::main()
}
