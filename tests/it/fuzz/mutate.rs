//! Changes inputs of a corpus at random, like a fuzzer, but without coverage feedback.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Number of inputs for each target when no time is given.
const INPUTS: u32 = 3_000;

/// Maximum length of a generated input.
const MAX_LENGTH: usize = 8 * 1024;

/// Bytes at which parsers have their limits.
const BYTES: [u8; 12] = [0, 1, 3, 0x18, 0x1c, 0x24, 0x7f, 0x80, 0xc0, 0xfe, 0xff, b'"'];

/// 16-bit numbers at which parsers have their limits.
const NUMBERS: [u16; 8] = [0, 1, 3, 4, 0x7fff, 0x8000, 0xfffe, 0xffff];

/// Tries the corpus of `target` and then random changes of it: [`INPUTS`] inputs with a fixed seed, or for
/// `ORION_FUZZ_SECONDS` with a random seed. `words` are inserted occasionally.
///
/// An input that causes a panic is saved; copied into the corpus, it is tested in every run.
pub fn fuzz(target: &str, words: &[&str], check: impl Fn(&[u8])) {
    fuzz_some(target, INPUTS, words, check);
}

/// Like [`fuzz`], with another number of inputs when no time is given.
pub fn fuzz_some(target: &str, inputs: u32, words: &[&str], check: impl Fn(&[u8])) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "no corpus of {target}");
    for (path, input) in &corpus {
        attempt(target, input, &check, &format!("{}", path.display()));
    }
    let time = std::env::var("ORION_FUZZ_SECONDS").ok();
    let time = time.map(|text| text.parse().expect("ORION_FUZZ_SECONDS is a number"));
    let seed = if time.is_some() { rand::random() } else { 1 };
    let mut random = StdRng::seed_from_u64(seed);
    let until = time.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let mut tried = 0;
    while until.map_or(tried < inputs, |until| Instant::now() < until) {
        let mut input = pick(&corpus, &mut random).to_vec();
        for _ in 0..random.random_range(1..=6) {
            mutate(&mut input, &corpus, words, &mut random);
            input.truncate(MAX_LENGTH);
        }
        attempt(target, &input, &check, &format!("seed {seed}, input {tried}"));
        tried += 1;
    }
    println!("{target}: {} inputs of the corpus, {tried} generated, seed {seed}", corpus.len());
}

fn attempt(target: &str, input: &[u8], check: &impl Fn(&[u8]), origin: &str) {
    if catch_unwind(AssertUnwindSafe(|| check(input))).is_ok() {
        return;
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
    std::fs::write(&kept, input).expect("the input can be saved");
    panic!(
        "{target} fails on {} bytes ({origin}), saved as {}: copy it to {}",
        input.len(),
        kept.display(),
        directory(target).display()
    );
}

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/corpus").join(target)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(directory(target)).expect("the corpus exists");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

fn pick<'c>(corpus: &'c [(PathBuf, Vec<u8>)], random: &mut StdRng) -> &'c [u8] {
    &corpus[random.random_range(0..corpus.len())].1
}

/// Makes one random change.
fn mutate(input: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)], words: &[&str], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    let end = random.random_range(at..=input.len().min(at + 64));
    match random.random_range(0..10) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = BYTES[random.random_range(0..BYTES.len())],
        2 if at < input.len() => input[at] = random.random(),
        3 => input.truncate(at),
        4 => drop(input.drain(at..end)),
        5 => {
            let again = input[at..end].repeat(random.random_range(1..20));
            drop(input.splice(at..at, again));
        }
        6 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_be_bytes();
            let end = input.len().min(at + 2);
            drop(input.splice(at..end, number));
        }
        7 => {
            let other = pick(corpus, random);
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len());
            drop(input.splice(at..end, other[from..to].iter().copied()));
        }
        8 if !words.is_empty() => {
            let word = words[random.random_range(0..words.len())];
            drop(input.splice(at..at, word.bytes()));
        }
        _ => {
            let count = random.random_range(1..8);
            let noise: Vec<u8> = (0..count).map(|_| random.random()).collect();
            drop(input.splice(at..end, noise));
        }
    }
}
