//! The guide: how to use `orion-peer`, its protocols and the meaning of its output, one module per page.
//!
//! `orion-peer guide TOPIC` shows the same pages in the terminal, and they are plain Markdown in `src/guide/` for
//! readers of the repository. Links between pages are reference links whose label is their target: each page defines
//! them for readers of the repository, and `links.txt`, which is included first, defines them for rustdoc.
//! `tests/it/guide.rs` compares links, transcripts and generated tables with the program.

mod render;

pub use render::render;

/// A page of the guide.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// The name in `orion-peer guide TOPIC`, in kebab case.
    pub topic: &'static str,
    /// The subject in one line.
    pub summary: &'static str,
    /// The text in Markdown.
    pub text: &'static str,
}

macro_rules! pages {
    ($($module:ident $topic:literal $summary:literal [$($file:literal)+];)*) => {
        /// Every page, in reading order.
        pub const PAGES: &[Page] = &[
            $(Page { topic: $topic, summary: $summary, text: concat!($(include_str!($file)),+) }),*
        ];

        $(
            // In prose, names of products have no backticks.
            #[allow(clippy::doc_markdown)]
            #[doc = include_str!("links.txt")]
            $(#[doc = include_str!($file)])+
            pub mod $module {}
        )*
    };
}

pages! {
    getting_started "getting-started" "First run, a browser as the peer, and the real apps" ["getting-started.md"];
    send_and_recv "send-and-recv" "Be the phone or the Mac, and how they recover from lost connections" ["send-and-recv.md"];
    serve "serve" "Signaling, tokens, STUN and TURN; deployment and operation" ["serve.md"];
    bench "bench" "Measure connections, gate a pull request, compare results" ["bench.md"];
    lab "lab" "Any NAT and link on one machine; calls during network changes" ["lab.md"];
    doctor "doctor" "What this network and these ICE servers can do" ["doctor.md"];
    check "check" "Test a signaling and token server for conformance" ["check.md"];
    load "load" "How many sockets and messages a signaling server can handle" ["load.md"];
    tools "tools" "demo, token, devices, completions, man and guide" ["tools.md"];
    configuration "configuration" "Flags, variables, the configuration file, exit codes" ["configuration.md"];
    wire_contract "wire-contract" "Token API, signaling and the peer connection" ["wire-contract.md"];
    control_messages "control-messages" "Messages on the data channel" ["control-messages.md"];
    files "files" "Files and JSON, with every field" ["files.md"];
    metrics "metrics" "What /metrics of serve exposes" ["metrics.md"];
    errors "errors" "Every error code, with its stage, meaning and remedy" ["errors.md"];
    troubleshooting "troubleshooting" "From a symptom to its cause" ["troubleshooting.md"];
    first_picture "first-picture" "Why the first picture takes a second, and what to do" ["first-picture.md"];
    interop "interop" "What works with libwebrtc and other stacks" ["interop.md" "../../tests/foreign/table.md"];
    measurements "measurements" "Measured values, and the commands that repeat them" ["measurements.md"];
    webrtc_crate "webrtc-crate" "Limits of the webrtc crate and our workarounds" ["webrtc-crate.md"];
    security "security" "The trust model, and what is tested" ["security.md"];
    glossary "glossary" "The terms this project uses" ["glossary.md"];
}
