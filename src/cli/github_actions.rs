//! What a run tells when it is a step of GitHub Actions: annotations, the step's summary, its outputs.
//! Nothing when `GITHUB_ACTIONS` is not `true`.

use std::{fs::OpenOptions, io::Write};

use super::output::Output;
use crate::report::bench::{Named, github, markdown::markdown};

/// Tells the runner.
pub fn tell(runs: &[Named], output: Output) {
    if std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true") {
        // The runner reads commands from stderr, too; stdout may be JSON.
        for line in github::annotations(runs) {
            output.runner_command(&line);
        }
        append("GITHUB_STEP_SUMMARY", &markdown(runs), output);
        if let Some(run) = runs.last() {
            append("GITHUB_OUTPUT", &github::outputs(&run.result), output);
        }
    }
}

/// Appends to the file that a variable names, as the runner wants it.
fn append(variable: &str, text: &str, output: Output) {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else { return };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{}", text.trim_end()));
    if let Err(error) = written {
        // The run itself is not worse for it.
        output.line(format!("cannot write {variable} `{}`: {error}", path.display()));
    }
}
