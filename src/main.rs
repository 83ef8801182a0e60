//! The `orion-peer` binary; all code is in the library.

fn main() -> std::process::ExitCode {
    orion_peer::cli::main()
}
