//! Output for GitHub Actions: annotations, the step summary and step outputs. Does nothing unless
//! `GITHUB_ACTIONS` is `true`.

use std::{fs::OpenOptions, io::Write};

use super::output::Output;
use crate::report::bench::{Named, github, markdown::markdown};

/// Publishes the results to the runner.
pub fn publish(runs: &[Named], output: Output) {
    if std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true") {
        // The runner also reads commands from stderr; stdout may be JSON.
        for line in github::annotations(runs) {
            output.runner_command(&line);
        }
        append("GITHUB_STEP_SUMMARY", &markdown(runs), output);
        if let Some(run) = runs.last() {
            append("GITHUB_OUTPUT", &github::outputs(&run.result), output);
        }
    }
}

/// Appends to the file named by an environment variable of the runner.
fn append(variable: &str, text: &str, output: Output) {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else { return };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{}", text.trim_end()));
    if let Err(error) = written {
        // This does not affect the result of the run.
        output.line(format!("cannot write {variable} `{}`: {error}", path.display()));
    }
}
