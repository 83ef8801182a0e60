//! The `orion-peer` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    orion_peer::cli::main()
}
