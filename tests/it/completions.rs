//! The completion scripts in their shells: bash, zsh and fish complete subcommands, flags and values. Hidden commands
//! do not appear in any script or man page.

use std::{fs, path::Path, process::Command};

use crate::run::run;

/// The completions that `shell` offers at the end of these words; the last word may be incomplete.
fn offers(shell: &str, words: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let script = run(dir.path(), &["completions", shell]).stdout.join("\n");
    fs::write(dir.path().join("script"), script).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let mut command = match shell {
        "bash" => bash(words),
        "zsh" => zsh(dir.path(), words),
        _ => fish(words),
    };
    let output = command
        .current_dir(dir.path())
        .env_clear()
        .env("HOME", dir.path())
        .env("TERM", "dumb")
        .env("PATH", std::env::var_os("PATH").unwrap())
        .output()
        .unwrap_or_else(|error| panic!("{shell} is not installed: {error}; scripts/setup.sh"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shell} {words:?}: {stderr}");
    let found = String::from_utf8(output.stdout).unwrap();
    let mut found: Vec<String> = found
        .lines()
        // fish appends a description after a tab.
        .map(|line| line.split('\t').next().unwrap_or_default().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Calls the function registered by the script, with the variables that readline sets.
fn bash(words: &[&str]) -> Command {
    const DRIVER: &str = r#"
        source ./script
        spec=$(complete -p orion-peer) && fn=${spec#*-F } && fn=${fn%% *}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        # It may set options of the completion in progress, but there is none.
        "$fn" orion-peer "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", DRIVER, "bash", "orion-peer"]).args(words);
    command
}

/// Presses Tab in an interactive shell on its own terminal, with a `compadd` that prints its arguments.
fn zsh(dir: &Path, words: &[&str]) -> Command {
    const INNER: &str = r#"
        PROMPT=
        autoload -U compinit
        compinit -u -d ./dump
        source ./script
        compdef _orion-peer orion-peer
        compadd () {
            # With these flags, it fills arrays of its caller.
            if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
                builtin compadd "$@"
                return
            fi
            local -a hits
            builtin compadd -A hits "$@"
            print -rl -- $hits >>./hits
            builtin compadd "$@"
        }
        finish () { print done >>./finished; exit }
        comppostfuncs=(finish)
        bindkey '^I' complete-word
        print ready
    "#;
    const OUTER: &str = r#"
        zmodload zsh/zpty || exit 1
        zpty inner zsh -f -i
        zpty -w inner 'source ./inner'
        local line
        for i in {1..50}; do
            zpty -r inner line '*ready*' && break
        done
        zpty -w -n inner "$1"$'\t'
        for i in {1..400}; do
            [[ -e ./finished ]] && break
            zpty -r -t inner line
            sleep 0.05
        done
        [[ -e ./finished ]] || exit 2
        [[ -e ./hits ]] && cat ./hits
        exit 0
    "#;
    fs::write(dir.join("inner"), INNER).unwrap();
    let mut command = Command::new("zsh");
    command.args(["-f", "-c", OUTER, "zsh", &line(words)]);
    command
}

fn fish(words: &[&str]) -> Command {
    let mut command = Command::new("fish");
    let complete = "source ./script; complete -C $argv[1]";
    command.args(["--no-config", "-c", complete, &line(words)]);
    command
}

fn line(words: &[&str]) -> String {
    [&["orion-peer"], words].concat().join(" ")
}

fn every_shell(words: &[&str], offered: &[&str], not_offered: &[&str]) {
    for shell in ["bash", "zsh", "fish"] {
        let found = offers(shell, words);
        for word in offered {
            assert!(found.iter().any(|one| one == word), "{shell} {words:?}: {word} in {found:?}");
        }
        for word in not_offered {
            assert!(!found.iter().any(|one| one == word), "{shell} {words:?}: {word} in {found:?}");
        }
    }
}

#[test]
fn subcommands_and_flags_are_completed() {
    every_shell(&["re"], &["recv", "report"], &["send"]);
    every_shell(&["recv", "--f"], &["--format"], &["--interval"]);
    every_shell(&["serve", "pairs", ""], &["add", "list", "revoke"], &["recv"]);
    every_shell(&["token", "m"], &["mint"], &["inspect"]);
    every_shell(&["lab", ""], &["list", "shell"], &["wire", "inject", "capture"]);
}

#[test]
fn values_are_completed() {
    every_shell(&["send", "--ice-policy", ""], &["all", "relay"], &["script"]);
    every_shell(&["recv", "--format", ""], &["h264", "jpg", "png", "y4m"], &["script"]);
    every_shell(&["lab", "--nat", "hotel"], &["hotel-wifi"], &["home-router", "sym"]);
    every_shell(&["lab", "--nat", ""], &["sym", "port", "home-router"], &["script"]);
    every_shell(&["bench", "--require-type", "relay/"], &["relay/udp", "relay/tls"], &["host"]);
    every_shell(&["recv", "--candidates", ""], &["host", "srflx", "relay"], &["prflx"]);
    every_shell(&["recv", "--network", "u"], &["udp4", "udp6"], &[]);
    every_shell(&["completions", ""], &["bash", "zsh", "fish"], &[]);
}

/// `--source` takes a keyword or a file. bash itself falls back to files if the function offers nothing.
#[test]
fn sources_are_keywords_and_files() {
    every_shell(&["send", "--source", ""], &["camera", "pattern"], &["--interval"]);
    for shell in ["zsh", "fish"] {
        let found = offers(shell, &["send", "--source", "scr"]);
        assert_eq!(found, ["script"], "{shell}");
        assert!(offers(shell, &["send", "--source", ""]).contains(&"script".to_owned()), "{shell}");
    }
    assert_eq!(offers("bash", &["send", "--source", "scr"]), [""; 0]);
    let dir = tempfile::tempdir().unwrap();
    let script = run(dir.path(), &["completions", "bash"]).stdout.join("\n");
    assert!(script.contains("-o bashdefault -o default orion-peer"), "{script}");
}

#[test]
fn hidden_commands_appear_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(dir.path(), &["completions", shell]).stdout.join("\n");
        let forms =
            ["token,inspect)", "'inspect:", "-a \"inspect\"", "token;inspect'", "'inspect'"];
        assert!(forms.iter().any(|form| script.contains(form)), "{shell}");
        for hidden in ["wire", "inject", "capture"] {
            // The forms in which the scripts write commands; the bare words also occur in help texts.
            for form in ["lab,#)", "'#:", "-a \"#\"", "lab;#'", "'#'"] {
                assert!(!script.contains(&form.replace('#', hidden)), "{shell} offers {hidden}");
            }
        }
    }
    let page = run(dir.path(), &["man"]).stdout.join("\n");
    assert!(page.contains("ORION\\-PEER LAB LIST"), "{page}");
    for hidden in ["WIRE", "INJECT", "CAPTURE"] {
        assert!(!page.contains(&format!("LAB {hidden}\"")), "{hidden}");
    }
    assert_eq!(run(dir.path(), &["man", "--out", "pages"]).code, Some(0));
    assert!(dir.path().join("pages/orion-peer-lab-list.1").exists());
    assert!(!dir.path().join("pages/orion-peer-lab-wire.1").exists());
}
